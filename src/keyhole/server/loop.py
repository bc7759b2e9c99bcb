"""A gateway on an event loop in a thread of its own, for servers whose world is threads.

The core's state belongs to one event loop, so every step of it, the quick ones too, is made
there. The thread begins at the first request, never at import, and anew in a process that was
forked off (gunicorn's workers with --preload): threads do not survive a fork. It ends when the
interpreter exits.

Facts: CPython joins ordinary threads before it runs `atexit` functions, daemon threads never;
so this one is a daemon that an `atexit` function stops and waits for (Python 3.11 to 3.13).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar

import uvloop

from keyhole.errors import Code, GatewayError
from keyhole.exchange import Admission, Gateway
from keyhole.server.pulled import Pulled
from keyhole.wire.http import Head, Reply

STOP_TIMEOUT_S = 10.0
"""How long an exiting interpreter waits for the thread to close everything."""

T = TypeVar("T")


class ThreadedGateway:
    """The gateway's steps for callers in any thread of any process, each blocking."""

    def __init__(self, lifespan: Callable[[], AbstractAsyncContextManager[Gateway]]) -> None:
        self._lifespan = lifespan
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._left_behind: list[_Loop | None] = []
        forget = weakref.WeakMethod(self._forget)
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def admit(self, head: Head) -> Admission | Reply:
        """As Gateway.admit; raises SetupError, or what else opening the gateway raises."""
        gateway = self._running().gateway
        return self._call(lambda: gateway.admit(head))

    def run(self, admission: Admission, body: bytes) -> tuple[Reply, Body | None]:
        """As Gateway.run; and its body, where that is a stream, in place of the stream."""
        loop = self._running()
        return loop.wait(loop.run(admission, body))

    def end(self, step: Callable[[Gateway], T]) -> T:
        """Call `refuse` or `left` of the gateway."""
        gateway = self._running().gateway
        return self._call(lambda: step(gateway))

    def close(self) -> None:
        """Cancel what runs, close the gateway and end the thread; a later request opens anew."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            atexit.unregister(self.close)
            loop.stop()

    def _call(self, function: Callable[[], T]) -> T:
        async def once() -> T:
            return function()

        return self._running().wait(once())

    def _running(self) -> _Loop:
        loop = self._loop
        if loop is not None:
            return loop
        with self._lock:
            if self._loop is None:
                self._loop = _Loop(self._lifespan)
                atexit.register(self.close)
            return self._loop

    def _forget(self) -> None:
        """In a forked process: the thread has stayed behind, and the lock may have been held.

        The loop is kept, never closed: its descriptors are shared with the parent's, and closing
        them here would take the parent's connections out of its epoll set.
        """
        self._lock = threading.Lock()
        self._left_behind.append(self._loop)
        self._loop = None
        atexit.unregister(self.close)


class Body:
    """The body of a stream, piece by piece, each as soon as it has come, for one thread.

    Whoever has it must read it to its end or close it.
    """

    def __init__(self, loop: _Loop, pulled: Pulled) -> None:
        self._loop = loop
        self._pulled: Pulled | None = pulled

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Wait for a piece; raises GatewayError or ConnectionError where it breaks off."""
        if self._pulled is None:
            raise StopIteration
        try:
            piece = self._loop.wait(self._pulled.take())
        except BaseException:
            self.close()
            raise
        if not piece:
            self.close()
            raise StopIteration
        return piece

    def close(self) -> None:
        """Nobody reads on; from any thread, and without waiting."""
        pulled, self._pulled = self._pulled, None
        if pulled is not None:
            self._loop.drop(pulled)

    __del__ = close
    """For a reply that is dropped on its way to the server, which would have closed it."""


def _shutting_down() -> GatewayError:
    return GatewayError(Code.SHUTTING_DOWN, "Keyhole is shutting down.", status=503)


class _Loop:
    """A thread with an event loop, and the gateway that is open on it."""

    def __init__(self, lifespan: Callable[[], AbstractAsyncContextManager[Gateway]]) -> None:
        self._lifespan = lifespan
        self._opened: Future[Gateway] = Future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._streams: set[Pulled] = set()
        """Those that were handed out, and neither read to their end nor closed."""
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="keyhole", daemon=True)
        self._thread.start()
        self.gateway = self._opened.result()

    def wait(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it, in the caller's thread.

        Raises GatewayError (503) if the loop is closed meanwhile.
        """
        tracked = self._tracked(step)
        try:
            future = asyncio.run_coroutine_threadsafe(tracked, self._loop)
        except RuntimeError:  # the loop is closed
            tracked.close()
            step.close()
            raise _shutting_down() from None
        try:
            return future.result()
        except CancelledError:
            raise _shutting_down() from None
        except BaseException:  # such as KeyboardInterrupt here: nobody waits for it any more
            future.cancel()
            raise

    async def run(self, admission: Admission, body: bytes) -> tuple[Reply, Body | None]:
        """Run a request on the loop."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # `wait` has made one
        admission.abort = task.cancel
        reply = await self.gateway.run(admission, body)
        admission.abort = None  # the task holds what is returned, which must go when it is dropped
        if reply.stream is None:
            return reply, None
        pulled = Pulled(reply.stream, reply.body)
        self._streams.add(pulled)
        return Reply(status=reply.status, headers=reply.headers), Body(self, pulled)

    def drop(self, pulled: Pulled) -> None:
        """Cancel a stream that nobody reads any more, if it has not ended; from any thread."""
        with contextlib.suppress(RuntimeError):  # closed already, and every stream with it
            self._loop.call_soon_threadsafe(self._drop, pulled)

    def _drop(self, pulled: Pulled) -> None:
        self._streams.discard(pulled)
        pulled.cancel()

    def stop(self) -> None:
        """End the loop and its thread."""
        with contextlib.suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_TIMEOUT_S)

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except BaseException as error:
                if self._opened.done():
                    raise
                self._opened.set_exception(error)  # raised in the thread that waits for it

    async def _serve(self) -> None:
        async with self._lifespan() as gateway:
            self._opened.set_result(gateway)
            await self._stopping.wait()
            for task in self._tasks:
                task.cancel()
            for pulled in list(self._streams):
                self._drop(pulled)
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _tracked(self, step: Coroutine[Any, Any, T]) -> T:
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await step
