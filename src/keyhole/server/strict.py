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
- A client that leaves is told to the newest request alone, and not at all while reading is
  paused: here to every one, and nothing pauses behind a request that runs.
- There are no timers for silent or slow clients: one sweep over all connections, once a second,
  closes them. A timer for each request would cost more than the request's parsing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from keyhole.errors import ClientError, Code, GatewayError, KeyholeError
from keyhole.policy.framing import check_framing
from keyhole.server import lean
from keyhole.server.edge import Edge
from keyhole.server.refusals import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    head_too_large,
    malformed,
    refused,
    too_slow,
)
from keyhole.wire.http import Head, Reply

MAX_FRAMING = 16
"""Bytes around each byte of a body, beyond a head's worth; Go's net/http allows as much."""
MAX_DROPPED_BYTES = 2 * 1024 * 1024
"""Of the body of a request that was answered by its head alone."""
MAX_PIPELINED = 32
MAX_UNSENT, MAX_UNSENT_BYTES = 16, 16 * 1024
"""So many replies, or one of so many bytes, do not wait for the end of the turn."""
LINGER_S = 2.0
REST_AFTER_S = 1.0
"""So long silent, a connection gives up what its next request can make anew."""


class Turn:
    """A refusal that waits for its turn among the replies of a connection.

    It has the few attributes that uvicorn looks for in a request's cycle.
    """

    def __init__(self, protocol: StrictProtocol, reply: Reply, *, is_head: bool) -> None:
        self._protocol = protocol
        self._reply = reply
        self._is_head = is_head
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = False
        self.message_event = NEVER_AWAITED

    def take_turn(self) -> None:
        """Answer, and end the connection."""
        self.response_complete = True
        self._protocol.write_reply(self._reply, is_last=True, is_head=self._is_head)


class _Farewell:
    """A transport for uvicorn's cycles, whose closing lets the client read its reply first."""

    def __init__(self, protocol: StrictProtocol) -> None:
        self._protocol = protocol
        self.write, self.is_closing = protocol.write_now, protocol.transport.is_closing

    def close(self) -> None:
        """Close, as after every last reply."""
        self._protocol.end()


class _NeverAwaited:
    """Stands where uvicorn sets an event that nothing of ours waits for."""

    def set(self) -> None:
        """Nothing."""


NEVER_AWAITED = _NeverAwaited()


class StrictProtocol(HttpToolsProtocol):
    """One client's connection."""

    __slots__ = (
        *lean.ATTRIBUTES,
        *("_blocked_since_s", "_is_deaf", "_is_in_message", "_is_lingering", "_is_resting"),
        *("_is_taken", "_is_upgrading", "_past_head", "_segment_bytes", "_since_s"),
        *("_unfinished_bytes", "_unsent", "body_bytes", "edge", "running"),
    )

    cycle: Any
    """The newest request: uvicorn's cycle, a Turn, or what sits on top; None before the first."""
    running: Any
    """The request whose turn it is, or was last."""
    pipeline: lean.Pipeline  # type: ignore[assignment]  # it does what uvicorn needs of a deque

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
        self.url = b""
        self.headers = []
        self.running = None
        self.pipeline = lean.Pipeline()
        self.body_bytes = 0
        """Of the newest message, so far."""
        self._past_head = False
        """Whether the head of the newest message has ended: what follows are trailers."""
        self._is_taken = False
        """Whether the newest message has become a cycle."""
        self._is_in_message = False
        self._is_upgrading = False
        self._is_deaf = False
        """Whether nothing more is read as a request."""
        self._is_resting = False
        self._is_lingering = False
        self._segment_bytes = 0
        self._unfinished_bytes = 0
        """Of the newest message, in the segments before this one."""
        self._since_s = self.loop.time()
        """When the connection last changed what it waits for."""
        self._unsent: list[bytes] = []
        """Of this turn of the loop."""
        self._blocked_since_s: float | None = None
        """Since when the client has not taken what was written."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to listen to a client."""
        super().connection_made(transport)
        self.flow = lean.Flow(transport)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what came; after a refusal, or while a reply is still being read, drop it."""
        if self._is_deaf:
            return
        if self._is_resting:
            self._is_resting = False
            self._make_parser()
        was_in_message, newest = self._is_in_message, self.cycle
        self._segment_bytes = len(data)
        try:
            self._feed(data)
            if self._is_in_message:
                # A segment in which another request ended is not all of this one.
                if was_in_message or self.cycle is newest:
                    self._unfinished_bytes += len(data)
                self._check_unfinished()
        except ClientError as error:
            self.refuse(error)

    def _feed(self, data: bytes) -> None:
        pieces: list[bytes | memoryview] = [data]
        while pieces:
            piece = pieces.pop()
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(piece)[upgrade.args[0] :]
                pieces += (rest, self._head_without_upgrade())
            except httptools.HttpParserCallbackError as error:
                cause = error.__context__
                if isinstance(cause, ClientError):
                    raise cause from None
                if isinstance(cause, (httptools.HttpParserError, UnicodeDecodeError)):
                    raise malformed() from None
                raise
            except httptools.HttpParserError:
                raise malformed() from None

    def _head_without_upgrade(self) -> bytes:
        """The newest head as one that asks for no upgrade, for a parser that has seen nothing."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = [b"%s %s HTTP/%s\r\n" % (method, self.url, version.encode())]
        for name, value in self.headers:
            if name != b"upgrade":
                kept = _without_upgrade(value) if name == b"connection" else value
                head.append(b"%s: %s\r\n" % (name, kept))
        head.append(b"\r\n")
        self._make_parser()
        self._is_upgrading = False
        return b"".join(head)

    def _make_parser(self) -> None:
        """A parser that has seen nothing, and leaves what follows the last request to us."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _check_unfinished(self) -> None:
        """Bound what the parser keeps of a message, and what it skips: its head, its framing."""
        if not self._past_head:
            if self._unfinished_bytes > MAX_HEAD_BYTES:
                raise head_too_large()
        elif self._unfinished_bytes > 2 * MAX_HEAD_BYTES + MAX_FRAMING * self.body_bytes:
            raise refused("The chunks of the body have more framing than content.")

    def on_message_begin(self) -> None:
        """A request begins; uvicorn's scope is made only when it is known to be needed."""
        newest = self.cycle
        if self._is_deaf or (newest is not None and not newest.keep_alive):
            raise refused("The request before this one was the last.")
        self.url = b""
        self.headers = []
        self.body_bytes = 0
        self._past_head = self._is_taken = False
        self._is_in_message = True
        self._unfinished_bytes = 0
        self._since_s = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer is dropped, but `Connection` would change the parser's mind."""
        if not self._past_head:
            self.headers.append((name.lower(), value))
        elif name.lower() == b"connection":
            raise refused("Connection cannot be a trailer.")

    def on_headers_complete(self) -> None:
        """Check the head, and hand it on; raises ClientError."""
        self._past_head = True
        parser, headers = self.parser, self.headers
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            self._is_upgrading = True
            return
        self._check_size(headers)
        self.expect_100_continue = check_framing(
            method, self.url, parser.get_http_version(), headers
        )
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ClientError(
                Code.TOO_MUCH_BUFFERED,
                f"More than {MAX_PIPELINED} requests wait on this connection.",
                status=503,
                hint="Read the replies before sending more.",
            )
        self._since_s = self.loop.time()
        self.take_head(method)
        self._is_taken = True

    def _check_size(self, headers: list[tuple[bytes, bytes]]) -> None:
        if len(headers) > MAX_HEADERS:
            raise head_too_large()
        if self._unfinished_bytes + self._segment_bytes > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > MAX_HEAD_BYTES:
                raise head_too_large()

    def take_head(self, method: bytes) -> None:  # noqa: ARG002  # what sits on top looks at it
        """Serve a request whose head is complete, through ASGI."""
        url, headers, expects_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expects_continue
        super().on_headers_complete()
        self.cycle.transport = _Farewell(self)
        # uvicorn pauses behind a request that runs, and would not see its client leave.
        if not self.flow.write_paused:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on, or drop it if the reply is out already."""
        self.body_bytes += len(body)
        if self.cycle.response_complete:
            self.check_dropped()
        else:
            super().on_body(body)

    def check_dropped(self) -> None:
        """Raise ClientError when too much was sent that nobody reads."""
        if self.body_bytes > MAX_DROPPED_BYTES:
            raise refused("The request was answered before its body ended.")

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._is_in_message = False
        if not self._is_upgrading:
            super().on_message_complete()

    # Answering

    def refuse(self, error: KeyholeError) -> None:
        """Answer with an error in its turn, and read no more."""
        if self._is_deaf or self.transport.is_closing():
            return
        newest = self.cycle
        is_in_its_body = self._is_in_message and self._is_taken
        self._is_deaf = True
        self._is_in_message = False
        if is_in_its_body:
            if newest.response_complete or getattr(newest, "response_started", False):
                self.lose(newest)
                self.end()
                return
            is_head = self.is_for_head(newest)
            reply = self.end_incomplete(newest, error)
            others = [entry for entry in self.pipeline if entry[0] is not newest]
            waits, self.pipeline = len(others) < len(self.pipeline), lean.Pipeline(others)
        elif newest is not None and not newest.keep_alive:
            return
        else:
            is_head = self._refused_head().method == "HEAD"
            reply = self.edge.gateway.turn_away(self._refused_head(), error)
            waits = newest is not None and not newest.response_complete
        self.cycle = turn = Turn(self, reply, is_head=is_head)
        if waits:
            self.pipeline.appendleft((turn, self.app))
        else:
            self._start_asgi_task(turn, self.app)

    def cut_off(self, error: GatewayError) -> None:
        """Answer a request whose body is still coming with an error; tell others that it ends."""
        if self._is_in_message and self._is_taken:
            self.refuse(error)

    def end_incomplete(self, cycle: Any, error: KeyholeError) -> Reply:
        """End a request whose body breaks off; the reply that says so."""
        self.lose(cycle)
        return self.edge.gateway.turn_away(self._refused_head(), error)

    def is_for_head(self, cycle: Any) -> bool:  # noqa: ARG002  # what sits on top looks at it
        """Whether the newest request is a HEAD."""
        return self._refused_head().method == "HEAD"

    def lose(self, cycle: Any) -> None:
        """Tell a request that nobody will read its reply."""
        if not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _refused_head(self) -> Head:
        """What is known of the newest request, for the log; the parser names a method too early."""
        if not self.url:
            return Head(method="-", path="-")
        path = self.url.partition(b"?")[0].decode("latin-1")
        return Head(method=self.parser.get_method().decode("latin-1"), path=path)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running = cycle
        if isinstance(cycle, Turn):
            cycle.take_turn()
        else:
            super()._start_asgi_task(cycle, app)

    def write_reply(self, reply: Reply, *, is_last: bool, is_head: bool = False) -> None:
        """Write a whole reply in one piece, and close behind the last one."""
        if self.transport.is_closing():
            return
        body = b"" if is_head else reply.body
        framing = f"content-length: {len(reply.body)}\r\n\r\n"
        self.write(self.write_head(reply, framing, is_last=is_last) + body)
        if is_last:
            self.end()

    def write_head(self, reply: Reply, framing: str, *, is_last: bool) -> bytes:
        """The bytes of a reply's head; `framing` is its last headers and the empty line."""
        edge, defaults = self.edge, self.server_state.default_headers
        if edge.default_headers is not defaults:  # uvicorn makes a new list every second
            edge.default_headers = defaults
            edge.default_head = b"".join(b"%s: %s\r\n" % item for item in defaults)
        head = "".join([f"{name}: {value}\r\n" for name, value in reply.headers])
        close = "connection: close\r\n" if is_last else ""
        written = f"{head}{close}{framing}".encode("latin-1")
        return b"".join((STATUS_LINE[reply.status], edge.default_head, written))

    def write(self, data: bytes) -> None:
        """Write at the end of this turn of the loop, with what others of this worker write."""
        unsent = self._unsent
        if not unsent:
            self.edge.outbox.put(self.send_unsent)
        unsent.append(data)
        if len(unsent) > MAX_UNSENT or len(data) > MAX_UNSENT_BYTES:
            self.send_unsent()  # so that a client that does not read them is noticed

    def write_now(self, data: bytes) -> None:
        """Write, behind what waits for the end of this turn."""
        if self._unsent:
            self.send_unsent()
        self.transport.write(data)

    def send_unsent(self) -> None:
        """Write what waits for the end of this turn."""
        unsent = self._unsent
        if unsent:
            data = unsent[0] if len(unsent) == 1 else b"".join(unsent)
            unsent.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    def end(self) -> None:
        """Close behind the last reply.

        A client may still be sending, and unread bytes would reset the connection and eat the
        reply, so they are read and dropped until it hangs up (RFC 9112, section 9.6).
        """
        if self._is_lingering or self.transport.is_closing():
            return
        self.send_unsent()
        self._is_deaf = True
        self._is_in_message = False
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self._is_lingering = True
        self._since_s = self.loop.time()
        self.flow.resume_reading()
        self.transport.write_eof()

    def on_response_complete(self) -> None:
        """Go on with the next request that waits, or wait for one."""
        self.server_state.total_requests += 1
        if self._is_lingering or self.transport.is_closing():
            return
        if self.flow.read_paused and not self.flow.write_paused:
            self.flow.resume_reading()
        self._since_s = self.loop.time()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def forget(self) -> None:
        """Let go of the newest request, which has ended; of the next one a part may be there."""
        self.cycle = self.running = None
        if not self._is_in_message:
            self.headers = []

    # The connection

    def connection_lost(self, exc: Exception | None) -> None:
        """End what runs and what waits; uvicorn would tell the newest request alone."""
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        self._is_deaf = True
        super().connection_lost(exc)
        for cycle in (self.running, self.cycle, *waiting):
            if cycle is not None:
                self.lose(cycle)
        self.cycle = self.running = None  # it knows its connection

    def shutdown(self) -> None:
        """The server ends: so does this connection, with the request that is under way if any."""
        self.send_unsent()
        super().shutdown()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to; so it is read no further."""
        self._blocked_since_s = self.loop.time()
        super().pause_writing()
        if not self._is_lingering:
            self.flow.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._blocked_since_s = None
        super().resume_writing()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    # Time

    def sweep(self, now_s: float) -> None:
        """Close what has been silent or slow for too long."""
        edge, waited_s = self.edge, now_s - self._since_s
        is_idle = self.cycle is None or self.cycle.response_complete
        if self._blocked_since_s is None and self.transport.is_closing():
            self._blocked_since_s = now_s  # it closes when the client has taken what was written
        if self._blocked_since_s is not None:
            if now_s - self._blocked_since_s > edge.read_timeout_s:
                self.transport.abort()
        elif self._is_lingering:
            if waited_s > LINGER_S:
                self.transport.close()
        elif self._is_in_message:
            if waited_s > edge.read_timeout_s and not self._keeps_client_waiting():
                self.refuse(too_slow(edge.read_timeout_s))
        elif is_idle and waited_s > edge.idle_timeout_s:
            self.transport.close()
        elif is_idle and waited_s > REST_AFTER_S:
            self._rest()

    def _rest(self) -> None:
        """Give up what is not needed until something arrives."""
        if not self._is_resting:
            self.rest_parser()
            self.unlearn()
            self.url = b""
            self.forget()

    def unlearn(self) -> None:
        """Let go of what would make the next request cheaper."""

    def rest_parser(self) -> None:
        """Give the parser up until something arrives: it takes a kilobyte."""
        if not self._is_in_message:
            self._is_resting = True
            self.parser = None  # type: ignore[assignment]  # as uvicorn does, after its end

    def _keeps_client_waiting(self) -> bool:
        """Whether a body does not come because it is not read, or not asked for yet."""
        return self.flow.read_paused or (
            self._is_taken and getattr(self.cycle, "waiting_for_100_continue", False)
        )


def _without_upgrade(connection: bytes) -> bytes:
    tokens = [token.strip() for token in connection.split(b",")]
    return b", ".join(token for token in tokens if token.lower() != b"upgrade")
