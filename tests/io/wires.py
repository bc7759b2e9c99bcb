"""What the tests of `io` share: a network that is a list of bytes, and requests to send on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec import Struct

from keyhole.catalog import Upstream
from keyhole.errors import KeyholeError
from keyhole.io.deadlines import DeadlineWheel
from keyhole.io.failures import BadResponseError
from keyhole.io.http1 import Connection
from keyhole.io.request import Sealed
from keyhole.io.response import ResponseReader
from keyhole.io.transport import PooledTransport
from keyhole.outbox import Outbox
from keyhole.secret import Secret
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse
from standins import Reply

TOKEN = "hf_planted_token_0123456789"
TIMEOUTS = Timeouts(connect_s=5.0, first_byte_s=10.0, total_s=60.0)
PATIENT = Timeouts(connect_s=50.0, first_byte_s=50.0, total_s=60.0)
MAX_BODY_BYTES = 1000
OK = Reply.json({"ok": True})


class FakeTransport(asyncio.Transport):
    """Keeps what is written, and does what it is told in the next turn of the loop."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unsent_bytes = 0
        self.is_closed = False
        self.is_paused = False
        self._connection = connection
        connection.connection_made(self)

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def abort(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    close = abort

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def eof(self) -> None:
        """As the event loop does: the transport closes when eof_received returns nothing."""
        assert self._connection.eof_received() is None
        self.abort()


class FakeOwner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_opened(self, connection: Connection) -> None:
        self.told.append("opened")

    def on_dead(self, connection: Connection) -> None:
        self.told.append("dead")

    def on_closed(self, connection: Connection) -> None:
        self.told.append("closed")


class Wire:
    """A Connection on a FakeTransport, and what belongs to it."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES, idle_s: float = 20.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = DeadlineWheel(self.loop)
        self.owner = FakeOwner()
        self.connection = Connection(
            self.owner,
            self.wheel,
            outbox=Outbox(),
            name="gpu",
            max_body_bytes=max_body_bytes,
            idle_s=idle_s,
        )
        self.transport = FakeTransport(self.connection)

    def feed(self, *pieces: bytes) -> None:
        """Let the bytes come in, as far as somebody is there to take them."""
        for piece in pieces:
            if not self.transport.is_closed:
                self.connection.data_received(piece)

    def ask(self, *, timeouts: Timeouts = TIMEOUTS, is_head: bool = False) -> asyncio.Task[None]:
        """A task that asks; it has written its request when this returns."""

        async def run() -> None:
            await self.connection.ask(
                Sealed(b"POST / HTTP/1.1\r\n\r\n"),
                began_s=self.loop.time(),
                timeouts=timeouts,
                is_head_request=is_head,
            )

        return self.loop.create_task(run())

    async def pass_s(self, seconds: float) -> None:
        """Let that much time pass, for the deadlines alone."""
        self.wheel.step(self.loop.time() + seconds)
        await turn()


class Outcome(Struct, kw_only=True):
    """What was made of some bytes; everything that two ways of reading must agree on."""

    status: int | None = None
    headers: dict[str, str] | None = None
    body: bytes | None = None
    may_reuse: bool = False
    error: str | None = None
    code: str | None = None


def read(
    pieces: Iterable[bytes], *, ends: bool = False, is_head: bool = False, earlier: bytes = b""
) -> Outcome:
    """What ResponseReader makes of the pieces, and of the end behind them.

    `earlier` is a good response that it has read before.
    """
    reader = ResponseReader(MAX_BODY_BYTES)
    if earlier:
        reader.begin()
        reader.feed(earlier)
        assert reader.may_reuse
        reader.take()
    reader.begin(is_head_request=is_head)
    is_unasked = False
    try:
        for piece in pieces:
            if reader.is_complete:
                is_unasked = True
            else:
                reader.feed(piece)
        if ends:
            reader.end()
    except BadResponseError as bad:
        return Outcome(error=bad.what, code=bad.code)
    if not reader.is_complete:
        return Outcome(error="waits for more")
    return Outcome(
        status=reader.status,
        headers=dict(reader.headers),
        body=reader.take(),
        may_reuse=reader.may_reuse and not is_unasked and not ends,
    )


def splits(content: bytes) -> Iterable[tuple[bytes, ...]]:
    """The content in two pieces, parted at every byte; and byte by byte."""
    for at in range(1, len(content)):
        yield content[:at], content[at:]
    yield tuple(content[at : at + 1] for at in range(len(content)))


def make_upstream(url: str = "http://stand-in", **fields: Any) -> Upstream:
    return Upstream(**{"name": "gpu", "kind": "tgi", "url": url, "secret": Secret(TOKEN)} | fields)


def make_request(upstream: Upstream, body: bytes = b"{}", **fields: Any) -> UpstreamRequest:
    return UpstreamRequest(**{"upstream": upstream, "path": "/generate", "body": body} | fields)


async def turn(count: int = 5) -> None:
    """Let the event loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool]) -> None:
    """Return once it is so; fails when it is not after ten seconds."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + 10
    while not is_so():
        assert loop.time() < give_up_s, "it never came to be so"
        await asyncio.sleep(0.001)


def open_sockets() -> int:
    """How many sockets this process has open."""
    found = 0
    for number in os.listdir("/dev/fd"):  # noqa: PTH208  # a listing of numbers, not of files
        with contextlib.suppress(OSError):  # the listing's own
            found += stat.S_ISSOCK(os.fstat(int(number)).st_mode)
    return found


async def failure(awaitable: Awaitable[Any]) -> KeyholeError:
    """The error that it raises."""
    try:
        await awaitable
    except KeyholeError as error:
        return error
    raise AssertionError("it did not fail")


def send(
    transport: PooledTransport,
    upstream: Upstream,
    body: bytes = b"{}",
    *,
    timeouts: Timeouts = TIMEOUTS,
    **fields: Any,
) -> asyncio.Task[UpstreamResponse]:
    request = make_request(upstream, body, **fields)
    sending = transport.send(request, request_id="id", timeouts=timeouts)
    return asyncio.get_running_loop().create_task(sending)


def state(transport: PooledTransport) -> str:
    return repr(transport).removeprefix("<PooledTransport gpu: ").removesuffix(">")
