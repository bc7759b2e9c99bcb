"""One serving process: the ASGI door under uvicorn, on a socket that the supervisor bound.

    python -m keyhole.worker --fd N [--config FILE] [--data DIR] [--listen HOST:PORT]

It ends with exit status 0 on SIGTERM or when its standard input ends, after the requests in
flight; uvicorn would end by raising the signal again (uvicorn 0.54, `capture_signals`). When its
input ends while it is finishing them, its parent was told to end at once, and so is it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from keyhole import main
from keyhole.config import Settings
from keyhole.errors import SetupError
from keyhole.io.failures import shutting_down
from keyhole.server.app import AsgiDoor
from keyhole.server.edge import Edge
from keyhole.server.fastlane import FastLane
from keyhole.server.strict import StrictProtocol
from keyhole.server.sweep import sweep_connections
from keyhole.supervisor import CANNOT_START

MAX_FILES = 1 << 20
"""Open files, so connections, that a worker asks the system for at most."""
COLLECT_EVERY_S = 60.0
"""Between two passes of the garbage collector over all objects, at least."""
REFUSING_S = 2
"""Enough to tell the clients of what is cut off; then uvicorn hangs up."""


class _Server(uvicorn.Server):
    """A uvicorn whose signals are the worker's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on a listening socket until told to stop, then finish what is in flight."""
    end = _End()
    args = (asyncio.get_running_loop(), end)
    threading.Thread(target=_await_parent_end, args=args, daemon=True).start()
    async with main.open_runtime(
        settings, role="server", keeps_engine=False, serves_admin=True
    ) as runtime:
        edge = Edge(
            gateway=runtime.gateway,
            read_timeout_s=settings.read_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_buffered_bytes=settings.max_buffered_bytes,
            outbox=runtime.outbox,
        )
        server = _Server(
            uvicorn.Config(
                AsgiDoor(runtime.gateway, admin=runtime.admin),
                http=partial(FastLane, edge),  # type: ignore[arg-type]  # it is only called
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # its warnings are about what clients send
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s) + REFUSING_S,
            )
        )
        stopping = asyncio.Event()

        def stop() -> None:
            runtime.readiness.is_draining = True
            server.should_exit = True
            stopping.set()

        def orphaned() -> None:
            if server.should_exit:
                os._exit(1)
            stop()

        end.orphaned = orphaned
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, stop)
        cutting_off = asyncio.ensure_future(
            _cut_off(runtime, stopping, server.server_state.connections)
        )
        sweeping = asyncio.ensure_future(sweep_connections(server.server_state))
        collecting = asyncio.ensure_future(collect_rarely())
        await server.serve(sockets=[listener])
        collecting.cancel()
        sweeping.cancel()
        cutting_off.cancel()


async def collect_rarely(*, every_s: float = COLLECT_EVERY_S) -> None:
    """Keep the garbage collector from stopping all requests to look at every connection.

    A pass over all objects took 13 ms at the start, and 50 to 100 ms with 10,000 idle connections;
    opening these brought two or three, and one within four seconds of load took p99 from 2 ms to
    20 and more (bench/idle.py, November 2026). So what is there at the start, which lives as long
    as the process, is never looked at again; and the rest once a minute if there is reason to: one
    request in a thousand waits for it, and not one in a hundred.

    It costs memory only where a cycle has outlived two of the younger passes, some hundred
    requests, which find what errors leave: a minute's worth of such cycles, or of seven million
    objects if that comes first. A connection that is closed and a request that is answered leave
    none (tests/server/test_idle_connections.py).
    """
    gc.collect()
    gc.freeze()
    young, middle, full = gc.get_threshold()
    gc.set_threshold(young, middle, 100 * full)
    while True:
        await asyncio.sleep(every_s)
        if gc.get_count()[2] >= full:
            gc.collect()


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: each connection is a file.

    The soft limit is 1024 on most systems, for programs that call select(), which cannot take
    more; this one never does (https://0pointer.net/blog/file-descriptor-limits.html, 2026-11).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    # macOS names no hard limit and refuses more than OPEN_MAX.
    for limit in (wanted, min(wanted, 10240)):
        if soft != resource.RLIM_INFINITY and soft < limit:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                return


async def _cut_off(
    runtime: main.Runtime, stopping: asyncio.Event, connections: Iterable[object]
) -> None:
    """Fail what is still under way when the time to finish it is over."""
    await stopping.wait()
    await asyncio.sleep(runtime.settings.drain_timeout_s)
    await runtime.transport.aclose()
    for connection in list(connections):
        if isinstance(connection, StrictProtocol):
            connection.cut_off(shutting_down())


class _End:
    """What is done when the parent is gone: at first nothing has to be finished."""

    def __init__(self) -> None:
        self.orphaned: Callable[[], object] = partial(os._exit, 1)

    def come(self) -> None:
        """The parent is gone."""
        self.orphaned()


def _await_parent_end(loop: asyncio.AbstractEventLoop, end: _End) -> None:
    """Block until the parent's end of our standard input is closed."""
    while os.read(0, 1024):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(end.come)


def run() -> int:
    """The process's whole life; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m keyhole.worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--listen")
    options = parser.parse_args()
    try:
        settings = main.load_settings(
            config=options.config, data=options.data, listen=options.listen
        )
    except SetupError as error:
        main.say(str(error))
        return 1
    allow_many_files()
    listener = socket.socket(fileno=options.fd)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, listener))
    except SetupError as error:
        main.say(str(error))
        return CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(run())
