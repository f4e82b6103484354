"""The server's side of its judges: one question of a grant at a time, and no grant's question waits for another's."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import bridge
from bridge.policy import PolicyError, Scope
from bridge.policy.control_messages import ControlFilter
from bridge.protocol.frames import Fields
from bridge.server.policy_worker import DONE, LIMIT_S, scope_as_json

SMALL = 16 * 1024
"""Bytes of JSON that are judged on the loop: 0.8 ms at the worst."""

FEW = 64
"""Arguments that are judged on the loop: 0.5 ms at the worst."""

IDLE_S = 10.0
"""A judge that nobody asks is kept for so long."""

LARGE = 1024 * 1024
"""Bytes of a question that takes so much memory that only one of these is judged at a time, whoever asks."""

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of what a judge says, which are read on the loop."""

MAX_PLAN = 4 * 1024 * 1024
"""The same of a plan. A program takes 2 MiB of arguments."""

MOTHER = """
import sys
sys.path.insert(0, sys.argv[2])
from bridge.server.policy_worker import main
main(int(sys.argv[1]))
"""


class JudgeError(PolicyError):
    """A judge has died of a question, or did not answer in time: the question is refused."""

    def __init__(self) -> None:
        super().__init__("the bridge could not judge it within its limits of time and memory; make it smaller")


def is_small(fields: Fields) -> bool:
    """Whether a call can be judged on the loop. Heads of agents and skills are YAML, which costs 10 ms a kilobyte."""
    words, files = fields.all("arg"), fields.all("file")
    heads = any(file.partition(b"\n")[0].endswith(b".md") for file in files)
    return not heads and len(words) <= FEW and sum(map(len, words)) + sum(map(len, files)) <= SMALL


class Judges:
    """Starts judges and asks them."""

    def __init__(self, directory: Path) -> None:
        """`directory` is where files of a moment are made."""
        self._directory = directory
        self._mother: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._judges: dict[str, _Judge] = {}
        self._large = asyncio.Semaphore(1)

    def start(self) -> None:
        """Have the process from which judges are forked; OSError."""
        if self._mother is not None and self._mother.poll() is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = Path(bridge.__file__).resolve().parents[1]
        self._mother = subprocess.Popen(
            [sys.executable, "-I", "-c", MOTHER, str(theirs.fileno()), str(root)],
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        if self._control is not None:
            self._control.close()
        self._control = ours

    def close(self) -> None:
        """End them all."""
        for judge in self._judges.values():
            judge.drop()
        if self._control is not None:
            self._control.close()
        if self._mother is not None:
            self._mother.terminate()
            self._mother.wait()

    def file(self) -> IO[bytes]:
        """A file that nobody else sees, on the disk and not in memory."""
        return tempfile.TemporaryFile(dir=self._directory)

    async def call(self, grant: str, fields: Fields, scope: Scope) -> bytes:
        """A call's plan, packed; PolicyError."""
        with self.file() as material, self.file() as product:
            material.write(fields.encode())
            material.flush()
            await self._ask(grant, {"what": "call", "scope": scope_as_json(scope)}, material, product)
            if os.fstat(product.fileno()).st_size > MAX_PLAN:
                raise PolicyError(f"the call is longer than {MAX_PLAN} bytes, its variables put in; make it smaller")
            product.seek(0)
            return product.read()

    async def line(self, grant: str, judged: ControlFilter, scope: Scope, line: IO[bytes], product: IO[bytes]) -> bytes:
        """Judge a line of `judged`'s stream; what is passed on is in `product`, what is answered is returned."""
        known = {"told": judged.told, "servers": sorted(judged.servers), "lines": judged.lines}
        found = await self._ask(grant, {"what": "line", "scope": scope_as_json(scope), **known}, line, product)
        judged.lines += 1
        judged.servers.update(found["servers"])
        judged.refusals += [(str(what), str(why)) for what, why in found["refusals"]]
        return str(found["answered"]).encode()

    async def _ask(self, grant: str, question: dict[str, Any], material: IO[bytes], product: IO[bytes]) -> Any:
        judge = self._judges.setdefault(grant, _Judge(self._give))
        await judge.lock.acquire()
        # Nobody may wait for the answer any more when it comes; until then the judge is busy all the same.
        asked = asyncio.get_running_loop().create_task(self._ask_judge(judge, question, material, product))
        asked.add_done_callback(lambda _: judge.lock.release())
        found = await asyncio.shield(asked)
        if "refused" in found:
            refusal = PolicyError(str(found["refused"]))
            refusal.kind = str(found["kind"])
            raise refusal
        return found

    async def _ask_judge(self, judge: _Judge, question: dict[str, Any], material: IO[bytes], product: IO[bytes]) -> Any:
        with self.file() as asked, self.file() as answered:
            asked.write(json.dumps(question).encode())
            asked.flush()
            try:
                if os.fstat(material.fileno()).st_size <= LARGE:
                    await judge.ask([file.fileno() for file in (asked, material, answered, product)])
                else:
                    async with self._large:
                        await judge.ask([file.fileno() for file in (asked, material, answered, product)])
                answered.seek(0)
                return json.loads(answered.read(MAX_ANSWER))
            except (OSError, ValueError):  # a closed file among them
                raise JudgeError from None

    def _give(self) -> socket.socket:
        """A socket with a judge at its other end."""
        self.start()
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [b"judge"], [theirs.fileno()])
        ours.setblocking(False)
        return ours


class _Judge:
    """The judge of one grant, made when it is needed."""

    def __init__(self, give: Any) -> None:
        self.lock = asyncio.Lock()
        self._give = give
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, files: Iterable[int]) -> None:
        """Hand over a question and wait until it is answered; OSError."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is None:
            self._sock = self._give()
        sock = self._sock
        try:
            socket.send_fds(sock, [b"asked"], list(files))
            said = await asyncio.wait_for(loop.sock_recv(sock, 16), LIMIT_S + 2)
        except BaseException:  # also when nobody waits for the answer any more: it must not be taken for the next one
            self.drop()
            raise
        if said != DONE:
            self.drop()
            raise ConnectionError("the judge has died")
        self._timer = loop.call_later(IDLE_S, self.drop)

    def drop(self) -> None:
        """End it; the next question gets another."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
