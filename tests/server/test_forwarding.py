"""The way to the admin interface: who is let in, what goes on, and what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keyhole.errors import ClientError, Code
from keyhole.io.clock import SystemClock
from keyhole.io.transport import PooledTransport
from keyhole.server import forwarding
from keyhole.server.forwarding import MAX_BODY_BYTES, AdminDoor
from keyhole.wire.http import Head, Reply
from keyhole.wire.records import AccessRecord

ADMIN = b"kha_the-admin-key-canary"
KEYS = "/admin/v1/keys"


def check(head: Head) -> None:
    """What policy.credentials does, in short."""
    if head.first(b"authorization") != b"Bearer " + ADMIN:
        raise ClientError(Code.INVALID_INPUT, "Only the admin key lets in here.", status=401)


class Told:
    """An Observer that keeps what it hears."""

    def __init__(self) -> None:
        self.begun: list[AccessRecord] = []
        self.over: list[AccessRecord] = []

    def began(self, record: AccessRecord) -> None:
        self.begun.append(record)

    def ended(self, record: AccessRecord) -> None:
        self.over.append(record)

    def told(self, record: AccessRecord, texts: object) -> None: ...

    def crashed(self, record: AccessRecord, error: Exception) -> None: ...


class Clerk:
    """A socket that answers each connection with the same bytes, and keeps what it was sent."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.got: list[bytes] = []
        self.says = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nset-cookie: a=b\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")),
            0,
        )
        self.got.append(head + await reader.readexactly(length))
        writer.write(self.says + b"content-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()


class Opened:
    def __init__(self, door: AdminDoor, clerk: Clerk, told: Told) -> None:
        self.door, self.clerk, self.told = door, clerk, told

    async def ask(
        self,
        path: str = KEYS,
        *,
        method: str = "GET",
        key: bytes | None = ADMIN,
        query: bytes = b"",
        body: bytes | ClientError | None = b"",
    ) -> Reply:
        async def read(_: int) -> bytes | ClientError | None:
            return body

        headers = () if key is None else ((b"authorization", b"Bearer " + key),)
        head = Head(method=method, path=path, headers=(*headers, (b"cookie", b"c=1")))
        reply = await self.door.serve(head, query, read)
        assert reply is not None
        return reply


@asynccontextmanager
async def opened(folder: Path, *, has_clerk: bool = True) -> AsyncIterator[Opened]:
    clerk, told, transport = Clerk(folder / "clerk.sock"), Told(), PooledTransport()
    door = AdminDoor(
        transport=transport, socket=clerk.socket, check=check, observer=told, clock=SystemClock()
    )
    server = await asyncio.start_unix_server(clerk.serve, clerk.socket) if has_clerk else None
    try:
        yield Opened(door, clerk, told)
    finally:
        await transport.aclose()
        if server is not None:
            server.close()
            await server.wait_closed()


def code(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"]["code"])


async def test_the_clerk_gets_the_request_and_never_a_header(tmp_path: Path):
    async with opened(tmp_path) as it:
        reply = await it.ask(method="POST", query=b"a=1&b=%2F", body=b'{"name": "ann"}')
    assert (reply.status, reply.body) == (200, b"{}")
    (got,) = it.clerk.got
    assert got.startswith(b"POST /admin/v1/keys?a=1&b=%2F HTTP/1.1\r\n")
    assert got.endswith(b'\r\n\r\n{"name": "ann"}')
    assert ADMIN not in got
    assert b"cookie" not in got
    names = [name for name, _ in reply.headers]
    assert "set-cookie" not in names
    assert "x-request-id" in names


@pytest.mark.parametrize("key", [None, b"", b"wrong", b"kh_" + b"a" * 49, ADMIN + b"x", ADMIN[:-1]])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "TRACE"])
@pytest.mark.parametrize("path", [KEYS, "/admin", "/admin/", "/admin/v1/nothing", "/admin/../x"])
async def test_without_the_admin_key_nothing_is_told(
    tmp_path: Path, path: str, method: str, key: bytes | None
):
    """Whether a path is served, or the clerk is there, is nobody else's to know."""
    async with opened(tmp_path, has_clerk=False) as it:
        assert it.door.takes(path) or path == "/admin/../x"
        reply = await it.ask(path, method=method, key=key)
    assert reply.status == 401
    assert ("www-authenticate", "Bearer") in reply.headers


async def test_a_clerk_that_is_away_is_503(tmp_path: Path):
    async with opened(tmp_path, has_clerk=False) as it:
        reply = await it.ask()
    assert (reply.status, code(reply)) == (503, "clerk_unavailable")
    assert it.told.over[0].code == "clerk_unavailable"


async def test_a_body_that_is_too_long_is_refused_before_the_clerk(tmp_path: Path):
    too_long = ClientError(Code.BODY_TOO_LARGE, "too long", status=413)
    async with opened(tmp_path) as it:
        reply = await it.ask(method="POST", body=too_long)
    assert reply.status == 413
    assert it.clerk.got == []
    assert MAX_BODY_BYTES <= 2**20


@pytest.mark.parametrize("query", [b"a=\r\nx: y", b"a= b", b"a=\x00", b"a=\xff"])
async def test_a_query_that_would_not_arrive_is_refused(tmp_path: Path, query: bytes):
    async with opened(tmp_path) as it:
        reply = await it.ask(query=query)
    assert (reply.status, code(reply)) == (400, "malformed_request")
    assert it.clerk.got == []


async def test_every_request_is_told_to_the_observer(tmp_path: Path):
    async with opened(tmp_path) as it:
        await it.ask()
        await it.ask(key=b"wrong")
    assert [record.status for record in it.told.over] == [200, 401]
    assert it.told.begun == it.told.over
    assert it.told.over[0].path == KEYS


def test_only_the_admin_paths_are_taken():
    door = AdminDoor.takes
    takes = [path for path in ("/admin", "/admin/v1/x", "/administer", "/") if door(None, path)]  # type: ignore[arg-type]
    assert takes == ["/admin", "/admin/v1/x"]
    assert forwarding.PREFIX == "/admin/"
