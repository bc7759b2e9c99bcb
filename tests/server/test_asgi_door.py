"""The ASGI door, message by message."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doors.composed import MAX_BODY_BYTES, ODD_JSON, Composed
from keyhole.errors import SetupError
from keyhole.exchange import Gateway
from keyhole.server.app import LINGER_BYTES, AsgiDoor, Message

LOCAL = [(b"host", b"localhost")]
WHOLE = {"type": "http.request", "body": b'{"input": "odd"}', "more_body": False}
PART = {"type": "http.request", "body": b"x" * 65536, "more_body": True}
LAST = {"type": "http.request", "body": b"x"}
GONE = {"type": "http.disconnect"}


class Exchange:
    """One scope's messages in, and those that came out; what never comes is waited for."""

    def __init__(self, *incoming: Message) -> None:
        self.incoming = list(incoming)
        self.sent: list[Message] = []
        self.is_waiting = asyncio.Event()

    async def receive(self) -> Message:
        if not self.incoming:
            self.is_waiting.set()
            await asyncio.Event().wait()
        return self.incoming.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


def scope(**fields: Any) -> Message:
    asked: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "raw_path": b"/generate",
        "query_string": b"",
        "headers": LOCAL,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 5000),
    }
    return asked | fields


@pytest.fixture
def composed() -> Composed:
    return Composed(io.StringIO())


async def exchange(composed: Composed, *incoming: Message, **fields: Any) -> Exchange:
    happened = Exchange(*incoming)
    await AsgiDoor(composed.gateway)(scope(**fields), happened.receive, happened.send)
    assert len(asyncio.all_tasks()) == 1, "no task is left behind"
    assert composed.memory.began_count == len(composed.memory.records)
    return happened


async def test_a_body_in_one_piece_or_many_is_the_same(composed: Composed) -> None:
    body = WHOLE["body"]
    assert isinstance(body, bytes)
    pieces = [
        {"type": "http.request", "body": body[at : at + 1], "more_body": True}
        for at in range(len(body))
    ]
    for incoming in ([WHOLE], [*pieces, {"type": "http.request"}]):
        happened = await exchange(composed, *incoming)
        assert (happened.status, happened.body) == (200, ODD_JSON)
        assert happened.headers[b"content-length"] == str(len(ODD_JSON)).encode()


async def test_a_body_is_not_asked_for_before_the_caller_is_let_in(composed: Composed) -> None:
    happened = await exchange(composed, headers=[(b"host", b"evil.example")])
    assert happened.status == 403
    assert not happened.is_waiting.is_set()


class TestTooLarge:
    async def test_the_reply_goes_out_at_once_and_the_rest_is_dropped(
        self, composed: Composed
    ) -> None:
        happened = await exchange(composed, *[PART] * 10, LAST)
        assert happened.status == 413
        assert happened.headers[b"connection"] == b"close"
        assert happened.sent[1]["more_body"]
        assert happened.headers[b"content-length"] == str(len(happened.body)).encode()
        assert happened.incoming == []

    async def test_who_does_not_stop_is_cut_off(self, composed: Composed) -> None:
        many = (MAX_BODY_BYTES + LINGER_BYTES) // 65536 + 10
        happened = await exchange(composed, *[PART] * many)
        assert happened.status == 413
        assert len(happened.incoming) == 9

    async def test_who_leaves_then_leaves(self, composed: Composed) -> None:
        happened = await exchange(composed, *[PART] * 5, GONE, LAST)
        assert happened.incoming == [LAST]
        assert [record.status for record in composed.memory.records] == [413]

    async def test_who_asked_before_sending_sends_nothing(self, composed: Composed) -> None:
        headers = [*LOCAL, (b"expect", b"100-continue"), (b"content-length", b"9999999")]
        happened = await exchange(composed, LAST, headers=headers)
        assert happened.status == 413
        assert happened.incoming == [LAST]


async def test_head_has_the_headers_of_get_and_no_body(composed: Composed) -> None:
    page = {"raw_path": b"/health/live"}
    got, headed = [await exchange(composed, method=name, **page) for name in ("GET", "HEAD")]
    assert (got.body, headed.body) == (b'{"status":"ok"}', b"")
    assert got.headers[b"content-length"] == headed.headers[b"content-length"] == b"15"


async def test_options_has_neither_body_nor_length(composed: Composed) -> None:
    happened = await exchange(composed, method="OPTIONS")
    assert (happened.status, happened.body) == (204, b"")
    assert b"content-length" not in happened.headers


@pytest.mark.parametrize("incoming", [[GONE], [WHOLE | {"more_body": True}, GONE]])
async def test_who_leaves_within_the_body_gets_nothing(
    composed: Composed, incoming: list[Message]
) -> None:
    happened = await exchange(composed, *incoming)
    assert happened.sent == []
    assert [record.status for record in composed.memory.records] == [499]


async def test_who_leaves_while_it_runs_gets_nothing(composed: Composed) -> None:
    waits = WHOLE | {"body": b'{"input": "wait"}'}
    happened = await exchange(composed, waits, GONE)
    assert happened.sent == []
    assert [record.status for record in composed.memory.records] == [499]


@pytest.mark.parametrize("body", [b'{"input": "wait"}', None], ids=["running", "reading"])
async def test_a_server_that_gives_up_leaves_nothing_behind(
    composed: Composed, body: bytes | None
) -> None:
    happened = Exchange(*[] if body is None else [WHOLE | {"body": body}])
    door = AsgiDoor(composed.gateway)
    task = asyncio.ensure_future(door(scope(), happened.receive, happened.send))
    await happened.is_waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
    assert [record.status for record in composed.memory.records] == [499]
    assert composed.transport.inside == 0


async def test_cancelled_before_it_runs_it_has_ended_too(composed: Composed) -> None:
    """The task that runs the gateway may be cancelled before its first step."""
    happened = Exchange(WHOLE)
    door = AsgiDoor(composed.gateway)
    task = asyncio.ensure_future(door(scope(), happened.receive, happened.send))
    for turns in range(8):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert composed.memory.began_count == len(composed.memory.records)
        happened = Exchange(WHOLE)
        task = asyncio.ensure_future(door(scope(), happened.receive, happened.send))
    await task
    assert composed.memory.began_count == len(composed.memory.records)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"client": None, "server": ("/run/keyhole.sock", None)}, 200),
        ({"client": None, "server": None}, 403),
        ({"client": None}, 403),
        ({"client": ("10.0.0.1", 1)}, 403),
        ({"client": ["::1", 1]}, 200),
    ],
    ids=["Unix socket", "untold", "TCP and already gone", "elsewhere", "IPv6"],
)
async def test_who_calls(composed: Composed, fields: dict[str, Any], status: int) -> None:
    assert (await exchange(composed, WHOLE, **fields)).status == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"raw_path": None}, 200),
        ({"raw_path": b"/generate?x=1"}, 200),
        ({"raw_path": b"/%67enerate"}, 404),
        ({"raw_path": None, "path": "/gener\nate"}, 404),
        ({"raw_path": b"/gener\xffate"}, 404),
        ({"raw_path": b""}, 404),
        ({"raw_path": b"/ai/generate", "root_path": "/ai"}, 200),
        ({"raw_path": b"/generate", "root_path": "/ai"}, 200),
        ({"raw_path": b"/ai/generate", "root_path": ""}, 404),
        ({"raw_path": b"/aigenerate", "root_path": "/ai"}, 404),
    ],
)
async def test_which_path(composed: Composed, fields: dict[str, Any], status: int) -> None:
    assert (await exchange(composed, WHOLE, **fields)).status == status


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": [*LOCAL, (b"upgrade", b"h2c"), (b"connection", b"Upgrade")]},
        {"headers": [*LOCAL, (b"expect", b"100-continue")]},
        {"method": "CONNECT"},
    ],
)
async def test_a_doubtful_connection_ends(composed: Composed, fields: dict[str, Any]) -> None:
    assert (await exchange(composed, WHOLE, **fields)).headers[b"connection"] == b"close"


async def test_connect_is_never_a_tunnel(composed: Composed) -> None:
    assert (await exchange(composed, method="CONNECT")).status == 405
    elsewhere = {"method": "CONNECT", "raw_path": b"evil.example:443"}
    assert (await exchange(composed, **elsewhere)).status == 404


async def test_websockets_are_turned_away_and_other_protocols_refused(composed: Composed) -> None:
    door, happened = AsgiDoor(composed.gateway), Exchange({"type": "websocket.connect"})
    await door({"type": "websocket"}, happened.receive, happened.send)
    assert [message["type"] for message in happened.sent] == ["websocket.close"]
    with pytest.raises(ValueError, match="carrier-pigeon"):
        await door({"type": "carrier-pigeon"}, happened.receive, happened.send)


class TestLifespan:
    MESSAGES = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})

    async def live(self, door: AsgiDoor) -> list[str]:
        happened = Exchange(*self.MESSAGES)
        await door({"type": "lifespan"}, happened.receive, happened.send)
        return [message["type"].removeprefix("lifespan.") for message in happened.sent]

    async def test_the_gateway_is_open_between_startup_and_shutdown(
        self, composed: Composed
    ) -> None:
        steps = []

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            steps.append("open")
            yield composed.gateway
            steps.append("closed")

        door = AsgiDoor(lifespan=lifespan)
        assert await self.live(door) == ["startup.complete", "shutdown.complete"]
        assert steps == ["open", "closed"]
        happened = Exchange(WHOLE)
        with pytest.raises(RuntimeError, match="lifespan"):
            await door(scope(), happened.receive, happened.send)

    async def test_a_gateway_that_was_given_needs_none(self, composed: Composed) -> None:
        door = AsgiDoor(composed.gateway)
        assert await self.live(door) == ["startup.complete", "shutdown.complete"]
        happened = Exchange(WHOLE)
        await door(scope(), happened.receive, happened.send)
        assert json.loads(happened.body) == json.loads(ODD_JSON)

    async def test_a_setup_that_fails_is_told_in_its_own_words(self) -> None:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            raise SetupError("No.", hint="do this")
            yield

        happened = Exchange(*self.MESSAGES)
        await AsgiDoor(lifespan=lifespan)({"type": "lifespan"}, happened.receive, happened.send)
        assert happened.sent == [{"type": "lifespan.startup.failed", "message": "No. (do this)"}]

    async def test_another_failure_is_told_and_raised(self) -> None:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            raise KeyError("a secret")
            yield

        happened = Exchange(*self.MESSAGES)
        door = AsgiDoor(lifespan=lifespan)
        with pytest.raises(KeyError):
            await door({"type": "lifespan"}, happened.receive, happened.send)
        assert happened.sent == [{"type": "lifespan.startup.failed", "message": "KeyError"}]
