"""The connections to each upstream: which one carries a request, and what becomes of it then.

It reads no HTTP (`http1` does), opens no sockets (`dialing` does) and sends nothing: whoever
finds that a connection had died before its request arrived (`http1.may_send_again`) gets another
one in its place; every other failure is an UpstreamError for policy.

What to do is decided by `choose` and `judge`, which know numbers and do nothing; what is decided
is done in Pool. A slot is one connection, open or being opened, out of the upstream's
`max_connections`. A request holds its slot from `take` or `obtain` to `release` or `discard`; a
resting connection holds its own. Requests wait for a slot in the order in which they came, and
none overtakes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from enum import Enum, auto

from keyhole.catalog import Upstream
from keyhole.eager import be_a_task
from keyhole.errors import UpstreamError
from keyhole.io.deadlines import NEVER_S, DeadlineWheel
from keyhole.io.dialing import SOCKET_POLL_S, Dialer, find_address
from keyhole.io.failures import no_answer, no_free_connection, shutting_down
from keyhole.io.http1 import Connection
from keyhole.io.request import RequestWriter
from keyhole.outbox import Outbox
from keyhole.wire.http import Timeouts

REST_S = 55.0
"""A resting connection is closed before the 60 s after which load balancers drop it silently."""


class Step(Enum):
    """How a request gets its connection."""

    REUSE = auto()
    CONNECT = auto()
    QUEUE = auto()


class Fate(Enum):
    """What becomes of a connection after its request."""

    CLOSE = auto()
    HAND_ON = auto()
    REST = auto()


def choose(*, resting: int, opened: int, max_connections: int) -> Step:
    """How the next request gets a connection. `opened` counts the slots in use, resting or not."""
    if resting:
        return Step.REUSE
    return Step.CONNECT if opened < max_connections else Step.QUEUE


def judge(*, may_reuse: bool, is_closed: bool, queued: int) -> Fate:
    """What becomes of a connection whose request is over; `is_closed` is the pool's state."""
    if not may_reuse or is_closed:
        return Fate.CLOSE
    return Fate.HAND_ON if queued else Fate.REST


class _Waiter:
    """A request in the queue; also an entry of the deadline wheel."""

    def __init__(
        self, granted: asyncio.Future[Connection | None], due_s: float, late: UpstreamError
    ) -> None:
        self.granted = granted
        """A connection, or None for a slot to open one in."""
        self.due_s = due_s
        self.watched_s = NEVER_S
        self._late = late

    @property
    def is_gone(self) -> bool:
        """Whether it waits no more: cancelled or late, and not yet out of the queue."""
        return self.granted.done()

    def expire(self, now_s: float) -> None:  # noqa: ARG002  # it is late, whatever the time
        self.due_s = NEVER_S
        if not self.is_gone:
            self.granted.set_exception(self._late)


class Pool:
    """The connections to one upstream; `repr` tells how many there are of which kind."""

    def __init__(
        self,
        upstream: Upstream,
        wheel: DeadlineWheel,
        loop: asyncio.AbstractEventLoop,
        *,
        outbox: Outbox,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.upstream = upstream
        self._outbox = outbox
        self.writer = RequestWriter(upstream)
        self._wheel = wheel
        self._loop = loop
        address = find_address(upstream.url)
        self._is_unix = address.path is not None
        self._dialer = Dialer(upstream.name, address, tls, wheel, loop)
        self._resting: list[Connection] = []
        self._queue: deque[_Waiter] = deque()
        self._opened = 0
        self._connections: set[Connection] = set()
        """Those with an open socket."""
        self._all_closed: asyncio.Future[None] | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        resting, queued = len(self._resting), len(self._queue)
        return f"{self._opened - resting} active, {resting} idle, {queued} queued"

    def take(self) -> Connection | None:
        """A resting connection, the one used last, and its slot; None: `obtain` one."""
        return self._resting.pop() if self._resting else None

    async def obtain(self, *, began_s: float, timeouts: Timeouts) -> Connection:
        """A connection and its slot, as soon as there is one; raises UpstreamError."""
        await be_a_task()
        if self._is_closed:
            raise shutting_down()
        step = choose(
            resting=len(self._resting),
            opened=self._opened,
            max_connections=self.upstream.max_connections,
        )
        if step is Step.REUSE:
            return self._resting.pop()
        if step is Step.CONNECT:
            self._opened += 1
        elif (connection := await self._wait(began_s, timeouts)) is not None:
            return connection
        try:
            return await self._connect(began_s, timeouts)
        except BaseException:
            self._free_slot()
            raise

    async def replace(self, dead: Connection, *, began_s: float, timeouts: Timeouts) -> Connection:
        """A new connection in the slot of one that died before a request arrived.

        Raises UpstreamError. Where a server on a Unix socket dies with connections that it has
        not accepted, they all come here: the next one is waited for, as for the first.
        """
        await be_a_task()
        if not dead.is_reused:
            if self._loop.time() >= began_s + timeouts.connect_s:
                raise no_answer().blame(self.upstream.name)
            await asyncio.sleep(SOCKET_POLL_S)
        return await self._connect(began_s, timeouts)

    def release(self, connection: Connection) -> None:
        """Take back a connection whose response has been read to its end."""
        if connection.may_reuse and not self._queue and not self._is_closed:
            # As `judge` says of these, without asking it: so it is nearly always.
            connection.rest(self._loop.time() + REST_S)
            self._resting.append(connection)
            return
        fate = judge(
            may_reuse=connection.may_reuse, is_closed=self._is_closed, queued=self._count_queue()
        )
        if fate is Fate.REST:
            connection.rest(self._loop.time() + REST_S)
            self._resting.append(connection)
        elif fate is Fate.HAND_ON:
            connection.rest(NEVER_S)
            self._queue.popleft().granted.set_result(connection)
        else:
            self.discard(connection)

    def discard(self, connection: Connection) -> None:
        """Close a connection that was given out, whatever state it is in."""
        connection.abort()
        self._free_slot()

    async def aclose(self) -> None:
        """Close every connection, and return when their sockets are closed."""
        self._is_closed = True
        self._dialer.close()
        while self._count_queue():
            self._queue.popleft().granted.set_exception(shutting_down())
        for connection in list(self._connections):
            connection.abort(shutting_down())
        if self._connections:
            self._all_closed = self._loop.create_future()
            await self._all_closed

    def on_opened(self, connection: Connection) -> None:
        """As http1.Owner says."""
        self._connections.add(connection)
        if self._is_closed:
            connection.abort(shutting_down())

    def on_dead(self, connection: Connection) -> None:
        """As http1.Owner says: a resting one gives its slot up, others are in somebody's hands."""
        if connection in self._resting:
            self._resting.remove(connection)
            self._free_slot()

    def on_closed(self, connection: Connection) -> None:
        """As http1.Owner says."""
        self._connections.discard(connection)
        if not self._connections and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    def _make(self) -> Connection:
        return Connection(
            self,
            self._wheel,
            outbox=self._outbox,
            name=self.upstream.name,
            max_body_bytes=self.upstream.max_response_bytes,
            idle_s=self.upstream.silence_timeout_s,
            is_unix=self._is_unix,
        )

    async def _connect(self, began_s: float, timeouts: Timeouts) -> Connection:
        """A new connection, in the slot that the caller holds; raises UpstreamError."""
        return await self._dialer.dial(self._make, began_s=began_s, timeouts=timeouts)

    async def _wait(self, began_s: float, timeouts: Timeouts) -> Connection | None:
        """Wait for one's turn: a connection, or None for a slot to open one in."""
        waits_s = min(timeouts.first_byte_s, timeouts.total_s)
        late = no_free_connection(self.upstream.name, waits_s, self.upstream.max_connections)
        waiter = _Waiter(self._loop.create_future(), began_s + waits_s, late)
        self._queue.append(waiter)
        self._wheel.watch(waiter)
        try:
            return await waiter.granted
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            self._wheel.forget(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        """Take a waiter out of the queue; what it got in the turn it was cancelled in goes on."""
        granted = waiter.granted
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif granted.done() and not granted.cancelled() and granted.exception() is None:
            connection = granted.result()
            if connection is None:
                self._free_slot()
            else:
                self.release(connection)

    def _count_queue(self) -> int:
        """How many wait, without those at the front that are gone."""
        while self._queue and self._queue[0].is_gone:
            self._queue.popleft()
        return len(self._queue)

    def _free_slot(self) -> None:
        """A slot is free: it is the next waiter's, to open a connection in."""
        if self._count_queue():
            self._queue.popleft().granted.set_result(None)
        else:
            self._opened -= 1
