"""One connection to an upstream, HTTP/1.1: a request out, its response in, one at a time.

It does not choose or open connections and sends nothing twice (`pool` does), and it does not
judge what came (`response` does). Whoever asks must read to the end or `abort`; after an error
or a cancellation only `abort` is left.

Facts (CPython 3.11 asyncio and uvloop 0.23, November 2026):
- `eof_received` is end-of-file in good order; without it a connection has broken, whatever
  `connection_lost` is given. Both may come with a request outstanding or with none.
- `abort` on either loop calls `connection_lost` in a later turn of the loop, never within.
- Both write at once what the socket takes: one `write` of head and body is one system call, and
  one packet where it fits.
- Over TLS without close_notify uvloop tells no `eof_received`, asyncio does: so a body until the
  end that was cut off on the way (RFC 9112, section 9.8) is refused on uvloop alone.
- Who closes a Unix socket that it has read to its end gives its peer an end-of-file, and a reset
  where something was unread, or the connection not even accepted (Linux, net/unix/af_unix.c,
  unix_release_sock); writing to a closed one is EPIPE.
- While reading is paused the end of the connection goes unseen, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from keyhole.eager import Wakeup
from keyhole.errors import GatewayError, UpstreamError
from keyhole.io.deadlines import NEVER_S, DeadlineWheel
from keyhole.io.failures import (
    BadResponseError,
    broke_off,
    fell_silent,
    no_answer,
    no_end_in_time,
    no_head_in_time,
    not_http,
)
from keyhole.io.request import Sealed
from keyhole.io.response import Headers, ResponseReader
from keyhole.outbox import Outbox
from keyhole.wire.http import Timeouts, UpstreamResponse

HIGH_WATER_BYTES = 256 * 1024
"""As much of a body waits for a slow reader before the upstream is made to wait."""

SEND_AGAIN_WITHIN_S = 2.0
"""An upstream that closed an idle connection while we wrote is noticed within a round trip."""

# What the one who waits is waiting for.
_HEAD, _PIECE, _END = range(3)


class StaleError(Exception):
    """The connection had died before the request arrived: it may be sent on another one."""


class Owner(Protocol):
    """Who keeps the connection while nobody uses it."""

    def on_opened(self, connection: Connection) -> None:
        """Its socket is open, and TLS agreed on where there is any."""
        ...

    def on_dead(self, connection: Connection) -> None:
        """It can carry no more requests. Called once, in use or not."""
        ...

    def on_closed(self, connection: Connection) -> None:
        """Its socket is closed. Called once for each `on_opened`, after `on_dead`."""
        ...


def may_send_again(
    *, is_reused: bool, has_begun: bool, waited_s: float, was_read: bool | None
) -> bool:
    """Whether a request on a connection that has died may be sent on another one.

    Where the socket tells, only one that was not read. TCP cannot tell (`was_read` is None):
    there, only where the upstream closed an idle connection as we took it. One that dies later
    may have died of the request, or after doing what it asked: that is for policy.
    """
    if has_begun:
        return False
    if was_read is not None:
        return not was_read
    return is_reused and waited_s <= SEND_AGAIN_WITHIN_S


class Connection(asyncio.Protocol):
    """The protocol object of one transport; also an entry of the deadline wheel."""

    __slots__ = (
        *("due_s", "watched_s", "is_idle", "is_dead"),
        *(
            "_name",
            "_idle_s",
            "_is_unix",
            "_loop",
            "_wheel",
            "_owner",
            "_transport",
            "_response",
            "_wakeup",
        ),
        *("_on_piece", "_on_end", "_outbox", "_unsent"),
        *("_wants", "_error", "_is_reused", "_is_paused", "_asked_s", "_total_by_s", "_timeouts"),
    )

    def __init__(
        self,
        owner: Owner,
        wheel: DeadlineWheel,
        *,
        outbox: Outbox,
        name: str,
        max_body_bytes: int,
        idle_s: float,
        is_unix: bool = False,
    ) -> None:
        """`idle_s` is how long an upstream may be silent between two pieces of a body.

        `is_unix` is for a Unix socket, whose end tells whether a request was read.
        """
        self._owner = owner
        self._wheel = wheel
        self._loop = loop = wheel.loop
        self._name = name
        self._idle_s = idle_s
        self._is_unix = is_unix
        self._response = ResponseReader(max_body_bytes)
        self._transport: asyncio.Transport | None = None
        self._timeouts: Timeouts | None = None
        self._outbox = outbox
        self._unsent: Sealed | None = None
        """The request, until the turn of the loop ends in which it was asked."""
        self._wakeup = Wakeup(loop)
        self._wants = _HEAD
        self._error: UpstreamError | GatewayError | StaleError | None = None
        self._on_piece: Callable[[bytes], None] | None = None
        self._on_end: Callable[[UpstreamError | GatewayError | StaleError | None], None] | None
        self._on_end = None
        self._is_reused = False
        self._is_paused = False
        self._asked_s = self._total_by_s = 0.0
        self.due_s = self.watched_s = NEVER_S
        self.is_idle = False
        """Whether it waits in its owner's hands for the next request."""
        self.is_dead = False
        """Whether it can carry no more requests."""

    # For whoever asks

    async def ask(
        self,
        message: Sealed,
        *,
        began_s: float,
        timeouts: Timeouts,
        is_head_request: bool = False,
        wants_all: bool = False,
    ) -> None:
        """Send a request, and return when the head of its response is there, or all of it.

        The timeouts count from `began_s`, a time of the loop's clock. Raises UpstreamError, or
        StaleError where the request did not arrive and may be sent again.
        """
        if self.is_dead or self._transport is None:
            died = StaleError() if self._is_reused else no_answer().blame(self._name)
            raise self._error or died
        self.is_idle = False
        self._response.begin(is_head_request=is_head_request)
        self._timeouts = timeouts
        self._asked_s = self._loop.time()
        self._total_by_s = total_by_s = began_s + timeouts.total_s
        due_s = began_s + timeouts.first_byte_s
        self.due_s = due_s = due_s if due_s < total_by_s else total_by_s  # min(): 0.1 us
        if due_s < self.watched_s:
            self._wheel.watch(self)
        self._unsent = message
        self._outbox.put(self._send)
        self._wants = _END if wants_all else _HEAD
        await self._wakeup
        if self._error is not None:
            raise self._error

    @property
    def status(self) -> int:
        """The response's status."""
        return self._response.status

    @property
    def headers(self) -> Headers:
        """The response's headers."""
        return self._response.headers

    @property
    def is_reused(self) -> bool:
        """Whether it has carried a request before the one it carries."""
        return self._is_reused

    @property
    def may_reuse(self) -> bool:
        """Whether the response is complete and another request may follow it.

        Not where it came before all of the request had left: an upstream that has not read a
        body to its end could take the rest of it for a request.
        """
        return (
            self._response.may_reuse
            and not self.is_dead
            and self._transport is not None
            and self._transport.get_write_buffer_size() == 0
        )

    def take_whole(self) -> UpstreamResponse:
        """The response that was asked for whole."""
        return self._response.take_whole()

    async def read_all(self) -> bytes:
        """The rest of the body; raises UpstreamError."""
        response = self._response
        if not response.is_complete:
            await self._wait_for(_END)
        return response.take()

    async def read(self) -> bytes:
        """The next piece of the body, of any length; empty at its end; raises UpstreamError."""
        response = self._response
        if not response.buffered_bytes and not response.is_complete:
            await self._wait_for(_PIECE)
        piece = response.take()
        if self._is_paused:
            self._resume()
        return piece

    def push(
        self,
        on_piece: Callable[[bytes], None],
        on_end: Callable[[UpstreamError | GatewayError | StaleError | None], None],
    ) -> None:
        """Hand on the rest of the body as it comes, and then say that it has ended, or how not.

        What is there already is handed on before this returns.
        """
        response = self._response
        self._on_piece, self._on_end = on_piece, on_end
        response.unbound()
        if self._is_paused:
            self._resume()
        if response.buffered_bytes:
            on_piece(response.take())
        if response.is_complete or self._error is not None:
            self._tell_end()

    def stop_pushing(self) -> None:
        """Hand nothing more on."""
        self._on_piece = self._on_end = None

    def pause(self) -> None:
        """Let the upstream wait until `resume`."""
        if not self.is_dead:
            self._pause()

    def resume(self) -> None:
        """Read on."""
        if self._is_paused:
            self._resume()

    def rest(self, until_s: float) -> None:
        """Wait for the next request until that time of the loop's clock."""
        self.is_idle = True
        self._is_reused = True
        if self._is_paused:  # or the next response would never be read
            self._resume()
        self._set_due(until_s)

    def abort(self, error: UpstreamError | GatewayError | StaleError | None = None) -> None:
        """Close at once, whatever is under way; whoever still waits gets the error."""
        if error is not None:
            self._fail(error)
        if not self.is_dead:
            self._die()
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Abort a connection whose making has failed; `connection_lost` may never come."""
        self.abort()
        self._leave()

    # For the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are so by shape alone
        self._owner.on_opened(self)
        if self.is_dead:  # given up while it was being made
            self._transport.abort()

    def data_received(self, chunk: bytes) -> None:
        """Read on, and wake whoever waits for that much."""
        response = self._response
        if response.is_complete:  # bytes that nobody has asked for
            self.abort()
            return
        if self._unsent is not None:
            # Nor for these, such as a 408 for having been idle: what is asked has not been sent.
            early = not_http("it answered before it was asked").blame(self._name)
            self.abort(StaleError() if self._is_reused else early)
            return
        try:
            is_complete = response.feed(chunk)
        except BadResponseError as bad:
            self.abort(bad.blame(self._name))
            return
        if self._on_piece is not None:
            self._hand_on(is_complete=is_complete)
        elif is_complete:
            self.due_s = NEVER_S
            self._wakeup.wake()  # from here on it may carry another request
        elif response.has_head:
            self._set_due(min(self._loop.time() + self._idle_s, self._total_by_s))
            if self._wants != _END and response.buffered_bytes > HIGH_WATER_BYTES:
                self._pause()
            if self._wants == _HEAD or (self._wants == _PIECE and response.buffered_bytes):
                self._wakeup.wake()

    def eof_received(self) -> None:
        """The upstream has ended its side; the transport closes by itself."""
        try:
            self._response.end()
        except BadResponseError as bad:
            self._fail(self._early_end(bad, was_read=True if self._is_unix else None))
        else:
            self._wakeup.wake_soon()
            if self._on_end is not None:
                self._loop.call_soon(self._tell_end)
        if not self.is_dead:
            self._die()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by whomever."""
        if not self._response.is_complete and self._error is None:
            bad = broke_off() if self._response.has_begun else no_answer()
            is_reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
            self._fail(self._early_end(bad, was_read=not is_reset if self._is_unix else None))
        if not self.is_dead:
            self._die()
        self._leave()

    # For the deadline wheel

    def expire(self, now_s: float) -> None:
        """A deadline has passed: say which, and close."""
        timeouts = self._timeouts
        if self.is_idle or timeouts is None:
            self.abort()
        elif now_s >= self._total_by_s:
            self.abort(no_end_in_time(self._name, timeouts.total_s))
        elif not self._response.has_head:
            self.abort(no_head_in_time(self._name, timeouts.first_byte_s))
        else:
            self.abort(fell_silent(self._name, self._idle_s))

    # Inside

    def _send(self) -> None:
        transport, message = self._transport, self._unsent
        self._unsent = None
        if message is None or transport is None or self.is_dead or transport.is_closing():
            return
        transport.write(message.content)

    def _hand_on(self, *, is_complete: bool) -> None:
        piece = self._response.take()
        if not is_complete:
            due_s, total_by_s = self._loop.time() + self._idle_s, self._total_by_s
            self.due_s = due_s = due_s if due_s < total_by_s else total_by_s  # min(): 0.1 us
            if due_s < self.watched_s:
                self._wheel.watch(self)
        if piece and self._on_piece is not None:
            self._on_piece(piece)
        if is_complete:
            self.due_s = NEVER_S
            self._tell_end()  # from here on it may carry another request

    def _tell_end(self) -> None:
        on_end = self._on_end
        if on_end is not None:
            self.stop_pushing()
            on_end(self._error)

    async def _wait_for(self, wanted: int) -> None:
        if self._error is None:
            self._wants = wanted
            if self._is_paused:
                self._resume()
            await self._wakeup
        if self._error is not None:
            raise self._error

    def _fail(self, error: UpstreamError | GatewayError | StaleError) -> None:
        if self._error is None:
            self._error = error
        self._wakeup.wake_soon()
        if self._on_end is not None:
            self._loop.call_soon(self._tell_end)

    def _early_end(
        self, bad: BadResponseError, *, was_read: bool | None
    ) -> UpstreamError | StaleError:
        if may_send_again(
            was_read=was_read if self._unsent is None else False,
            is_reused=self._is_reused,
            has_begun=self._response.has_begun,
            waited_s=self._loop.time() - self._asked_s,
        ):
            return StaleError()
        return bad.blame(self._name)

    def _die(self) -> None:
        self.is_dead = True
        self.due_s = NEVER_S
        self._wheel.forget(self)
        self._owner.on_dead(self)

    def _leave(self) -> None:
        if self._transport is not None:
            self._transport = None
            self._owner.on_closed(self)

    def _set_due(self, due_s: float) -> None:
        self.due_s = due_s
        if due_s < self.watched_s:
            self._wheel.watch(self)

    def _pause(self) -> None:
        """Let the upstream wait for our reader: only the total deadline is the upstream's now."""
        transport = self._transport
        if transport is not None and not self._is_paused and not self._response.is_complete:
            self._is_paused = True
            transport.pause_reading()
            self._set_due(self._total_by_s)

    def _resume(self) -> None:
        self._is_paused = False
        if self._transport is not None and not self.is_dead:
            self._transport.resume_reading()
            self._set_due(min(self._loop.time() + self._idle_s, self._total_by_s))
