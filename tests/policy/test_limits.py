"""Limits are held before and settled after; windows are UTC's and never move backwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keyhole.policy.limit_words import refusal
from keyhole.policy.limits import (
    FOREVER_MS,
    MINUTE_MS,
    Bound,
    Hold,
    Spent,
    Tally,
    allowance,
    bounds_tokens,
    is_as_new,
    limit,
    release,
    restore,
    settle,
    take,
    window,
)
from keyhole.wire.keys import Budget, Limits

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    return (at - EPOCH) // timedelta(milliseconds=1)


NOW = ms(2026, 11, 24, 10, 15, 20)


def tally(*, place: str = "key", name: str = "k", **limits: object) -> Tally:
    made = Tally(place=place, name=name)
    limit(made, Limits(**limits), 1)
    return made


def usd(amount: int, per: str | None = None) -> Budget:
    return Budget(amount=amount, per=per)


# Windows


@pytest.mark.parametrize(
    ("per", "now_ms", "start_ms", "end_ms"),
    [
        ("hour", NOW, ms(2026, 11, 24, 10), ms(2026, 11, 24, 11)),
        ("day", NOW, ms(2026, 11, 24), ms(2026, 11, 25)),
        ("month", NOW, ms(2026, 11, 1), ms(2026, 12, 1)),
        ("month", ms(2026, 12, 31, 23, 59, 59), ms(2026, 12, 1), ms(2027, 1, 1)),
        ("month", ms(2028, 2, 29), ms(2028, 2, 1), ms(2028, 3, 1)),
        ("month", ms(2027, 2, 28), ms(2027, 2, 1), ms(2027, 3, 1)),
        ("month", ms(2026, 1, 31), ms(2026, 1, 1), ms(2026, 2, 1)),
        ("day", ms(2028, 2, 29, 12), ms(2028, 2, 29), ms(2028, 3, 1)),
        # Where Berlin's clocks turn back: a day of UTC has 24 hours all the same.
        ("day", ms(2026, 10, 25, 1), ms(2026, 10, 25), ms(2026, 10, 26)),
        ("hour", ms(2026, 10, 25, 1, 30), ms(2026, 10, 25, 1), ms(2026, 10, 25, 2)),
        (None, NOW, 0, FOREVER_MS),
    ],
)
def test_windows_are_those_of_utc(per: str | None, now_ms: int, start_ms: int, end_ms: int) -> None:
    assert window(per, now_ms) == (start_ms, end_ms)


@given(st.sampled_from(["hour", "day", "month"]), st.integers(0, ms(2200, 1, 1)))
def test_windows_lie_end_to_end(per: str, now_ms: int) -> None:
    start_ms, end_ms = window(per, now_ms)
    assert start_ms <= now_ms < end_ms
    assert window(per, end_ms)[0] == end_ms
    assert window(per, start_ms) == (start_ms, end_ms)


# Single rules


def test_all_scopes_or_none() -> None:
    """A request that its group refuses takes nothing from its key."""
    key, group = tally(rpm=10), tally(place="group", rpm=1)
    bound = Bound(1, 1, 0)
    assert take((key, group), bound, NOW, 1) is not None
    assert take((key, group), bound, NOW, 2) is None
    assert (key.requests, key.running, group.requests) == (1, 1, 1)


def test_what_was_not_used_comes_back_and_the_request_stays_counted() -> None:
    key = tally(rpm=2, tpm=100, concurrency=1, budget=usd(50))
    hold = take((key,), Bound(40, 60, 50), NOW, 1)
    assert hold is not None
    settle(hold, 30, 12)
    assert (key.requests, key.tokens, key.running, key.spent, key.held) == (1, 30, 0, 12, 0)


def test_usage_above_the_hold_is_booked_in_full() -> None:
    key = tally(tpm=100, budget=usd(100))
    hold = take((key,), Bound(10, 10, 20), NOW, 1)
    assert hold is not None
    settle(hold, 150, 170)
    assert (key.tokens, key.spent) == (150, 170)
    assert take((key,), Bound(1, 0, 1), NOW, 2) is None


@pytest.mark.parametrize("end", [lambda hold: settle(hold, 7, 7), release])
def test_ending_a_hold_twice_is_harmless(end: object) -> None:
    key = tally(tpm=100, concurrency=2, budget=usd(100))
    other = take((key,), Bound(10, 10, 20), NOW, 1)
    hold = take((key,), Bound(10, 10, 20), NOW, 2)
    assert hold is not None
    assert other is not None
    settle(hold, 5, 5)
    end(hold)
    assert (key.tokens, key.running, key.spent, key.held) == (25, 1, 25, 20)


def test_a_released_request_was_never_made() -> None:
    key = tally(rpm=1, tpm=100, concurrency=1, budget=usd(50))
    hold = take((key,), Bound(40, 60, 50), NOW, 1)
    assert hold is not None
    release(hold)
    assert (key.requests, key.tokens, key.running, key.spent, key.held) == (0, 0, 0, 0, 0)


def test_negative_usage_gives_nothing_back_beyond_the_hold() -> None:
    key = tally(tpm=100, budget=usd(100))
    hold = take((key,), Bound(10, 10, 20), NOW, 1)
    assert hold is not None
    settle(hold, -(10**9), -(10**9))
    assert (key.tokens, key.spent) == (0, 0)


def test_a_request_that_costs_nothing_passes_a_spent_budget() -> None:
    key = tally(budget=usd(10))
    hold = take((key,), Bound(1, 1, 10), NOW, 1)
    assert hold is not None
    settle(hold, 2, 11)
    assert take((key,), Bound(1, 1, 1), NOW, 2) is None
    assert take((key,), Bound(1, 1, 0), NOW, 3) is not None


def test_a_hold_that_ends_in_a_later_window_does_not_open_it() -> None:
    """What a stream over midnight did not use belongs to the day that is over."""
    key = tally(rpm=5, tpm=100, concurrency=5, budget=usd(100, "day"))
    late = ms(2026, 11, 24, 23, 59, 59)
    old = take((key,), Bound(50, 50, 100), late, 1)
    new = take((key,), Bound(50, 50, 100), late + 2000, 2)
    assert old is not None
    assert new is not None
    settle(old, 0, 0)
    assert (key.tokens, key.spent, key.held, key.running) == (100, 100, 100, 1)
    release(old)
    assert key.requests == 1


@pytest.mark.parametrize("per", ["hour", "day", "month"])
def test_a_clock_that_steps_back_reopens_no_window(per: str) -> None:
    key = tally(rpm=1, budget=usd(10, per))
    end_ms = window(per, NOW)[1]
    assert take((key,), Bound(0, 0, 10), end_ms - 1, 1) is not None
    assert take((key,), Bound(0, 0, 10), end_ms, 2) is not None
    for now_ms in (end_ms - 1, end_ms - MINUTE_MS, 0, end_ms + 1):
        assert take((key,), Bound(0, 0, 10), now_ms, 3) is None
    assert take((key,), Bound(0, 0, 10), window(per, end_ms)[1], 4) is not None


def test_a_budget_in_tokens_counts_tokens() -> None:
    key = tally(budget=Budget(amount=100, unit="tokens", per="day"))
    hold = take((key,), Bound(40, 60, 10**9), NOW, 1)
    assert hold is not None
    assert take((key,), Bound(1, 0, 0), NOW, 2) is None
    settle(hold, 99, 10**9)
    assert take((key,), Bound(1, 0, 0), NOW, 3) is not None


def test_a_stream_may_go_as_far_as_its_hold() -> None:
    bound = Bound(5, 70, 10)
    assert allowance(take((tally(tpm=100),), bound, NOW, 1)) == 70
    assert allowance(take((tally(budget=usd(10)),), bound, NOW, 1)) == 70
    assert allowance(take((tally(rpm=1, concurrency=1),), bound, NOW, 1)) is None
    assert bounds_tokens((tally(rpm=1), tally(tpm=1)))
    assert not bounds_tokens((tally(rpm=1),))


def test_what_was_spent_before_the_start_counts_where_its_window_is_open() -> None:
    key = tally(rpm=10, tpm=1000, budget=usd(100, "day"))
    for spent in (
        Spent(at_ms=ms(2026, 11, 24), tokens=400, cost_microusd=40),  # a sum of the day
        Spent(at_ms=NOW - 1, tokens=5, cost_microusd=2, requests=1),
        Spent(at_ms=NOW - MINUTE_MS, tokens=50, cost_microusd=3, requests=1),
        Spent(at_ms=ms(2026, 11, 23, 23, 59, 59), tokens=9, cost_microusd=90, requests=1),
    ):
        restore(key, spent, NOW, 1)
    assert (key.requests, key.tokens, key.spent) == (1, 5, 45)


def test_new_limits_keep_what_was_spent_unless_they_count_otherwise() -> None:
    key = tally(tpm=100, budget=usd(100, "day"))
    hold = take((key,), Bound(10, 10, 20), NOW, 1)
    assert hold is not None
    assert not limit(key, Limits(budget=usd(30, "day")), 2)
    assert key.spent == 20
    assert limit(key, Limits(budget=usd(100, "month")), 2)
    assert key.spent == 0
    settle(hold, 5, 5)
    assert (key.spent, key.held, key.tokens) == (0, 0, 5)


def test_a_tally_is_as_new_once_its_windows_are_over() -> None:
    key = tally(rpm=5, budget=usd(100, "hour"))
    hold = take((key,), Bound(0, 0, 20), NOW, 1)
    assert hold is not None
    hour_later = NOW + 3_600_000
    assert not is_as_new(key, hour_later)
    settle(hold, 0, 10)
    assert not is_as_new(key, NOW + MINUTE_MS)
    assert is_as_new(key, hour_later)
    total = tally(budget=usd(100))
    hold = take((total,), Bound(0, 0, 20), NOW, 1)
    assert hold is not None
    settle(hold, 0, 10)
    assert not is_as_new(total, ms(2030, 1, 1))


# Against a model


class Entry:
    """A hold as the model knows it: all that was taken, and what became of it."""

    def __init__(self, hold: Hold, bound: Bound, minute: int, day: int) -> None:
        self.hold, self.bound, self.minute, self.day = hold, bound, minute, day
        self.state = "held"
        self.tokens = bound.prompt_tokens + bound.completion_tokens
        self.cost = bound.cost_microusd


class LimitsMachine(RuleBasedStateMachine):
    """One key with every limit, against a list of all that ever happened, added up each time."""

    @initialize(
        rpm=st.integers(1, 6),
        tpm=st.integers(10, 200),
        concurrency=st.integers(1, 4),
        budget=st.integers(10, 400),
    )
    def begin(self, rpm: int, tpm: int, concurrency: int, budget: int) -> None:
        self.limits = Limits(rpm=rpm, tpm=tpm, concurrency=concurrency, budget=usd(budget, "day"))
        self.tally = Tally(place="key", name="k")
        limit(self.tally, self.limits, 1)
        self.now_ms = ms(2026, 2, 28, 23, 58)
        self.minute = self.day = -1
        self.serial = 0
        self.entries: list[Entry] = []

    @rule(by_ms=st.sampled_from([1, 999, 20_000, 60_000, 3_600_000, 86_400_000]))
    def go_on(self, by_ms: int) -> None:
        self.now_ms += by_ms

    @rule(by_ms=st.sampled_from([1, 20_000, 60_000, 3_600_000, 86_400_000]))
    def step_back(self, by_ms: int) -> None:
        self.now_ms -= by_ms

    @rule(prompt=st.integers(0, 60), completion=st.integers(0, 60), cost=st.integers(0, 120))
    def ask(self, prompt: int, completion: int, cost: int) -> None:
        self.serial += 1
        bound = Bound(prompt, completion, cost)
        self.minute = max(self.minute, self.now_ms // 60_000)
        self.day = max(self.day, self.now_ms // 86_400_000)
        fits = self.fits(bound)
        hold = take((self.tally,), bound, self.now_ms, self.serial)
        assert (hold is not None) == fits
        if hold is not None:
            self.entries.append(Entry(hold, bound, self.minute, self.day))
            return
        error = refusal((self.tally,), bound, self.now_ms)
        assert error.status == (400 if self.never_fits(bound) else 429)
        assert error.retry_after_s is None or 1 <= error.retry_after_s <= 60
        assert error.status == 429 or error.retry_after_s is None

    def never_fits(self, bound: Bound) -> bool:
        assert self.limits.budget is not None
        tokens = bound.prompt_tokens + bound.completion_tokens
        return tokens > self.limits.tpm or bound.cost_microusd > self.limits.budget.amount

    def fits(self, bound: Bound) -> bool:
        requests, tokens, running, spent = self.sums()
        assert self.limits.budget is not None
        cost, most = bound.cost_microusd, self.limits.budget.amount
        return (
            requests + 1 <= self.limits.rpm
            and tokens + bound.prompt_tokens + bound.completion_tokens <= self.limits.tpm
            and running + 1 <= self.limits.concurrency
            and (not cost or spent + cost <= most)
        )

    def sums(self) -> tuple[int, int, int, int]:
        minute = [e for e in self.entries if e.minute == self.minute and e.state != "released"]
        day = [e for e in self.entries if e.day == self.day and e.state != "released"]
        return (
            len(minute),
            sum(e.tokens for e in minute),
            sum(e.state == "held" for e in self.entries),
            sum(e.cost for e in day),
        )

    @rule(pick=st.randoms(use_true_random=False), share=st.sampled_from([0, 1, 50, 100, 130]))
    def settle(self, pick: object, share: int) -> None:
        held = [entry for entry in self.entries if entry.state == "held"]
        if held:
            entry = pick.choice(held)
            entry.state = "settled"
            entry.tokens = entry.tokens * share // 100
            entry.cost = entry.cost * share // 100
            settle(entry.hold, entry.tokens, entry.cost)

    @rule(pick=st.randoms(use_true_random=False))
    def release(self, pick: object) -> None:
        held = [entry for entry in self.entries if entry.state == "held"]
        if held:
            entry = pick.choice(held)
            entry.state = "released"
            release(entry.hold)

    @rule(pick=st.randoms(use_true_random=False), tokens=st.integers(-5, 500))
    def end_again(self, pick: object, tokens: int) -> None:
        over = [entry for entry in self.entries if entry.state != "held"]
        if over:
            settle(pick.choice(over).hold, tokens, tokens)
            release(pick.choice(over).hold)

    @invariant()
    def agree(self) -> None:
        if self.entries:
            tally = self.tally
            assert (tally.requests, tally.tokens, tally.running, tally.spent) == self.sums()
            held = [e.cost for e in self.entries if e.state == "held" and e.day == self.day]
            assert tally.held == sum(held)


TestAgainstTheModel = LimitsMachine.TestCase
