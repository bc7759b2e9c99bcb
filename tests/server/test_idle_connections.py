"""Silent connections keep little, wake up whole, and leave nothing for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from doors.hostile import HOST, call
from doors.leaks import eventually
from doors.servers import STRICT_DOORS, strict
from keyhole.server.strict import REST_AFTER_S
from keyhole.server.sweep import SWEPT_AT_ONCE, sweep_connections
from server.lanes import Lane

PAGE = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"
IDLE_S = 50.0


@pytest.fixture(params=STRICT_DOORS)
async def lane(request: pytest.FixtureRequest) -> AsyncIterator[Lane]:
    lane = Lane(request.param, idle_timeout_s=IDLE_S)
    yield lane
    await lane.end()


def rest(lane: Lane) -> None:
    """The connection has been silent for a while."""
    lane.sweep_in(REST_AFTER_S + 1)


def is_resting(lane: Lane) -> bool:
    return lane.protocol.parser is None


class TestResting:
    async def test_it_keeps_neither_parser_nor_request(self, lane: Lane) -> None:
        await lane.send(call("odd"), PAGE)
        assert not is_resting(lane)
        rest(lane)
        protocol = lane.protocol
        kept = (protocol.parser, protocol.cycle, protocol.running, protocol.headers, protocol.url)
        assert kept == (None, None, None, [], b"")

    async def test_a_new_connection_rests_too(self, lane: Lane) -> None:
        rest(lane)
        assert is_resting(lane)
        await lane.send(call("odd"))
        assert lane.statuses() == [200]

    async def test_the_next_requests_are_served_in_any_pieces(self, lane: Lane) -> None:
        for content in (call("odd"), PAGE, call("odd") + PAGE + call("odd")):
            rest(lane)
            await lane.send(*(content[at : at + 7] for at in range(0, len(content), 7)))
        assert lane.statuses() == [200, 404, 200, 404, 200]

    async def test_it_can_rest_amid_line_breaks(self, lane: Lane) -> None:
        """Empty lines before a request are skipped (RFC 9112, section 2.2)."""
        await lane.send(call("odd"), b"\r\n\r")
        rest(lane)
        await lane.send(b"\n" + call("odd"))
        assert lane.statuses() == [200, 200]

    async def test_what_it_hears_next_is_judged_as_ever(self, lane: Lane) -> None:
        await lane.send(call("odd"))
        rest(lane)
        await lane.send(b"GARBAGE\r\n\r\n")
        assert lane.statuses() == [200, 400]
        assert lane.composed.memory.records[-1].method == "-"

    async def test_it_can_be_asked_to_upgrade(self, lane: Lane) -> None:
        rest(lane)
        upgrade = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
        await lane.send(PAGE.replace(HOST, HOST + upgrade) + call("odd"))
        assert lane.statuses() == [404, 200]

    async def test_it_is_closed_in_the_end(self, lane: Lane) -> None:
        await lane.send(call("odd"))
        rest(lane)
        lane.sweep_in(IDLE_S + 1)
        assert lane.transport.is_closing()

    async def test_it_can_be_shut_down(self, lane: Lane) -> None:
        await lane.send(PAGE)
        rest(lane)
        lane.protocol.shutdown()
        assert lane.transport.is_closing()

    @pytest.mark.parametrize("begun", [b"P", PAGE[:-2], call("wait"), call("odd")[:-1]])
    async def test_not_amid_a_request(self, lane: Lane, begun: bytes) -> None:
        await lane.send(begun)
        rest(lane)
        assert not is_resting(lane)


@pytest.mark.parametrize("door", ["asgi-strict", "fastlane"])
async def test_nothing_of_a_connection_lives_in_a_dict(door: str) -> None:
    """A name that uvicorn adds belongs into lean.ATTRIBUTES."""
    lane = Lane(door)
    await lane.send(call("odd"), PAGE, b"GARBAGE\r\n\r\n")
    assert vars(lane.protocol) == {}
    assert vars(lane.protocol.flow) == {}
    await lane.end()


async def test_every_connection_is_swept_however_many_there_are() -> None:
    lane = Lane(idle_timeout_s=0)
    lanes = [lane, *(lane.another() for _ in range(2 * SWEPT_AT_ONCE + 1))]
    sweeping = asyncio.ensure_future(sweep_connections(lane.state, every_s=0.01))
    while not all(each.transport.is_closing() for each in lanes):
        await lane.settle()
    sweeping.cancel()
    for each in lanes:
        await each.end()


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("name", STRICT_DOORS)
async def test_an_answered_request_leaves_no_cycle(name: str) -> None:
    lane = Lane(name)
    await lane.send(call("odd"), PAGE)
    with without_garbage_collection():
        for _ in range(50):
            await lane.send(call("odd"), PAGE)
        assert gc.collect() < 50
    await lane.end()


@pytest.mark.parametrize("name", STRICT_DOORS)
def test_a_closed_connection_leaves_no_cycle(name: str) -> None:
    """It goes at once, whatever it has seen, and waits for no garbage collector."""

    def living() -> int:
        return sum(type(each) is STRICT_DOORS[name] for each in gc.get_objects())

    with strict(name, sweep_every_s=0.01) as door, without_garbage_collection():
        assert living() == 0
        with ExitStack() as stack:
            for content in (b"", b"POST", call("odd"), call("crash"), PAGE, b"GARBAGE\r\n\r\n"):
                client = stack.enter_context(socket.create_connection(door.address))
                client.sendall(content)
                if content.endswith((b"}", b"\n")):
                    assert client.recv(65536).startswith(b"HTTP/1.1 ")
            eventually(lambda: living() == 6)
        eventually(lambda: living() == 0)
