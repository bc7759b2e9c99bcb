"""The way to the admin interface: an ASGI door checks the admin key, the clerk answers.

Nothing of `/admin/` is decided here but who may ask: the clerk has the ledger, on a Unix socket
of mode 0600, and knows no keys. Of a request go on: its method, path, query and a bounded body;
no header, so the admin key ends here. Default is deny: every path below the prefix wants the admin
key, also one where nothing stands, and a caller without it learns nothing, not even whether the
clerk is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from keyhole.catalog import Upstream
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.policy.credentials import mask_keys
from keyhole.ports import Clock, Observer, Transport
from keyhole.wire.http import JSON, Head, Reply, Timeouts, UpstreamRequest
from keyhole.wire.ids import TAIL_DIGITS, sane_request_id, uuid7, uuid7_tails
from keyhole.wire.records import CLIENT_GONE, AccessRecord

PREFIX = "/admin/"
MAX_BODY_BYTES = 1024 * 1024
MAX_REPLY_BYTES = 64 * 1024 * 1024
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=60.0, total_s=120.0)
_KEPT = ("content-type", "content-disposition", "allow")
"""What goes back of the clerk's headers."""

ReadBody = Callable[[int], Awaitable[bytes | ClientError | None]]
"""The whole body, up to so many bytes; None for a client that has gone."""


class AdminDoor:
    """Forwards who holds the admin key to the clerk."""

    def __init__(
        self,
        *,
        transport: Transport,
        socket: Path,
        check: Callable[[Head], None],
        observer: Observer,
        clock: Clock,
    ) -> None:
        """`check` raises ClientError for a request that does not show the admin key."""
        self._transport = transport
        self._clerk = Upstream(
            name="clerk",
            kind="clerk",
            url=f"unix:{socket}",
            connect_timeout_s=TIMEOUTS.connect_s,
            max_response_bytes=MAX_REPLY_BYTES,
            max_connections=32,
        )
        self._check = check
        self._observer = observer
        self._clock = clock

    def takes(self, path: str) -> bool:
        """Whether a path is the admin interface's."""
        return path.startswith(PREFIX) or path == PREFIX.removesuffix("/")

    async def serve(self, head: Head, query: bytes, read_body: ReadBody) -> Reply | None:
        """Answer a request, and tell the observer; None for a client that has gone."""
        unix_ms, began_s = self._clock.unix_ms(), self._clock.monotonic()
        (tail,) = uuid7_tails(self._clock.random_hex(TAIL_DIGITS))
        request_id = uuid7(unix_ms, tail)
        client_id = sane_request_id(head.first(b"x-request-id"))
        path = mask_keys(head.path)
        record = AccessRecord(request_id, unix_ms, head.method, path, client_id)
        self._observer.began(record)
        record.status = CLIENT_GONE
        try:
            reply = await self._answer(head, query, read_body, record)
            if reply is not None:
                record.status, record.bytes_out = reply.status, len(reply.body)
            return reply
        finally:
            record.duration_ms = (self._clock.monotonic() - began_s) * 1000
            self._observer.ended(record)

    async def _answer(
        self, head: Head, query: bytes, read_body: ReadBody, record: AccessRecord
    ) -> Reply | None:
        try:
            self._check(head)
            if head.method not in METHODS:
                raise ClientError(
                    Code.METHOD_NOT_ALLOWED,
                    f"The admin interface takes no {head.method}.",
                    status=405,
                    allow=tuple(sorted(METHODS)),
                )
            body = await read_body(MAX_BODY_BYTES)
            if body is None:
                return None
            if isinstance(body, ClientError):
                raise body
            record.bytes_in = len(body)
            return await self._forward(head, query, body, record.request_id)
        except KeyholeError as error:
            record.code = error.code
            return refuse(error, record.request_id)

    async def _forward(self, head: Head, query: bytes, body: bytes, request_id: str) -> Reply:
        target = head.path + (f"?{query.decode('latin-1')}" if query else "")
        request = UpstreamRequest(
            upstream=self._clerk,
            path=target,
            body=body,
            headers=(("content-type", JSON),) if body else (),
            method=head.method,
        )
        try:
            got = await self._transport.send(request, request_id=request_id, timeouts=TIMEOUTS)
        except UpstreamError as error:
            raise _no_clerk() from error
        except GatewayError as error:
            if error.code == Code.SHUTTING_DOWN:
                raise
            raise ClientError(
                Code.MALFORMED_REQUEST, "The path or query cannot be passed on as it is."
            ) from error
        headers = [(name, got.headers[name]) for name in _KEPT if name in got.headers]
        return Reply(
            status=got.status,
            headers=[*headers, ("cache-control", "no-store"), ("x-request-id", request_id)],
            body=got.body,
        )


def refuse(error: KeyholeError, request_id: str | None = None) -> Reply:
    """An error as the admin interface writes it: a code, a message and perhaps a hint."""
    told = {"code": error.code, "message": error.message}
    if error.hint:
        told["hint"] = error.hint
    status = error.status if isinstance(error, ClientError | GatewayError) else 502
    headers = [("content-type", JSON), ("cache-control", "no-store")]
    if request_id is not None:
        headers.append(("x-request-id", request_id))
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    if isinstance(error, ClientError) and error.allow:
        headers.append(("allow", ", ".join(error.allow)))
    if status == 503:
        headers.append(("retry-after", "1"))
    return Reply(status=status, headers=headers, body=msgspec.json.encode({"error": told}))


def _no_clerk() -> GatewayError:
    return GatewayError(
        Code.CLERK_UNAVAILABLE,
        "The clerk, which has the ledger, does not answer.",
        status=503,
        hint="It is started again by itself; the log says why it ended.",
    )
