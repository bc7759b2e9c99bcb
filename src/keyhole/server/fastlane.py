"""The fast lane: a hot POST goes from the parser to the core and back, with nothing between.

A request runs when its body is complete and it is its turn on the connection. Everything that
is not a POST to a path of some dialect goes the ordinary way (`strict`, then the ASGI door).
It writes no reply of its own: the core does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from keyhole.errors import ClientError, Code
from keyhole.exchange import Admission, body_too_large
from keyhole.server.strict import StrictProtocol
from keyhole.wire.http import Head, Reply

PAUSE_AT = 16
"""Requests that wait on one connection before it is read no more; a paused one cannot tell that
its client has gone, hence not at the first."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class FastLane(StrictProtocol):
    """A connection whose hot requests take the short way."""

    def take_head(self, method: bytes) -> None:
        """Serve a request whose head is complete: here if it is hot, through ASGI otherwise."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        if method != b"POST" or not self.edge.gateway.is_hot(path):
            super().take_head(method)
            return
        running = self.cycle
        self.cycle = cycle = HotCycle(self, path)
        if running is None or running.response_complete:
            cycle.take_turn()
        else:
            self.pipeline.appendleft((cycle, self.app))
            if len(self.pipeline) >= PAUSE_AT:
                self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        cycle = self.cycle
        if isinstance(cycle, HotCycle):
            if not self._is_upgrading:
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

    def connection_lost(self, exc: Exception | None) -> None:
        """End what runs and what waits: nobody will read the replies."""
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        super().connection_lost(exc)
        for cycle in (self.running, self.cycle, *waiting):
            if isinstance(cycle, HotCycle):
                cycle.leave()

    def end_incomplete(self, cycle: Any, error: ClientError) -> Reply:
        """End a request whose body breaks off; the reply that says so."""
        if isinstance(cycle, HotCycle):
            return cycle.end_incomplete(error)
        return super().end_incomplete(cycle, error)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, HotCycle):
            cycle.take_turn()
        else:
            super()._start_asgi_task(cycle, app)

    running: HotCycle | None = None
    """The request whose turn it is; `cycle`, uvicorn's, is the newest one."""


class HotCycle:
    """One hot request; it has the attributes that uvicorn looks for in its own cycles."""

    __slots__ = (
        "_admitted",
        "_is_turn",
        "_protocol",
        "_task",
        "body",
        "disconnected",
        "expects_continue",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
    )

    def __init__(self, protocol: FastLane, path: str) -> None:
        parser, headers = protocol.parser, protocol.headers
        version = parser.get_http_version()
        self._protocol = protocol
        self._is_turn = False
        self._task: asyncio.Task[None] | None = None
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = version != "1.0" and parser.should_keep_alive()
        self.response_complete = False
        self.disconnected = False
        self.message_event = _NEVER_AWAITED
        client = protocol.client
        head = Head(
            method="POST",
            path=path,
            headers=tuple(headers),
            peer=None if client is None else client[0],
        )
        self._admitted = protocol.edge.gateway.admit(head)
        self.expects_continue = version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )

    def take_turn(self) -> None:
        """Every request before this one has been answered."""
        self._is_turn = True
        self._protocol.running = self
        if isinstance(self._admitted, Reply):
            # Answered by the head alone; what is still to come of its body is not wanted.
            self._finish(self._admitted)
        elif not self.more_body:
            self._start()
        elif self.expects_continue and not self.body:
            self._protocol.transport.write(CONTINUE)

    def take_body(self, part: bytes) -> None:
        """A part of the body; raises ClientError for one that is too much."""
        admission = self._admitted
        if not isinstance(admission, Admission):
            return
        edge = self._protocol.edge
        self.body += part
        edge.buffered_bytes += len(part)
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
        if self._is_turn and not self.response_complete:
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
        task.add_done_callback(protocol.tasks.discard)

    async def _run(self) -> None:
        admission = self._admitted
        if not isinstance(admission, Admission):
            raise TypeError("only an admitted request runs")
        reply = await self._protocol.edge.gateway.run(admission, bytes(self.body))
        if self._protocol.flow.write_paused:
            await self._protocol.flow.drain()
        if not self.disconnected:
            self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        protocol = self._protocol
        is_last = self.more_body or not self.keep_alive
        self.response_complete = True
        self._release()
        protocol.running = None
        protocol.write_reply(reply, is_last=is_last, lingers=self.more_body)
        if not is_last:
            protocol.on_response_complete()

    def _release(self) -> None:
        self._protocol.edge.buffered_bytes -= len(self.body)
        self.body = bytearray()


class _NeverAwaited:
    """Stands where uvicorn sets an event; a hot request waits for nothing."""

    def set(self) -> None:
        """Nothing."""


_NEVER_AWAITED = _NeverAwaited()


def _too_much_buffered(max_bytes: int) -> ClientError:
    return ClientError(
        Code.TOO_MUCH_BUFFERED,
        f"All requests together hold more than {max_bytes} bytes.",
        status=503,
        hint="Try again in a moment.",
    )
