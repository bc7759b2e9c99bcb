"""The Transport port over connections of our own: a pool for each upstream, one deadline wheel.

`send` brings a whole answer; `open` its head, and the body piece by piece as fast as it is read.
Neither follows a redirect, decodes a content-encoding, keeps a cookie or reads proxy settings.

On the way of a request nothing is made that could stand ready: no task, no timer, no context
manager; one future for each time that it has to wait. What that brings: bench/transport.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from keyhole.catalog import Upstream
from keyhole.errors import KeyholeError, UpstreamError
from keyhole.io.deadlines import DeadlineWheel
from keyhole.io.dialing import make_tls
from keyhole.io.failures import shutting_down
from keyhole.io.http1 import Connection, StaleError
from keyhole.io.pool import Pool
from keyhole.io.request import Sealed
from keyhole.outbox import Outbox
from keyhole.ports import Receiver
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse


class OpenResponse:
    """ports.Incoming: a response whose head is there; `async for` gives its body piece by piece.

    Leave it with `async with`, or call `close`: a body that is not read to its end closes the
    connection, and one that is forgotten would keep its slot. A slow reader makes the upstream
    wait.
    """

    __slots__ = ("_connection", "_pool", "_receiver", "headers", "status")

    def __init__(self, pool: Pool, connection: Connection) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._receiver: Receiver | None = None
        self.status: int = connection.status
        self.headers: Mapping[str, str] = connection.headers

    async def read(self) -> bytes:
        """As the port says."""
        if self._connection is None:
            return b""
        try:
            piece = await self._connection.read()
        except BaseException:
            self.close()
            raise
        if not piece:
            self._finish(self._connection)
        return piece

    async def read_all(self) -> bytes:
        """As the port says."""
        if self._connection is None:
            return b""
        try:
            body = await self._connection.read_all()
        except BaseException:
            self.close()
            raise
        self._finish(self._connection)
        return body

    def relay(self, receiver: Receiver) -> None:
        """As the port says."""
        if self._connection is None:
            receiver.ended(None)
            return
        self._receiver = receiver
        self._connection.push(receiver.piece, self._end)

    def pause(self) -> None:
        """As the port says."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """As the port says."""
        if self._connection is not None:
            self._connection.resume()

    def give_up(self, error: UpstreamError) -> None:
        """As the port says."""
        if self._connection is not None:
            self._connection.abort(error)

    def close(self) -> None:
        """As the port says."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.stop_pushing()
            self._pool.discard(connection)

    def __del__(self) -> None:
        if self._connection is not None:
            told = f"a response of {self._pool.upstream.name} was left open"
            warnings.warn(told, ResourceWarning, stacklevel=2, source=self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, never empty; raises UpstreamError."""
        piece = await self.read()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _finish(self, connection: Connection) -> None:
        self._connection = None
        self._pool.release(connection)

    def _end(self, error: KeyholeError | StaleError | None) -> None:
        """The body has ended, as the connection tells while it pushes."""
        connection, receiver = self._connection, self._receiver
        if connection is None or receiver is None:
            return
        if error is None:
            self._finish(connection)
        else:
            self.close()
        # A connection whose head has come is never stale: that is for requests without an answer.
        assert not isinstance(error, StaleError)  # noqa: S101
        receiver.ended(error)


class PooledTransport:
    """ports.Transport; made on the event loop that it will run on."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, outbox: Outbox | None = None) -> None:
        """`tls` takes the place of the system's trust store; `outbox` is the worker's."""
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox or Outbox()
        self._wheel = DeadlineWheel(self._loop)
        self._tls = tls
        self._pools: list[Pool] = []
        self._latest: dict[str, Pool] = {}
        """The pool that was last used for an upstream of that name."""
        self._is_closed = False

    @property
    def alarms(self) -> DeadlineWheel:
        """The wheel, for others of this worker who may be late."""
        return self._wheel

    def __repr__(self) -> str:
        pools = "; ".join(f"{pool.upstream.name}: {pool!r}" for pool in self._pools)
        return f"<PooledTransport {pools}>" if pools else "<PooledTransport>"

    async def send(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        """As the port says."""
        pool = self._pool(request.upstream)
        message = Sealed(pool.writer.write(request, request_id))
        began_s = self._loop.time()
        connection = pool.take()
        if connection is None:
            connection = await pool.obtain(began_s=began_s, timeouts=timeouts)
        try:  # what `_ask` does, without its coroutine
            await connection.ask(
                message,
                began_s=began_s,
                timeouts=timeouts,
                is_head_request=request.method == "HEAD",
                wants_all=True,
            )
        except StaleError:
            connection = await self._ask_anew(
                pool, connection, request, message, began_s, timeouts, wants_all=True
            )
        except BaseException:
            pool.discard(connection)
            raise
        response = connection.take_whole()
        pool.release(connection)
        return response

    async def open(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> OpenResponse:
        """As the port says."""
        pool = self._pool(request.upstream)
        return OpenResponse(pool, await self._ask(pool, request, request_id, timeouts))

    async def aclose(self) -> None:
        """As the port says; what is under way fails with SHUTTING_DOWN."""
        self._is_closed = True
        for pool in self._pools:
            await pool.aclose()
        self._wheel.close()

    async def _ask(
        self, pool: Pool, request: UpstreamRequest, request_id: str, timeouts: Timeouts
    ) -> Connection:
        """A connection on which the response's head has come. The caller gives it back."""
        message = Sealed(pool.writer.write(request, request_id))
        began_s = self._loop.time()
        connection = pool.take()
        if connection is None:
            connection = await pool.obtain(began_s=began_s, timeouts=timeouts)
        try:
            await connection.ask(
                message,
                began_s=began_s,
                timeouts=timeouts,
                is_head_request=request.method == "HEAD",
            )
        except StaleError:
            return await self._ask_anew(pool, connection, request, message, began_s, timeouts)
        except BaseException:
            pool.discard(connection)
            raise
        return connection

    async def _ask_anew(
        self,
        pool: Pool,
        connection: Connection,
        request: UpstreamRequest,
        message: Sealed,
        began_s: float,
        timeouts: Timeouts,
        *,
        wants_all: bool = False,
    ) -> Connection:
        """The same, in place of a connection that died before the request arrived."""
        try:
            while True:
                connection = await pool.replace(connection, began_s=began_s, timeouts=timeouts)
                with contextlib.suppress(StaleError):
                    await connection.ask(
                        message,
                        began_s=began_s,
                        timeouts=timeouts,
                        is_head_request=request.method == "HEAD",
                        wants_all=wants_all,
                    )
                    return connection
        except BaseException:
            pool.discard(connection)
            raise

    def _pool(self, upstream: Upstream) -> Pool:
        pool = self._latest.get(upstream.name)
        if pool is None or pool.upstream is not upstream or self._is_closed:
            pool = self._latest[upstream.name] = self._find_pool(upstream)
        return pool

    def _find_pool(self, upstream: Upstream) -> Pool:
        """The pool of what is configured exactly so: a name alone never decides where to send."""
        if self._is_closed:
            raise shutting_down()
        for pool in self._pools:
            if pool.upstream == upstream:
                return pool
        if self._tls is None and upstream.url.startswith("https:"):
            self._tls = make_tls()
        pool = Pool(upstream, self._wheel, self._loop, outbox=self._outbox, tls=self._tls)
        self._pools.append(pool)
        return pool
