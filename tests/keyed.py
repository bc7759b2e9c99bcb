"""A whole gateway with keys, as a worker opens it, in this process: mirror, limits and journal.

    async with keyed(tmp_path, far.url, [keys.key(1)]) as here:
        answer = await here.call("/generate", {"input": "x"}, keys.secret(1))

Connections are fast lanes without a socket (server/lanes.py); upstreams are reached over real
ones. The clerk's part, the mirror, is written by the test.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from doors.servers import STRICT_DOORS
from keyhole import main
from keyhole.bookkeeping import journal_dir
from keyhole.config import Inputs, load
from keyhole.exchange import Gateway
from keyhole.io.clock import SystemClock
from keyhole.io.refusals import read_refusals
from keyhole.ledger.mirror import Mirror
from keyhole.ledger.segments import Segment, list_segments
from keyhole.server.log import AccessLog
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.keys import Key
from keyhole.wire.records import Refusal
from server.lanes import Lane

CONFIG = """
[server]
builtin_routes = false
[upstream.far]
kind = "{kind}"
url = "{url}"
{upstream}
[route.default]
targets = ["far/m"]
[route.other]
targets = ["far/other"]
[price."far/*"]
input = 1.0
output = 2.0
{more}
"""
PATIENCE_S = 30


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]


def request_bytes(
    path: str,
    body: bytes | Any = b"",
    secret: str | None = None,
    *,
    method: str = "POST",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if secret is not None:
        lines.append(f"Authorization: Bearer {secret}")
    lines += [f"{name}: {value}" for name, value in headers]
    if content or method == "POST":
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


class Connection:
    """One client's, through the fast lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    def send(self, content: bytes) -> None:
        self.lane.protocol.data_received(content)

    @property
    def received(self) -> bytes:
        return bytes(self.lane.transport.written)

    def answers(self) -> list[Answer]:
        """The whole ones so far."""
        found, rest = [], self.received
        while rest:
            head, ended, body = rest.partition(b"\r\n\r\n")
            if not ended:
                break
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value for name, _, value in (it.partition(": ") for it in lines)
            }
            if "transfer-encoding" in headers:
                whole, ended, after = body.partition(b"0\r\n\r\n")
                if not ended:
                    break
                content = dechunked(whole)
            else:
                length = int(headers.get("content-length", 0))
                if len(body) < length:
                    break
                content, after = body[:length], body[length:]
            found.append(Answer(int(first.split(" ")[1]), headers, content))
            rest = after
        return found

    async def answer(self, count: int = 1) -> Answer:
        """The last of so many."""
        await until(lambda: len(self.answers()) >= count)
        return self.answers()[count - 1]

    async def receives(self, text: bytes) -> None:
        await until(lambda: text in self.received)

    async def end(self) -> None:
        self.lane.transport.abort()
        await self.lane.settle()


def dechunked(content: bytes) -> bytes:
    parts = []
    while content:
        size, _, rest = content.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        content = rest[length + 2 :]
    return b"".join(parts)


class Keyed:
    """The gateway, and who calls."""

    def __init__(
        self, data: Path, runtime: main.Runtime, mirror: Mirror, log: io.StringIO, clock: Any
    ) -> None:
        self.data, self.runtime, self.mirror, self.log = data, runtime, mirror, log
        self.clerk_was_asked = False
        self.gateway = runtime.gateway
        if clock is not None:
            self.gateway = Gateway(msgspec.structs.replace(self.gateway.parts, clock=clock))
        self._lanes = {
            name: Lane(name, gateway=self.gateway, admin=runtime.admin) for name in STRICT_DOORS
        }

    def connect(self, door: str = "fastlane", *, peer: str = "127.0.0.1") -> Connection:
        lane = self._lanes[door].another()
        if peer != "127.0.0.1":
            lane.protocol.peer = peer
            lane.protocol.client = (peer, 1)
        return Connection(lane)

    async def call(
        self, path: str, body: Any, secret: str | None, *, door: str = "fastlane", **options: Any
    ) -> Answer:
        """One request on a connection of its own."""
        connection = self.connect(door)
        connection.send(request_bytes(path, body, secret, **options))
        answer = await connection.answer()
        await connection.end()
        return answer

    def tell(self, *keys: Key) -> None:
        """What the clerk does when these have changed."""
        self.mirror.update(keys=keys, looked_at_ms=now_ms())

    def lines(self) -> list[Any]:
        """Of the journal, in their order."""
        found: list[Any] = []
        for name in list_segments(journal_dir(self.data)):
            with Segment(journal_dir(self.data) / name.file) as segment:
                offset, is_last = 0, False
                while not is_last:
                    piece = segment.read(offset)
                    found += piece.lines
                    offset, is_last = piece.offset, piece.is_last
        return found

    def receipts(self) -> list[Receipt]:
        return [line for line in self.lines() if isinstance(line, Receipt)]

    def intents(self) -> list[Intent]:
        return [line for line in self.lines() if isinstance(line, Intent)]

    def refusals(self) -> list[Refusal]:
        return list(read_refusals(self.data))


@asynccontextmanager
async def keyed(
    place: Path,
    url: str,
    keys: Sequence[Key],
    *,
    kind: str = "openai",
    upstream: str = "",
    more: str = "",
    clock: Any = None,
    admin_key: str = "",
) -> AsyncIterator[Keyed]:
    """Open it in a state directory of its own below `place`; again for what a restart is like."""
    (place / "keyhole.toml").write_text(
        CONFIG.format(kind=kind, url=url, upstream=upstream, more=more)
    )
    data = place / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    if admin_key:
        (data / "admin.key").write_text(f"{admin_key}\n")
        (data / "admin.key").chmod(0o600)
    mirror = Mirror(data)
    mirror.rebuild(keys, have_existed=bool(keys), looked_at_ms=now_ms())
    given = Inputs(
        environ={"KEYHOLE_DATA": str(data), "FAR_TOKEN": "sk-of-the-operator"},
        cwd=place,
        home=place,
    )
    settings = load(given, backends=main.backends(), engine_models=lambda _: [])
    log = io.StringIO()
    try:
        async with main.open_runtime(
            settings,
            keeps_engine=False,
            role="server",
            serves_admin=bool(admin_key),
            observers=(AccessLog("json", log),),
        ) as runtime:
            yield Keyed(data, runtime, mirror, log, clock)
    finally:
        mirror.close()


class StillDate:
    """A clock whose date stands where a test puts it; durations and randomness are real."""

    def __init__(self, unix_ms: int) -> None:
        self._real = SystemClock()
        self.ms = unix_ms

    def monotonic(self) -> float:
        return self._real.monotonic()

    def unix_ms(self) -> int:
        return self.ms

    def random_hex(self, count: int) -> str:
        return self._real.random_hex(count)

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds)


async def until(look: Callable[[], object]) -> None:
    """Let the loop go on until `look` finds something."""
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
