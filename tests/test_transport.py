"""The Transport port, over each of its implementations: what is sent, what comes back, and every
way to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyhole import __version__
from keyhole.catalog import Upstream
from keyhole.errors import Code, UpstreamError
from keyhole.io.transport import PooledTransport
from keyhole.ports import Transport
from keyhole.secret import Secret
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse
from standins import Raw, Reply, StandIn

SECRET = "hf_SECRETSECRETSECRETSECRET"
PATIENT = Timeouts(connect_s=30, first_byte_s=30, total_s=30)
FOREVER_S = 60.0
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(params=[PooledTransport])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    opened: Transport = request.param()
    yield opened
    await opened.aclose()


def upstream(url: str, *, has_secret: bool = False, max_response_bytes: int = 4096) -> Upstream:
    return Upstream(
        name="far",
        kind="tgi",
        url=url,
        secret=Secret(SECRET) if has_secret else None,
        max_response_bytes=max_response_bytes,
    )


async def send(
    transport: Transport,
    to: Upstream | str,
    *,
    timeouts: Timeouts = PATIENT,
    method: str = "POST",
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),),
) -> UpstreamResponse:
    request = UpstreamRequest(
        upstream=upstream(to) if isinstance(to, str) else to,
        path="/generate",
        body=b'{"inputs":"x"}' if method == "POST" else b"",
        headers=headers,
        method=method,
    )
    return await transport.send(request, request_id="the-id", timeouts=timeouts)


async def fail(
    transport: Transport, to: Upstream | str, timeouts: Timeouts = PATIENT
) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await send(transport, to, timeouts=timeouts)
    assert "'far'" in caught.value.message
    assert caught.value.__cause__ is None, "a library's error would travel with ours"
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


# What is sent


async def test_a_request_carries_its_own_headers_and_ours_and_no_others(transport):
    async with StandIn(Reply(body=b"{}")) as far:
        await send(transport, upstream(far.url + "/base", has_secret=True))
        (seen,) = far.requests
    assert (seen.method, seen.path, seen.body) == ("POST", "/base/generate", b'{"inputs":"x"}')
    assert dict(seen.headers) == {
        "host": far.url.removeprefix("http://"),
        "content-type": "application/json",
        "content-length": "14",
        "user-agent": f"keyhole/{__version__}",
        "accept-encoding": "identity",
        "x-request-id": "the-id",
        "authorization": f"Bearer {SECRET}",
    }


async def test_an_upstream_without_a_secret_is_sent_none(transport):
    async with StandIn() as far:
        await send(transport, far.url)
        await send(transport, far.url, method="GET", headers=())
    assert not any("authorization" in seen.header_names for seen in far.requests)


async def test_a_secret_goes_to_its_own_upstream_alone(transport):
    async with StandIn() as one, StandIn() as other:
        keyed = Upstream(name="one", kind="tgi", url=one.url, secret=Secret(SECRET))
        await send(transport, keyed)
        await send(transport, Upstream(name="other", kind="tgi", url=other.url))
    assert one.requests[0].header("authorization") == f"Bearer {SECRET}"
    assert "authorization" not in other.requests[0].header_names


async def test_an_escaped_path_goes_out_as_it_is(transport):
    async with StandIn() as far:
        await send(transport, far.url + "/a%2Fb")
    assert far.requests[0].path == "/a%2Fb/generate"


async def test_cookies_are_not_kept(transport):
    async with StandIn(Reply(headers={"set-cookie": "a=b; Path=/"})) as far:
        await send(transport, far.url)
        await send(transport, far.url)
    assert not any("cookie" in seen.header_names for seen in far.requests)


async def test_a_redirect_is_an_answer_and_not_followed(transport):
    async with StandIn() as elsewhere:
        redirect = Reply(307, headers={"location": f"{elsewhere.url}/generate"})
        async with StandIn(redirect) as far:
            response = await send(transport, upstream(far.url, has_secret=True))
    assert response.status == 307
    assert response.headers["location"] == f"{elsewhere.url}/generate"
    assert elsewhere.requests == []


# What comes back


@pytest.mark.parametrize("status", [200, 201, 400, 401, 404, 410, 429, 500, 503, 529])
async def test_any_status_is_an_answer(transport, status):
    async with StandIn(Reply(status, body=b"body", headers={"Retry-After": "3"})) as far:
        response = await send(transport, far.url)
    assert (response.status, response.body) == (status, b"body")
    assert response.headers["retry-after"] == "3"


async def test_a_compressed_body_is_left_alone(transport):
    packed = gzip.compress(b'{"generated_text":"x"}')
    async with StandIn(Reply(body=packed, headers={"content-encoding": "gzip"})) as far:
        response = await send(transport, far.url)
    assert response.body == packed
    assert response.headers["content-encoding"] == "gzip"


async def test_of_repeated_headers_the_first_counts(transport):
    headers = [("retry-after", "1"), ("Retry-After", "2")]
    async with StandIn(Reply(headers=headers)) as far:
        assert (await send(transport, far.url)).headers["retry-after"] == "1"


async def test_a_header_may_hold_any_bytes(transport):
    """What may go on to a client is the exchange's to judge."""
    async with StandIn(Raw((OK + b"x: \xff\xfe\r\ncontent-length: 2\r\n\r\n{}",))) as far:
        response = await send(transport, far.url)
    assert response.body == b"{}"
    assert not response.headers["x"].isascii()


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        OK + b"connection: close\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 2\r\n\r\n{}",
    ],
    ids=["chunked", "until close", "HTTP/1.0", "after 100 Continue"],
)
async def test_a_body_may_be_framed_in_any_way(transport, answer):
    async with StandIn(Raw((answer,))) as far:
        assert (await send(transport, far.url)).body == b"{}"


async def test_a_connection_is_used_again(transport):
    async with StandIn(Reply(body=b"{}")) as far:
        for _ in range(3):
            await send(transport, far.url)
        assert far.connections == 1


async def test_a_connection_that_the_server_closed_is_not_used_again(transport):
    async with StandIn(Raw((OK + b"content-length: 2\r\n\r\n{}",)), Reply(body=b"[]")) as far:
        await send(transport, far.url)
        await asyncio.sleep(0.1)
        assert (await send(transport, far.url)).body == b"[]"
        assert far.connections == 2


# What fails


async def test_a_refused_connection(transport):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await fail(transport, f"http://127.0.0.1:{port}")
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "connection was refused" in error.message
    assert "keyhole check --live" in error.explained


async def test_a_name_that_does_not_resolve(transport):
    error = await fail(transport, "http://nowhere.invalid")
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "host name could not be resolved" in error.message


async def test_a_connection_that_is_not_accepted(transport):
    """A TLS handshake that nobody answers counts as connecting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        timeouts = Timeouts(connect_s=0.2, first_byte_s=30, total_s=30)
        error = await fail(transport, url, timeouts)
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "did not accept a connection within 0.2 s" in error.message


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_answer_in_time_however_far_it_got(transport, scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        timeouts = Timeouts(connect_s=30, first_byte_s=0.2, total_s=30)
        error = await fail(transport, url, timeouts)
    assert error.code == Code.UPSTREAM_TIMEOUT
    assert "sent no answer within 0.2 s" in error.message
    assert "first_byte_timeout_s" in error.explained


async def test_an_answer_that_does_not_end_in_time(transport):
    async with StandIn(Reply(body=b"{}", body_delay_s=FOREVER_S)) as far:
        timeouts = Timeouts(connect_s=30, first_byte_s=30, total_s=0.3)
        error = await fail(transport, far.url, timeouts)
    assert error.code == Code.UPSTREAM_TIMEOUT
    assert "did not finish its answer within 0.3 s" in error.message


async def test_a_late_body_is_in_time_once_its_first_byte_was(transport):
    async with StandIn(Reply(body=b"{}", body_delay_s=1.5)) as far:
        timeouts = Timeouts(connect_s=30, first_byte_s=1, total_s=30)
        assert (await send(transport, far.url, timeouts=timeouts)).body == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        Reply(body=b"x" * 5000),
        Raw(
            (OK + b"transfer-encoding: chunked\r\n\r\n", *[b"3e8\r\n" + b"x" * 1000 + b"\r\n"] * 5)
        ),
        Raw((OK + b"connection: close\r\n\r\n", b"x" * 5000)),
    ],
    ids=["announced", "chunked", "until close"],
)
async def test_an_answer_that_is_too_large(transport, answer):
    async with StandIn(answer) as far:
        error = await fail(transport, far.url)
    assert error.code == Code.UPSTREAM_ANSWER_TOO_LARGE
    assert "more than 4096 bytes" in error.message
    assert "max_response_bytes" in error.explained


async def test_an_answer_of_just_the_largest_size(transport):
    async with StandIn(Reply(body=b"x" * 4096)) as far:
        assert len((await send(transport, far.url)).body) == 4096


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200", ""),
        (OK + b"content-length: 10\r\n\r\n{}", "broke off in mid-answer"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nab", "broke off in mid-answer"),
        (OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", "broke off in mid-answer"),
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "no last chunk"],
)
async def test_an_answer_that_breaks_off(transport, answer, words):
    async with StandIn(Raw((answer,) if answer else ())) as far:
        error = await fail(transport, far.url)
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert words in error.message


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        OK + b"content-length: minus one\r\n\r\n",
        OK + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["another protocol", "no status", "bad length", "huge header", "bad chunk"],
)
async def test_an_answer_that_is_not_http(transport, answer):
    async with StandIn(Raw((answer,))) as far:
        error = await fail(transport, far.url)
    assert error.code in {Code.UPSTREAM_ERROR, Code.UPSTREAM_UNREACHABLE}
    assert "SSH" not in error.explained


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody vouches for, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, both = folder / "key.pem", folder / "both.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    words += f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {both}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    both.write_text(both.read_text() + key.read_text())
    return both


@contextlib.asynccontextmanager
async def listening(serve, **options) -> AsyncIterator[int]:
    """A server of one coroutine function, at the port that is given."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_a_certificate_of_nobody_is_refused_before_the_secret_is_sent(transport, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read())
        writer.close()

    async with listening(serve, ssl=context) as port:
        error = await fail(transport, upstream(f"https://127.0.0.1:{port}", has_secret=True))
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "TLS certificate was not accepted" in error.message
    assert asked == []


async def test_https_to_a_server_without_tls(transport):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with listening(serve) as port:
        error = await fail(transport, f"https://127.0.0.1:{port}")
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "does not speak TLS as expected" in error.message


async def test_cancelling_closes_the_connection(transport):
    is_asked, is_closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        is_asked.set()
        await reader.read()
        is_closed.set()
        writer.close()

    async with listening(serve) as port:
        task = asyncio.ensure_future(send(transport, f"http://127.0.0.1:{port}"))
        await asyncio.wait_for(is_asked.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(is_closed.wait(), 30)


async def test_one_upstreams_trouble_is_not_anothers(transport):
    async with StandIn(Reply(delay_s=FOREVER_S)) as stuck, StandIn(Reply(body=b"{}")) as well:
        held = [
            asyncio.ensure_future(
                send(transport, Upstream(name="stuck", kind="tgi", url=stuck.url))
            )
            for _ in range(110)
        ]
        assert (await send(transport, well.url)).body == b"{}"
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@pytest.mark.parametrize("is_connected", [True, False])
async def test_closing_fails_what_is_under_way(transport, is_connected):
    """A client then hears that the server goes, not that its model is broken."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        scheme = "http" if is_connected else "https"
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        tasks = [asyncio.ensure_future(send(transport, url)) for _ in range(110)]
        await asyncio.sleep(0.2)
        await transport.aclose()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {getattr(error, "code", error) for error in errors} == {Code.SHUTTING_DOWN}
    assert {getattr(error, "status", error) for error in errors} == {503}


# Unix sockets


async def test_a_socket_that_is_not_there_yet_is_waited_for(transport, tmp_path):
    path = tmp_path / "s"
    task = asyncio.ensure_future(send(transport, f"unix:{path}"))
    await asyncio.sleep(0.2)
    assert not task.done()
    async with StandIn(Reply(body=b"{}"), socket_path=path) as far:
        assert (await task).body == b"{}"
    (seen,) = far.requests
    assert (seen.path, seen.header("host")) == ("/generate", "localhost")


async def test_a_socket_that_nobody_listens_on_is_waited_for(transport, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    task = asyncio.ensure_future(send(transport, f"unix:{path}"))
    await asyncio.sleep(0.2)
    path.unlink()
    async with StandIn(Reply(body=b"{}"), socket_path=path):
        assert (await task).body == b"{}"


async def test_a_socket_that_never_comes_is_unreachable(transport, tmp_path):
    timeouts = Timeouts(connect_s=0.2, first_byte_s=30, total_s=30)
    error = await fail(transport, f"unix:{tmp_path / 's'}", timeouts)
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "its socket is not there, so it is not running" in error.message


async def test_a_request_that_waits_for_a_server_that_dies_is_sent_to_the_next(transport, tmp_path):
    """It was in the backlog of the socket and never read."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(path))
        dying.listen()
        task = asyncio.ensure_future(send(transport, f"unix:{path}"))
        await asyncio.sleep(0.2)
    path.unlink()
    async with StandIn(Reply(body=b"{}"), socket_path=path) as far:
        assert (await task).body == b"{}"
    assert len(far.requests) == 1


async def test_a_request_that_was_read_is_never_sent_again(transport, tmp_path):
    async with StandIn(Raw(), Reply(body=b"{}"), socket_path=tmp_path / "s") as far:
        error = await fail(transport, far.url)
    assert error.code == Code.UPSTREAM_UNREACHABLE
    assert "closed the connection without an answer" in error.message
    assert len(far.requests) == 1
