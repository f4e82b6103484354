"""Both ends of the protocol joined without I/O: bytes cut at every offset, every kind of invalid data, every limit."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.protocol.frames import (
    HEADER,
    MAX_CALL,
    MAX_CHANNELS,
    MAX_CREDIT,
    MAX_DATA,
    MAX_FIELDS,
    PREFACE,
    SIZES,
    WINDOW,
    Decoder,
    Event,
    Fields,
    Frame,
    ProtocolError,
    credit,
    frame,
    record,
)
from bridge.protocol.link import CLIENT, SERVER, Link

NASTY = [b"", b"a b", b"line\nfeed", b"\xff\xfe\x80", b"=", b"quote\"'", "naïve".encode()]


def conversation() -> tuple[bytes, list[Event]]:
    """Return the bytes that a client sends in a whole call, and the events that a server decodes from them."""
    link = Link(CLIENT)
    parts = [link.hello(client="1", name=b"\xff\n")]
    number, data = link.open(NASTY, {b"TERM": b"xterm"}, cwd=b"/workspace")
    parts += [data, frame(Frame.PING, 0, b"now")]
    link.channels[number].credit[Frame.STDIN] = 100
    parts += [link.data(number, Frame.STDIN, b"\x00\xc3"), link.data(number, Frame.STDIN, b"\xa4")]
    parts += [link.data(number, Frame.STDIN, b""), frame(Frame.SIGNAL, number, b"\x02")]
    parts += [credit(number, Frame.STDOUT, 7), frame(Frame.CANCEL, number)]
    data = b"".join(parts)
    return data, Decoder().feed(data)


def server_with_call(stdin: int = WINDOW) -> Link:
    """A server's link that has a call open on channel 1."""
    link, client = Link(SERVER), Link(CLIENT)
    link.receive(client.hello() + client.open([b"-p"], {})[1])
    link.grant(1, Frame.STDIN, stdin)
    return link


def test_conversation_has_all_that_was_said() -> None:
    _, events = conversation()
    call = next(event for event in events if event.kind == Frame.CALL)
    assert call.fields.all("arg") == NASTY
    assert call.fields.all("env") == [b"TERM=xterm"]
    assert b"".join(event.payload for event in events if event.kind == Frame.STDIN) == b"\x00\xc3\xa4"


def test_bytes_cut_at_every_offset_say_the_same() -> None:
    data, expected = conversation()
    for cut in range(len(data) + 1):
        decoder = Decoder()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == expected, cut


def test_bytes_one_by_one_say_the_same() -> None:
    data, expected = conversation()
    decoder = Decoder()
    assert [event for byte in data for event in decoder.feed(bytes([byte]))] == expected


@given(st.lists(st.integers(0, 400), max_size=8).map(sorted))
def test_bytes_cut_anywhere_say_the_same(cuts: list[int]) -> None:
    data, expected = conversation()
    decoder = Decoder()
    edges = [0, *cuts, len(data)]
    assert [event for a, b in pairwise(edges) for event in decoder.feed(data[a : max(a, b)])] == expected


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=32).filter(lambda name: name.strip("-"))


@given(st.lists(st.tuples(NAMES, st.binary().map(lambda value: value.replace(b"\0", b"")))))
def test_record_comes_back_as_it_went(pairs: list[tuple[str, bytes]]) -> None:
    assert Fields.decode(Fields(pairs).encode()) == Fields(pairs)


@given(st.binary(max_size=300))
def test_noise_after_a_hello_is_an_event_or_a_protocol_error(noise: bytes) -> None:
    link = server_with_call()
    try:
        link.receive(noise)
    except ProtocolError:
        return
    assert link._decoder.pending <= MAX_CALL + HEADER.size


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from([*SIZES, 0x7F]), st.integers(0, 3), st.binary(max_size=20)), max_size=12),
    st.sampled_from([CLIENT, SERVER]),
)
def test_frames_in_any_order_are_events_or_a_protocol_error(frames: list[tuple[int, int, bytes]], role: str) -> None:
    link = Link(role)
    if role == CLIENT:
        link.open([b"x"], {})
    try:
        link.receive(PREFACE + b"".join(frame(*parts) for parts in frames))
    except ProtocolError:
        return
    assert len(link.channels) <= MAX_CHANNELS


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"\x00", b"\x89magentz", b"\x16\x03\x01"])
def test_foreign_peer_is_recognised_by_its_first_bytes(start: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not speak"):
        Decoder().feed(start)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(Frame.STDOUT, MAX_DATA + 1), (Frame.CALL, MAX_CALL + 1), (Frame.SIGNAL, 0), (Frame.CANCEL, 1), (0, 0)],
)
def test_forbidden_size_is_refused_before_the_payload(kind: int, size: int) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(PREFACE + HEADER.pack(size, kind, 1))


@pytest.mark.parametrize("payload", [b"x", b"x=1", b"=1\0", b"x\0", b"a b=1\0", b"y" * 33 + b"=\0"])
def test_broken_record_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        Fields.decode(payload)


def test_record_with_too_many_fields_is_refused() -> None:
    with pytest.raises(ProtocolError, match="fields"):
        Fields.decode(b"a=\0" * (MAX_FIELDS + 1))


def test_call_that_is_too_large_is_refused_where_it_is_made() -> None:
    with pytest.raises(ProtocolError, match="arguments"):
        Link(CLIENT).open([b"x" * MAX_CALL], {})


@pytest.mark.parametrize("number", ["9" * 19, "-1", "x", ""])
def test_number_that_is_none_becomes_the_default(number: str) -> None:
    assert Fields([("n", number.encode())]).number("n", 7) == 7


BROKEN = {
    "data beyond the credit": frame(Frame.STDIN, 1, b"x" * 11),
    "data after the end": frame(Frame.STDIN, 1) + frame(Frame.STDIN, 1, b"x"),
    "a channel that was never opened": frame(Frame.STDIN, 2, b"x"),
    "a channel opened twice": record(Frame.CALL, 1),
    "a second hello": record(Frame.HELLO),
    "a call on channel 0": record(Frame.CALL, 0),
    "a server's frame": frame(Frame.STDOUT, 1, b"x"),
    "a ping on a channel": frame(Frame.PING, 1),
    "credit for a foreign stream": credit(1, Frame.STDIN, 1),
    "credit without end": credit(1, Frame.STDOUT, MAX_CREDIT),
    "too many calls": b"".join(record(Frame.CALL, number) for number in range(2, MAX_CHANNELS + 2)),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_client_that_breaks_the_rules_is_cut_off(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        server_with_call(stdin=10).receive(data)


def test_frame_before_the_hello_is_refused() -> None:
    with pytest.raises(ProtocolError, match="hello"):
        Link(SERVER).receive(PREFACE + record(Frame.CALL, 1))


def test_frame_that_crossed_with_the_exit_is_dropped() -> None:
    link = server_with_call()
    link.end(1, Frame.EXIT, code=0)
    assert link.receive(frame(Frame.STDIN, 1, b"late") + frame(Frame.SIGNAL, 1, b"\x02")) == []


def test_data_after_the_exit_is_refused_by_the_client() -> None:
    link = Link(CLIENT)
    link.open([], {})
    link.receive(PREFACE + record(Frame.HELLO) + record(Frame.EXIT, 1, code=0))
    with pytest.raises(ProtocolError, match="not open"):
        link.receive(frame(Frame.STDOUT, 1, b"x"))


def test_stdin_has_no_credit_before_the_call_starts() -> None:
    link = Link(CLIENT)
    number, _ = link.open([], {})
    assert link.allowance(number, Frame.STDIN) == 0
    with pytest.raises(ValueError, match="granted"):
        link.data(number, Frame.STDIN, b"x")


def test_credit_flows_back() -> None:
    link = server_with_call(stdin=10)
    link.receive(frame(Frame.STDIN, 1, b"x" * 10))
    link.grant(1, Frame.STDIN, 5)
    assert link.receive(frame(Frame.STDIN, 1, b"y" * 5))[0].payload == b"y" * 5


def test_goaway_leaves_running_calls_alone() -> None:
    link = Link(CLIENT)
    link.open([], {})
    link.receive(PREFACE + record(Frame.HELLO) + record(Frame.GOAWAY) + frame(Frame.STDOUT, 1, b"still"))
    assert link.leaving
    assert 1 in link.channels


def test_a_million_fuzzed_frames_leave_memory_flat() -> None:
    """Frames with random types, sizes and contents. A broken link is replaced by a new one, as a server would do."""
    rng = random.Random(20261123)
    types = [*SIZES, 0x7F]
    pool = [
        HEADER.pack(len(body), rng.choice(types), rng.randrange(4)) + body
        for body in (rng.randbytes(rng.choice([0, 0, 1, 5, 5, 40])) for _ in range(4096))
    ]
    pool += [record(Frame.CALL, number) for number in range(1, 512)]
    pool += [frame(Frame.STDIN, 1, b"x"), frame(Frame.CREDIT, 1, b"\x21\0\0\0\1")] * 256
    link, sent, broken = server_with_call(), 0, 0
    tracemalloc.start()
    peak_after_first = 0
    while sent < 1_000_000:
        batch = rng.choices(pool, k=20)
        sent += len(batch)
        try:
            link.receive(b"".join(batch))
        except ProtocolError:
            broken += 1
            link = server_with_call()
        if not peak_after_first and sent >= 100_000:
            peak_after_first = tracemalloc.get_traced_memory()[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert broken > 1000
    assert peak < peak_after_first + 256 * 1024
