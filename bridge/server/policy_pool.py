"""The pool of policy workers. Each grant has one, which handles one request at a time.

No grant's request waits for another grant's, except very large ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import bridge
from bridge.policy import PolicyError, Scope
from bridge.policy.control_messages import ControlFilter
from bridge.policy.terms import CliError
from bridge.protocol.frames import Fields
from bridge.server.policy_worker import DONE, LIMIT_S, scope_as_json

SMALL = 16 * 1024
"""Bytes of JSON that are checked on the event loop. This takes at most 0.8 ms. Text of CLAUDE.md, variables and
everything else counts for a sixteenth."""

FEW = 64
"""Arguments that are checked on the event loop. This takes at most 0.5 ms."""

IDLE_S = 10.0
"""Seconds that an idle worker is kept."""

LARGE = 1024 * 1024
"""Bytes of a request that needs much memory. Of larger ones, only one at a time is handled, across all grants."""

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of a worker's answer, which is read on the event loop."""

MAX_PLAN = 8 * 1024 * 1024
"""Bytes of a plan. A program accepts 2 MiB of arguments; the project's files have at most 4 MiB."""

FORK_SERVER = """
import sys
sys.path.insert(0, sys.argv[2])
from bridge.server.policy_worker import main
main(int(sys.argv[1]))
"""


class PolicyWorkerError(PolicyError):
    """A worker died or did not answer in time. The request is refused."""

    def __init__(self) -> None:
        super().__init__("the bridge could not judge it within its limits of time and memory; make it smaller")


def is_small(fields: Fields) -> bool:
    """Return whether a call is checked on the event loop. One with variables can grow a thousandfold, and the YAML
    heads of agents and skills take 10 ms per kilobyte."""
    words, memory = fields.all("arg"), fields.all("memory")
    files = fields.all("file") + fields.all("text")
    heads = any(file.partition(b"\n")[0].endswith((b".md", b"rule")) for file in files + memory)
    sizes = sum(map(len, words)) + sum(map(len, files))
    sizes += (sum(len(value) for _, value in fields.pairs) - sizes) // 16
    grows = any(b"${" in text for text in words + files)  # variables are put in
    return not heads and not grows and len(words) <= FEW and len(memory) <= FEW and sizes <= SMALL


class PolicyPool:
    """Starts the policy workers and sends them requests."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the directory for temporary files."""
        self._directory = directory
        self._fork_server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._workers: dict[str, _Worker] = {}
        self._large = {what: asyncio.Semaphore(1) for what in ("call", "line")}

    def start(self) -> None:
        """Start the process from which workers are forked, unless it runs. Raises OSError."""
        if self._fork_server is not None and self._fork_server.poll() is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = Path(bridge.__file__).resolve().parents[1]
        self._fork_server = subprocess.Popen(
            [sys.executable, "-I", "-c", FORK_SERVER, str(theirs.fileno()), str(root)],
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
        """End all workers."""
        for worker in self._workers.values():
            worker.drop()
        if self._control is not None:
            self._control.close()
        if self._fork_server is not None:
            self._fork_server.terminate()
            self._fork_server.wait()

    def file(self) -> IO[bytes]:
        """Return a file that no other process sees, on disk and not in memory."""
        return tempfile.TemporaryFile(dir=self._directory)

    async def call(self, grant: str, fields: Fields, scope: Scope) -> bytes:
        """Check a call in the grant's worker. Returns its kind on a line, and its packed plan. Raises PolicyError."""
        with self.file() as material, self.file() as product:
            material.write(fields.encode())
            material.flush()
            await self._ask(grant, {"what": "call", "scope": scope_as_json(scope)}, material, product)
            if os.fstat(product.fileno()).st_size > MAX_PLAN:
                raise PolicyError(f"the call is longer than {MAX_PLAN} bytes, its variables put in; make it smaller")
            product.seek(0)
            return product.read()

    async def line(self, grant: str, judged: ControlFilter, scope: Scope, line: IO[bytes], product: IO[bytes]) -> bytes:
        """Check a line of a control stream. What is passed on is written to `product`. Returns the answer to the
        client.

        Raises PolicyError.
        """
        known = {"prompt_addition": judged.prompt_addition, "servers": sorted(judged.servers), "lines": judged.lines}
        found = await self._ask(grant, {"what": "line", "scope": scope_as_json(scope), **known}, line, product)
        judged.lines += 1
        judged.servers.update(found["servers"])
        judged.refusals += [(str(what), str(why)) for what, why in found["refusals"]]
        return str(found["answered"]).encode()

    async def _ask(self, grant: str, question: dict[str, Any], material: IO[bytes], product: IO[bytes]) -> Any:
        worker = self._workers.setdefault(grant, _Worker(self._fork))
        await worker.lock.acquire()
        # The caller may be cancelled. The worker stays busy until it has answered.
        asked = asyncio.get_running_loop().create_task(self._ask_worker(worker, question, material, product))
        asked.add_done_callback(lambda _: worker.lock.release())
        found = await asyncio.shield(asked)
        if "refused" in found:
            refusal = (CliError if found.get("by_cli") else PolicyError)(str(found["refused"]))
            refusal.kind = str(found["kind"])
            refusal.answer = str(found.get("answer", "")).encode()
            raise refusal
        return found

    async def _ask_worker(
        self, worker: _Worker, question: dict[str, Any], material: IO[bytes], product: IO[bytes]
    ) -> Any:
        with self.file() as asked, self.file() as answered:
            asked.write(json.dumps(question).encode())
            asked.flush()
            try:
                if os.fstat(material.fileno()).st_size <= LARGE:
                    await worker.ask([file.fileno() for file in (asked, material, answered, product)])
                else:
                    async with self._large[question["what"]]:
                        await worker.ask([file.fileno() for file in (asked, material, answered, product)])
                answered.seek(0)
                return json.loads(answered.read(MAX_ANSWER))
            except (OSError, ValueError):  # also if a file was closed meanwhile
                raise PolicyWorkerError from None

    def _fork(self) -> socket.socket:
        """Fork a worker. Returns the socket for its requests and answers."""
        self.start()
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
        ours.setblocking(False)
        return ours


class _Worker:
    """The worker of one grant. It is forked when it is needed."""

    def __init__(self, fork: Callable[[], socket.socket]) -> None:
        self.lock = asyncio.Lock()
        self._fork = fork
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, files: Iterable[int]) -> None:
        """Send a request and wait for the answer. Raises OSError if the worker dies."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is None:
            self._sock = self._fork()
        sock = self._sock
        try:
            socket.send_fds(sock, [b"asked"], list(files))
            reply = await asyncio.wait_for(loop.sock_recv(sock, 16), LIMIT_S + 2)
        except BaseException:  # also a cancelled wait: its answer must not be taken for the next request's
            self.drop()
            raise
        if reply != DONE:
            self.drop()
            raise ConnectionError("the policy worker has died")
        self._timer = loop.call_later(IDLE_S, self.drop)

    def drop(self) -> None:
        """End the worker. The next request forks another."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
