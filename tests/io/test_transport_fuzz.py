"""Any bytes from an upstream, in any pieces: an answer or an UpstreamError, nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wires import MAX_BODY_BYTES, Outcome, Wire, read, turn

from keyhole.errors import UpstreamError

# What responses are made of, good and bad, so that chance finds its way behind the first line.
PARTS = (
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 No\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 C\r\n",
    ),
    *(b"HTTP/1.1 304 N\r\n", b"HTTP/1.1 101 S\r\n", b"HTTP/2.0 200 O\r\n", b"HTTP/1.1 999 X\r\n"),
    *(b"HTTP/", b"1.1", b" 200 ", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b" ", b":", b"\xff"),
    *(b"content-length: 2\r\n", b"content-length: 0\r\n", b"Content-Length: 5\r\n"),
    *(b"content-length: -1\r\n", b"content-length: 99999999999999999999\r\n"),
    *(b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip, chunked\r\n"),
    *(b"connection: close\r\n", b"connection: keep-alive\r\n", b"connection: upgrade\r\n"),
    *(b"upgrade: h2c\r\n", b"x: y\r\n", b"set-cookie: \r\n", b" folded\r\n"),
    *(
        b"0\r\n\r\n",
        b"2\r\nhi\r\n",
        b"5;a=b\r\nhello\r\n",
        b"ffffffffffffffff\r\n",
        b"hi",
        b"a" * 600,
    ),
)

responses = st.lists(st.sampled_from(PARTS) | st.binary(max_size=20), max_size=25).map(b"".join)
well_begun = responses.map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest)


def pieces_of(content: bytes, cuts: list[int]) -> list[bytes]:
    """The content in pieces of those sizes, the rest as one."""
    pieces, at = [], 0
    for size in cuts:
        pieces.append(content[at : at + size])
        at += size
    return [piece for piece in (*pieces, content[at:]) if piece]


@settings(max_examples=500, deadline=None)
@given(
    content=responses | well_begun | st.binary(max_size=200),
    cuts=st.lists(st.integers(1, 40), max_size=30),
    ends=st.booleans(),
    is_head=st.booleans(),
)
@example(content=b"HTTP/1.1 200 OK\r\n\r\n", cuts=[], ends=False, is_head=True)
def test_the_pieces_that_bytes_come_in_make_no_difference(
    content: bytes, cuts: list[int], ends: bool, is_head: bool
) -> None:
    whole = read(pieces_of(content, []), ends=ends, is_head=is_head)
    split = read(pieces_of(content, cuts), ends=ends, is_head=is_head)

    # Empty lines behind an answer go unnoticed where they come together with its end.
    whole.may_reuse = split.may_reuse = whole.may_reuse and split.may_reuse
    assert split == whole
    if whole.error is None:
        check(whole)


@settings(max_examples=500, deadline=None)
@given(
    earlier=st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\nz: 1\r\n\r\nhi",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx: y\r\n\r\n",
            b"HTTP/1.1 500 No\r\nx: y\r\ncontent-length: 5\r\n\r\n\r\n\r\na",
            b"HTTP/1.1 304 N\r\nx: y\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 02\r\n\r\nhi",
        ]
    ),
    length=st.none() | st.sampled_from([b"0", b"3", b"02", b"a", b"", b"4294967299", b"9" * 9]),
    body=st.none() | st.sampled_from([b"", b"abc", b"\r\nabc", b"\r\n\r\n", b"a" * 600]),
    part=st.sampled_from(PARTS) | st.binary(max_size=3),
    at=st.integers(0, 80),
    cuts=st.lists(st.integers(1, 80), max_size=2),
    is_head=st.booleans(),
)
def test_a_response_like_the_one_before_is_read_like_any_other(
    *,
    earlier: bytes,
    length: bytes | None,
    body: bytes | None,
    part: bytes,
    at: int,
    cuts: list[int],
    is_head: bool,
) -> None:
    head, _, its_body = earlier.partition(b"\r\n\r\n")
    if length is not None:
        head = re.sub(rb"(?i)(content-length: )[0-9]+", rb"\g<1>" + length, head)
    likeness = head + b"\r\n\r\n" + (its_body if body is None else body)
    for content in (likeness, likeness[:at] + part + likeness[at:]):
        pieces = pieces_of(content, cuts)
        assert read(pieces, is_head=is_head, earlier=earlier) == read(pieces, is_head=is_head)


def check(outcome: Outcome) -> None:
    assert outcome.status is not None
    assert 200 <= outcome.status <= 599
    assert outcome.body is not None
    assert len(outcome.body) <= MAX_BODY_BYTES
    assert outcome.headers is not None
    for name, value in outcome.headers.items():
        assert name == name.lower()
        assert not set(name + value) & set("\r\n\0")


@pytest.fixture(scope="module")
def runner() -> Any:
    with asyncio.Runner() as runner:
        yield runner


@settings(max_examples=300, deadline=None)
@given(
    answers=st.lists(responses | well_begun, min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 60), max_size=12),
    end=st.sampled_from(["stays", "ends", "breaks"]),
    is_streaming=st.booleans(),
    is_head=st.booleans(),
)
def test_a_connection_answers_or_fails_and_is_always_left_in_order(
    runner: asyncio.Runner,
    answers: list[bytes],
    cuts: list[int],
    end: str,
    is_streaming: bool,
    is_head: bool,
) -> None:
    async def run() -> None:
        unhandled: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
        wire = Wire()
        try:
            for answer in answers:
                await exchange(wire, pieces_of(answer, cuts), end, is_streaming, is_head)
                if not wire.connection.may_reuse:
                    break
                wire.connection.rest(wire.loop.time() + 60)
        finally:
            wire.connection.abort()
            await turn()
        assert wire.owner.told == ["opened", "dead", "closed"]
        assert len(wire.wheel) == 0
        assert unhandled == []

    runner.run(run())


async def exchange(
    wire: Wire, pieces: list[bytes], end: str, is_streaming: bool, is_head: bool
) -> None:
    async def ask_and_read() -> None:
        await asking
        while is_streaming and await wire.connection.read():
            pass
        await wire.connection.read_all()

    asking = wire.ask(is_head=is_head)
    reading = asyncio.ensure_future(expect_an_upstream_error_at_most(ask_and_read()))
    await turn(2)
    for piece in pieces:
        wire.feed(piece)
        await turn(2)
    if not wire.transport.is_closed and end == "ends":
        wire.transport.eof()
    elif not wire.transport.is_closed and end == "breaks":
        wire.transport.is_closed = True
        wire.connection.connection_lost(ConnectionResetError())
    await turn(3)
    if not reading.done():
        await wire.pass_s(1000)
    await reading


async def expect_an_upstream_error_at_most(trying: Coroutine[Any, Any, None]) -> None:
    try:
        await trying
    except UpstreamError as caught:
        error = caught
    else:
        return
    assert error.message.startswith("Upstream 'gpu' ")
