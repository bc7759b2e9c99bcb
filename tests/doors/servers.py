"""Each door under its server, on a loopback socket that this process has bound."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from flask import Flask
from werkzeug.serving import make_server

from doors.composed import Composed
from keyhole.exchange import Gateway
from keyhole.server.app import AsgiDoor
from keyhole.server.edge import Edge
from keyhole.server.fastlane import FastLane
from keyhole.server.flask import app_over, blueprint_over
from keyhole.server.loop import ThreadedGateway
from keyhole.server.strict import StrictProtocol
from keyhole.server.sweep import sweep_connections

REPOSITORY = Path(__file__).parents[2]
STRICT_DOORS = {"fastlane": FastLane, "asgi-strict": StrictProtocol}
"""Keyhole's own connections: with the fast lane, as `keyhole serve` has it, and without."""
ASGI_DOORS = (*STRICT_DOORS, "asgi-httptools", "asgi-h11")
DOORS = (*ASGI_DOORS, "werkzeug", "blueprint", "gunicorn")


@dataclass
class Door:
    """A running door."""

    name: str
    address: tuple[str, int]
    prefix: str = ""
    """Where the paths begin."""
    composed: list[Composed] = field(default_factory=list)
    """The fakes, where the door runs in this process and has begun."""
    loop: asyncio.AbstractEventLoop | None = None
    edge: Edge | None = None
    """What the connections share, where they are our own."""
    output: Path | None = None
    """What another process has printed."""
    pid: int = 0
    """Of that process."""

    def __str__(self) -> str:
        return self.name

    def written(self) -> str:
        """The log so far."""
        if self.output is not None:
            return self.output.read_text()
        log = self.composed[-1].log
        assert isinstance(log, io.StringIO)
        return log.getvalue()


def make_edge(gateway: Gateway, **fields: Any) -> Edge:
    """Bounds that no test meets by chance."""
    bounds = {"read_timeout_s": 60, "idle_timeout_s": 60, "max_buffered_bytes": 64 * 1024 * 1024}
    return Edge(gateway=gateway, **(bounds | fields))


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@contextmanager
def asgi(http: str) -> Iterator[Door]:
    """The ASGI door under uvicorn and uvloop, in a thread."""
    composed: list[Composed] = []
    loops: list[asyncio.AbstractEventLoop] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Gateway]:
        composed.append(Composed(io.StringIO()))
        loops.append(asyncio.get_running_loop())
        yield composed[0].gateway

    server = uvicorn.Server(_config(AsgiDoor(lifespan=lifespan), http=http, lifespan="on"))
    with _running(server) as address:
        yield Door(f"asgi-{http}", address, "", composed, loops[0])


@contextmanager
def strict(name: str, *, sweep_every_s: float = 1.0, **bounds: Any) -> Iterator[Door]:
    """A door of STRICT_DOORS under uvicorn and uvloop, in a thread."""
    composed = Composed(io.StringIO())
    edge = make_edge(composed.gateway, **bounds)
    door = Door(name, ("", 0), "", [composed], edge=edge)

    class Server(uvicorn.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            door.loop = asyncio.get_running_loop()
            sweeping = door.loop.create_task(
                sweep_connections(self.server_state, every_s=sweep_every_s)
            )
            await super().serve(sockets)
            sweeping.cancel()

    http: Any = partial(STRICT_DOORS[name], edge)
    with _running(
        Server(_config(AsgiDoor(composed.gateway), http=http, lifespan="off"))
    ) as address:
        door.address = address
        yield door
    assert edge.buffered_bytes == 0


def _config(app: AsgiDoor, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(app, ws="none", log_config=None, access_log=False, **options)


@contextmanager
def _running(server: uvicorn.Server) -> Iterator[tuple[str, int]]:
    listener = _listener()

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve, name="asgi door")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def werkzeug(name: str, prefix: str) -> Iterator[Door]:
    """The Flask door under werkzeug's server; with a prefix as a blueprint in another app."""
    composed: list[Composed] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Gateway]:
        composed.append(Composed(io.StringIO()))
        yield composed[-1].gateway

    gateway = ThreadedGateway(lifespan)
    if prefix:
        app = Flask("host", static_folder=None)
        app.register_blueprint(blueprint_over(gateway, "keyhole"), url_prefix=prefix)
    else:
        app = app_over(gateway)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="werkzeug")
    thread.start()
    try:
        yield Door(name, server.server_address[:2], prefix, composed)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        gateway.close()


@contextmanager
def gunicorn(folder: Path) -> Iterator[Door]:
    """The Flask door under gunicorn with the repository's own settings, as a process."""
    listener = _listener()
    output = folder / "gunicorn.out"
    command = [
        *(sys.executable, "-m", "gunicorn", "doors.gunicorn_app:app"),
        *("--config", str(REPOSITORY / "gunicorn.conf.py")),
        *("--bind", f"fd://{listener.fileno()}", "--no-control-socket"),
    ]
    paths = [str(REPOSITORY / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with output.open("wb") as written:
        process = subprocess.Popen(
            command,
            pass_fds=[listener.fileno()],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=folder,
        )
    try:
        yield Door("gunicorn", listener.getsockname(), output=output, pid=process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
        listener.close()
