"""One connection: requests, responses, deadlines and ends, on a network that is a list of bytes."""

from __future__ import annotations

import asyncio
import sys

import pytest
from wires import TIMEOUTS, Outcome, Wire, failure, read, splits, turn

from keyhole.io.http1 import (
    HIGH_WATER_BYTES,
    SEND_AGAIN_WITHIN_S,
    StaleError,
    may_send_again,
)
from keyhole.io.response import Headers
from keyhole.wire.http import Timeouts

SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
    b"5\r\nhello\r\n1;ext=1\r\n \r\n5\r\nworld\r\n0\r\nX-Trailer: t\r\n\r\n"
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nserver: old\r\n\r\nhello world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + SMALL


@pytest.mark.parametrize(
    ("content", "ends", "expected"),
    [
        (SMALL, False, Outcome(status=200, body=b"hi", may_reuse=True)),
        (CHUNKED, False, Outcome(status=200, body=b"hello world", may_reuse=True)),
        (UNTIL_CLOSE, True, Outcome(status=200, body=b"hello world")),
        (INTERIM, False, Outcome(status=200, body=b"hi", may_reuse=True)),
    ],
)
def test_every_split_of_a_response_reads_the_same(
    content: bytes, ends: bool, expected: Outcome
) -> None:
    whole = read([content], ends=ends)
    assert (whole.status, whole.body, whole.may_reuse) == (
        expected.status,
        expected.body,
        expected.may_reuse,
    )
    for pieces in splits(content):
        assert read(pieces, ends=ends) == whole


@pytest.mark.parametrize("content", [SMALL, CHUNKED, INTERIM])
async def test_a_connection_carries_one_response_after_the_other(content: bytes) -> None:
    wire = Wire()
    for pieces in splits(content):
        asking = wire.ask()
        await turn(2)
        wire.feed(*pieces)
        await asking
        assert wire.connection.status == 200
        assert (await wire.connection.read_all()).startswith(b"h")
        assert wire.connection.may_reuse
        wire.connection.rest(wire.loop.time() + 60)
    assert wire.owner.told == ["opened"]


async def test_a_request_goes_out_in_one_write() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)

    assert wire.transport.written == [b"POST / HTTP/1.1\r\n\r\n"]
    wire.feed(SMALL)
    await asking


async def test_headers_are_in_lower_case_and_of_repeated_ones_the_first() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\nX-A:  one \r\nx-a: two\r\nY: \xe9\r\ncontent-length: 0\r\n\r\n")
    await asking

    assert wire.connection.headers == {"x-a": "one", "y": "\xe9", "content-length": "0"}
    assert wire.connection.headers.get("X-A") is None
    assert repr(Headers([(b"A", b"b")])) == "Headers({'a': 'b'})"


async def test_a_body_can_be_read_piece_by_piece() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await asking
    reading = asyncio.ensure_future(wire.connection.read())
    await turn()
    assert not reading.done()

    wire.feed(b"3\r\nabc\r\n")
    assert await reading == b"abc"
    wire.feed(b"2\r\nde\r\n", b"1\r\nf\r\n")
    assert await wire.connection.read() == b"def"
    wire.feed(b"0\r\n\r\n")
    assert await wire.connection.read() == b""
    assert wire.connection.may_reuse


async def test_a_slow_reader_makes_the_upstream_wait() -> None:
    wire = Wire(max_body_bytes=10 * HIGH_WATER_BYTES, idle_s=20)
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    await asking
    wire.feed(b"a" * HIGH_WATER_BYTES)
    assert not wire.transport.is_paused
    wire.feed(b"a")
    assert wire.transport.is_paused

    await wire.pass_s(30)  # it is not the upstream that is silent
    assert not wire.transport.is_closed
    assert len(await wire.connection.read()) == HIGH_WATER_BYTES + 1
    assert not wire.transport.is_paused
    await wire.pass_s(30)  # and now it is
    assert "fell silent" in (await failure(wire.connection.read())).message


async def test_a_slow_reader_does_not_stop_the_total_deadline() -> None:
    wire = Wire(max_body_bytes=10 * HIGH_WATER_BYTES)
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * (HIGH_WATER_BYTES + 1))
    await asking

    await wire.pass_s(61)
    assert await wire.connection.read()
    assert "did not finish" in (await failure(wire.connection.read())).message


async def test_reading_all_of_a_body_pauses_nothing() -> None:
    wire = Wire(max_body_bytes=10 * HIGH_WATER_BYTES)
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * (HIGH_WATER_BYTES + 1))
    await asking
    assert wire.transport.is_paused

    reading = asyncio.ensure_future(wire.connection.read_all())
    await turn(2)
    assert not wire.transport.is_paused
    wire.feed(b"a" * HIGH_WATER_BYTES)
    assert not wire.transport.is_paused
    wire.transport.eof()
    assert len(await reading) == 2 * HIGH_WATER_BYTES + 1


async def test_many_small_chunks_take_no_more_room_than_their_bytes() -> None:
    wire = Wire(max_body_bytes=100_000)
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 50_000)
    await asking

    assert sys.getsizeof(wire.connection._response._body) < 100_000
    wire.connection.abort()
    await turn()


@pytest.mark.parametrize(
    ("fed", "message"),
    [
        ([], "closed the connection without an answer"),
        ([b"H"], "broke off in mid-answer"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi"], "broke off in mid-answer"),
    ],
)
@pytest.mark.parametrize("is_broken", [False, True])
async def test_an_end_that_comes_too_early(fed: list[bytes], message: str, is_broken: bool) -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(*fed)
    if is_broken:
        wire.transport.is_closed = True
        wire.connection.connection_lost(ConnectionResetError())
    else:
        wire.transport.eof()

    async def ask_and_read() -> bytes:
        await asking
        return await wire.connection.read_all()

    error = await failure(ask_and_read())
    assert error.message == f"Upstream 'gpu' {message}."
    assert error.code == "upstream_unreachable"
    await turn()
    assert wire.owner.told == ["opened", "dead", "closed"]


async def test_a_body_until_the_end_is_cut_off_by_a_reset() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(UNTIL_CLOSE)
    await asking
    wire.transport.is_closed = True
    wire.connection.connection_lost(ConnectionResetError())

    assert "broke off" in (await failure(wire.connection.read_all())).message


async def test_what_came_before_the_break_can_still_be_read() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nhi")
    await asking
    wire.transport.eof()

    assert await wire.connection.read() == b"hi"
    assert "broke off" in (await failure(wire.connection.read())).message


@pytest.mark.parametrize("content", [b"HTTP/1.1 200 OK\r\n", b"x", b"\r\n", SMALL])
async def test_bytes_that_nobody_has_asked_for_close_the_connection(content: bytes) -> None:
    wire = Wire()
    wire.feed(content)
    await turn()

    assert wire.owner.told == ["opened", "dead", "closed"]
    assert wire.connection.is_dead


async def test_bytes_behind_a_response_close_the_connection_and_leave_the_response() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(SMALL, b"more")
    await asking

    assert await wire.connection.read_all() == b"hi"
    assert not wire.connection.may_reuse
    await turn()
    assert wire.owner.told == ["opened", "dead", "closed"]


async def test_an_answer_that_came_before_the_whole_request_had_left_ends_the_connection() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.transport.unsent_bytes = 1
    wire.feed(SMALL)
    await asking

    assert await wire.connection.read_all() == b"hi"
    assert not wire.connection.may_reuse


# Deadlines: the wheel is stepped, no time passes


async def test_no_head_in_time() -> None:
    wire = Wire()
    asking = wire.ask(timeouts=Timeouts(connect_s=1, first_byte_s=7, total_s=60))
    await turn(2)
    await wire.pass_s(6.8)
    wire.feed(b"HTTP/1.1 100 Continue\r\n\r\n")  # which is not an answer
    assert not asking.done()
    await wire.pass_s(7.1)

    error = await failure(asking)
    assert error.message == "Upstream 'gpu' sent no answer within 7 s."
    assert error.code == "upstream_timeout"
    assert wire.transport.is_closed
    assert len(wire.wheel) == 0


async def test_silence_in_the_middle_of_a_body() -> None:
    wire = Wire(idle_s=20)
    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    await asking
    reading = asyncio.ensure_future(wire.connection.read_all())
    await turn(2)
    await wire.pass_s(19.8)
    wire.feed(b"a")
    await wire.pass_s(19.8)
    assert not reading.done()
    await wire.pass_s(20.1)

    error = await failure(reading)
    assert error.message == "Upstream 'gpu' fell silent in mid-answer for 20 s."
    assert error.code == "upstream_timeout"


async def test_no_end_in_time() -> None:
    wire = Wire(idle_s=100)
    asking = wire.ask(timeouts=Timeouts(connect_s=1, first_byte_s=7, total_s=30))
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    await asking
    reading = asyncio.ensure_future(wire.connection.read_all())
    await turn(2)
    await wire.pass_s(31)

    error = await failure(reading)
    assert error.message == "Upstream 'gpu' did not finish its answer within 30 s."


async def test_the_total_deadline_comes_before_a_later_first_byte() -> None:
    wire = Wire()
    asking = wire.ask(timeouts=Timeouts(connect_s=1, first_byte_s=90, total_s=30))
    await turn(2)
    await wire.pass_s(31)

    assert "did not finish its answer within 30 s" in (await failure(asking)).message


async def test_a_resting_connection_is_closed_when_its_time_has_come() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(SMALL)
    await asking
    await wire.connection.read_all()
    wire.connection.rest(wire.loop.time() + 55)
    await wire.pass_s(54)
    assert wire.owner.told == ["opened"]
    await wire.pass_s(55.1)

    assert wire.owner.told == ["opened", "dead", "closed"]


async def test_a_request_that_is_over_has_no_deadline() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(SMALL)
    await asking
    await wire.pass_s(1000)

    assert await wire.connection.read_all() == b"hi"
    assert wire.connection.may_reuse


# What may be sent again


@pytest.mark.parametrize(
    ("is_reused", "has_begun", "waited_s", "was_read", "may"),
    [
        (True, False, 0.1, None, True),
        (True, False, SEND_AGAIN_WITHIN_S + 0.1, None, False),
        (True, True, 0.1, None, False),
        (False, False, 0.1, None, False),
        # A Unix socket tells.
        (True, False, 0.1, True, False),
        (False, False, 0.1, True, False),
        (False, False, 100.0, False, True),
        (True, False, 100.0, False, True),
        (False, True, 0.1, False, False),
    ],
)
def test_what_may_be_sent_again(
    is_reused: bool, has_begun: bool, waited_s: float, was_read: bool | None, may: bool
) -> None:
    assert may is may_send_again(
        is_reused=is_reused, has_begun=has_begun, waited_s=waited_s, was_read=was_read
    )


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), None])
async def test_a_reset_of_a_unix_socket_is_stale_and_its_end_is_not(
    error: OSError | None, is_used: bool
) -> None:
    wire = await used_wire() if is_used else Wire()
    wire.connection._is_unix = True
    asking = wire.ask()
    await turn(2)
    if error is None:
        wire.transport.eof()
        assert "closed the connection without an answer" in (await failure(asking)).message
    else:
        wire.transport.is_closed = True
        wire.connection.connection_lost(error)
        with pytest.raises(StaleError):
            await asking


async def used_wire() -> Wire:
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(SMALL)
    await asking
    await wire.connection.read_all()
    wire.connection.rest(wire.loop.time() + 55)
    return wire


@pytest.mark.parametrize("is_broken", [False, True])
async def test_a_reused_connection_that_dies_under_a_request_is_stale(is_broken: bool) -> None:
    wire = await used_wire()
    asking = wire.ask()
    await turn(2)
    if is_broken:
        wire.transport.is_closed = True
        wire.connection.connection_lost(ConnectionResetError())
    else:
        wire.transport.eof()

    with pytest.raises(StaleError):
        await asking


async def test_a_reused_connection_that_had_died_before_is_stale_and_nothing_is_written() -> None:
    wire = await used_wire()
    wire.transport.eof()
    await turn()
    with pytest.raises(StaleError):
        await wire.ask()

    assert len(wire.transport.written) == 1


async def test_a_new_connection_that_dies_before_the_request_is_the_upstreams_fault() -> None:
    wire = Wire()
    wire.transport.eof()
    await turn()

    assert "closed the connection without an answer" in (await failure(wire.ask())).message


async def test_a_reused_connection_that_breaks_in_mid_answer_is_not_stale() -> None:
    wire = await used_wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(b"H")
    wire.transport.eof()

    assert "broke off" in (await failure(asking)).message


# Giving up


async def test_cancelling_and_aborting_leaves_nothing_behind() -> None:
    wire = Wire()
    asking = wire.ask(timeouts=TIMEOUTS)
    await turn(2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    wire.connection.abort()
    await turn()

    assert wire.transport.is_closed
    assert len(wire.wheel) == 0
    assert wire.owner.told == ["opened", "dead", "closed"]
    wire.connection.abort()
    assert wire.owner.told == ["opened", "dead", "closed"]


async def test_a_connection_that_is_made_after_it_was_given_up_is_closed() -> None:
    wire = Wire()
    wire.transport.abort()
    await turn()
    late = Wire()
    late.connection.is_dead = True
    late.connection.connection_made(late.transport)

    assert late.transport.is_closed
    await turn()


async def test_what_a_resting_connection_says_before_it_is_asked_is_no_answer() -> None:
    """A server that gives an idle connection up may say 408 as the next request is made."""
    wire = Wire()
    asking = wire.ask()
    await turn(2)
    wire.feed(SMALL)
    await asking
    wire.connection.take_whole()
    wire.connection.rest(wire.loop.time() + 60)

    asking = wire.ask()
    await turn(1)
    wire.feed(b"HTTP/1.1 408 Late\r\ncontent-length: 0\r\n\r\n")
    with pytest.raises(StaleError):
        await asking
    assert len(wire.transport.written) == 1


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_request_that_was_never_written_may_be_sent_again(is_reset: bool) -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(1)
    if is_reset:
        wire.transport.is_closed = True
        wire.connection.connection_lost(ConnectionResetError())
    else:
        wire.transport.eof()

    with pytest.raises(StaleError):
        await asking
    assert wire.transport.written == []


async def test_a_request_that_is_cancelled_before_it_was_written_never_is() -> None:
    wire = Wire()
    asking = wire.ask()
    await turn(1)
    asking.cancel()
    wire.connection.abort()
    await turn()

    assert wire.transport.written == []


async def test_what_is_pushed_on_may_be_longer_than_what_is_kept() -> None:
    wire = Wire(max_body_bytes=1000)
    for _ in range(2):
        asking = wire.ask()
        await turn(2)
        wire.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await asking
        pieces, ends = list[bytes](), list[object]()
        wire.connection.push(pieces.append, ends.append)
        wire.feed(*[b"64\r\n%b\r\n" % (b"a" * 100)] * 100, b"0\r\n\r\n")
        assert b"".join(pieces) == b"a" * 10_000
        assert ends == [None]
        wire.connection.rest(wire.loop.time() + 60)

    asking = wire.ask()
    await turn(2)
    wire.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await asking
    reading = asyncio.ensure_future(wire.connection.read_all())
    await turn(2)
    wire.feed(*[b"64\r\n%b\r\n" % (b"a" * 100)] * 11)
    assert "more than 1000 bytes" in (await failure(reading)).message


async def test_who_pauses_in_the_last_piece_does_not_pause_the_next_response() -> None:
    """The sink of a slow client pauses whatever it is given last; the connection goes on."""
    for is_there_before in (False, True):
        wire = Wire()
        asking = wire.ask()
        await turn(2)
        head, body = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"abcd"
        wire.feed(*([head + body] if is_there_before else [head]))
        await asking
        ends = list[object]()
        wire.connection.push(lambda _, wire=wire: wire.connection.pause(), ends.append)  # type: ignore[misc]
        if not is_there_before:
            wire.feed(body)
        assert ends == [None]
        wire.connection.rest(wire.loop.time() + 60)
        assert not wire.transport.is_paused

        asking = wire.ask()
        await turn(2)
        wire.feed(SMALL)
        await asking
