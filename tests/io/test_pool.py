"""The pool and the transport over it: reuse, the cap and its queue, ends, TLS, Unix sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from wires import PATIENT, TIMEOUTS, failure, make_request, make_upstream, turn, until

from keyhole.catalog import Upstream
from keyhole.io.dialing import Address, find_address, make_tls
from keyhole.io.pool import Fate, Step, choose, judge
from keyhole.io.upstreams import PooledTransport
from keyhole.wire.http import Timeouts, UpstreamResponse
from standins import Raw, Reply, StandIn

OK = Reply.json({"ok": True})


def send(
    transport: PooledTransport,
    upstream: Upstream,
    body: bytes = b"{}",
    *,
    timeouts: Timeouts = TIMEOUTS,
    **fields: Any,
) -> asyncio.Task[UpstreamResponse]:
    request = make_request(upstream, body, **fields)
    sending = transport.send(request, request_id="id", timeouts=timeouts)
    return asyncio.get_running_loop().create_task(sending)


def state(transport: PooledTransport) -> str:
    return repr(transport).removeprefix("<PooledTransport gpu: ").removesuffix(">")


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


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a.example", Address(host="a.example", port=80)),
        ("https://a.example/v1", Address(host="a.example", port=443, is_tls=True)),
        ("http://[::1]:81", Address(host="::1", port=81)),
        ("unix:/run/a.sock", Address(path="/run/a.sock")),
    ],
)
def test_an_url_is_an_address(url: str, address: Address) -> None:
    assert find_address(url) == address


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
    transport = PooledTransport(max_connections=1)
    async with StandIn(Reply(delay_s=0.01)) as standin:
        upstream = make_upstream(standin.url)
        sending = []
        for number in range(6):
            sending.append(send(transport, upstream, b"%d" % number))
            await turn(1)
        assert state(transport) == "1 active, 0 idle, 5 queued"
        await asyncio.gather(*sending)
        assert state(transport) == "0 active, 1 idle, 0 queued"
        await transport.aclose()

    assert [seen.body for seen in standin.requests] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert standin.connections == 1


@pytest.mark.parametrize("answer", [Raw(), Raw((b"HTTP/1.0 200 OK\r\n\r\n",))])
async def test_a_slot_goes_on_where_its_connection_cannot(answer: Raw) -> None:
    transport = PooledTransport(max_connections=2)
    async with StandIn(answer) as standin:
        upstream = make_upstream(standin.url)
        sending = [send(transport, upstream, b"%d" % number) for number in range(8)]
        await asyncio.gather(*sending, return_exceptions=True)
        assert state(transport) == "0 active, 0 idle, 0 queued"
        await transport.aclose()

    assert len(standin.requests) == 8


async def test_who_leaves_the_queue_is_passed_over() -> None:
    transport = PooledTransport(max_connections=1)
    async with StandIn(Reply(delay_s=0.05)) as standin:
        upstream = make_upstream(standin.url)
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
    transport = PooledTransport(max_connections=1)
    async with StandIn(Reply(delay_s=0.02)) as standin:
        upstream = make_upstream(standin.url)
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
    transport = PooledTransport(max_connections=1)
    async with StandIn(OK) as standin:
        upstream = make_upstream(standin.url)
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
    transport = PooledTransport(max_connections=1)
    async with StandIn(Reply(delay_s=60)) as standin:
        upstream = make_upstream(standin.url)
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
    transport = PooledTransport(max_connections=1)
    async with StandIn(Reply(delay_s=60)) as standin:
        upstream = make_upstream(standin.url)
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

    assert standin.requests == []
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


# Streams


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
        assert await response.read() == b""


@pytest.mark.parametrize("is_read", [False, True])
async def test_a_stream_that_is_left_early_closes_its_connection(
    transport: PooledTransport, is_read: bool
) -> None:
    async with StandIn(Reply(body=b"a" * 10_000_000)) as standin:
        request = make_request(make_upstream(standin.url, max_response_bytes=20_000_000))
        async with await transport.open(request, request_id="id", timeouts=TIMEOUTS) as response:
            if is_read:
                assert await response.read() == b"a" * 10_000_000
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


# Unix sockets, and what cannot be reached


async def test_a_unix_socket_is_waited_for(transport: PooledTransport, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as dead:  # a socket file that nobody listens on
        dead.bind(str(path))
    sending = send(transport, make_upstream(f"unix:{path}"))
    await asyncio.sleep(0.1)
    path.unlink()
    await asyncio.sleep(0.1)
    async with StandIn(OK, socket_path=path) as standin:
        assert (await sending).status == 200
        assert (await send(transport, make_upstream(f"unix:{path}"))).status == 200

    assert standin.requests[0].header("host") == "localhost"
    assert standin.connections == 1


async def test_a_unix_socket_is_waited_for_until_the_connect_timeout(
    transport: PooledTransport, tmp_path: Path
) -> None:
    timeouts = Timeouts(connect_s=0.15, first_byte_s=10, total_s=60)
    error = await failure(
        send(transport, make_upstream(f"unix:{tmp_path / 'e.sock'}"), timeouts=timeouts)
    )

    assert error.message == (
        "Upstream 'gpu' was not reached: its socket is not there, so it is not running."
    )
    assert state(transport) == "0 active, 0 idle, 0 queued"


async def test_a_restarted_engine_is_found_again(
    transport: PooledTransport, tmp_path: Path
) -> None:
    path = tmp_path / "engine.sock"
    upstream = make_upstream(f"unix:{path}")
    for _ in range(3):
        async with StandIn(OK, socket_path=path):
            assert (await send(transport, upstream)).status == 200
            assert (await send(transport, upstream)).status == 200


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "the connection was refused"),
        ("localhost", "the connection was refused"),
        ("nowhere.invalid", "its host name could not be resolved"),
    ],
)
async def test_what_cannot_be_reached_says_why_and_not_where(
    transport: PooledTransport, host: str, words: str
) -> None:
    with socket.socket() as taken:  # bound, so that nobody else is; not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = await failure(send(transport, make_upstream(f"http://{host}:{port}")))

    assert error.message == f"Upstream 'gpu' was not reached: {words}."
    assert error.code == "upstream_unreachable"
    assert host not in error.explained
    assert state(transport) == "0 active, 0 idle, 0 queued"


# TLS


@asynccontextmanager
async def tls_server(certificates: Certificates, name: str) -> AsyncIterator[tuple[int, list[Any]]]:
    """Its port, and what it hears in SNI; it answers everything with `hi`."""
    context, names = certificates.server(name), []
    context.sni_callback = lambda _socket, server_name, _context: names.append(server_name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], names
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)


async def test_tls_with_the_right_certificate(certificates: Certificates) -> None:
    transport = PooledTransport(tls=certificates.trust(make_tls()))
    async with tls_server(certificates, "good") as (port, names):
        upstream = make_upstream(f"https://localhost:{port}")
        for _ in range(3):
            response = await send(transport, upstream, b"", method="GET")
            assert (response.status, response.body) == (200, b"hi")
        assert state(transport) == "0 active, 1 idle, 0 queued"
        await transport.aclose()

    assert names == ["localhost"]


@pytest.mark.parametrize(
    ("name", "host", "is_trusted", "words"),
    [
        ("good", "127.0.0.1", True, "it is for another host"),
        ("elsewhere", "localhost", True, "it is for another host"),
        ("expired", "localhost", True, "it has expired"),
        ("early", "localhost", True, "it is not valid yet"),
        ("good", "localhost", False, "nobody whom this machine trusts has signed it"),
    ],
)
async def test_tls_with_a_certificate_that_is_not_accepted(
    certificates: Certificates, name: str, host: str, is_trusted: bool, words: str
) -> None:
    context = certificates.trust(make_tls()) if is_trusted else None
    transport = PooledTransport(tls=context)
    async with tls_server(certificates, name) as (port, _):
        error = await failure(send(transport, make_upstream(f"https://{host}:{port}")))
        await transport.aclose()

    assert error.message == (
        f"Upstream 'gpu' was not reached: its TLS certificate was not accepted: {words}."
    )
    assert error.code == "upstream_unreachable"
    assert state(transport) == "0 active, 0 idle, 0 queued"


@pytest.mark.parametrize(
    ("content", "is_whole"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", False),
    ],
)
async def test_a_body_over_tls_ends_with_its_length_or_with_the_connection(
    certificates: Certificates, content: bytes, is_whole: bool
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(content)
        writer.close()

    context = certificates.server("good")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    transport = PooledTransport(tls=certificates.trust(make_tls()))
    upstream = make_upstream(f"https://localhost:{server.sockets[0].getsockname()[1]}")
    if is_whole:
        assert (await send(transport, upstream)).body == b"hi"
    else:
        assert "broke off" in (await failure(send(transport, upstream))).message
    await until(lambda: state(transport) == "0 active, 0 idle, 0 queued")
    await transport.aclose()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.05)


async def test_a_server_that_does_not_speak_tls(transport: PooledTransport) -> None:
    async with StandIn(OK) as standin:
        sending = send(transport, make_upstream(standin.url.replace("http:", "https:")))
        await turn(20)
        await asyncio.sleep(0.05)
        transport._wheel.step(asyncio.get_running_loop().time() + 5.1)
        error = await failure(sending)

    assert error.message == "Upstream 'gpu' did not accept a connection within 5 s."
    assert standin.requests == []


async def test_a_server_that_answers_a_handshake_with_http(transport: PooledTransport) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    error = await failure(send(transport, make_upstream(f"https://127.0.0.1:{port}")))
    server.close()
    await server.wait_closed()

    assert error.message == "Upstream 'gpu' was not reached: it does not speak TLS as expected."
