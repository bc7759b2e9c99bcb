"""The pool: its decisions, reuse, the cap and its queue, ends."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from wires import (
    OK,
    PATIENT,
    TIMEOUTS,
    failure,
    make_request,
    make_upstream,
    send,
    state,
    turn,
    until,
)

from keyhole.io.pool import Fate, Step, choose, judge
from keyhole.io.transport import PooledTransport
from standins import Raw, Reply, StandIn

# The decisions


def test_a_request_reuses_then_connects_then_queues() -> None:
    assert choose(resting=1, opened=3, max_connections=3) is Step.REUSE
    assert choose(resting=0, opened=2, max_connections=3) is Step.CONNECT
    assert choose(resting=0, opened=3, max_connections=3) is Step.QUEUE


def test_a_connection_is_closed_handed_on_or_rests() -> None:
    assert judge(may_reuse=False, is_closed=False, queued=1) is Fate.CLOSE
    assert judge(may_reuse=True, is_closed=True, queued=1) is Fate.CLOSE
    assert judge(may_reuse=True, is_closed=False, queued=1) is Fate.HAND_ON
    assert judge(may_reuse=True, is_closed=False, queued=0) is Fate.REST


# Reuse


async def test_one_connection_serves_request_after_request(transport: PooledTransport) -> None:
    async with StandIn(OK) as standin:
        upstream = make_upstream(standin.url)
        for _ in range(10):
            response = await send(transport, upstream)
            assert (response.status, response.body) == (200, b'{"ok": true}')
            assert response.headers["content-type"] == "application/json"
            assert state(transport) == "0 active, 1 idle, 0 queued"

    assert standin.connections == 1


async def test_as_many_connections_as_requests_at_once(transport: PooledTransport) -> None:
    async with StandIn(Reply(delay_s=0.05)) as standin:
        upstream = make_upstream(standin.url)
        sending = [send(transport, upstream) for _ in range(5)]
        await standin.wait_for_requests(5)
        assert state(transport) == "5 active, 0 idle, 0 queued"
        await asyncio.gather(*sending)
        assert state(transport) == "0 active, 5 idle, 0 queued"
        await asyncio.gather(*(send(transport, upstream) for _ in range(3)))

    assert standin.connections == 5


@pytest.mark.parametrize(
    "answer",
    [
        Reply(is_closing=True, headers={"connection": "close"}),
        Reply(is_closing=True),
        Raw((b"HTTP/1.0 200 OK\r\n\r\n",)),
    ],
)
async def test_a_connection_that_the_upstream_closes_is_not_used_again(
    transport: PooledTransport, answer: Any
) -> None:
    async with StandIn(answer) as standin:
        upstream = make_upstream(standin.url)
        for _ in range(5):
            assert (await send(transport, upstream)).status == 200
        await until(lambda: state(transport) == "0 active, 0 idle, 0 queued")

    assert standin.connections == 5


async def test_a_resting_connection_that_ends_gives_its_slot_up(transport: PooledTransport) -> None:
    async with StandIn(OK) as standin:
        await send(transport, make_upstream(standin.url))
        assert state(transport) == "0 active, 1 idle, 0 queued"
    await until(lambda: state(transport) == "0 active, 0 idle, 0 queued")


async def test_a_resting_connection_is_closed_after_a_while(transport: PooledTransport) -> None:
    async with StandIn(OK) as standin:
        await send(transport, make_upstream(standin.url))
        now_s = asyncio.get_running_loop().time()
        transport._wheel.step(now_s + 54)
        assert state(transport) == "0 active, 1 idle, 0 queued"
        transport._wheel.step(now_s + 56)
        assert state(transport) == "0 active, 0 idle, 0 queued"


async def test_an_upstream_that_is_configured_anew_is_another_one(
    transport: PooledTransport,
) -> None:
    async with StandIn(OK) as first, StandIn(OK) as second:
        await send(transport, make_upstream(first.url))
        await send(transport, make_upstream(second.url))
        await send(transport, make_upstream(first.url))

    assert (len(first.requests), len(second.requests)) == (2, 1)
    assert first.connections == 1


async def test_a_large_body_arrives(transport: PooledTransport) -> None:
    body = bytes(range(256)) * 8192
    async with StandIn(OK) as standin:
        await send(transport, make_upstream(standin.url), body)

    assert standin.requests[0].body == body


async def test_nothing_is_sent_twice_when_a_new_connection_closes(
    transport: PooledTransport,
) -> None:
    async with StandIn(Raw()) as standin:
        error = await failure(send(transport, make_upstream(standin.url)))

    assert error.message == "Upstream 'gpu' closed the connection without an answer."
    assert len(standin.requests) == 1


# The cap and its queue


async def test_requests_over_the_cap_wait_and_are_served_in_their_order() -> None:
    transport = PooledTransport()
    async with StandIn(Reply(delay_s=0.01)) as standin:
        upstream = make_upstream(standin.url, max_connections=1)
        sending = []
        for number in range(6):
            sending.append(send(transport, upstream, b"%d" % number))
            await turn(2)
        assert state(transport) == "1 active, 0 idle, 5 queued"
        await asyncio.gather(*sending)
        assert state(transport) == "0 active, 1 idle, 0 queued"
        await transport.aclose()

    assert [seen.body for seen in standin.requests] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert standin.connections == 1


@pytest.mark.parametrize("answer", [Raw(), Raw((b"HTTP/1.0 200 OK\r\n\r\n",))])
async def test_a_slot_goes_on_where_its_connection_cannot(answer: Raw) -> None:
    transport = PooledTransport()
    async with StandIn(answer) as standin:
        upstream = make_upstream(standin.url, max_connections=2)
        sending = [send(transport, upstream, b"%d" % number) for number in range(8)]
        await asyncio.gather(*sending, return_exceptions=True)
        assert state(transport) == "0 active, 0 idle, 0 queued"
        await transport.aclose()

    assert len(standin.requests) == 8


async def test_who_leaves_the_queue_is_passed_over() -> None:
    transport = PooledTransport()
    async with StandIn(Reply(delay_s=0.05)) as standin:
        upstream = make_upstream(standin.url, max_connections=1)
        sending = [send(transport, upstream, b"%d" % number) for number in range(4)]
        await standin.wait_for_requests(1)
        for number in (1, 3):
            sending[number].cancel()
        await asyncio.wait(sending)
        assert state(transport) == "0 active, 1 idle, 0 queued"
        await transport.aclose()

    assert [seen.body for seen in standin.requests] == [b"0", b"2"]
    assert [task.cancelled() for task in sending] == [False, True, False, True]


async def test_who_is_cancelled_as_its_turn_comes_hands_it_on() -> None:
    transport = PooledTransport()
    async with StandIn(Reply(delay_s=0.02)) as standin:
        upstream = make_upstream(standin.url, max_connections=1)
        sending = [send(transport, upstream, b"%d" % number) for number in range(3)]
        sending[0].add_done_callback(lambda _: sending[1].cancel())
        await asyncio.wait(sending)
        assert sending[1].cancelled()
        assert sending[2].result().status == 200
        assert state(transport) == "0 active, 1 idle, 0 queued"
        await transport.aclose()


@pytest.mark.parametrize("is_read", [False, True])
async def test_who_is_cancelled_and_not_out_of_the_queue_yet_gets_nothing(is_read: bool) -> None:
    """The cancellation and the freed slot come in the same turn of the loop."""
    transport = PooledTransport()
    async with StandIn(OK) as standin:
        upstream = make_upstream(standin.url, max_connections=1)
        request = make_request(upstream)
        response = await transport.open(request, request_id="id", timeouts=TIMEOUTS)
        leaving, staying = send(transport, upstream), send(transport, upstream)
        await until(lambda: state(transport) == "1 active, 0 idle, 2 queued")
        leaving.cancel()
        if is_read:
            assert await response.read() == b'{"ok": true}'
        response.close()
        assert (await staying).status == 200
        assert leaving.cancelled()
        assert state(transport) == "0 active, 1 idle, 0 queued"
        await transport.aclose()


async def test_waiting_in_the_queue_has_a_deadline() -> None:
    transport = PooledTransport()
    async with StandIn(Reply(delay_s=60)) as standin:
        upstream = make_upstream(standin.url, max_connections=1)
        first = send(transport, upstream, timeouts=PATIENT)
        await standin.wait_for_requests(1)
        second = send(transport, upstream)
        await turn()
        transport._wheel.step(asyncio.get_running_loop().time() + 10.1)
        error = await failure(second)
        assert error.message == "Upstream 'gpu' had none of its 1 connections free within 10 s."
        assert error.code == "upstream_timeout"
        assert state(transport) == "1 active, 0 idle, 0 queued"
        first.cancel()
        await asyncio.wait([first])
        assert state(transport) == "0 active, 0 idle, 0 queued"
        await transport.aclose()


# Ends


async def test_a_cancelled_request_closes_its_connection(transport: PooledTransport) -> None:
    async with StandIn(Reply(delay_s=60), OK) as standin:
        upstream = make_upstream(standin.url)
        sending = send(transport, upstream)
        await standin.wait_for_requests(1)
        sending.cancel()
        await asyncio.wait([sending])
        assert sending.cancelled()
        assert state(transport) == "0 active, 0 idle, 0 queued"
        await send(transport, upstream)

    assert standin.connections == 2


async def test_closing_fails_what_is_under_way_and_what_waits_and_what_comes() -> None:
    transport = PooledTransport()
    async with StandIn(Reply(delay_s=60)) as standin:
        upstream = make_upstream(standin.url, max_connections=1)
        sending = [send(transport, upstream) for _ in range(3)]
        await standin.wait_for_requests(1)
        await transport.aclose()
        for task in (*sending, send(transport, upstream)):
            assert (await failure(task)).code == "shutting_down"
        assert state(transport) == "0 active, 0 idle, 0 queued"
        await transport.aclose()


async def test_closing_while_connecting_leaves_no_connection(tmp_path: Path) -> None:
    transport = PooledTransport()
    upstream = make_upstream(f"unix:{tmp_path / 'e.sock'}")
    sending = send(transport, upstream)
    await turn()
    await transport.aclose()
    async with StandIn(OK, socket_path=tmp_path / "e.sock") as standin:
        assert (await failure(sending)).code == "shutting_down"
        assert (await failure(send(transport, upstream))).code == "shutting_down"

    assert standin.requests == []
    assert state(transport) == "0 active, 0 idle, 0 queued"


async def test_closing_ends_a_handshake_that_nobody_answers() -> None:
    transport = PooledTransport()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sending = send(transport, make_upstream(f"https://127.0.0.1:{silent.getsockname()[1]}"))
        await asyncio.sleep(0.05)
        await transport.aclose()
        error = await failure(sending)

    assert (error.code, error.message) == ("shutting_down", "Keyhole is shutting down.")
    assert state(transport) == "0 active, 0 idle, 0 queued"


@pytest.mark.parametrize("is_reading_on", [False, True])
async def test_deadlines_come_from_the_wheel(
    transport: PooledTransport, is_reading_on: bool
) -> None:
    answer = Reply(body=b"hi", body_delay_s=60) if is_reading_on else Reply(delay_s=60)
    async with StandIn(answer) as standin:
        sending = send(transport, make_upstream(standin.url))
        await standin.wait_for_requests(1)
        await asyncio.sleep(0.05)  # for the head, if there is one
        seconds, words = (61, "did not finish") if is_reading_on else (11, "sent no answer")
        transport._wheel.step(asyncio.get_running_loop().time() + seconds)
        assert words in (await failure(sending)).message
        assert state(transport) == "0 active, 0 idle, 0 queued"
