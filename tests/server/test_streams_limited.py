"""A stream that runs past its hold ends at the budget, in the way of its client's format."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import keys
from keyed import Connection, Keyed, keyed, request_bytes, until
from keyhole.errors import Code, GatewayError
from keyhole.wire.keys import Budget, Limits
from standins import Gate, Reply, StandIn, Streamed

SECRET = keys.secret(1)
TOKENS = Limits(budget=Budget(amount=100_000, unit="tokens", per="day"))
KEY = keys.key(1, limits=TOKENS)
MOST, SENT = 4, 9
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": MOST, "stream": True},
    ),
    "tgi": ("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": MOST}}),
    "generate": (
        "/generate",
        {"input": "x", "parameters": {"max_new_tokens": MOST}, "stream": True},
    ),
    "huggingface": (
        "/models/default",
        {"inputs": "x", "parameters": {"max_new_tokens": MOST}, "stream": True},
    ),
}


def word(number: int) -> str:
    return f" w{number}"


TEXT = "".join(map(word, range(MOST)))


def openai_frames(count: int) -> list[bytes]:
    frames = []
    for number in range(count):
        choice = {"index": 0, "delta": {"content": word(number)}, "finish_reason": None}
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        frames.append(b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode())
    return frames


def tgi_frames(count: int) -> list[bytes]:
    frames = []
    for number in range(count):
        token = {"id": number, "text": word(number), "logprob": -1.0, "special": False}
        told = {"index": number + 1, "token": token, "generated_text": None, "details": None}
        frames.append(b"data:%b\n\n" % json.dumps(told).encode())
    return frames


FRAMES = {"openai": openai_frames, "tgi": tgi_frames}


def values(body: bytes) -> list[Any]:
    found = [line[5:].strip() for line in body.split(b"\n") if line.startswith(b"data:")]
    return [json.loads(value) for value in found if value != b"[DONE]"]


def assert_ends_in_its_way(dialect: str, body: bytes) -> None:
    told = values(body)
    assert not any("error" in value for value in told)
    match dialect:
        case "openai":
            assert body.endswith(b"data: [DONE]\n\n")
            choices = [value["choices"][0] for value in told if value["choices"]]
            text = "".join(it["delta"].get("content") or "" for it in choices)
            assert text.strip() == TEXT.strip()  # a rendered chat's begins without its blank
            assert [it["finish_reason"] for it in choices if it["finish_reason"]] == ["length"]
        case "generate":
            assert "".join(value["text"] for value in told[:-1]) == TEXT
            assert told[-1]["done"]
            assert told[-1]["generated_text"].endswith(TEXT)
        case _:
            assert "".join(value["token"]["text"] for value in told[:MOST]) == TEXT
            assert told[-1]["generated_text"].endswith(TEXT)
            if told[-1]["details"] is not None:
                assert told[-1]["details"]["finish_reason"] == "length"
                assert told[-1]["details"]["generated_tokens"] == MOST


def connected(here: Keyed, dialect: str) -> Connection:
    path, body = ASKED[dialect]
    connection = here.connect()
    connection.send(request_bytes(path, body, SECRET))
    return connection


@pytest.mark.parametrize("is_in_one", [True, False], ids=["at once", "piece by piece"])
@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("dialect", ASKED)
async def test_it_ends_at_what_was_held(
    tmp_path: Path, dialect: str, kind: str, is_in_one: bool
) -> None:
    frames = FRAMES[kind](SENT)
    gate = Gate()
    pieces = (b"".join(frames), gate) if is_in_one else (*frames, gate)
    async with StandIn(Streamed(pieces)) as far, keyed(tmp_path, far.url, [KEY], kind=kind) as here:
        connection = connected(here, dialect)
        answer = await connection.answer()
        assert answer.status == 200
        assert_ends_in_its_way(dialect, answer.body)
        (receipt,) = here.receipts()
        assert (receipt.outcome, receipt.basis) == ("cut", "counted")
        assert MOST <= receipt.completion_tokens <= MOST + 1
        assert await asyncio.to_thread(far.wait_for_departure, far.requests[0], 5)
        await connection.end()


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("dialect", ASKED)
async def test_what_was_held_is_what_the_upstream_is_told(
    tmp_path: Path, dialect: str, kind: str
) -> None:
    async with StandIn(Streamed(())) as far, keyed(tmp_path, far.url, [KEY], kind=kind) as here:
        path, body = ASKED[dialect]
        if dialect == "openai":
            body = {name: value for name, value in body.items() if name != "max_tokens"}
        else:
            body = body | {"parameters": {}}
        await here.call(path, body, SECRET)
        asked = far.requests[0].json
        told = asked.get("max_tokens") or asked.get("max_completion_tokens")
        assert (told or asked["parameters"]["max_new_tokens"]) == 1024


@pytest.mark.parametrize("drains", [True, False], ids=["drain", "close"])
async def test_a_client_that_leaves_pays_for_what_came(tmp_path: Path, drains: bool) -> None:
    """With drain the upstream is read to its end, for the count that it reports there."""
    gate = Gate()
    usage = {"prompt_tokens": 3, "completion_tokens": 3}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last = (
        b"data: %b\n\n" % json.dumps({**chunk, "choices": [end]}).encode(),
        b"data: %b\n\n" % json.dumps({**chunk, "choices": [], "usage": usage}).encode(),
        b"data: [DONE]\n\n",
    )
    first = openai_frames(3)
    more = f'[stream]\non_client_gone = "{"drain" if drains else "close"}"\n'
    async with (
        StandIn(Streamed((*first[:2], gate, first[2], *last))) as far,
        keyed(tmp_path, far.url, [KEY], more=more) as here,
    ):
        connection = connected(here, "openai")
        await connection.receives(b"w1")
        await connection.end()
        if drains:
            assert here.receipts() == []
        gate.open()
        await until(here.receipts)
        (receipt,) = here.receipts()
        assert receipt.outcome == "client_gone"
        told = (receipt.prompt_tokens, receipt.completion_tokens, receipt.basis)
        assert told == ((3, 3, "reported") if drains else (1, 2, "counted"))
        (tally,) = here.gateway.parts.accounts.counters.scopes(KEY)
        assert tally.running == 0
        assert tally.spent == sum(told[:2])


class SlowDisk:
    """The journal of a gateway, behind a disk that syncs when the test says so."""

    def __init__(self, here: Keyed) -> None:
        journal = here.gateway.parts.accounts.journal
        self.intend, self.settle, self.progress = journal.intend, journal.settle, journal.progress
        self.is_slow = True
        self.waiting: list[asyncio.Future[None]] = []

    async def synced(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self.waiting.append(waiting)
        await waiting

    async def sync(self, error: Exception | None = None) -> None:
        await until(lambda: self.waiting)
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            if error is None:
                each.set_result(None)
            else:
                each.set_exception(error)


def on(disk: SlowDisk, here: Keyed) -> None:
    here.gateway.parts.accounts.journal = disk  # type: ignore[assignment]
    here.gateway._asker.synced = disk.synced


WHOLE = {"messages": [{"role": "user", "content": "x"}]}
FAILED = GatewayError(Code.JOURNAL_FULL, "The disk failed.", status=503)


def whole_answer() -> Reply:
    message = {"role": "assistant", "content": "y"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return Reply.json({**told, "choices": [choice]})


async def test_nothing_is_sent_and_nothing_answered_before_the_disk_has_it(tmp_path: Path) -> None:
    async with StandIn(whole_answer()) as far, keyed(tmp_path, far.url, [KEY]) as here:
        disk = SlowDisk(here)
        on(disk, here)
        connection = here.connect()
        connection.send(request_bytes("/v1/chat/completions", WHOLE, SECRET))
        await until(lambda: disk.waiting)
        assert far.requests == []
        assert len(here.intents()) == 1
        await disk.sync()
        await until(lambda: disk.waiting)
        assert (len(far.requests), len(here.receipts())) == (1, 1)
        assert connection.received == b""
        await disk.sync()
        assert (await connection.answer()).status == 200
        await connection.end()


async def test_the_last_of_a_stream_waits_for_the_disk(tmp_path: Path) -> None:
    first, *more = openai_frames(SENT)
    gate = Gate()
    async with (
        StandIn(Streamed((first, gate, *more))) as far,
        keyed(tmp_path, far.url, [KEY]) as here,
    ):
        disk = SlowDisk(here)
        on(disk, here)
        connection = connected(here, "openai")
        await disk.sync()
        await connection.receives(word(0).encode())
        gate.open()
        await until(lambda: disk.waiting)
        assert b"[DONE]" not in connection.received
        assert connection.answers() == []
        await disk.sync()
        assert_ends_in_its_way("openai", (await connection.answer()).body)
        await connection.end()


async def test_a_disk_that_fails_before_keeps_the_request_from_the_upstream(tmp_path: Path) -> None:
    async with StandIn(whole_answer()) as far, keyed(tmp_path, far.url, [KEY]) as here:
        disk = SlowDisk(here)
        on(disk, here)
        connection = here.connect()
        connection.send(request_bytes("/v1/chat/completions", WHOLE, SECRET))
        await disk.sync(FAILED)
        answer = await connection.answer()
        assert answer.status == 503
        assert far.requests == []
        (receipt,) = here.receipts()
        assert (receipt.outcome, receipt.cost_microusd) == ("interrupted", 0)
        await connection.end()


async def test_a_disk_that_fails_behind_the_answer_is_told_and_the_hold_settled(
    tmp_path: Path,
) -> None:
    """What was produced is billed: the receipt is written, and only its safety is not known."""
    async with StandIn(whole_answer()) as far, keyed(tmp_path, far.url, [KEY]) as here:
        disk = SlowDisk(here)
        on(disk, here)
        connection = here.connect()
        connection.send(request_bytes("/v1/chat/completions", WHOLE, SECRET))
        await disk.sync()
        await until(lambda: far.requests)
        await disk.sync(FAILED)
        assert (await connection.answer()).status == 503
        (receipt,) = here.receipts()
        assert receipt.outcome == "ok"
        (tally,) = here.gateway.parts.accounts.counters.scopes(KEY)
        assert tally.running == 0
        await connection.end()


async def test_who_leaves_while_the_disk_is_waited_for_has_cost_nothing(tmp_path: Path) -> None:
    async with StandIn(whole_answer()) as far, keyed(tmp_path, far.url, [KEY]) as here:
        disk = SlowDisk(here)
        on(disk, here)
        connection = here.connect()
        connection.send(request_bytes("/v1/chat/completions", WHOLE, SECRET))
        await until(lambda: disk.waiting)
        await connection.end()
        await until(here.receipts)
        (receipt,) = here.receipts()
        assert (receipt.outcome, receipt.prompt_tokens) == ("client_gone", 0)
        assert far.requests == []
