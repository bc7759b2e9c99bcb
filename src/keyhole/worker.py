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
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from keyhole import main
from keyhole.config import Settings
from keyhole.errors import SetupError
from keyhole.server.app import AsgiDoor
from keyhole.server.fastlane import FastLane
from keyhole.server.strict import Edge, sweep_connections

REFUSING_S = 2
"""Enough to tell the clients of what is cut off; then uvicorn hangs up."""


class _Server(uvicorn.Server):
    """A uvicorn whose signals are the worker's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve on a listening socket until told to stop, then finish what is in flight."""
    async with main.open_runtime(settings, keeps_engine=False) as runtime:
        edge = Edge(
            gateway=runtime.gateway,
            read_timeout_s=settings.read_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            max_buffered_bytes=settings.max_buffered_bytes,
            outbox=runtime.outbox,
        )
        server = _Server(
            uvicorn.Config(
                AsgiDoor(runtime.gateway),
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

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, stop)
        args = (loop, orphaned)
        threading.Thread(target=_await_parent_end, args=args, daemon=True).start()
        cutting_off = asyncio.ensure_future(_cut_off(runtime, stopping))
        sweeping = asyncio.ensure_future(sweep_connections(server.server_state))
        await server.serve(sockets=[listener])
        sweeping.cancel()
        cutting_off.cancel()


async def _cut_off(runtime: main.Runtime, stopping: asyncio.Event) -> None:
    """Fail what is still under way when the time to finish it is over."""
    await stopping.wait()
    await asyncio.sleep(runtime.settings.drain_timeout_s)
    await runtime.transport.aclose()


def _await_parent_end(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Block until the parent's end of our standard input is closed."""
    while os.read(0, 1024):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(stop)


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
    listener = socket.socket(fileno=options.fd)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener))
    return 0


if __name__ == "__main__":
    sys.exit(run())
