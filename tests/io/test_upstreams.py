"""The transport over the pools: bodies that stream."""

from __future__ import annotations

import asyncio

import pytest
from wires import (
    OK,
    TIMEOUTS,
    failure,
    make_request,
    make_upstream,
    state,
)

from keyhole.io.transport import PooledTransport
from standins import Raw, Reply, StandIn


async def test_a_body_streams_as_it_comes(transport: PooledTransport) -> None:
    pieces = (b"3\r\nabc\r\n", 0.02, b"3\r\ndef\r\n", 0.02, b"0\r\n\r\n")
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    async with StandIn(Raw((head, *pieces))) as standin:
        request = make_request(make_upstream(standin.url))
        response = await transport.open(request, request_id="id", timeouts=TIMEOUTS)
        assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
        assert state(transport) == "1 active, 0 idle, 0 queued"
        assert [piece async for piece in response] == [b"abc", b"def"]
        assert [piece async for piece in response] == []
        assert await response.read_all() == b""


@pytest.mark.parametrize("is_read", [False, True])
async def test_a_stream_that_is_left_early_closes_its_connection(
    transport: PooledTransport, is_read: bool
) -> None:
    async with StandIn(Reply(body=b"a" * 10_000_000)) as standin:
        request = make_request(make_upstream(standin.url, max_response_bytes=20_000_000))
        async with await transport.open(request, request_id="id", timeouts=TIMEOUTS) as response:
            if is_read:
                assert await response.read_all() == b"a" * 10_000_000
        idle = 1 if is_read else 0
        assert state(transport) == f"0 active, {idle} idle, 0 queued"


async def test_a_slow_reader_gets_everything_and_holds_little(transport: PooledTransport) -> None:
    content = bytes(range(256)) * 40_000
    async with StandIn(Reply(body=content)) as standin:
        request = make_request(make_upstream(standin.url, max_response_bytes=20_000_000))
        response = await transport.open(request, request_id="id", timeouts=TIMEOUTS)
        got, largest = b"", 0
        async for piece in response:
            got += piece
            largest = max(largest, len(piece))
            await asyncio.sleep(0.01)

    assert got == content
    assert largest < 1_000_000


async def test_a_stream_that_breaks_says_so(transport: PooledTransport) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
    async with StandIn(Raw((head, b"abc"))) as standin:
        request = make_request(make_upstream(standin.url))
        response = await transport.open(request, request_id="id", timeouts=TIMEOUTS)
        assert await anext(response) == b"abc"
        assert "broke off" in (await failure(anext(response))).message
        assert state(transport) == "0 active, 0 idle, 0 queued"


async def test_a_response_that_is_forgotten_says_so(transport: PooledTransport) -> None:
    async with StandIn(OK) as standin:
        request = make_request(make_upstream(standin.url))
        response = await transport.open(request, request_id="id", timeouts=TIMEOUTS)
        with pytest.warns(ResourceWarning, match="a response of gpu was left open"):
            response.__del__()
        response.close()
