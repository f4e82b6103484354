"""One request and its answer, between a client of the proxy and a server. Bytes after the request are not passed on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from bridge.policy.gateways import REVEALING_HEADERS
from bridge.policy.http_head import Answer, HeadError, Request, chunk_size, written
from bridge.server.gate import Tunnel

MAX_HEAD = 64 * 1024
"""Bytes of a head. Cookies and a token fit easily."""
MAX_INTERIM = 8
"""Heads of answers before the final one, such as 100 Continue."""
CHUNK = 64 * 1024

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FailedError(Exception):
    """A server did not answer correctly. The text is a sentence without the server's name."""


TEXT = ((b"Content-Type", b"text/plain"),)


def say(writer: asyncio.StreamWriter, status: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]] = TEXT) -> None:
    """Send an answer in place of a server, with `more` header fields."""
    fields = [(b"Connection", b"close"), *more, (b"Content-Length", b"%d" % len(body))]
    with contextlib.suppress(OSError):
        writer.write(written(b"HTTP/1.1 " + status, fields) + body)


def head_of(request: Request, name: str, path: str, fields: list[tuple[bytes, bytes]], keeps: bool = False) -> bytes:
    """Return a request's head as it is sent to the server. `name` is our name for the server, not the client's.
    `keeps` asks the server to keep the connection."""
    coding = [(b"Transfer-Encoding", b"chunked")] if request.length is None else []
    own = [(b"Host", name.encode()), *fields, *coding, (b"Connection", b"keep-alive" if keeps else b"close")]
    return written(f"{request.method} {path} HTTP/1.1".encode(), own)


async def body_of(reader: asyncio.StreamReader, length: int | None, most: int) -> bytes:
    """Return the whole body of a request. Raises HeadError if it is longer than `most` bytes or has no valid chunks,
    and the errors of asyncio's streams."""
    if length is not None:
        if length > most:
            raise HeadError(f"a body of more than {most} bytes")
        return await reader.readexactly(length)
    body = bytearray()
    while size := chunk_size(await reader.readuntil(b"\r\n")):
        if len(body) + size > most:
            raise HeadError(f"a body of more than {most} bytes")
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise HeadError("a chunk has another length")
    if await reader.readexactly(2) != b"\r\n":
        raise HeadError("fields behind the body")
    return bytes(body)


async def send_whole(server: Pair, head: bytes, body: bytes) -> None:
    """Send one request with its body, and read its answer, which is not used. Raises OSError."""
    try:
        server[1].write(head + body)
        await server[1].drain()
        await server[0].read(CHUNK)
    finally:
        server[1].close()


async def exchange(
    client: Pair,
    server: Pair,
    request: Request,
    head: bytes,
    of_gateway: bool = False,
    keeps: bool = False,
    heard: Callable[[Answer], None] | None = None,
) -> bool:
    """Move one request and its answer. If the client closes the connection, the exchange ends. `heard` gets the head
    of the answer.

    With `keeps`, returns whether the server takes another request on its connection; otherwise that is closed. Raises
    FailedError, OSError and the errors of asyncio's streams.
    """
    server[1].write(head)
    is_sent, is_kept = asyncio.Event(), False
    asking = asyncio.create_task(_send_body(client[0], server[1], request.length, is_sent))
    is_head = request.method == "HEAD"
    answering = asyncio.create_task(_bring_answer(server[0], client[1], of_gateway, keeps, is_head, heard))
    try:
        await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() or asking.result():
            is_kept = await answering and is_sent.is_set()
    finally:
        asking.cancel()
        answering.cancel()
        if not is_kept:
            server[1].close()
    return is_kept


async def _send_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None, is_sent: asyncio.Event
) -> bool:
    """Pass on exactly the body, then wait for the client. Returns False if the client closes the connection or
    sends an invalid body. Further bytes are not passed on."""
    try:
        if length is None:
            await _send_chunks(reader, writer)
        else:
            await _send_exactly(reader, writer, length)
        is_sent.set()
        return bool(await reader.read(1))
    except (OSError, ValueError, HeadError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False


async def _send_exactly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    while length:
        data = await reader.read(min(length, CHUNK))
        if not data:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(data)
        writer.write(data)
        await writer.drain()


async def _send_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while size := chunk_size(await reader.readuntil(b"\r\n")):
        writer.write(b"%x\r\n" % size)
        await _send_exactly(reader, writer, size)
        if await reader.readexactly(2) != b"\r\n":
            raise HeadError("a chunk has another length")
        writer.write(b"\r\n")
    if await reader.readexactly(2) != b"\r\n":
        raise HeadError("fields behind the body")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _bring_answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    of_gateway: bool,
    keeps: bool,
    is_head: bool,
    heard: Callable[[Answer], None] | None,
) -> bool:
    """Pass on the answer, with `Connection: close` in its head, because not every server sends that. Returns whether
    `keeps` was asked for and the server has kept the connection. Raises FailedError."""
    for _ in range(MAX_INTERIM):
        try:
            answer = Answer.parse(await reader.readuntil(b"\r\n\r\n"))
        except HeadError:
            raise FailedError("the server's answer is not understood") from None
        if answer.status == 100:
            writer.write(written(answer.line, []))
        elif answer.status == 101 or (of_gateway and answer.status // 100 == 3 and answer.status != 304):
            raise FailedError(f"the server leads elsewhere with status {answer.status}, and nobody follows")
        elif answer.status >= 200:
            if heard is not None:
                heard(answer)
            fields = [(k, v) for k, v in answer.passed() if not (of_gateway and k.lower() in REVEALING_HEADERS)]
            writer.write(written(answer.line, [*fields, (b"Connection", b"close")]))
            if not (keeps and answer.keeps):
                await _pump(reader, writer)
                return False
            has_body = not is_head and answer.status not in (204, 304)
            return not has_body or await _bring_body(reader, writer, answer)
    raise FailedError("the server comes to no answer")


async def _bring_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Pass on exactly the body. Returns whether it was complete; if not, the client sees that it is cut."""
    try:
        if answer.is_chunked:
            await _send_chunks(reader, writer)
        else:
            await _send_exactly(reader, writer, answer.length or 0)
    except (OSError, HeadError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        writer.close()
        return False
    return True


async def relay(client: Pair, server: Pair, watch: Tunnel | None = None) -> None:
    """Move bytes in both directions until both have ended. `watch` makes the client wait for its turn."""
    up = _pump(client[0], server[1]) if watch is None else _pump_in_turn(client[0], server[1], watch)
    tasks = [asyncio.create_task(up), asyncio.create_task(_pump(server[0], client[1], watch))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _pump_in_turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Tunnel) -> None:
    try:
        while data := await reader.read(CHUNK):
            await watch.send(len(data))
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:  # no place, or the receiver is gone
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Tunnel | None = None) -> None:
    try:
        while data := await reader.read(CHUNK):
            if watch is not None:
                watch.hear(len(data))
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()  # the receiver is gone; closing ends the other direction as well
