"""Five hundred requests at once against a limit of ten: ten reach the upstream, and no other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import keys
from keyed import Answer, Keyed, StillDate, keyed, request_bytes
from keyhole.wire.keys import Budget, Group, Key, Limits
from standins import Reply, StandIn

REQUESTS, LIMIT = 500, 10
NOW_MS = 1_790_000_000_000
PROMPT, MOST = 200, 100
"""Tokens that a request is held to: the template's 128, 52 of text, 4 of its role, 16 around it."""
CHAT = {"messages": [{"role": "user", "content": "x" * 52}], "max_tokens": MOST}
COST = PROMPT * 1 + MOST * 2
"""In micro-dollars, at 1 and 2 dollars a million."""

KINDS = {
    "requests": (Limits(rpm=LIMIT), "requests_limited"),
    "concurrency": (Limits(concurrency=LIMIT), "concurrency_limited"),
    "tokens a minute": (Limits(tpm=LIMIT * (PROMPT + MOST)), "tokens_limited"),
    "tokens": (
        Limits(budget=Budget(amount=LIMIT * (PROMPT + MOST), unit="tokens", per="day")),
        "budget_spent",
    ),
    "dollars": (Limits(budget=Budget(amount=LIMIT * COST, per="month")), "budget_spent"),
}
WORDS: dict[str, tuple[str, Any, Callable[[Any], object]]] = {
    "openai": ("/v1/chat/completions", CHAT, lambda told: told["error"]["message"]),
    "generate": ("/generate", {"input": "x"}, lambda told: told["error"]),
    "tgi": ("/generate", {"inputs": "x"}, lambda told: told["error"]),
    "huggingface": ("/models/default", {"inputs": "x"}, lambda told: told["error"]),
}


def said(prompt: int = PROMPT, completion: int = MOST) -> Reply:
    """An answer, and what it took."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "y"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return Reply.json({**told, "choices": [choice], "usage": usage})


def limited(limits: Limits, *, is_group: bool) -> list[Key]:
    """One key, or five that share a group's limits."""
    if not is_group:
        return [keys.key(0, limits=limits)]
    group = Group(name="class-a", limits=limits)
    return [keys.key(number, group=group) for number in range(5)]


async def burst(here: Keyed, path: str, body: Any, count: int, key_count: int) -> list[Answer]:
    """All of them before the upstream has answered any."""
    connections = [here.connect() for _ in range(count)]
    for number, connection in enumerate(connections):
        connection.send(request_bytes(path, body, keys.secret(number % key_count)))
    answers = [await connection.answer() for connection in connections]
    for connection in connections:
        await connection.end()
    return answers


@pytest.mark.parametrize("is_group", [False, True], ids=["key", "group"])
@pytest.mark.parametrize("kind", KINDS)
async def test_just_as_many_as_the_limit_reach_the_upstream(
    tmp_path: Path, kind: str, is_group: bool
) -> None:
    limits, code = KINDS[kind]
    held = limited(limits, is_group=is_group)
    path, body, _ = WORDS["openai"]
    async with (
        StandIn(said()) as far,
        keyed(tmp_path, far.url, held, clock=StillDate(NOW_MS)) as here,
    ):
        answers = await burst(here, path, body, REQUESTS, len(held))
        good = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert (len(good), len(refused)) == (LIMIT, REQUESTS - LIMIT)
        assert len(far.requests) == len(here.receipts()) == LIMIT
        name = "class-a" if is_group else "key-0"
        for answer in refused:
            assert f"'{name}'" in answer.json["error"]["message"]
            assert 1 <= int(answer.headers["retry-after"]) <= 60, "one that runs may end soon"
        told = here.refusals()
        assert {refusal.exchange_id for refusal in told} == {it.request_id for it in refused}
        assert {refusal.code for refusal in told} == {code}
        assert {receipt.cost_microusd for receipt in here.receipts()} == {COST}
        again = await here.call(path, body, keys.secret(0))
        if kind == "concurrency":
            assert again.status == 200, "all that was held has come back"
        else:
            assert again.status == 429
            assert (again.headers.get("retry-after") is not None) == (
                "minute" in kind or kind == "requests"
            )


@pytest.mark.parametrize("dialect", WORDS)
async def test_a_refusal_is_in_the_dialect_and_says_what_is_left(
    tmp_path: Path, dialect: str
) -> None:
    path, body, words = WORDS[dialect]
    held = limited(Limits(rpm=LIMIT), is_group=False)
    async with (
        StandIn(said()) as far,
        keyed(tmp_path, far.url, held, clock=StillDate(NOW_MS)) as here,
    ):
        answers = await burst(here, path, body, 50, 1)
        assert len(far.requests) == LIMIT
        good = [answer for answer in answers if answer.status == 200]
        assert len(good) == LIMIT
        for answer in answers:
            assert answer.headers["ratelimit"].startswith('"requests";r=')
            assert answer.headers["ratelimit-policy"] == '"requests";q=10;w=60'
            assert ("x-ratelimit-remaining-requests" in answer.headers) == (dialect == "openai")
        for answer in answers:
            if answer.status == 429:
                assert "The key 'key-0' has 0 of 10 requests a minute left" in str(
                    words(answer.json)
                )
                assert answer.headers["ratelimit"].startswith('"requests";r=0;t=')


@pytest.mark.parametrize("is_group", [False, True], ids=["key", "group"])
@pytest.mark.parametrize("kind", ["tokens", "dollars"])
async def test_with_less_used_than_held_never_more_than_the_limit(
    tmp_path: Path, kind: str, is_group: bool
) -> None:
    """What was not used comes back, so more get through; all of them together stay below."""
    limits, _ = KINDS[kind]
    held = limited(limits, is_group=is_group)
    path, body, _ = WORDS["openai"]
    async with (
        StandIn(said(30, 10)) as far,
        keyed(tmp_path, far.url, held, clock=StillDate(NOW_MS)) as here,
    ):

        async def ask(number: int) -> int:
            for _ in range(number % 50):  # so that they come while others are answered
                await asyncio.sleep(0)
            return (await here.call(path, body, keys.secret(number % len(held)))).status

        statuses = await asyncio.gather(*map(ask, range(REQUESTS)))
        receipts = here.receipts()
        assert len(far.requests) == len(receipts) == statuses.count(200) > LIMIT
        assert limits.budget is not None
        used = sum(
            receipt.prompt_tokens + receipt.completion_tokens
            if kind == "tokens"
            else receipt.cost_microusd
            for receipt in receipts
        )
        assert used <= limits.budget.amount


async def test_an_upstreams_own_limit_is_raced_no_further(tmp_path: Path) -> None:
    async with (
        StandIn(said()) as far,
        keyed(
            tmp_path, far.url, [keys.key(0)], upstream="concurrency = 10", clock=StillDate(NOW_MS)
        ) as here,
    ):
        answers = await burst(here, *WORDS["openai"][:2], 100, 1)
        assert len(far.requests) == LIMIT
        assert sorted({answer.status for answer in answers}) == [200, 429]
        refused = next(answer for answer in answers if answer.status == 429)
        assert "10" not in json.dumps(refused.json["error"]["message"]), "it is the operator's own"
