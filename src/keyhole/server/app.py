"""The ASGI door: the core under any ASGI server, without a framework between.

It reads a body only for who was let in, counts it as it comes, and stops the work when the
client hangs up. It knows no path and makes no reply of its own: the core does. Framing,
keep-alive and timeouts are the server's. A stream goes on piece by piece, but to a client of
HTTP/1.0, which gets it whole: no server can be told to send it a body of unknown length.

Facts: the ASGI specification, HTTP and Lifespan (https://asgi.readthedocs.io, 2026-11). uvicorn
0.54 closes the connection after a reply with `connection: close`, answers `Expect:
100-continue` when the body is first asked for, and with httptools sends a body of unknown length
in chunks, to HTTP/1.0 too, and takes a request with
`Connection: Upgrade` as one without a body: what follows is read as the next request. Until
that is mended below this door, such a connection ends with its first reply.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from keyhole.errors import ClientError, SetupError
from keyhole.exchange import Admission, Gateway
from keyhole.policy.bodies import body_too_large
from keyhole.policy.credentials import shows_key
from keyhole.server.forwarding import AdminDoor
from keyhole.server.pulled import Pulled
from keyhole.wire.http import Head, Reply, ReplyStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Lifespan = Callable[[], AbstractAsyncContextManager[Gateway]]
"""Opens what a gateway stands on, gives the gateway, and closes it all again."""

LINGER_S, LINGER_BYTES = 2.0, 32 * 1024 * 1024
"""How long, and for how much, a client that sends too much is listened to after its reply."""

UNKNOWN_PEER = "unknown"
"""Stands for a caller whose address is not known: it is nobody's loopback address."""


def create_app() -> AsgiDoor:
    """The application for an ASGI server of one's own, configured from the environment."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Gateway]:
        from keyhole import main  # noqa: PLC0415  # the composition root stands above this layer

        async with main.open_runtime(
            main.load_settings(),
            keeps_clerk=True,
            role="server",
            serves_admin=True,
        ) as runtime:
            door.admin = runtime.admin
            yield runtime.gateway

    door = AsgiDoor(lifespan=lifespan)
    return door


class AsgiDoor:
    """An ASGI 3 application over a gateway, or over the one that `lifespan` opens."""

    def __init__(
        self,
        gateway: Gateway | None = None,
        *,
        admin: AdminDoor | None = None,
        lifespan: Lifespan | None = None,
    ) -> None:
        self._gateway = gateway
        self.admin = admin
        """The way to the admin interface; what opens the gateway later may set it then."""
        self._open = lifespan

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's whole life; other kinds of scope are refused."""
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":  # closing before accepting is answered as 403
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise ValueError(f"Keyhole does not speak the ASGI protocol '{other}'")

    async def _live(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            await receive()
            try:
                if self._open is not None:
                    self._gateway = await stack.enter_async_context(self._open())
            except SetupError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            except Exception as error:
                # Said before it is raised: uvicorn takes a silent death for an application that
                # has no lifespan, and goes on to serve.
                await send({"type": "lifespan.startup.failed", "message": type(error).__name__})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if self._open is not None:
                self._gateway = None
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        if gateway is None:
            raise RuntimeError("the ASGI server did not run the lifespan, or has ended it")
        head = _head(scope)
        if self.admin is not None and self.admin.takes(head.path):
            await _administer(self.admin, scope, head, receive, send)
            return
        admission = gateway.admit(head)
        if isinstance(admission, Reply):
            await _send(send, head, admission, unread=receive)
            return
        try:
            body = await _read_body(receive, admission.max_body_bytes)
            if isinstance(body, ClientError):
                await _send(send, head, gateway.refuse(admission, body), unread=receive)
            elif body is not None:
                await _answer(gateway, admission, body, _Client(scope, head, receive, send))
        finally:  # nothing if it has ended; a request that was cancelled before it ran has not
            gateway.left(admission)


async def _administer(
    admin: AdminDoor, scope: Message, head: Head, receive: Receive, send: Send
) -> None:
    """Let the clerk answer, to its end: what it was asked may have been done."""
    reply = await admin.serve(head, scope["query_string"], partial(_read_body, receive))
    if reply is not None:
        await _send(send, head, reply, unread=receive)


async def _read_body(receive: Receive, max_bytes: int) -> bytes | ClientError | None:
    """The whole body; an error as soon as it is too long; None for a client that has gone."""
    parts, received = [], 0
    is_complete = False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        received += len(part)
        if received > max_bytes:
            return body_too_large(max_bytes)
        parts.append(part)
        is_complete = not message.get("more_body", False)
    return b"".join(parts)


class _Client:
    """Who is answered, for as long as they are there."""

    def __init__(self, scope: Message, head: Head, receive: Receive, send: Send) -> None:
        self.head = head
        self.send = send
        self.takes_chunks = scope.get("http_version") != "1.0"
        self._receive = receive
        self._cancel: Callable[[], object] | None = None
        self._is_gone = False

    async def watch(self) -> None:
        """Wait until they are gone, and stop what is done for them."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        if self._cancel is not None:
            self._cancel()

    def when_gone(self, cancel: Callable[[], object]) -> None:
        """Call this when they are gone, in place of what was to be called before."""
        self._cancel = cancel
        if self._is_gone:
            cancel()


async def _answer(gateway: Gateway, admission: Admission, body: bytes, client: _Client) -> None:
    """Run, and send the reply; all of it ends when the client disconnects."""
    run: asyncio.Task[Reply] | None = None
    stream: ReplyStream | None = None
    try:
        async with asyncio.TaskGroup() as group:
            run = group.create_task(gateway.run(admission, body))
            admission.abort = run.cancel
            client.when_gone(run.cancel)
            watcher = group.create_task(client.watch())
            await asyncio.wait((run,))
            if not run.cancelled() and run.result().stream is not None:
                with contextlib.suppress(OSError):  # it has gone: so say servers and Pulled
                    await _send_stream(client, run.result())
            watcher.cancel()
    finally:
        if run is not None and run.done() and not run.cancelled():
            stream = run.result().stream
            if stream is not None:
                stream.cancel()  # nothing where it has ended
    if stream is None and not run.cancelled():
        await _send(client.send, client.head, run.result())


async def _send_stream(client: _Client, reply: Reply) -> None:
    """Send a stream piece by piece; raises OSError when the client goes."""
    assert reply.stream is not None  # noqa: S101  # the caller has looked
    pulled = Pulled(reply.stream, reply.body)
    client.when_gone(pulled.cancel)
    if not client.takes_chunks:
        pieces = []
        while piece := await pulled.take():
            pieces.append(piece)
        whole = Reply(status=reply.status, headers=reply.headers, body=b"".join(pieces))
        await _send(client.send, client.head, whole)
        return
    headers = _headers(client.head, reply)
    await client.send({"type": "http.response.start", "status": reply.status, "headers": headers})
    while piece := await pulled.take():
        await client.send({"type": "http.response.body", "body": piece, "more_body": True})
    await client.send({"type": "http.response.body", "body": b""})


async def _send(send: Send, head: Head, reply: Reply, *, unread: Receive | None = None) -> None:
    """Send a reply; `unread` is where the rest of the request's body would come from."""
    cut = unread if reply.status == 413 else None
    headers = _headers(head, reply)
    if reply.status != 204:  # RFC 9110, section 8.6: a 204 has no Content-Length
        headers.append((b"content-length", str(len(reply.body)).encode()))
    if cut is not None and not _is_doubtful(head):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = b"" if head.method == "HEAD" else reply.body
    if cut is not None and head.first(b"expect") is None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _linger(cut)
        body = b""
    await send({"type": "http.response.body", "body": body})


def _headers(head: Head, reply: Reply) -> list[tuple[bytes, bytes]]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    if _is_doubtful(head):
        headers.append((b"connection", b"close"))
    return headers


async def _linger(receive: Receive) -> None:
    """Read a refused body for a while yet, and drop it.

    To close while a client still sends resets the connection, and the client then sees a broken
    pipe instead of the reply (RFC 9112, section 9.6).
    """
    dropped = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while dropped < LINGER_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _head(scope: Message) -> Head:
    return Head(
        method=scope["method"],
        path=_path(scope),
        headers=tuple(scope["headers"]),
        peer=_peer(scope),
        shows_key_in_query=shows_key(scope.get("query_string", b"")),
    )


def _path(scope: Message) -> str:
    """The path as it came, below the place where a greater application has mounted this one."""
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]) if raw is None else raw.decode("latin-1")
    path = path.partition("?")[0]
    root = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _peer(scope: Message) -> str | None:
    client, server = scope.get("client"), scope.get("server")
    if client is not None:
        return str(client[0])
    # A caller on TCP that has hung up already has no address either; a Unix socket has no port.
    is_unix_socket = server is not None and server[1] is None
    return None if is_unix_socket else UNKNOWN_PEER


def _is_doubtful(head: Head) -> bool:
    """Whether what follows on the connection may not be what the server takes it for.

    `Expect` counts because a client that is refused before its body was asked for may leave the
    body out.
    """
    return (
        head.method == "CONNECT"
        or head.first(b"upgrade") is not None
        or head.first(b"expect") is not None
    )
