"""Cancelled at every place where it waits, a request leaves no task, socket, slot or deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from types import coroutine
from typing import Any

import pytest
from certificates import Certificates
from msgspec import Struct
from wires import TIMEOUTS, make_request, make_upstream, open_sockets, until

from keyhole.catalog import Upstream
from keyhole.eager import Wakeup
from keyhole.io.dialing import make_tls
from keyhole.io.transport import PooledTransport
from standins import Raw, Reply, StandIn

PIECES = Raw(
    (
        *(b"HTTP/1.1 100 Continue\r\n\r\n", 0.005),
        *(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 0.005),
        *(b"2\r\nhi\r\n", 0.005, b"0\r\n\r\n"),
    )
)


class CancelledWhenWoken:
    """A Wakeup, as the task that awaits it sees it; it has room for one callback only."""

    def __init__(self, wakeup: Wakeup, task: asyncio.Task[Any]) -> None:
        self._asyncio_future_blocking = True
        self._wakeup = wakeup
        self._task = task
        self.get_loop, self.cancel, self.result = wakeup.get_loop, wakeup.cancel, wakeup.result

    def add_done_callback(self, resume: Callable[[Any], object], **_: Any) -> None:
        def woken(_: Any) -> None:
            self._task.cancel()
            resume(self)

        self._wakeup.add_done_callback(woken)


@coroutine
def cancelled_at(
    awaitable: Awaitable[Any], stop: int, *, is_answered: bool
) -> Generator[Any, Any, Any]:
    """Run it in this task, which is cancelled when it waits for the `stop`-th time.

    With `is_answered` the cancellation comes when what it waits for has come already, but
    before it runs on: the turn of the loop in which something given can be lost.
    """
    task = asyncio.current_task()
    assert task is not None
    waits = 0
    steps = awaitable.__await__()
    try:
        waited = next(steps)
        while True:
            waits += 1
            shown = waited
            if waits == stop:
                if is_answered and isinstance(waited, Wakeup):
                    shown = CancelledWhenWoken(waited, task)
                elif is_answered and waited is not None:
                    waited.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            try:
                got = yield shown
            except BaseException as error:  # noqa: BLE001  # it is the inner one's to decide
                waited = steps.throw(error)
            else:
                waited = steps.send(got)
    except StopIteration as done:
        return done.value


Scenario = Callable[[PooledTransport, Upstream], Awaitable[Any]]


async def send(transport: PooledTransport, upstream: Upstream) -> Any:
    return await transport.send(make_request(upstream), request_id="id", timeouts=TIMEOUTS)


async def stream(transport: PooledTransport, upstream: Upstream) -> Any:
    response = await transport.open(make_request(upstream), request_id="id", timeouts=TIMEOUTS)
    return [piece async for piece in response]


class Server:
    """Answers requests, and can close all of its connections before anybody notices."""

    def __init__(self, answer: Reply | Raw) -> None:
        self.standin = StandIn(answer)
        self.writers: list[asyncio.StreamWriter] = []
        accept = self.standin._accept

        def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)
            accept(reader, writer)

        self.standin._accept = note  # type: ignore[method-assign]

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Ground(Struct, kw_only=True):
    """What a cancellation is tried on."""

    server: Server
    upstream: Upstream
    prepare: Callable[[PooledTransport], Awaitable[Any]] | None = None
    """Done before; what it returns, if anything, is a task to wait for afterwards."""


async def cancel_everywhere(ground: Ground, scenario: Scenario) -> int:
    """How many places there were; after each, everything must be as if nothing had been."""
    places = 0
    for is_answered in (False, True):
        for stop in range(1, 100):
            transport = PooledTransport()
            other = await ground.prepare(transport) if ground.prepare else None
            trying = scenario(transport, ground.upstream)
            task = asyncio.ensure_future(cancelled_at(trying, stop, is_answered=is_answered))
            await asyncio.wait([task, other] if other else [task])
            check_nothing_is_held(transport)
            assert (await send(transport, ground.upstream)).status == 200
            check_nothing_is_held(transport)
            await transport.aclose()
            await until(lambda: asyncio.all_tasks() - ground.server.standin._tasks == {me()})
            if not task.cancelled():
                assert task.exception() is None
                break
            places += 1
    return places


def check_nothing_is_held(transport: PooledTransport) -> None:
    (pool,) = transport._pools
    assert repr(pool).startswith("0 active")
    assert repr(pool).endswith("0 queued")
    assert pool._opened == len(pool._resting)
    # Deadlines are those of resting connections; the loop may still be closing others.
    assert len(transport._wheel) == len(pool._resting)


def me() -> asyncio.Task[Any] | None:
    return asyncio.current_task()


@asynccontextmanager
async def ground(answer: Reply | Raw = PIECES, **fields: Any) -> AsyncIterator[Ground]:
    sockets = open_sockets()
    server = Server(answer)
    async with server.standin as standin:
        yield Ground(server=server, upstream=make_upstream(standin.url), **fields)
    await until(lambda: open_sockets() <= sockets)


# Places: each is tried twice. `send` waits once for its response, `stream` for head and body.


@pytest.mark.parametrize(("scenario", "places"), [(send, 4), (stream, 6)])
async def test_while_connecting_asking_and_reading(scenario: Scenario, places: int) -> None:
    async with ground() as where:
        assert await cancel_everywhere(where, scenario) >= places


@pytest.mark.parametrize(("scenario", "places"), [(send, 2), (stream, 4)])
async def test_on_a_connection_that_is_used_again(scenario: Scenario, places: int) -> None:
    async with ground(Reply(body=b"hi", body_delay_s=0.005)) as where:

        async def prepare(transport: PooledTransport) -> None:
            await send(transport, where.upstream)

        where.prepare = prepare
        assert await cancel_everywhere(where, scenario) >= places


async def test_while_sending_again_on_another_connection() -> None:
    async with ground(Reply(body=b"hi", body_delay_s=0.005)) as where:

        async def prepare(transport: PooledTransport) -> None:
            await send(transport, where.upstream)

        async def send_as_it_closes(transport: PooledTransport, upstream: Upstream) -> Any:
            where.server.hang_up()
            return await send(transport, upstream)

        where.prepare = prepare
        assert await cancel_everywhere(where, send_as_it_closes) >= 6


async def test_while_waiting_in_the_queue() -> None:
    async with ground(Reply(body=b"hi", body_delay_s=0.005)) as where:

        async def prepare(transport: PooledTransport) -> Any:
            other = asyncio.ensure_future(send(transport, where.upstream))
            await until(lambda: "1 active" in repr(transport))
            return other

        where.upstream = make_upstream(where.upstream.url, max_connections=1)
        where.prepare = prepare
        assert await cancel_everywhere(where, send) >= 4


async def test_while_waiting_in_the_queue_for_a_slot_to_connect_in() -> None:
    closing = Raw((0.005, b"HTTP/1.0 200 OK\r\n\r\nhi"))
    async with ground(closing) as where:

        async def prepare(transport: PooledTransport) -> Any:
            other = asyncio.ensure_future(send(transport, where.upstream))
            await until(lambda: "1 active" in repr(transport))
            return other

        where.upstream = make_upstream(where.upstream.url, max_connections=1)
        where.prepare = prepare
        assert await cancel_everywhere(where, send) >= 6


async def test_while_agreeing_on_tls(certificates: Certificates) -> None:
    context = certificates.trust(make_tls())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while await reader.readuntil(b"{}"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        writer.close()

    sockets, tasks = open_sockets(), asyncio.all_tasks()
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificates.server("good"))
    upstream = make_upstream(f"https://localhost:{server.sockets[0].getsockname()[1]}")
    for is_answered in (False, True):
        for stop in range(1, 20):
            transport = PooledTransport(tls=context)
            trying = cancelled_at(send(transport, upstream), stop, is_answered=is_answered)
            task = asyncio.ensure_future(trying)
            await asyncio.wait([task])
            check_nothing_is_held(transport)
            await transport.aclose()
            if not task.cancelled():
                break
        assert stop >= 4
        assert task.result().body == b"hi"
    server.close()
    await server.wait_closed()
    await until(lambda: asyncio.all_tasks() <= tasks)
    await until(lambda: open_sockets() <= sockets)


async def test_while_waiting_for_a_unix_socket(tmp_path: Path) -> None:
    upstream = make_upstream(f"unix:{tmp_path / 'engine.sock'}")
    for stop in range(1, 8):
        transport = PooledTransport()
        trying = cancelled_at(send(transport, upstream), stop, is_answered=stop % 2 == 0)
        task = asyncio.ensure_future(trying)
        await asyncio.wait([task])
        assert task.cancelled()
        check_nothing_is_held(transport)
        await transport.aclose()
        await until(lambda: asyncio.all_tasks() == {me()})
