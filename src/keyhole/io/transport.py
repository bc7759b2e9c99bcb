"""The Transport port over aiohttp: one request to one upstream, the whole answer back.

It does not retry, follow redirects, decompress, keep cookies or read proxy settings from the
environment. An upstream on a Unix socket is waited for until the connect timeout, since the
embedded engine is started, and restarted, beside us.

Facts of aiohttp 3.14 that this rests on (read in its source, November 2026): a POST is never
sent again by itself; `auto_decompress=False` leaves bodies alone; connector errors carry the
operating system's error as `os_error`.

Fact of Unix sockets (Linux, net/unix/af_unix.c, unix_release_sock): who closes a connection that
it has read to its end gives its peer an end-of-file, and a reset where something was unread or
the connection not even accepted. So after a reset the request was not read, and is sent again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from yarl import URL

from keyhole import __version__
from keyhole.catalog import Upstream
from keyhole.errors import Code, GatewayError, UpstreamError
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse

# Less than the 5 s after which uvicorn, gunicorn and node close an idle connection: a request
# sent on a connection that is just being closed is lost, and may not be sent twice.
_KEEP_ALIVE_S = 4.0
_CONNECTIONS_PER_UPSTREAM = 100
_SOCKET_POLL_S = 0.05
_READ_BYTES = 64 * 1024
_USER_AGENT = f"keyhole/{__version__}"


class AiohttpTransport:
    """One aiohttp session per upstream, made at its first request."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._under_way: set[asyncio.Timeout] = set()
        self._is_closed = False

    async def send(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        """As the port says."""
        try:
            return await self._send_in_time(request, request_id, timeouts)
        except UpstreamError:
            if self._is_closed:
                raise GatewayError(
                    Code.SHUTTING_DOWN, "Keyhole is shutting down.", status=503
                ) from None
            raise

    async def aclose(self) -> None:
        """As the port says."""
        self._is_closed = True
        for deadline in self._under_way:
            deadline.reschedule(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def _send_in_time(
        self, request: UpstreamRequest, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        name = request.upstream.name
        deadline = asyncio.timeout(timeouts.total_s)
        try:
            async with deadline:
                self._under_way.add(deadline)
                return await self._send(request, request_id, timeouts)
        except UpstreamError:
            raise
        except TimeoutError:
            raise UpstreamError(
                Code.UPSTREAM_TIMEOUT,
                f"{_culprit(name)} did not finish its answer within {timeouts.total_s:g} s.",
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise _unreachable(name, error) from None
        except aiohttp.ClientConnectionError:
            raise UpstreamError(
                Code.UPSTREAM_UNREACHABLE,
                f"{_culprit(name)} closed the connection without an answer.",
            ) from None
        except aiohttp.ClientPayloadError:
            raise UpstreamError(
                Code.UPSTREAM_UNREACHABLE, f"{_culprit(name)} broke off in mid-answer."
            ) from None
        except (aiohttp.ClientError, ValueError):
            raise UpstreamError(
                Code.UPSTREAM_ERROR, f"{_culprit(name)} answered with something that is not HTTP."
            ) from None
        finally:
            self._under_way.discard(deadline)

    async def _send(
        self, request: UpstreamRequest, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        upstream = request.upstream
        response = await self._open(request, request_id, timeouts)
        try:
            body = await _read(response, upstream)
        except BaseException:
            response.close()
            raise
        headers: dict[str, str] = {}
        for key, value in response.headers.items():
            headers.setdefault(key.lower(), value)
        return UpstreamResponse(status=response.status, headers=headers, body=body)

    async def _open(
        self, request: UpstreamRequest, request_id: str, timeouts: Timeouts
    ) -> aiohttp.ClientResponse:
        """The response once its head is there, within the first-byte timeout."""
        upstream = request.upstream
        connect_by = asyncio.get_running_loop().time() + timeouts.connect_s
        try:
            async with asyncio.timeout(timeouts.first_byte_s):
                while True:
                    try:
                        return await self._session(upstream).request(
                            request.method,
                            URL(_base_url(upstream) + request.path, encoded=True),
                            data=request.body,
                            headers=_headers(request, request_id),
                            allow_redirects=False,
                            timeout=aiohttp.ClientTimeout(sock_connect=timeouts.connect_s),
                        )
                    except aiohttp.ClientOSError as error:
                        is_too_late = asyncio.get_running_loop().time() >= connect_by
                        if is_too_late or not _was_not_read(error, upstream):
                            raise
                    await asyncio.sleep(_SOCKET_POLL_S)
        except aiohttp.ConnectionTimeoutError:
            raise UpstreamError(
                Code.UPSTREAM_UNREACHABLE,
                f"{_culprit(upstream.name)} did not accept a connection"
                f" within {timeouts.connect_s:g} s.",
            ) from None
        except TimeoutError:
            raise UpstreamError(
                Code.UPSTREAM_TIMEOUT,
                f"{_culprit(upstream.name)} sent no answer within {timeouts.first_byte_s:.3g} s.",
                hint="A longer wait is set with first_byte_timeout_s of the route.",
            ) from None

    def _session(self, upstream: Upstream) -> aiohttp.ClientSession:
        session = self._sessions.get(upstream.name)
        if session is None:
            session = aiohttp.ClientSession(
                connector=_connector(upstream),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
                timeout=aiohttp.ClientTimeout(),
            )
            self._sessions[upstream.name] = session
        return session


def _was_not_read(error: aiohttp.ClientOSError, upstream: Upstream) -> bool:
    """Whether the upstream is a Unix socket whose server is not there, or has just gone."""
    if isinstance(error, UnixClientConnectorError):
        return True
    return upstream.url.startswith("unix:") and error.errno in (errno.ECONNRESET, errno.EPIPE)


def _connector(upstream: Upstream) -> aiohttp.BaseConnector:
    if upstream.url.startswith("unix:"):
        # Connecting is cheap here, and a fresh connection is never one that is being closed.
        path = upstream.url.removeprefix("unix:")
        return aiohttp.UnixConnector(path=path, limit=0, force_close=True)
    return aiohttp.TCPConnector(
        limit=_CONNECTIONS_PER_UPSTREAM, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=30
    )


def _base_url(upstream: Upstream) -> str:
    # A Unix socket has no host name; HTTP wants one all the same.
    return "http://localhost" if upstream.url.startswith("unix:") else upstream.url


def _headers(request: UpstreamRequest, request_id: str) -> list[tuple[str, str]]:
    """The request's own headers and ours: the one place where a secret is attached."""
    headers = [
        *request.headers,
        ("user-agent", _USER_AGENT),
        ("accept-encoding", "identity"),
        ("x-request-id", request_id),
    ]
    secret = request.upstream.secret
    if secret is not None:
        headers.append(("authorization", f"Bearer {secret.reveal()}"))
    return headers


async def _read(response: aiohttp.ClientResponse, upstream: Upstream) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        body += chunk
        if len(body) > upstream.max_response_bytes:
            raise UpstreamError(
                Code.UPSTREAM_ANSWER_TOO_LARGE,
                f"{_culprit(upstream.name)} answered with more than"
                f" {upstream.max_response_bytes} bytes.",
                hint="A larger answer is allowed with max_response_bytes of the upstream.",
            )
    return bytes(body)


def _culprit(name: str) -> str:
    return f"Upstream '{name}'"


def _unreachable(name: str, error: aiohttp.ClientConnectorError) -> UpstreamError:
    hint = "Check that it runs and that its url is right: keyhole check --live."
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = "its TLS certificate was not accepted"
        with suppress(AttributeError):
            reason += f" ({error.certificate_error.verify_message})"  # type: ignore[attr-defined]
        return UpstreamError(Code.UPSTREAM_UNREACHABLE, f"{_culprit(name)}: {reason}.", hint=hint)
    reason = "connecting failed"
    if isinstance(error, aiohttp.ClientSSLError):
        reason = "it does not speak TLS as expected"
    elif isinstance(error.os_error, ConnectionRefusedError):
        reason = "the connection was refused"
    elif isinstance(error.os_error, FileNotFoundError):
        reason = "its socket is not there, so it is not running"
    elif isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(
        error.os_error, socket.gaierror
    ):
        reason = "its host name could not be resolved"
    return UpstreamError(
        Code.UPSTREAM_UNREACHABLE, f"{_culprit(name)} was not reached: {reason}.", hint=hint
    )
