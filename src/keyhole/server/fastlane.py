"""The fast lane: a hot POST goes from the parser to the core and back, with nothing between.

A request runs when its body is complete and it is its turn on the connection. Everything that
is not a POST to a path of some dialect goes the ordinary way (`strict`, then the ASGI door).
It makes no reply of its own: the core does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from keyhole.errors import ClientError, Code
from keyhole.exchange import Admission, body_too_large
from keyhole.server.app import UNKNOWN_PEER
from keyhole.server.strict import NEVER_AWAITED, StrictProtocol
from keyhole.wire.http import Head, Reply

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class FastLane(StrictProtocol):
    """A connection whose hot requests take the short way."""

    peer: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember who calls; on TCP one that has hung up already has no address either."""
        super().connection_made(transport)
        if self.client is not None:
            self.peer = self.client[0]
        elif self.server is None or self.server[1] is not None:
            self.peer = UNKNOWN_PEER

    def take_head(self, method: bytes) -> None:
        """Serve a request whose head is complete: here if it is hot, through ASGI otherwise."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        if method != b"POST" or not self.edge.gateway.is_hot(path):
            super().take_head(method)
            return
        newest = self.cycle
        self.cycle = cycle = HotCycle(self, path)
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

    def end_incomplete(self, cycle: Any, error: ClientError) -> Reply:
        """End a request whose body breaks off; the reply that says so."""
        if isinstance(cycle, HotCycle):
            return cycle.end_incomplete(error)
        return super().end_incomplete(cycle, error)

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


class HotCycle:
    """One hot request; it has the attributes that uvicorn looks for in its own cycles."""

    __slots__ = (
        "_admitted",
        "_is_turn",
        "_protocol",
        "_task",
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "waiting_for_100_continue",
    )

    def __init__(self, protocol: FastLane, path: str) -> None:
        parser = protocol.parser
        self._protocol = protocol
        self._is_turn = False
        self._task: asyncio.Task[None] | None = None
        self.body: bytes | bytearray = b""
        self.more_body = True
        self.keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        self.response_complete = False
        self.disconnected = False
        self.message_event = NEVER_AWAITED
        self.waiting_for_100_continue = protocol.expect_100_continue
        self._admitted = protocol.edge.gateway.admit(
            Head(method="POST", path=path, headers=tuple(protocol.headers), peer=protocol.peer)
        )

    def take_turn(self) -> None:
        """Every request before this one has been answered."""
        self._is_turn = True
        if isinstance(self._admitted, Reply):
            if self._protocol.flow.write_paused:
                self._start()
            else:
                self._finish(self._admitted)
        elif not self.more_body:
            self._start()
        elif self.waiting_for_100_continue:
            self.waiting_for_100_continue = False
            if not self.body:
                self._protocol.transport.write(CONTINUE)

    def take_body(self, part: bytes) -> None:
        """A part of the body; raises ClientError for one that is too much."""
        protocol, admission = self._protocol, self._admitted
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

    def end_incomplete(self, error: ClientError) -> Reply:
        """The body breaks off, or is not taken; the reply that says so."""
        admitted = self._admitted
        self.response_complete = True
        self._release()
        if isinstance(admitted, Reply):
            return admitted
        return self._protocol.edge.gateway.refuse(admitted, error)

    def complete(self) -> None:
        """The body has ended."""
        self.more_body = False
        self.waiting_for_100_continue = False
        if self._is_turn and not self.response_complete and self._task is None:
            self._start()

    def leave(self) -> None:
        """The client has gone."""
        self.disconnected = True
        if self.response_complete:
            return
        self.response_complete = True
        if self._task is not None:
            self._task.cancel()
        elif isinstance(self._admitted, Admission):
            self._protocol.edge.gateway.left(self._admitted)
        self._release()

    def _start(self) -> None:
        protocol = self._protocol
        self._task = task = protocol.loop.create_task(self._run())
        protocol.tasks.add(task)
        task.add_done_callback(self._end_task)

    async def _run(self) -> None:
        protocol, admitted = self._protocol, self._admitted
        if isinstance(admitted, Reply):
            reply = admitted
        else:
            reply = await protocol.edge.gateway.run(admitted, bytes(self.body))
        if protocol.flow.write_paused:
            await protocol.flow.drain()
        if not self.response_complete:
            self._finish(reply)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        protocol, admission = self._protocol, self._admitted
        protocol.tasks.discard(task)
        if task.cancelled():
            # By its client's leaving, or by uvicorn when draining took too long; one that had
            # not begun to run has told the core nothing.
            self.leave()
            if isinstance(admission, Admission):
                protocol.edge.gateway.left(admission)
        elif (error := task.exception()) is not None:
            protocol.transport.abort()
            protocol.loop.call_exception_handler(
                {"message": "a request of the fast lane failed", "exception": error}
            )

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
