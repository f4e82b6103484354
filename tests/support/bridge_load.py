"""Runs in a container: many clients at once. Prints the result of each as one JSON list.

`echo N BYTES`: each client sends random bytes in pieces of odd sizes, and expects the same bytes back. `hold N`: each
client waits until something ends it; "ready" is printed once all of them run.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from typing import Any


def echo(size: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    data = rng.randbytes(size)
    command = ["claude-code", "-p", "cat"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    source = process.stdin

    def feed() -> None:
        at = 0
        while at < size:
            piece = data[at : at + rng.choice([1, 7, 4096, 65537, 131071])]
            at += source.write(piece) or 0
        source.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    out = bytearray()
    while got := process.stdout.read(rng.choice([3, 1000, 65536])):
        out += got
    err = process.stderr.read()
    feeder.join()
    return {"code": process.wait(), "same": bytes(out) == data, "err": err.decode()}


def hold(barrier: threading.Barrier) -> dict[str, Any]:
    command = ["claude-code", "-p", "ready;wait"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    barrier.wait()
    err = process.communicate()[1]
    return {"code": process.returncode, "at": time.monotonic(), "err": err.decode()}


def main() -> None:
    scene, count = sys.argv[1], int(sys.argv[2])
    told: list[dict[str, Any]] = []
    barrier = threading.Barrier(count + 1)

    def act(number: int) -> None:
        if scene == "echo":
            told.append(echo(int(sys.argv[3]) + number, os.getpid() * 1000 + number))
        else:
            told.append(hold(barrier))

    threads = [threading.Thread(target=act, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    if scene == "hold":
        barrier.wait()
        print("ready", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(told))


main()
