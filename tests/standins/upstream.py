"""An HTTP/1.1 server that answers with what a test told it to, and remembers what it was asked.

    async with StandIn(Reply(503, body=b"{}"), Reply(body=b"[]")) as upstream:
        ...                       # upstream.url, upstream.requests

It judges nothing: it reads a head, a body by its Content-Length or in chunks, and writes what
is scripted. The n-th request gets the n-th answer, and the last answer serves all that follow;
an answer may also be a function of the request. With `socket_path` it listens there instead,
and `url` is then `unix:PATH`. While it streams it watches its socket: `departures` tells which
clients left before the end, and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

EVENT_STREAM = "text/event-stream"
PATIENCE_S = 60.0
"""How long a gate is waited for, so that a test that forgot it ends."""
WATCH_EVERY_S = 0.005
"""How often a streaming answer looks whether its client is still there."""


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in their order, repeats included."""
    body: bytes
    connection: int
    """Which connection it came on, counted from 0."""
    arrived_s: float = 0.0
    """When it was read, on the clock of `time.monotonic`."""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def header_names(self) -> set[str]:
        return {key for key, _ in self.headers}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """A well-formed answer; content-length is added unless the headers have their own framing."""

    status: int = 200
    body: bytes = b""
    headers: Iterable[tuple[str, str]] | Mapping[str, str] = ()
    delay_s: float = 0.0
    """Before the first byte."""
    body_delay_s: float = 0.0
    """Between the head and the body."""
    is_closing: bool = False
    """Whether the connection is closed after it."""

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json"} | named)

    def head(self) -> bytes:
        items = self.headers.items() if isinstance(self.headers, Mapping) else self.headers
        headers = [(name.lower(), value) for name, value in items]
        names = {name for name, _ in headers}
        if not names & {"content-length", "transfer-encoding"} and self.status not in (204, 304):
            headers.append(("content-length", str(len(self.body))))
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Raw:
    """Bytes as they are, piece by piece, after which the connection is closed.

    A number among the pieces is a pause in seconds. No piece at all closes without an answer.
    """

    pieces: tuple[bytes | float, ...] = ()


class Gate:
    """Holds a streamed answer back until a test opens it, from whichever thread."""

    def __init__(self) -> None:
        self.is_open = False

    def open(self) -> None:
        self.is_open = True


@dataclass(frozen=True)
class Streamed:
    """An answer in chunks: one for each piece, as soon as it is due.

    A number among the pieces is a pause in seconds; a Gate is waited for.
    """

    pieces: tuple[bytes | float | Gate, ...]
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": EVENT_STREAM})
    status: int = 200
    is_cut: bool = False
    """Whether the connection breaks off where the last chunk should be."""

    def head(self) -> bytes:
        named = dict(self.headers) | {"transfer-encoding": "chunked"}
        return Reply(self.status, headers=named).head()


@dataclass(frozen=True)
class Departure:
    """A client that left while it was being answered."""

    seen: Seen
    at_s: float
    """On the clock of `time.monotonic`."""
    sent: int
    """How many pieces it had been sent."""


Answer = Reply | Raw | Streamed
Script = Answer | Callable[[Seen], Answer]


class StandIn:
    """The server; `async with` starts it, and leaves no task or socket behind."""

    def __init__(self, *answers: Script, socket_path: Path | None = None) -> None:
        self.answers = answers or (Reply(),)
        self.socket_path = socket_path
        self.requests: list[Seen] = []
        self.departures: list[Departure] = []
        self.url = ""
        self.connections = 0
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        if self.socket_path is not None:
            self._server = await asyncio.start_unix_server(self._accept, self.socket_path)
            self.url = f"unix:{self.socket_path}"
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            host, port = self._server.sockets[0].getsockname()[:2]
            self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)

    async def wait_for_requests(self, count: int = 1) -> None:
        """Return once that many requests have come in."""
        while len(self.requests) < count:
            self._arrived.clear()
            await self._arrived.wait()

    def wait_for_departure(self, seen: Seen, within_s: float = PATIENCE_S) -> bool:
        """Whether that request's client leaves; for threads other than the server's."""
        deadline = time.monotonic() + within_s
        while not any(departure.seen is seen for departure in tuple(self.departures)):
            if time.monotonic() > deadline:
                return False
            time.sleep(WATCH_EVERY_S)
        return True

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        task = asyncio.ensure_future(self._serve(reader, writer, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer, number):
                    pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        """Serve one request; whether the connection stays open."""
        seen = await _read(reader, number)
        script = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(seen)
        self._arrived.set()
        answer = script(seen) if callable(script) else script
        if isinstance(answer, Raw):
            for piece in answer.pieces:
                if isinstance(piece, bytes):
                    writer.write(piece)
                    await writer.drain()
                else:
                    await asyncio.sleep(piece)
            return False
        if isinstance(answer, Streamed):
            return await self._stream(answer, seen, reader, writer)
        await asyncio.sleep(answer.delay_s)
        writer.write(answer.head())
        await writer.drain()
        await asyncio.sleep(answer.body_delay_s)
        writer.write(answer.body)
        await writer.drain()
        return not answer.is_closing

    async def _stream(
        self,
        answer: Streamed,
        seen: Seen,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        writer.write(answer.head())
        sent = 0
        try:
            for piece in answer.pieces:
                if isinstance(piece, bytes):
                    if _is_gone(reader):
                        raise ConnectionResetError
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    sent += 1
                    await writer.drain()
                else:
                    await _wait(piece, reader)
        except TimeoutError:
            return False
        except ConnectionError:
            self.departures.append(Departure(seen, time.monotonic(), sent))
            return False
        if not answer.is_cut:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return not answer.is_cut


def _is_gone(reader: asyncio.StreamReader) -> bool:
    """Whether the client has hung up: with an end-of-file, or with a reset.

    It is a reset where it had not read all that it was sent; asyncio tells that as an exception.
    """
    return reader.at_eof() or reader.exception() is not None


async def _wait(reason: float | Gate, reader: asyncio.StreamReader) -> None:
    """Wait for that long, or for the gate.

    Raises ConnectionResetError when the client leaves, TimeoutError when nobody opens the gate.
    """
    began = time.monotonic()
    while not (reason.is_open if isinstance(reason, Gate) else time.monotonic() - began >= reason):
        if _is_gone(reader):
            raise ConnectionResetError
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError("nobody opened the gate")
        await asyncio.sleep(WATCH_EVERY_S)


async def _read(reader: asyncio.StreamReader, number: int) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = []
    for line in lines:
        name, _, value = line.partition(":")
        headers.append((name.lower(), value.strip()))
    named = dict(headers)
    if named.get("transfer-encoding") == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(named.get("content-length", "0")))
    return Seen(method, path, tuple(headers), body, number, time.monotonic())


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readline()
    return body


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
