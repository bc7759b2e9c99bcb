"""uvicorn's HTTP/1.1 connection, made strict: bounded, timed, and of one mind about framing.

It serves every path as uvicorn does, through the ASGI door; `fastlane` puts the hot paths on
top. It decides nothing about who may call: that is the core's.

What uvicorn 0.54 with httptools 0.9 leaves open, and this closes (tested on both, 2026-11):
- llhttp takes `Connection: Upgrade` for the end of the message, so that a body behind it would
  run as the next request. Here the head is fed again to a fresh parser, without the upgrade.
- A header has no callback until it ends: bytes of an unfinished head are counted as they come.
- Trailers arrive through the callback of headers: what comes after the head is dropped.
- A refusal is answered in its turn, behind the replies to the requests before it; nothing that
  stands behind it on the connection is read as a request.
- There are no timers for silent or slow clients: one sweep over all connections, once a second,
  closes them. A timer for each request would cost more than the request's parsing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from keyhole.errors import ClientError, Code
from keyhole.exchange import Gateway
from keyhole.policy.framing import check_framing
from keyhole.wire.http import Head, Reply

MAX_HEAD_BYTES = 64 * 1024
MAX_PIPELINED = 32
LINGER_S = 2.0
SWEEP_EVERY_S = 1.0


class Edge(Struct, kw_only=True):
    """What all connections of a worker share: the core, the bounds, and what is buffered."""

    gateway: Gateway
    read_timeout_s: float
    """For a head, and then for a body, to arrive; and for a client to take its reply."""
    keep_alive_s: float
    """How long a connection may be silent between requests."""
    max_buffered_bytes: int
    """Of the bodies of all requests that have not ended, together."""
    buffered_bytes: int = 0


class Turn:
    """A refusal that waits for its turn among the replies of a connection.

    It has the few attributes that uvicorn looks for in a request's cycle.
    """

    def __init__(self, protocol: StrictProtocol, reply: Reply) -> None:
        self._protocol = protocol
        self._reply = reply
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = False
        self.more_body = False
        self.body = bytearray()
        self.message_event = asyncio.Event()

    def take_turn(self) -> None:
        """Answer, and end the connection."""
        self.response_complete = True
        self._protocol.write_reply(self._reply, is_last=True, lingers=True)


class StrictProtocol(HttpToolsProtocol):
    """One client's connection."""

    cycle: Any
    """The newest request: uvicorn's cycle, a Turn, or what sits on top; None before the first."""
    pipeline: deque[tuple[Any, Any]]

    def __init__(
        self,
        edge: Edge,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.edge = edge
        self.headers = []
        self.past_head = False
        """Whether the head of the newest message has ended."""
        self._head_bytes = 0
        self._is_upgrading = False
        self._is_refusing = False
        self._is_in_message = False
        self._since_s = self.loop.time()
        """When the connection last changed what it waits for."""
        self._blocked_since_s: float | None = None
        self._lingers = False

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what came; after a refusal, or while a reply is still being read, drop it."""
        if self._is_refusing:
            return
        began_before = self._is_in_message
        try:
            self._feed(data)
        except ClientError as error:
            self.refuse(error)
            return
        if self._is_in_message and not self.past_head and began_before:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.refuse(_head_too_large())

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, ClientError) else _malformed() from None
        except httptools.HttpParserError:
            raise _malformed() from None

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """Read the message again as one that asks for no upgrade, then what follows."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = [b"%s %s HTTP/%s\r\n" % (method, self.url, version.encode())]
        for name, value in self.headers:
            if name == b"upgrade":
                continue
            kept = _without_upgrade(value) if name == b"connection" else value
            head.append(b"%s: %s\r\n" % (name, kept))
        head.append(b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self._is_upgrading = False
        self._feed(b"".join(head) + rest)

    def on_message_begin(self) -> None:
        """A request begins; uvicorn's scope is made only when it is known to be needed."""
        self.url = b""
        self.headers = []
        self.past_head = False
        self.expect_100_continue = False
        self._is_in_message = True
        self._head_bytes = 0
        self._since_s = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer is dropped."""
        if not self.past_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head, and hand it on; raises ClientError."""
        self.past_head = True
        if self._is_upgrading or self.parser.should_upgrade():
            self._is_upgrading = self.parser.get_method() != b"CONNECT"
            if self._is_upgrading:
                return
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            raise _head_too_large()
        method = self.parser.get_method()
        check_framing(method, self.url, self.parser.get_http_version(), self.headers)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ClientError(
                Code.TOO_MUCH_BUFFERED,
                f"More than {MAX_PIPELINED} requests wait on this connection.",
                status=503,
                hint="Read the replies before sending more.",
            )
        self._since_s = self.loop.time()
        self.take_head(method)

    def take_head(self, method: bytes) -> None:  # noqa: ARG002  # what sits on top looks at it
        """Serve a request whose head is complete, through ASGI."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        for name, value in headers:
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        if not self._is_upgrading:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._is_in_message = False
        if not self._is_upgrading:
            super().on_message_complete()

    # Answering

    def refuse(self, error: ClientError) -> None:
        """Answer with an error in its turn, and read no more."""
        if self._is_refusing or self.transport.is_closing():
            return
        self._is_refusing = True
        self._is_in_message = False
        newest = self.cycle
        if newest is not None and newest.more_body and not newest.response_complete:
            # What is refused belongs to the body of that request, which will never be complete.
            turn = Turn(self, self.end_incomplete(newest, error))
            waits = any(cycle is newest for cycle, _ in self.pipeline)
            self.pipeline = deque(entry for entry in self.pipeline if entry[0] is not newest)
        else:
            turn = Turn(self, self.edge.gateway.turn_away(self._refused_head(), error))
            waits = newest is not None and not newest.response_complete
        self.cycle = turn
        if waits:
            self.pipeline.appendleft((turn, self.app))
        else:
            turn.take_turn()

    def end_incomplete(self, cycle: Any, error: ClientError) -> Reply:
        """End a request whose body breaks off; the reply that says so."""
        cycle.disconnected = True
        cycle.message_event.set()
        return self.edge.gateway.turn_away(self._refused_head(), error)

    def _refused_head(self) -> Head:
        """What is known of the newest request, for the log."""
        if not self.past_head:
            return Head(method="-", path="-")
        method, path = self.parser.get_method(), self.url.partition(b"?")[0]
        return Head(method=method.decode("latin-1"), path=path.decode("latin-1"))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Turn):
            cycle.take_turn()
        else:
            super()._start_asgi_task(cycle, app)

    def write_reply(self, reply: Reply, *, is_last: bool, lingers: bool = False) -> None:
        """Write a whole reply in one piece, and close behind the last one.

        `lingers` is for a client that may still be sending: unread bytes would reset the
        connection and eat the reply, so they are read and dropped for a while.
        """
        parts = [STATUS_LINE[reply.status]]
        for default_name, default_value in self.server_state.default_headers:
            parts += (default_name, b": ", default_value, b"\r\n")
        parts += [f"{name}: {value}\r\n".encode("latin-1") for name, value in reply.headers]
        if is_last:
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\n\r\n" % len(reply.body))
        parts.append(reply.body)
        self.transport.write(b"".join(parts))
        if is_last:
            self._end(lingers=lingers)

    def _end(self, *, lingers: bool) -> None:
        self._is_refusing = True
        if not lingers or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._lingers = True
        self._since_s = self.loop.time()
        self.flow.resume_reading()
        self.transport.write_eof()

    def on_response_complete(self) -> None:
        """Go on with the next request that waits, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self._since_s = self.loop.time()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        self._blocked_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._blocked_since_s = None
        super().resume_writing()

    # Time

    def sweep(self, now_s: float) -> None:
        """Close what has been silent or slow for too long."""
        edge, waited_s = self.edge, now_s - self._since_s
        blocked_since_s = self._blocked_since_s
        if blocked_since_s is not None and now_s - blocked_since_s > edge.read_timeout_s:
            self.transport.abort()
        elif self._lingers:
            if waited_s > LINGER_S:
                self.transport.close()
        elif self._is_in_message:
            if waited_s > edge.read_timeout_s and not self.flow.read_paused:
                self.refuse(_too_slow(edge.read_timeout_s))
        elif waited_s > edge.keep_alive_s and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


async def sweep_connections(server_state: ServerState) -> None:
    """Sweep all connections of a server, once a second, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        now_s = loop.time()
        for connection in list(server_state.connections):
            if isinstance(connection, StrictProtocol):
                connection.sweep(now_s)


def _without_upgrade(connection: bytes) -> bytes:
    tokens = [token.strip() for token in connection.split(b",")]
    return b", ".join(token for token in tokens if token.lower() != b"upgrade")


def _malformed() -> ClientError:
    return ClientError(Code.MALFORMED_REQUEST, "This is not an HTTP/1.1 request.", status=400)


def _head_too_large() -> ClientError:
    return ClientError(
        Code.HEAD_TOO_LARGE,
        f"The request line and headers are longer than {MAX_HEAD_BYTES} bytes.",
        status=431,
    )


def _too_slow(timeout_s: float) -> ClientError:
    return ClientError(
        Code.REQUEST_TOO_SLOW,
        f"The request did not arrive within {timeout_s:g} s.",
        status=408,
        hint="The operator sets the time with server.read_timeout_s.",
    )
