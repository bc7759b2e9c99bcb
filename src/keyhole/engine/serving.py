"""Serves the engine's application with uvicorn until a signal comes.

What is served is in `app`, where in `listener`.

Fact: uvicorn 0.54 raises a signal again once it has shut down, so that the process dies by it
(Server.capture_signals). An engine that was told to stop and did has succeeded, so the signals
are the event loop's here.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn

from keyhole.engine.app import Engine
from keyhole.engine.library import Library
from keyhole.engine.models import Models
from keyhole.engine.scheduler import MAX_WAITING

KEEP_ALIVE_S = 75
"""Longer than a client keeps an idle connection, so that it is never closed under a request."""
DRAIN_S = 5
"""How long a running generation may go on after the signal."""


class Server(uvicorn.Server):
    """uvicorn's, but the process survives the signal that ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at SIGINT and SIGTERM, at once when a second one comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def serve(
    listener: socket.socket, library: Library, default_model: str, *, max_waiting: int | None
) -> None:
    """Serve on a listening socket until SIGINT or SIGTERM."""
    models = Models(library, max_waiting=MAX_WAITING if max_waiting is None else max_waiting)
    config = uvicorn.Config(
        Engine(models, default_model),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    Server(config).run(sockets=[listener])
