"""The fast lane: a hot POST goes from the parser to the core and back, with nothing between.

A request runs when its body is complete and it is its turn on the connection. Everything that
is not a POST to a path of some dialect goes the ordinary way (`strict`, then the ASGI door).
It makes no reply of its own: the core does.

A client that keeps its connection sends one head again and again, but for Content-Length. Once
such a head has been read, checked and let in, the same bytes are not read again (heads.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from keyhole.eager import Eager
from keyhole.errors import ClientError, Code, KeyholeError
from keyhole.exchange import Admission
from keyhole.policy.bodies import body_too_large
from keyhole.policy.credentials import shows_key
from keyhole.server.app import UNKNOWN_PEER
from keyhole.server.heads import KnownHead
from keyhole.server.strict import NEVER_AWAITED, StrictProtocol
from keyhole.wire.http import Head, Reply, ReplyStream

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class FastLane(StrictProtocol):
    """A connection whose hot requests take the short way."""

    __slots__ = ("_known", "_missing", "peer")

    peer: str | None
    _known: KnownHead | None
    """The head of the last request that was parsed behind silence."""
    _missing: int
    """How much of the body of a request with a known head has not come."""

    def data_received(self, data: bytes) -> None:
        """Serve a request whose head is known; parse any other."""
        if self._is_deaf:
            return
        if self._missing:
            self._continue_body(data)
        elif self.cycle is not None or self._is_in_message:
            super().data_received(data)
        elif self._known is not None and (begun := self._known.begins(data)) is not None:
            self._since_s = self.loop.time()
            admission = self.edge.gateway.admit_again(self._known.admission)
            self.running = self.cycle = cycle = HotCycle(self, admission, keep_alive=True)
            body, missing = begun
            edge = self.edge
            if not missing and edge.buffered_bytes + len(body) <= edge.max_buffered_bytes:
                cycle.take_whole(body)
                return
            self._missing = missing
            cycle.take_turn()
            self._is_in_message = self._is_taken = self._past_head = True
            self._take_body(body)
        else:
            super().data_received(data)
            self._learn(data)

    def _continue_body(self, data: bytes) -> None:
        part = data[: self._missing]
        self._missing -= len(part)
        self._take_body(part)
        if len(part) < len(data):
            super().data_received(data[len(part) :])

    def _take_body(self, part: bytes) -> None:
        """Take a part of the body behind a known head, which no parser sees."""
        cycle = self.cycle
        try:
            cycle.take_body(part)
        except ClientError as error:
            self._missing = 0
            self.refuse(error)
            return
        if not self._missing:
            self._is_in_message = False
            cycle.complete()

    def _learn(self, data: bytes) -> None:
        """Remember the head of a request that came behind silence, if it may be taken again."""
        cycle = self.cycle
        if (
            isinstance(cycle, HotCycle)
            and isinstance(cycle.admitted, Admission)
            and cycle.keep_alive
            and not self.expect_100_continue
        ):
            self._known = self.edge.known_heads.learn(data, cycle.admitted)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember who calls; on TCP one that has hung up already has no address either."""
        super().connection_made(transport)
        self._known, self._missing, self.peer = None, 0, None
        if self.client is not None:
            self.peer = self.client[0]
        elif self.server is None or self.server[1] is not None:
            self.peer = UNKNOWN_PEER

    def take_head(self, method: bytes) -> None:
        """Serve a request whose head is complete: here if it is hot, through ASGI otherwise."""
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("latin-1")
        if method != b"POST" or not self.edge.gateway.is_hot(path):
            super().take_head(method)
            return
        newest, parser = self.cycle, self.parser
        head = Head(
            method="POST",
            path=path,
            headers=tuple(self.headers),
            peer=self.peer,
            shows_key_in_query=query != b"" and shows_key(query),
        )
        is_http_1_0 = parser.get_http_version() == "1.0"
        self.cycle = cycle = HotCycle(
            self,
            self.edge.gateway.admit(head),
            keep_alive=not is_http_1_0 and parser.should_keep_alive(),
            expects_continue=self.expect_100_continue,
            is_http_1_0=is_http_1_0,
        )
        if newest is None or newest.response_complete:
            self.running = cycle
            cycle.take_turn()
        else:
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        cycle = self.cycle
        if isinstance(cycle, HotCycle):
            self.body_bytes += len(body)
            cycle.take_body(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        cycle = self.cycle
        if isinstance(cycle, HotCycle) and not self._is_upgrading:
            self._is_in_message = False
            cycle.complete()
        else:
            super().on_message_complete()

    def end_incomplete(self, cycle: Any, error: KeyholeError) -> Reply:
        """End a request whose body breaks off; the reply that says so."""
        if isinstance(cycle, HotCycle):
            return cycle.end_incomplete(error)
        return super().end_incomplete(cycle, error)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to: nor is the upstream read."""
        super().pause_writing()
        if isinstance(self.running, HotCycle):
            self.running.pause()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if isinstance(self.running, HotCycle):
            self.running.resume()

    def unlearn(self) -> None:
        """Forget the head, which the store may have forgotten, too."""
        self._known = None

    def is_for_head(self, cycle: Any) -> bool:
        """Whether a request was a HEAD; what the parser says may be about one before it."""
        return not isinstance(cycle, HotCycle) and super().is_for_head(cycle)

    def lose(self, cycle: Any) -> None:
        """Tell a request that nobody will read its reply."""
        if isinstance(cycle, HotCycle):
            cycle.leave()
        else:
            super().lose(cycle)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, HotCycle):
            self.running = cycle
            cycle.take_turn()
        else:
            super()._start_asgi_task(cycle, app)


class HotCycle(Eager):
    """One hot request; it has the attributes that uvicorn looks for in its own cycles."""

    __slots__ = (
        "_has_begun",
        "_head",
        "_is_chunked",
        "_is_turn",
        "_protocol",
        "_stream",
        "admitted",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "waiting_for_100_continue",
    )

    message_event = NEVER_AWAITED

    def __init__(
        self,
        protocol: FastLane,
        admitted: Admission | Reply,
        *,
        keep_alive: bool,
        expects_continue: bool = False,
        is_http_1_0: bool = False,
    ) -> None:
        # What Eager's own does, without the call.
        self._coroutine = self._waits_for = self.task = None
        self._loop, self._tasks = protocol.loop, protocol.tasks
        self._protocol = protocol
        self._is_chunked = not is_http_1_0
        self._head = b""
        self._is_turn = self._has_begun = False
        self._stream: ReplyStream | None = None
        """What comes of the reply's body, once its head has gone out."""
        self.admitted = admitted
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False
        self.waiting_for_100_continue = expects_continue

    def take_turn(self) -> None:
        """Every request before this one has been answered."""
        self._is_turn = True
        if isinstance(self.admitted, Reply) or not self.more_body:
            self._start()
        elif self.waiting_for_100_continue:
            self.waiting_for_100_continue = False
            if not self.body:
                self._protocol.write(CONTINUE)

    def take_whole(self, body: bytes) -> None:
        """All of the body, when it is this request's turn, and there is room for it."""
        self._protocol.edge.buffered_bytes += len(body)
        self.body = body
        self.more_body = False
        self._is_turn = True
        self._start()

    def take_body(self, part: bytes) -> None:
        """A part of the body; raises ClientError for one that is too much."""
        protocol, admission = self._protocol, self.admitted
        if isinstance(admission, Reply):
            protocol.check_dropped()
            return
        edge = protocol.edge
        edge.buffered_bytes += len(part)
        if not self.body:
            self.body = part
        elif isinstance(self.body, bytearray):
            self.body += part
        else:
            self.body = bytearray(self.body) + part
        if len(self.body) > admission.max_body_bytes:
            raise body_too_large(admission.max_body_bytes)
        if edge.buffered_bytes > edge.max_buffered_bytes:
            raise _too_much_buffered(edge.max_buffered_bytes)

    def end_incomplete(self, error: KeyholeError) -> Reply:
        """The body breaks off, or is not taken; the reply that says so."""
        admitted = self.admitted
        self.response_complete = True
        self._release()
        if isinstance(admitted, Reply):
            return admitted
        return self._protocol.edge.gateway.refuse(admitted, error)

    def complete(self) -> None:
        """The body has ended."""
        self.more_body = False
        self.waiting_for_100_continue = False
        if self._is_turn and not self.response_complete and not self._has_begun:
            self._start()

    def leave(self) -> None:
        """The client has gone."""
        self.disconnected = True
        if self.response_complete:
            return
        self.response_complete = True
        if self._stream is not None:
            self._stream.cancel()
        elif self._has_begun:
            self.cancel()
        elif isinstance(self.admitted, Admission):
            self._protocol.edge.gateway.left(self.admitted)
        self._release()

    def _start(self) -> None:
        self._has_begun = True
        admitted = self.admitted
        if isinstance(admitted, Reply):
            self.returned(admitted)
        else:
            admitted.abort = self.cancel
            self.start(self._protocol.edge.gateway.run(admitted, bytes(self.body)))

    def returned(self, reply: Reply | None) -> None:
        """The core has answered; or, without a reply, one was written late, or was given up."""
        if reply is None:
            return
        try:
            if self._protocol.flow.write_paused and not self.response_complete:
                self.start(self._answer_later(reply))
            else:
                self._answer(reply)
        except Exception as error:  # noqa: BLE001  # nobody awaits this request
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """A bug of ours: there is no reply."""
        self._protocol.transport.abort()
        self._protocol.loop.call_exception_handler(
            {"message": "a request of the fast lane failed", "exception": error}
        )

    def was_cancelled(self) -> None:
        """By its client's leaving, or by uvicorn when draining took too long."""
        self.leave()

    async def _answer_later(self, reply: Reply) -> None:
        """Answer when the client has read what it was sent."""
        try:
            await self._protocol.flow.drain()
        except asyncio.CancelledError:
            if reply.stream is not None:
                reply.stream.cancel()
            raise
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if self.response_complete:
            if reply.stream is not None:
                reply.stream.cancel()
        elif reply.stream is not None:
            self._begin_stream(reply, reply.stream)
        else:
            self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        protocol = self._protocol
        # Who is answered by the head alone may leave the body out if it was not asked for yet,
        # and one that is too large is not worth reading; any other is dropped as it comes.
        is_cut = self.more_body and (self.waiting_for_100_continue or reply.status == 413)
        is_last = is_cut or not self.keep_alive
        self.response_complete = True
        self.waiting_for_100_continue = False
        self._release()
        if protocol.cycle is self and not self.more_body:
            # Ten thousand silent connections need not remember their last request.
            protocol.forget()
        protocol.write_reply(reply, is_last=is_last)
        if not is_last:
            protocol.on_response_complete()

    def _begin_stream(self, reply: Reply, stream: ReplyStream) -> None:
        """Write the head of a reply whose body comes as it is made."""
        protocol = self._protocol
        if protocol.transport.is_closing():
            stream.cancel()
            return
        self._release()
        protocol.rest_parser()
        self._stream = stream
        framing = "transfer-encoding: chunked\r\n\r\n" if self._is_chunked else "\r\n"
        self._head = protocol.write_head(reply, framing, is_last=not self.keep_alive)
        stream.start(self, reply.body)

    def send(self, data: bytes) -> None:
        """As wire.http.Sink says; the head goes out with the first of it.

        At once: streams come one piece in a turn of the loop, and waiting for its end costs
        another turn (28.5 us a piece; so 25.6, with 200 streams).
        """
        head, self._head = self._head, b""
        if self._is_chunked:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        elif head:
            data = head + data
        self._protocol.write_now(data)

    def end(self, data: bytes) -> None:
        """As wire.http.Sink says."""
        protocol, head = self._protocol, self._head
        self._head = b""
        if self._is_chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self.response_complete = True
        self._stream = None
        if protocol.cycle is self:
            protocol.forget()
        protocol.write(head + data)
        if self.keep_alive:
            protocol.on_response_complete()
        else:
            protocol.end()

    def pause(self) -> None:
        """The client does not take what is written."""
        if self._stream is not None:
            self._stream.pause()

    def resume(self) -> None:
        """It does again."""
        if self._stream is not None:
            self._stream.resume()

    def _release(self) -> None:
        self._protocol.edge.buffered_bytes -= len(self.body)
        self.body = b""


def _too_much_buffered(max_bytes: int) -> ClientError:
    return ClientError(
        Code.TOO_MUCH_BUFFERED,
        f"All requests together hold more than {max_bytes} bytes.",
        status=503,
        hint="Try again in a moment.",
    )
