"""At every kind of door a key that goes ends what waits and what streams with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import keys
from keyed import Keyed, keyed, now_ms, request_bytes, until
from keyhole.exchange import Gateway
from keyhole.server.app import AsgiDoor
from keyhole.server.flask import app_over
from keyhole.server.loop import ThreadedGateway
from standins import Gate, Reply, Seen, StandIn, Streamed

KEY, SECRET = keys.key(1, created_at_ms=1), keys.secret(1)
GATE = Gate()
CHAT = {"messages": [{"role": "user", "content": "x"}]}
PATH = "/v1/chat/completions"
Ask = Callable[[Keyed, bool], Awaitable[tuple[int, bytes]]]


def piece(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()


def play(seen: Seen) -> Any:
    if seen.json.get("stream"):
        return Streamed((piece("first"), GATE))
    return Reply(200, b"{}", delay_s=60)


async def through_the_fast_lane(here: Keyed, stream: bool) -> tuple[int, bytes]:
    connection = here.connect()
    connection.send(request_bytes(PATH, CHAT | {"stream": stream}, SECRET))
    answer = await connection.answer()
    await connection.end()
    return answer.status, answer.body


async def through_asgi(here: Keyed, stream: bool) -> tuple[int, bytes]:
    body = json.dumps(CHAT | {"stream": stream}).encode()
    messages = [{"type": "http.request", "body": body}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"x"), (b"authorization", f"Bearer {SECRET}".encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": PATH}
    scope |= {"headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    await AsgiDoor(here.gateway)(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def through_flask(here: Keyed, stream: bool) -> tuple[int, bytes]:
    """The gateway's own loop is the test's here; so its steps are run on it from a thread."""
    loop = asyncio.get_running_loop()
    gateway = _ThreadedOver(here.gateway, loop)
    client = app_over(gateway).test_client()  # type: ignore[arg-type]

    def post() -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {SECRET}"}
        reply = client.post(PATH, json=CHAT | {"stream": stream}, headers=headers)
        return reply.status_code, reply.data

    return await asyncio.to_thread(post)


class _ThreadedOver(ThreadedGateway):
    """A ThreadedGateway whose loop is one that runs already."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            yield gateway

        super().__init__(lifespan)
        from keyhole.server.loop import _Loop  # noqa: PLC0415

        running = object.__new__(_Loop)
        running.gateway, running._loop = gateway, loop
        running._tasks, running._streams = set(), set()
        self._loop = running


DOORS = {
    "fastlane": through_the_fast_lane,
    "asgi": through_asgi,
    "flask": through_flask,
}


@pytest.mark.parametrize("how", ["revoked", "expired", "removed"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("door", DOORS)
async def test_what_runs_with_it_ends(tmp_path: Path, door: str, stream: bool, how: str) -> None:
    async with StandIn(play) as far, keyed(tmp_path, far.url, [KEY]) as here:
        asking = asyncio.ensure_future(DOORS[door](here, stream))
        await far.wait_for_requests()
        if stream:
            await until(lambda: any(it.stream for it in here.gateway._running[KEY.id].values()))
        if how == "removed":
            here.mirror.update(removed=[KEY.digest], looked_at_ms=now_ms())
        else:
            ends = {"revoked": "revoked_at_ms", "expired": "expires_at_ms"}[how]
            here.tell(replace(KEY, **{ends: now_ms()}))
        status, body = await asyncio.wait_for(asking, 5)
        said = {"revoked": b"was revoked on", "expired": b"expired on", "removed": b"was removed"}
        assert said[how] in body
        assert status == (200 if stream else 401)
        assert (b"first" in body) == stream
        assert b"[DONE]" not in body
        (receipt,) = here.receipts()
        assert receipt.outcome == "cut"
        assert receipt.completion_tokens == int(stream)
        assert here.gateway._running == {}
        assert (await through_the_fast_lane(here, stream))[0] == 401
        assert len(far.requests) == 1


async def test_a_key_that_goes_while_the_body_comes_serves_nothing(tmp_path: Path) -> None:
    async with StandIn(Reply(200, b"{}")) as far, keyed(tmp_path, far.url, [KEY]) as here:
        connection = here.connect()
        content = request_bytes(PATH, CHAT, SECRET)
        connection.send(content[:-5])
        here.tell(replace(KEY, revoked_at_ms=now_ms()))
        await until(lambda: not here.gateway.parts.keys.held[KEY.digest].good_until_ms)
        connection.send(content[-5:])
        assert (await connection.answer()).status == 401
        assert far.requests == []
        await connection.end()


async def test_a_known_head_is_refused_when_its_key_has_gone(tmp_path: Path) -> None:
    """The same bytes, which no parser sees a second time."""
    async with StandIn(Reply(500, b"{}")) as far, keyed(tmp_path, far.url, [KEY]) as here:
        connection = here.connect()
        content = request_bytes(PATH, CHAT, SECRET)
        connection.send(content)
        assert (await connection.answer()).status == 502
        known, parser = connection.lane.protocol._known, connection.lane.protocol.parser
        assert known is not None
        connection.lane.protocol.parser = None  # whoever asks it fails
        connection.send(content)
        assert (await connection.answer(2)).status == 502
        here.tell(replace(KEY, revoked_at_ms=now_ms()))
        await until(lambda: not here.gateway.parts.keys.held[KEY.digest].good_until_ms)
        connection.send(content)
        assert (await connection.answer(3)).status == 401
        assert len(far.requests) == 2
        connection.lane.protocol.parser = parser
        await connection.end()
