"""A head that is known gets what it would get if it were parsed: no reply tells the difference."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import pytest

from doors.composed import MAX_BODY_BYTES, Composed
from doors.raw import told_apart
from keyhole.server.heads import MAX_KNOWN_BYTES, KnownHeads
from keyhole.server.strict import REST_AFTER_S
from server.lanes import FakeTransport, Lane

HOST = b"Host: 127.0.0.1\r\n"
ODD = b'{"input": "odd"}'
LONGER = b'{"input": "odd", "filling": "' + b"x" * 90 + b'"}'
WAIT = b'{"input": "wait"}'
GATHER = b'{"input": "together 1"}'
"""Answered by a transport that waits for once, so that the request is seen while it runs."""


def request(
    body: bytes, *more: bytes, length: bytes | None = None, version: bytes = b"1.1"
) -> bytes:
    announced = b"%d" % len(body) if length is None else length
    headers = b"".join(line + b"\r\n" for line in more)
    lines = b"POST /generate HTTP/%b\r\n%b%bContent-Length: %b\r\n\r\n"
    return lines % (version, HOST, headers, announced) + body


class Forgetful(KnownHeads):
    """Knows nothing: every head is parsed."""

    def learn(self, *_: Any) -> None:
        return None


def lane(*, knows: bool = True, **bounds: Any) -> Lane:
    heads = KnownHeads() if knows else Forgetful()
    return Lane("fastlane", Composed(io.StringIO()), known_heads=heads, **bounds)


async def learned(here: Lane, *more: bytes) -> None:
    """Have it learn the head of a request that is answered while it is looked at."""
    await here.send(request(GATHER, *more))
    assert here.protocol._known is not None


def replies(here: Lane) -> list[tuple[int, bytes]]:
    """Statuses and bodies, without what differs from request to request."""
    statuses, bodies, rest = told_apart(bytes(here.transport.written))
    assert not rest
    changing = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}|first_byte_s[^,}]*")
    return [
        (status, changing.sub(b"", body)) for status, body in zip(statuses, bodies, strict=True)
    ]


async def same(*pieces: bytes, **bounds: Any) -> list[tuple[int, bytes]]:
    """What pieces behind a learned head get, which is what they get without it."""
    told = []
    for knows in (True, False):
        here = lane(knows=knows, **bounds)
        await here.send(request(GATHER))
        assert (here.protocol._known is not None) == knows
        await here.send(*pieces)
        told.append((replies(here), here.is_open))
        await here.end()
    assert told[0] == told[1]
    return told[0][0]


async def test_a_head_that_came_before_is_not_parsed_again() -> None:
    here = lane()
    await learned(here)
    known, parser = here.protocol._known, here.protocol.parser
    here.protocol.parser = None  # whoever asks it fails
    await here.send(request(ODD))
    await here.send(request(LONGER)[:-7], LONGER[-7:])
    assert here.statuses() == [200, 200, 200]
    here.protocol.parser = parser
    await here.send(request(ODD, b"X-Other: 1"))
    assert here.statuses() == [200] * 4
    assert known is not None
    await here.end()


@pytest.mark.parametrize("body", [ODD, LONGER, b"{}", b""], ids=["odd", "longer", "bad", "empty"])
async def test_every_split_gets_the_same_replies(body: bytes) -> None:
    content = request(body) + request(ODD)
    for at in range(1, len(content)):
        got = await same(content[:at], content[at:])
        assert len(got) == 3
    await same(*[content[at : at + 1] for at in range(len(content))])


@pytest.mark.parametrize(
    "content",
    [
        request(ODD) + b"x",
        request(ODD) + b"\r\n",
        request(ODD) + b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        request(ODD + b"POST", length=b"16"),
        request(ODD, length=b"0016"),
        request(ODD, length=b""),
        request(ODD, length=b"+16"),
        request(ODD, length=b"1_6"),
        request(ODD, length=b"16 "),
        request(ODD, length=b"16, 16"),
        request(ODD, length=b"0x10"),
        request(ODD, length=b"99999999999999999999"),
        request(b"x", length=b"%d" % (MAX_BODY_BYTES + 1)),
        request(b"x" * (MAX_BODY_BYTES + 1)),
        request(ODD).replace(b"\r\n", b"\n"),
        request(ODD).replace(b"Host", b"host"),
        request(ODD, b"Content-Length: 16"),
        request(ODD, b"Transfer-Encoding: chunked"),
        request(ODD, b"Expect: 100-continue"),
        request(ODD, b"Connection: close"),
        request(ODD, version=b"1.0"),
        request(ODD, b"Content-Encoding: gzip"),
        request(ODD, b"Origin: https://evil.example"),
    ],
)
async def test_whatever_resembles_a_known_head(content: bytes) -> None:
    for pieces in ([content], [content[:40], content[40:]], [content[:-5], content[-5:]]):
        await same(*pieces)


@pytest.mark.parametrize(
    ("more", "version"),
    [
        ((b"Content-Length: 23",), b"1.1"),
        ((b"Expect: 100-continue",), b"1.1"),
        ((b"Connection: close",), b"1.1"),
        ((), b"1.0"),
        ((b"Connection: keep-alive",), b"1.0"),
        ((b"Origin: https://evil.example",), b"1.1"),
        ((b"Content-Encoding: gzip",), b"1.1"),
    ],
)
async def test_what_is_never_learned(more: tuple[bytes, ...], version: bytes) -> None:
    here = lane()
    await here.send(request(GATHER, *more, version=version))
    assert here.protocol._known is None
    await here.end()


async def test_what_is_chunked_refused_or_pipelined_is_never_learned() -> None:
    chunked = request(b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    two = request(GATHER) + request(WAIT, b"X-Second: 1")
    for content in (
        chunked + b"17\r\n" + GATHER + b"\r\n0\r\n\r\n",
        request(GATHER).replace(b"127.0.0.1", b"evil.example"),
        request(GATHER).replace(b"/generate", b"/nowhere"),
        request(ODD) + request(WAIT, b"X-Second: 1"),
        two,
        b"\r\n\r\n" + request(WAIT),
    ):
        here = lane()
        await here.send(content)
        assert here.protocol._known is None
        await here.end()


async def test_a_head_in_two_pieces_is_never_learned() -> None:
    content = request(WAIT)
    for at in range(1, content.index(b"\r\n\r\n") + 4):
        here = lane()
        await here.send(content[:at], content[at:])
        assert here.protocol._known is None
        await here.end()


async def test_connections_of_a_caller_share_and_those_of_others_do_not() -> None:
    class Elsewhere(FakeTransport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return {"peername": ("127.0.0.2", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    here = lane()
    await learned(here)
    there = here.another()
    await learned(there)
    assert there.protocol._known is here.protocol._known
    stranger = here.another()
    assert stranger.protocol._known is None, "what another connection has sent is not known here"
    transport = Elsewhere()
    transport.protocol = stranger.protocol
    stranger.protocol.connection_lost(None)
    stranger._connect()
    stranger.protocol.peer = "127.0.0.2"
    await learned(stranger)
    assert stranger.protocol._known is not here.protocol._known
    assert stranger.protocol._known.admission.head.peer == "127.0.0.2"
    for each in (there, stranger):
        each.transport.abort()
        await each.settle()
    await here.end()


async def test_each_body_says_anew_which_format_it_is_in() -> None:
    """TGI's clients and the script's own share a path: one must not be taken for the other."""
    tgi, own = b'{"inputs": "together 1", "a": 1}', b'{"input": "together 1", "a": 1}'
    for bodies in ((tgi, own, tgi), (own, tgi, own)):
        told = []
        for knows in (True, False):
            here = lane(knows=knows)
            for body in bodies:
                await here.send(request(body))
            told.append(here.statuses())
            await here.end()
        assert told[0] == told[1] == [200, 200, 200]


class TestBody:
    async def test_more_than_was_announced_is_the_next_request(self) -> None:
        here = lane()
        await learned(here)
        await here.send(request(ODD)[:-3], ODD[-3:] + request(b"{}")[:20], request(b"{}")[20:])
        assert here.statuses() == [200, 200, 400]
        await here.end()

    async def test_who_leaves_within_it_has_left(self) -> None:
        here = lane()
        await learned(here)
        await here.send(request(ODD)[:-3])
        await here.leave()
        records = here.composed.memory.records
        assert [record.status for record in records] == [200, 499]
        await here.end()

    async def test_one_that_does_not_come_is_a_408(self) -> None:
        here = lane(read_timeout_s=10)
        await learned(here)
        await here.send(request(ODD)[:-3])
        here.sweep_in(5)
        assert here.statuses() == [200]
        here.sweep_in(11)
        assert here.statuses() == [200, 408]
        assert not here.is_open
        await here.send(ODD[-3:])
        assert here.statuses() == [200, 408]
        await here.end()

    async def test_all_of_them_together_are_bounded(self) -> None:
        here = lane(max_buffered_bytes=100)
        await learned(here)
        await here.send(request(LONGER)[:-3], LONGER[-3:] + request(ODD))
        assert here.statuses() == [200, 503]
        assert not here.is_open
        await here.end()

    async def test_what_is_pipelined_behind_it_waits_its_turn(self) -> None:
        here = lane()
        await learned(here)
        await here.send(request(WAIT), request(ODD))
        assert here.statuses() == [200]
        await here.leave()
        await here.end()

    async def test_the_time_for_it_begins_with_its_head(self) -> None:
        here = lane(read_timeout_s=10)
        await learned(here)
        here.protocol._since_s -= 1000
        await here.send(request(ODD)[:-3])
        here.sweep_in(5)
        assert here.is_open
        await here.send(ODD[-3:])
        assert here.statuses() == [200, 200]
        await here.end()

    async def test_a_server_that_stops_ends_the_connection_behind_it(self) -> None:
        here = lane()
        await learned(here)
        await here.send(request(ODD)[:-3])
        here.protocol.shutdown()
        await here.send(ODD[-3:])
        assert here.statuses() == [200, 200]
        assert not here.is_open
        assert b"connection: close" in bytes(here.transport.written)
        await here.end()


async def test_no_more_heads_are_kept_than_there_is_room_for() -> None:
    here = lane()
    for number in range(1100):
        await here.send(request(GATHER, b"X-Trace: %d" % number))
    assert len(here.edge.known_heads._heads) <= 1024
    await asyncio.sleep(0)
    await here.end()


async def test_a_long_head_is_parsed_each_time() -> None:
    here = lane()
    await here.send(request(GATHER, b"X-Long: " + b"x" * MAX_KNOWN_BYTES))
    assert here.statuses() == [200]
    assert here.protocol._known is None
    await here.end()


async def test_a_silent_connection_knows_no_head() -> None:
    here = lane()
    await learned(here)
    await here.settle()
    here.protocol.sweep(here.protocol.loop.time() + REST_AFTER_S + 1)
    assert here.protocol._known is None
    await here.send(request(ODD))
    assert here.statuses()[-1] == 200
    await here.end()
