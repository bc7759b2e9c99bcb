"""What was spent is known after a restart, however the processes ended, and counted once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyhole.ledger.usage import Attempt
from processes import spending
from processes.driving import Server, keyhole, serving, wait_for
from processes.spending import (
    CHAT,
    PROMPT_TOKENS,
    answer,
    ask_for,
    asking,
    configure,
    frames,
    make_key,
    read_pieces,
    showing,
)
from standins import Gate, Seen, StandIn, Streamed
from standins.upstream import Answer

PROCESSES = ("keyhole.worker", "keyhole.clerk")
WORDS = 13
TOKENS = PROMPT_TOKENS + WORDS
"""Of a request for `WORDS`."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandIn]:
    with spending.upstream() as running:
        yield running


def kill(server: Server, *modules: str) -> None:
    """End the processes of these modules at once, and wait until others have taken over."""
    before = {module: server.pid(module) for module in modules}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for module, pid in before.items():
        server.pid(module, other_than=pid)
    server.wait_until_ready()


def kill_all(server: Server) -> None:
    """End the supervisor and its children, all at once."""
    pids = [server.process.pid, *map(server.pid, PROCESSES)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait()
    server.family_ends()


def spend(server: Server, secret: str, words: int = WORDS) -> int:
    return server.ask(ask_for(words), path=CHAT, headers=showing(secret)).status


def used(server: Server, secret: str) -> dict[str, int]:
    """What the key's holder is told that is used of budgets, by whose they are."""
    told = server.ask(None, method="GET", path="/v1/key", headers=showing(secret))
    assert told.status == 200, told
    limits = told.json["limits"]
    return {one["scope"]: one["used"] for one in limits if one["limit"] == "budget"}


def booked(data: Path) -> list[Attempt]:
    return spending.ledger(data)


def limit(server: Server, secret: str) -> int:
    """The key's only budget."""
    told = server.ask(None, method="GET", path="/v1/key", headers=showing(secret))
    (one,) = told.json["limits"]
    return int(one["amount"])


def end_of_hour(within_s: float) -> None:
    """Wait for the next hour if this one ends so soon: what is spent must be of one window."""
    left_s = 3600 - time.time() % 3600
    if left_s < within_s:
        time.sleep(left_s + 0.1)


@pytest.mark.parametrize(
    ("killed", "after_s"),
    [("worker", 0.0), ("both", 0.5), ("all", 3.0)],
)
def test_what_was_spent_is_counted_once(
    upstream: StandIn, tmp_path: Path, killed: str, after_s: float
):
    """By key and group, in every kind of window, from the mirror and from the journal behind it."""
    end_of_hour(30)
    data = configure(tmp_path, upstream.url)
    grouped = ("--group", "class")
    budgets = {"hour": "1ktok/hour", "day": "1ktok/day", "month": "1ktok/month", "total": "1ktok"}
    set_group(tmp_path, "class", "--budget", "1/month")
    keys = {
        name: make_key(tmp_path, name, "--budget", it, *grouped) for name, it in budgets.items()
    }
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(data=data, home=tmp_path))
        for round_ in (1, 2):
            for secret in keys.values():
                assert [spend(server, secret) for _ in range(3)] == [200] * 3
            time.sleep(after_s)
            if killed == "all":
                kill_all(server)
                server = stack.enter_context(serving(data=data, home=tmp_path))
            else:
                modules = {"worker": PROCESSES[:1], "clerk": PROCESSES[1:], "both": PROCESSES}
                kill(server, *modules[killed])
            for name, secret in keys.items():
                expected = {"key": 3 * TOKENS * round_, "group": 4 * 3 * TOKENS * round_}
                assert used(server, secret) == expected, (name, round_)
        wait_for(lambda: len(booked(data)) == 24, "all is booked", 15)
        assert {row.outcome for row in booked(data)} == {"ok"}


def set_group(home: Path, name: str, *options: str) -> None:
    done = keyhole("group", "set", name, *options, "--data", home / "data", home=home)
    assert done.status == 0, done


def test_a_spent_key_is_refused_at_once_after_a_restart(upstream: StandIn, tmp_path: Path):
    data = configure(tmp_path, upstream.url)
    secret = make_key(tmp_path, "ann", "--budget", "500tok")
    with serving(data=data, home=tmp_path) as server:
        statuses = [spend(server, secret, 50) for _ in range(12)]
        assert statuses == sorted(statuses)
        assert set(statuses) == {200, 429}
        kill(server, *PROCESSES)
        assert spend(server, secret, 50) == 429
        kill_all(server)
        with serving(data=data, home=tmp_path) as again:
            assert spend(again, secret, 50) == 429
            wait_for(lambda: len(booked(data)) == statuses.count(200), "booked", 15)
            assert sum(row.prompt_tokens + row.completion_tokens for row in booked(data)) <= 500


def test_what_was_interrupted_counts_too(tmp_path: Path):
    """The prompt of an attempt whose end nobody saw is in its key's budget as in the books."""
    never = Gate()

    def script(seen: Seen) -> Answer:
        return Streamed((*frames(3), never)) if seen.json.get("stream") else answer(seen)

    prompt = [{"role": "user", "content": "word " * 800}]
    with spending.upstream(script) as up:
        data = configure(tmp_path, up.url)
        secret = make_key(tmp_path, "ann", "--budget", "100ktok/day")
        with serving(data=data, home=tmp_path) as server:
            for count, killed in enumerate((PROCESSES[:1], PROCESSES, PROCESSES[:1]), 1):
                body = {**ask_for(50, stream=True), "messages": prompt}
                with asking(server, CHAT, body, secret) as client:
                    read_pieces(client, 3)
                    kill(server, *killed)
                assert len(up.requests) == count
                told = used(server, secret)["key"]
                wait_for(lambda: len(booked(data)) == len(up.requests), "booked", 15)
                rows = booked(data)
                assert {row.outcome for row in rows} == {"interrupted"}
                assert told == sum(row.prompt_tokens + row.completion_tokens for row in rows)
                assert told > 900 * count


def test_a_mirror_that_is_lost_forgets_nothing(upstream: StandIn, tmp_path: Path):
    """The clerk makes it anew from the ledger: the keys, and at once what they have spent."""
    data = configure(tmp_path, upstream.url)
    secret = make_key(tmp_path, "ann", "--budget", "500tok")
    with serving(data=data, home=tmp_path) as server:
        while spend(server, secret, 50) == 200:
            pass
        told = used(server, secret)
        server.process.terminate()
        assert server.wait() == 0
    for file in data.glob("keys.mirror*"):
        file.unlink()
    with serving(data=data, home=tmp_path) as server:
        assert spend(server, secret, 50) == 429
        assert used(server, secret) == told


def test_a_budget_of_another_period_begins_with_what_was_spent(upstream: StandIn, tmp_path: Path):
    end_of_hour(30)
    data = configure(tmp_path, upstream.url)
    set_group(tmp_path, "class", "--budget", "1ktok/hour")
    secret = make_key(tmp_path, "ann", "--group", "class")
    with serving(data=data, home=tmp_path) as server:
        assert [spend(server, secret) for _ in range(3)] == [200] * 3
        wait_for(lambda: len(booked(data)) == 3, "booked", 15)
        time.sleep(2.5)  # the mirror is told every two seconds
        set_group(tmp_path, "class", "--budget", "2ktok/day")
        wait_for(lambda: limit(server, secret) == 2000, "it is changed", 15)
        assert used(server, secret) == {"group": 3 * TOKENS}
