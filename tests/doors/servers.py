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
from pathlib import Path

import uvicorn
import uvloop
from flask import Flask
from werkzeug.serving import make_server

from doors.composed import Composed
from keyhole.exchange import Gateway
from keyhole.server.app import AsgiDoor
from keyhole.server.flask import app_over, blueprint_over
from keyhole.server.loop import ThreadedGateway

REPOSITORY = Path(__file__).parents[2]
ASGI_DOORS = ("asgi-httptools", "asgi-h11")
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
    output: Path | None = None
    """What another process has printed."""

    def __str__(self) -> str:
        return self.name

    def written(self) -> str:
        """The log so far."""
        if self.output is not None:
            return self.output.read_text()
        log = self.composed[-1].log
        assert isinstance(log, io.StringIO)
        return log.getvalue()


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

    config = uvicorn.Config(
        AsgiDoor(lifespan=lifespan),
        http=http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    listener = _listener()

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve, name="asgi door")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        address = listener.getsockname()
        yield Door(f"asgi-{http}", address, "", composed, loops[0])
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
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}
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
        yield Door("gunicorn", listener.getsockname(), output=output)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
        listener.close()
