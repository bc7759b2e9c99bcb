"""Opening connections: addresses, Unix sockets, TLS, and what cannot be reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from wires import (
    OK,
    failure,
    make_upstream,
    send,
    state,
    turn,
    until,
)

from keyhole.io.dialing import Address, find_address, make_tls
from keyhole.io.transport import PooledTransport
from keyhole.wire.http import Timeouts
from standins import Raw, StandIn


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


async def test_a_request_that_a_dying_server_never_read_is_sent_to_the_next(
    transport: PooledTransport, tmp_path: Path
) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(path))
        dying.listen()
        sending = send(transport, make_upstream(f"unix:{path}"))
        await turn()
        await until(lambda: len(transport._pools[0]._connections) == 1)
    path.unlink()
    async with StandIn(OK, socket_path=path) as standin:
        assert (await sending).status == 200

    assert len(standin.requests) == 1


@pytest.mark.parametrize("is_reused", [False, True])
async def test_a_request_that_a_unix_socket_has_taken_is_never_sent_again(
    transport: PooledTransport, tmp_path: Path, is_reused: bool
) -> None:
    answers = (OK, Raw(), OK) if is_reused else (Raw(), OK)
    async with StandIn(*answers, socket_path=tmp_path / "engine.sock") as standin:
        upstream = make_upstream(standin.url)
        if is_reused:
            await send(transport, upstream)
        error = await failure(send(transport, upstream))

    assert error.message == "Upstream 'gpu' closed the connection without an answer."
    assert len(standin.requests) == (2 if is_reused else 1)


async def test_a_server_that_never_reads_is_tried_until_the_connect_timeout(
    transport: PooledTransport, tmp_path: Path
) -> None:
    path = tmp_path / "engine.sock"
    tries = 0

    async def close_unread() -> None:
        nonlocal tries
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            await asyncio.sleep(0.01)  # until the request is there
            accepted.close()
            tries += 1

    timeouts = Timeouts(connect_s=0.3, first_byte_s=20, total_s=60)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        closing = asyncio.ensure_future(close_unread())
        error = await failure(send(transport, make_upstream(f"unix:{path}"), timeouts=timeouts))
        closing.cancel()
        await asyncio.wait([closing])

    assert error.message == "Upstream 'gpu' closed the connection without an answer."
    assert 2 <= tries <= 10


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
