"""Slow, silent and greedy clients, with time told by hand; and who waits behind whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from doors.hostile import HOST, PROBE, call
from doors.raw import told_apart
from doors.servers import STRICT_DOORS
from keyhole.server.strict import LINGER_S, MAX_PIPELINED
from keyhole.wire.records import CLIENT_GONE
from server.lanes import Lane

READ_S, IDLE_S = 10.0, 50.0
HEAD = b"POST /generate HTTP/1.1\r\n" + HOST


@pytest.fixture(params=STRICT_DOORS)
async def lane(request: pytest.FixtureRequest) -> AsyncIterator[Lane]:
    lane = Lane(request.param, read_timeout_s=READ_S, idle_timeout_s=IDLE_S)
    yield lane
    await lane.end()
    assert len(asyncio.all_tasks()) == 1


def codes(lane: Lane) -> list[str]:
    """Of the errors among the replies so far."""
    bodies = [json.loads(body) for body in told_apart(bytes(lane.transport.written))[1]]
    return [body["code"] for body in bodies if "code" in body]


class TestSlowToSend:
    @pytest.mark.parametrize("sent", [b"P", HEAD, HEAD + b"X: y"])
    async def test_a_head(self, lane: Lane, sent: bytes) -> None:
        await lane.send(sent)
        lane.sweep_in(READ_S - 1)
        assert lane.is_open
        lane.sweep_in(READ_S + 1)
        assert (lane.statuses(), codes(lane), lane.is_open) == ([408], ["request_too_slow"], False)

    @pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
    async def test_a_body(self, lane: Lane, framing: bytes) -> None:
        await lane.send(HEAD + framing + b"\r\n\r\n")
        lane.sweep_in(READ_S - 1)
        assert lane.is_open
        await lane.send(b"1\r\na\r\n")
        lane.sweep_in(READ_S + 1)
        await lane.settle()
        assert (lane.statuses(), lane.is_open) == ([408], False)
        assert lane.composed.transport.asked == []

    async def test_drops_do_not_buy_time(self, lane: Lane) -> None:
        await lane.send(HEAD + b"X: ")
        for _ in range(5):
            await lane.send(b"y")
        lane.sweep_in(READ_S + 1)
        assert lane.statuses() == [408]

    async def test_a_body_behind_a_request_that_runs(self, lane: Lane) -> None:
        """The refusal waits for its turn, and the running request is not hurt."""
        await lane.send(call("together 2") + HEAD + b"Content-Length: 9\r\n\r\n{")
        lane.sweep_in(READ_S + 1)
        await lane.settle()
        assert lane.statuses() == []
        lane.composed.transport._gate.set()
        await lane.settle()
        assert (lane.statuses(), lane.is_open) == ([200, 408], False)

    async def test_a_body_that_was_answered_by_its_head(self, lane: Lane) -> None:
        await lane.send(b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n{")
        assert (lane.statuses(), lane.is_open) == ([404], True)
        lane.sweep_in(READ_S + 1)
        assert (lane.statuses(), lane.is_open) == ([404], False)

    async def test_who_waits_for_100_continue_is_not_slow(self, lane: Lane) -> None:
        expects = HEAD + b"Expect: 100-continue\r\nContent-Length: 16\r\n\r\n"
        await lane.send(call("together 2"), expects)
        lane.sweep_in(READ_S + 1)
        lane.composed.transport._gate.set()
        await lane.settle()
        assert lane.statuses() == [200, 100]
        await lane.send(b'{"input": "odd"}')
        assert lane.statuses() == [200, 100, 200]


class TestSilent:
    async def test_from_the_beginning(self, lane: Lane) -> None:
        lane.sweep_in(IDLE_S - 1)
        assert lane.is_open
        lane.sweep_in(IDLE_S + 1)
        assert (lane.transport.is_closing(), lane.statuses()) == (True, [])

    async def test_line_breaks_are_silence(self, lane: Lane) -> None:
        await lane.send(b"\r\n", b"\r\n")
        lane.sweep_in(IDLE_S + 1)
        assert lane.transport.is_closing()

    async def test_after_a_reply(self, lane: Lane) -> None:
        await lane.send(call("odd"), PROBE)
        lane.sweep_in(IDLE_S - 1)
        assert lane.is_open
        lane.sweep_in(IDLE_S + 1)
        assert (lane.transport.is_closing(), lane.statuses()) == (True, [200, 200])

    async def test_not_while_a_request_runs(self, lane: Lane) -> None:
        await lane.send(call("wait"))
        lane.sweep_in(IDLE_S * 10)
        assert lane.is_open


class TestSlowToRead:
    async def test_a_large_reply(self, lane: Lane) -> None:
        lane.transport.is_read = False
        await lane.send(call("x" * 100_000))
        assert lane.protocol.flow.write_paused
        lane.sweep_in(READ_S - 1)
        assert not lane.transport.is_closing()
        lane.sweep_in(READ_S + 1)
        assert lane.transport.is_lost

    async def test_who_reads_after_all_is_served_on(self, lane: Lane) -> None:
        lane.transport.is_read = False
        await lane.send(call("x" * 100_000))
        assert lane.transport.is_paused
        lane.transport.take()
        await lane.send(call("odd"))
        assert lane.statuses() == [200, 200]

    async def test_the_last_reply(self, lane: Lane) -> None:
        """A closed connection goes only when its reply is taken: a small one never blocks."""
        lane.transport.is_read = False
        await lane.send(call("odd"))
        lane.sweep_in(IDLE_S + 1)
        assert lane.transport.is_closing()
        assert not lane.transport.is_lost
        lane.sweep_in(IDLE_S + 2)
        lane.sweep_in(IDLE_S + READ_S + 3)
        assert lane.transport.is_lost

    async def test_replies_to_many_refused_requests_do_not_pile_up(self, lane: Lane) -> None:
        lane.transport.is_read = False
        refused = b"POST /generate HTTP/1.1\r\nHost: evil\r\nContent-Length: 0\r\n\r\n"
        await lane.send(refused * 2000)
        for _ in range(10):
            await lane.send(refused * 20)
        assert len(lane.transport.written) < 2 * 65536

    async def test_who_lingers(self, lane: Lane) -> None:
        await lane.send(b"GARBAGE\r\n\r\n", b"more", b"and more")
        assert lane.statuses() == [400]
        assert lane.transport.has_eof
        assert not lane.transport.is_closing()
        lane.sweep_in(LINGER_S + 1)
        assert lane.transport.is_closing()


class TestPipelined:
    async def test_slow_and_quick_ones_keep_their_order(self, lane: Lane) -> None:
        page = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"
        await lane.send(call("together 2") + page + PROBE + call("odd") + page + call("crash"))
        assert lane.statuses() == []
        lane.composed.transport._gate.set()
        await lane.settle(200)
        assert lane.statuses() == [200, 404, 200, 200, 404, 500]

    async def test_a_client_that_leaves_ends_all(self, lane: Lane) -> None:
        await lane.send(call("wait") + call("odd"), PROBE, call("odd"))
        await lane.leave()
        transport, memory = lane.composed.transport, lane.composed.memory
        assert (transport.cancelled, transport.asked) == (1, ["wait"])
        assert {record.status for record in memory.records} == {CLIENT_GONE}
        assert lane.edge.buffered_bytes == 0

    async def test_a_client_that_leaves_as_soon_as_it_has_asked(self, lane: Lane) -> None:
        lane.protocol.data_received(call("wait"))
        lane.transport.lose()
        await lane.settle()
        assert lane.statuses() == []
        assert {record.status for record in lane.composed.memory.records} == {CLIENT_GONE}

    async def test_only_so_many_may_wait(self, lane: Lane) -> None:
        await lane.send(call("wait") + call("odd") * (MAX_PIPELINED + 5))
        assert lane.composed.transport.asked == ["wait"]
        assert len(lane.protocol.pipeline) == MAX_PIPELINED + 1, "the refusal waits too"
        await lane.leave()

    async def test_the_one_too_many_is_told_so(self, lane: Lane) -> None:
        await lane.send(call("together 2") + call("odd") * (MAX_PIPELINED + 1))
        lane.composed.transport._gate.set()
        await lane.settle(2000)
        assert lane.statuses() == [200] * (MAX_PIPELINED + 1) + [503]
        assert codes(lane) == ["too_much_buffered"]
        assert not lane.is_open


async def test_what_all_requests_hold_is_bounded() -> None:
    lane = Lane(max_buffered_bytes=1000)
    begun = HEAD + b"Content-Length: 900\r\n\r\n" + b"x" * 600
    await lane.send(begun)
    other = lane.another()
    await other.send(begun)
    assert (other.statuses(), codes(other)) == ([503], ["too_much_buffered"])
    assert lane.edge.buffered_bytes == 600
    await lane.send(b"x" * 300)
    assert lane.statuses() == [400]
    assert lane.edge.buffered_bytes == 0
    await other.end()
    await lane.end()


class TestDraining:
    async def test_a_silent_connection_is_closed(self, lane: Lane) -> None:
        await lane.send(call("odd"))
        lane.protocol.shutdown()
        assert lane.transport.is_closing()

    async def test_what_runs_and_waits_is_answered_and_the_last_says_close(
        self, lane: Lane
    ) -> None:
        await lane.send(call("together 2") + call("odd"))
        lane.protocol.shutdown()
        await lane.send(call("smuggled"))
        lane.composed.transport._gate.set()
        await lane.settle(100)
        assert (lane.statuses(), lane.is_open) == ([200, 200], False)
        assert lane.transport.written.count(b"connection: close\r\n") == 1
        assert "smuggled" not in lane.composed.transport.asked
