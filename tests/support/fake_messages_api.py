"""A scripted Messages API on loopback, so that the real Claude CLI runs without an account.

A test gives it a function, its part: the function gets each request (prompt, offered tools, tool results) and returns
the reply. Without a part, the API repeats the last line of the prompt. All requests are kept with their keys, so a
stolen key shows up as a request at the wrong server.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Say:
    """Answer with text: the first word `after` seconds later, the last word `over` seconds after the first."""

    text: str
    over: float = 0.0
    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Use:
    """Answer with a call of one tool."""

    tool: str
    arguments: Json = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Together:
    """Answer with calls of several tools at once."""

    uses: tuple[Use, ...]


@dataclasses.dataclass(frozen=True)
class Fail:
    """Answer with an HTTP error."""

    status: int
    kind: str = "api_error"
    headers: tuple[tuple[str, str], ...] = ()


Reply = Say | Use | Together | Fail


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json

    @property
    def key(self) -> str:
        """The credential that it carried, or nothing."""
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def tools(self) -> list[str]:
        """Names of the tools that the client offers to the model."""
        return [tool["name"] for tool in self.body.get("tools") or []]

    @property
    def system(self) -> str:
        """The system prompt's text."""
        return _text(self.body.get("system") or "")

    @property
    def heard(self) -> str:
        """Return the text of the newest message that has any, without the CLI's reminders to the model."""
        said = [message for message in self.body.get("messages") or [] if message["role"] == "user"]
        texts = (_spoken(message["content"]) for message in reversed(said))
        return next((text for text in texts if text.strip()), "")

    @property
    def everything(self) -> str:
        """Return the whole body as text, to search for what must not be there."""
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def results(self) -> list[str]:
        """Return the results of the tools, oldest first."""
        return [
            block["content"] if isinstance(block.get("content"), str) else _text(block.get("content") or [])
            for message in self.body.get("messages") or []
            if isinstance(message["content"], list)
            for block in message["content"]
            if block.get("type") == "tool_result"
        ]


Part = Callable[[Request], Reply]


def echo(request: Request) -> Reply:
    """Repeat the last line of the prompt."""
    return Say("heard: " + (request.heard.strip().splitlines() or [""])[-1])


def in_turn(*replies: Reply) -> Part:
    """Send the replies one after another, one for each round of tool results. The last one is repeated."""

    def part(request: Request) -> Reply:
        if not request.tools:  # a separate request, such as one for a title of the session
            return Say("title")
        return replies[min(len(request.results), len(replies) - 1)]

    return part


_DIRECTIVE = re.compile(r"^USE (\w+) (\{.*\})$", re.MULTILINE)


def directed(request: Request) -> Reply:
    """Use the tools that the newest prompt names, in lines such as `USE Bash {"command": "ls"}`, and say the result."""
    spoken = [
        number
        for number, message in enumerate(request.body.get("messages") or [])
        if message["role"] == "user" and _spoken(message["content"]).strip()
    ]
    newest = Request("", "", {}, {"messages": request.body["messages"][spoken[-1] :]}) if spoken else request
    uses = _DIRECTIVE.findall(request.heard)
    done = len(newest.results)
    if done < len(uses):
        return Use(uses[done][0], json.loads(uses[done][1]))
    return Say("told: " + newest.results[-1] if newest.results else "heard: " + request.heard.strip())


class FakeMessagesApi:
    """The server, in a thread of its own; use it as a context manager."""

    def __init__(self, part: Part = echo, tls: ssl.SSLContext | None = None) -> None:
        self.part = part
        self._scheme = "https" if tls else "http"
        self.requests: list[Request] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        if tls:
            listener = self._server.socket
            self._server.socket = tls.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The value for ANTHROPIC_BASE_URL."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def prompts(self) -> list[Request]:
        """Return the requests that asked the model, with tools or without."""
        return [request for request in self.requests if request.path.startswith("/v1/messages?")]

    def __enter__(self) -> FakeMessagesApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    api: FakeMessagesApi

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: many tests kill a client in the middle of an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    _ids = itertools.count(1)

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal is pytest's."""

    def _answer(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.loads(raw) if raw[:1] == b"{" else {}
        request = Request(self.command, self.path, headers, body)
        self.server.api.requests.append(request)
        path = self.path.partition("?")[0]
        if self.command == "POST" and path == "/v1/messages":
            self._message(request)
        elif path.endswith("/count_tokens"):
            self._whole({"input_tokens": 1})
        else:
            self._whole({})

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - the names that http.server looks up

    def _message(self, request: Request) -> None:
        reply = self.server.api.part(request)
        if isinstance(reply, Fail):
            error = {"type": "error", "error": {"type": reply.kind, "message": "as told"}}
            self._whole(error, reply.status, reply.headers)
        elif request.body.get("stream"):
            self._stream(request, reply)
        else:
            self._whole(_message(request, _blocks(reply), _stop_reason(reply)))

    def _whole(self, value: Json, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, request: Request, reply: Say | Use | Together) -> None:
        if isinstance(reply, Say):
            time.sleep(reply.after)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in _events(request, reply):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
            if isinstance(reply, Say) and event["type"] == "content_block_delta":
                time.sleep(reply.over / len(reply.text.split(" ")))


def _events(request: Request, reply: Say | Use | Together) -> Iterator[Json]:
    """Return the events of one streamed answer, in the API's order."""
    yield {"type": "message_start", "message": _message(request, [], None)}
    if isinstance(reply, Say):
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for number, word in enumerate(reply.text.split(" ")):
            delta = {"type": "text_delta", "text": word if number == 0 else " " + word}
            yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
    else:
        for index, block in enumerate(_blocks(reply)):
            yield {"type": "content_block_start", "index": index, "content_block": {**block, "input": {}}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
    stop = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def _blocks(reply: Say | Use | Together) -> list[Json]:
    if isinstance(reply, Say):
        return [{"type": "text", "text": reply.text}]
    uses = reply.uses if isinstance(reply, Together) else (reply,)
    return [
        {"type": "tool_use", "id": f"toolu_{next(_Handler._ids):08d}", "name": use.tool, "input": use.arguments}
        for use in uses
    ]


def _stop_reason(reply: Say | Use | Together) -> str:
    return "end_turn" if isinstance(reply, Say) else "tool_use"


def _message(request: Request, content: list[Json], stop_reason: str | None) -> Json:
    return {
        "id": f"msg_{next(_Handler._ids):08d}",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model", "fake"),
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def _spoken(content: str | list[Json]) -> str:
    return re.sub(r"<system-reminder>.*?</system-reminder>", "", _text(content), flags=re.DOTALL)


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content if block.get("type") == "text")
