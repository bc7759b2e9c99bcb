"""What bench/stream.py measures: the streaming upstream and each server in front of it.

Every contender does the same work: take a POST, attach the upstream's token, ask the upstream on
a connection that it keeps, pass the stream on piece by piece, write a line about it to a file.

Facts (nginx 1.22, https://nginx.org/en/docs/http/ngx_http_proxy_module.html, 2026-11): without
`proxy_buffering` a piece is passed on as soon as it has come.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import stream_load
from contenders import (
    PROMPT,
    START_WITHIN_S,
    Contender,
    free_port,
    nginx_config,
    starting,
    take_lines,
)
from process_tree import BenchError, Running, running
from stream_load import Load, Measured

WARM_STREAMS = 20
WARM_RAMP_S = 0.2

_PROXY = """
  access_log access.log;
  upstream bench {{
    server 127.0.0.1:{upstream}; keepalive 4096;
    keepalive_requests 1000000000; keepalive_timeout 300s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /v1/chat/completions {{
      proxy_pass http://bench;
      proxy_buffering off;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
"""
_KEYHOLE = """
[server]
builtin_routes = false

[upstream.bench]
kind = "openai"
url = "http://127.0.0.1:{upstream}/v1"
token = {{ env = "BENCH_TOKEN" }}

[route.default]
targets = ["bench/bench-chat"]
"""
_SERVE = ("keyhole", "serve", "--listen", "127.0.0.1:{port}")


@dataclass(frozen=True)
class Ask:
    """What a client asks, and how the stream ends that it gets."""

    path: str
    body: str
    ending: bytes

    def load(self, port: int, *, streams: int, ramp_s: float, seconds: float) -> Load:
        """So many streams of it."""
        return Load(port, self.path, self.body, self.ending, streams, ramp_s, seconds)


CHAT = Ask(
    "/v1/chat/completions",
    json.dumps(
        {"model": "default", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    ),
    b"data: [DONE]",
)
GENERATE = Ask("/generate", json.dumps({"input": PROMPT, "stream": True}), b'"done"')


@dataclass(frozen=True)
class Streamer:
    """One way for a stream to its client."""

    name: str
    title: str
    ask: Ask
    contender: Contender | None
    """None: straight from the upstream."""


def streamers() -> list[Streamer]:
    """All of them."""
    return [
        Streamer("direct", "the upstream itself", CHAT, None),
        Streamer(
            "nginx",
            "nginx",
            CHAT,
            Contender(
                name="nginx",
                title="nginx",
                command=("nginx", "-p", ".", "-e", "error.log", "-c", "nginx.conf"),
                log="access.log",
                files={"nginx.conf": nginx_config(_PROXY)},
            ),
        ),
        Streamer("same", "Keyhole, same format", CHAT, _keyhole("same")),
        Streamer("translated", "Keyhole, translated", GENERATE, _keyhole("translated")),
    ]


def _keyhole(name: str) -> Contender:
    return Contender(
        name=name, title=name, command=_SERVE, log="output", files={"keyhole.toml": _KEYHOLE}
    )


@dataclass(frozen=True)
class Source:
    """The running upstream."""

    port: int
    program: Running

    def status(self) -> Status:
        """What it has done so far."""
        return self._get("/status")

    def pace(self, interval_ms: int) -> None:
        """Set how long it waits between two chunks of a stream."""
        self._get(f"/pace/{interval_ms}")

    def _get(self, path: str) -> Status:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_WITHIN_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return Status(**json.loads(connection.getresponse().read()))


@dataclass(frozen=True)
class Status:
    """What the upstream counts."""

    open_now: int
    """Streams that it has not written to their end."""
    chunks: int
    late: int
    """Chunks that left later than they should."""
    slow: int
    """How often a socket did not take a whole chunk."""


@dataclass(frozen=True)
class Server:
    """A running contender that has passed streams on, or the upstream itself."""

    streamer: Streamer
    port: int
    program: Running
    log: Path | None

    def take_log(self) -> int | None:
        """How many lines its log holds; then empties it. None where there is no log."""
        return None if self.log is None else take_lines(self.log)


@contextlib.contextmanager
def upstream(folder: Path, *, cores: set[int]) -> Iterator[Source]:
    """Run the upstream."""
    folder.mkdir()
    port = free_port()
    with running(
        [sys.executable, str(Path(__file__).parent / "stream_upstream.py"), str(port)],
        environ={"PATH": os.environ.get("PATH", os.defpath)},
        folder=folder,
        output=folder / "output",
        cores=cores,
    ) as program:
        _await_port(program, port)
        yield Source(port, program)


@contextlib.contextmanager
def serving(
    streamer: Streamer, folder: Path, *, source: Source, cores: set[int]
) -> Iterator[Server]:
    """Start a contender in a new folder, and wait until it has passed some streams on."""
    if streamer.contender is None:
        server = Server(streamer, source.port, source.program, None)
        _warm_up(server)
        yield server
        return
    contender = streamer.contender
    with starting(contender, folder, upstream_port=source.port, cores=cores) as started:
        server = Server(streamer, started.port, started.program, folder / contender.log)
        _await_port(started.program, started.port)
        _warm_up(server)
        yield server


def _await_port(program: Running, port: int) -> None:
    deadline_s = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), START_WITHIN_S).close()
        except ConnectionRefusedError:
            program.check()
            time.sleep(0.01)
        else:
            return
    raise BenchError(f"nobody listens at port {port} after {START_WITHIN_S:g} s")


def _warm_up(server: Server) -> None:
    ask = server.streamer.ask
    load = ask.load(server.port, streams=WARM_STREAMS, ramp_s=WARM_RAMP_S, seconds=0)
    check(server, stream_load.run(load, at_open=_nothing, at_close=_nothing))


def _nothing() -> None:
    pass


def check(server: Server, measured: Measured) -> None:
    """Raise BenchError unless every stream came whole and right."""
    errors = {why: count for why, count in measured.errors.items() if count}
    if errors:
        server.program.check()
        right = f"{measured.streams} streams were right"
        raise BenchError(f"{server.streamer.name}: {right}, but there was: {errors}")
