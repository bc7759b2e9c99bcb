"""The arithmetic of limits: held in full before a request, settled to what was used after it.

A tally counts for one key, group or upstream. `take` holds the worst case in several tallies, in
all or in none; `settle` corrects it. Nobody waits between the two looks of `take`, so nothing can
be raced. What a refusal says is `limit_words`' business, and where tallies live `io.counters`'.

Windows are those of UTC, which has no daylight saving: the minute for requests and tokens; the
hour, day or month of a budget. A window only ever gives way to a later one: a clock that steps
back reopens nothing, and one that was hours ahead holds its last window until real time has
caught up. A request counts in the windows in which it was held, however long it takes; what it
used above its hold is booked there in full. A request that costs nothing passes a spent budget.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct

from keyhole.wire.keys import Budget, Limits, Period

Place = Literal["key", "group", "upstream"]

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
UNLIMITED = 2**62
"""Stands for a limit that is not set, so that comparing is all there is to do."""
FOREVER_MS = 2**62

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Bound(Struct, frozen=True):
    """The most that a request may use."""

    prompt_tokens: int
    completion_tokens: int
    cost_microusd: int
    """Rounded up; 0 where it is free or no price is known."""
    requests: int = 1
    """How many an upstream gets of it; a client's request is one."""


class Tally(Struct, kw_only=True):
    """What one key, group or upstream may use, and has used in its windows."""

    place: Place
    name: str
    """For people."""

    rpm: int = UNLIMITED
    tpm: int = UNLIMITED
    concurrency: int = UNLIMITED
    budget: int = UNLIMITED
    """Micro-dollars or tokens."""
    counts_tokens: bool = False
    """Whether the budget is in tokens."""
    per: Period | None = None

    running: int = 0
    """Requests that are held and not settled."""
    minute_end_ms: int = 0
    minute_from: int = 0
    """The serial number of the first hold that counts in this minute."""
    requests: int = 0
    tokens: int = 0
    """Of this minute, what is held included."""
    window_start_ms: int = 0
    window_end_ms: int = 0
    window_from: int = 0
    spent: int = 0
    """Of the budget in its window, what is held included."""
    held: int = 0
    """How much of `spent` is held and not settled."""


Scopes = tuple[Tally, ...]
"""The tallies that a request counts in; none where nothing is limited."""


class Hold(Struct):
    """What was taken for a request, until it is settled or released."""

    scopes: Scopes
    requests: int
    tokens: int
    cost_microusd: int
    completion_tokens: int
    serial: int
    is_over: bool = False


class Spent(Struct, frozen=True, kw_only=True):
    """What was used before this process began, for its tallies to begin with."""

    at_ms: int
    """When the request began; for a sum, any time in the budget's window that it is of."""
    tokens: int
    cost_microusd: int
    requests: int = 0
    """0 for a sum over a budget's window, which says nothing of the minute."""
    of: Period | Literal["total"] | None = None
    """The window that it is a sum over; None for what one request used."""


def window(per: Period | None, now_ms: int) -> tuple[int, int]:
    """The first millisecond of a budget's window, and the first behind it."""
    if per == "hour":
        start_ms = now_ms - now_ms % HOUR_MS
        return start_ms, start_ms + HOUR_MS
    if per == "day":
        start_ms = now_ms - now_ms % DAY_MS
        return start_ms, start_ms + DAY_MS
    if per == "month":
        return month(now_ms)
    return 0, FOREVER_MS


def month(now_ms: int) -> tuple[int, int]:
    """The first millisecond of the month, and that of the next."""
    today = _EPOCH + timedelta(milliseconds=now_ms)
    first = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=31)).replace(day=1)
    return (first - _EPOCH) // _MILLISECOND, (following - _EPOCH) // _MILLISECOND


def limit(tally: Tally, limits: Limits, serial: int) -> bool:
    """Give a tally its limits; `serial` is the number that the next hold will have.

    What was spent stays, unless there was no budget, or one of another period or in another unit:
    then it begins at nothing, and what was spent before has to be restored. True tells so.
    """
    tally.rpm = UNLIMITED if limits.rpm is None else limits.rpm
    tally.tpm = UNLIMITED if limits.tpm is None else limits.tpm
    tally.concurrency = UNLIMITED if limits.concurrency is None else limits.concurrency
    had_none = tally.budget == UNLIMITED
    budget = limits.budget or Budget(amount=UNLIMITED)
    tally.budget = budget.amount
    counts_tokens = budget.unit == "tokens"
    if (counts_tokens, budget.per) == (tally.counts_tokens, tally.per) and not had_none:
        return False
    tally.counts_tokens, tally.per = counts_tokens, budget.per
    tally.window_start_ms = tally.window_end_ms = 0
    tally.spent = tally.held = 0
    tally.window_from = serial
    return tally.budget != UNLIMITED


def take(scopes: Scopes, bound: Bound, now_ms: int, serial: int) -> Hold | None:
    """Hold a request's worst case in every scope; None, and nothing held, where one is short.

    Serial numbers grow from hold to hold. This is on the way of every request with limits, and
    therefore written flat.
    """
    requests, cost = bound.requests, bound.cost_microusd
    tokens = bound.prompt_tokens + bound.completion_tokens
    for tally in scopes:
        if now_ms >= tally.minute_end_ms:
            _begin_minute(tally, now_ms, serial)
        if now_ms >= tally.window_end_ms:
            _begin_window(tally, now_ms, serial)
        amount = tokens if tally.counts_tokens else cost
        if (
            tally.requests + requests > tally.rpm
            or tally.tokens + tokens > tally.tpm
            or tally.running + requests > tally.concurrency
            or (tally.spent + amount > tally.budget and amount)
        ):
            return None
    for tally in scopes:
        amount = tokens if tally.counts_tokens else cost
        tally.requests += requests
        tally.tokens += tokens
        tally.running += requests
        tally.spent += amount
        tally.held += amount
    return Hold(scopes, requests, tokens, cost, bound.completion_tokens, serial)


def settle(hold: Hold, tokens: int, cost_microusd: int) -> None:
    """Correct a hold to what was used; a second time does nothing. Less than nothing is nothing."""
    if hold.is_over:
        return
    hold.is_over = True
    serial, held_tokens, held_cost = hold.serial, hold.tokens, hold.cost_microusd
    more_tokens = (tokens if tokens > 0 else 0) - held_tokens
    more_cost = (cost_microusd if cost_microusd > 0 else 0) - held_cost
    for tally in hold.scopes:
        tally.running -= hold.requests
        if serial >= tally.minute_from:
            tally.tokens += more_tokens
        if serial >= tally.window_from:
            if tally.counts_tokens:
                tally.spent += more_tokens
                tally.held -= held_tokens
            else:
                tally.spent += more_cost
                tally.held -= held_cost


def release(hold: Hold) -> None:
    """Give a hold back whole, the request too: no upstream has seen it."""
    if not hold.is_over:
        for tally in hold.scopes:
            if hold.serial >= tally.minute_from:
                tally.requests -= hold.requests
        settle(hold, 0, 0)


def allowance(hold: Hold) -> int | None:
    """At how many completion tokens a stream has to be cut; None where nothing bounds them."""
    for tally in hold.scopes:
        if tally.tpm != UNLIMITED or tally.budget != UNLIMITED:
            return hold.completion_tokens
    return None


def bounds_tokens(scopes: Scopes) -> bool:
    """Whether tokens or money are limited, so that a request needs a maximum of tokens."""
    return any(tally.tpm != UNLIMITED or tally.budget != UNLIMITED for tally in scopes)


def restore(tally: Tally, spent: Spent, now_ms: int, serial: int) -> None:
    """Count what was used before; what is of another window than now's is over."""
    if now_ms >= tally.minute_end_ms:
        _begin_minute(tally, now_ms, serial)
    if now_ms >= tally.window_end_ms:
        _begin_window(tally, now_ms, serial)
    if spent.requests and tally.minute_end_ms - MINUTE_MS <= spent.at_ms < tally.minute_end_ms:
        tally.requests += spent.requests
        tally.tokens += spent.tokens
    is_of_budget = spent.of is None or spent.of == (tally.per or "total")
    if is_of_budget and tally.window_start_ms <= spent.at_ms < tally.window_end_ms:
        tally.spent += spent.tokens if tally.counts_tokens else spent.cost_microusd


def is_as_new(tally: Tally, now_ms: int) -> bool:
    """Whether nothing is lost if the tally is forgotten and made anew."""
    is_window_over = now_ms >= tally.window_end_ms or not tally.spent or tally.budget == UNLIMITED
    return not tally.running and now_ms >= tally.minute_end_ms and is_window_over


def _begin_minute(tally: Tally, now_ms: int, serial: int) -> None:
    tally.minute_end_ms = now_ms - now_ms % MINUTE_MS + MINUTE_MS
    tally.minute_from = serial
    tally.requests = tally.tokens = 0


def _begin_window(tally: Tally, now_ms: int, serial: int) -> None:
    tally.window_start_ms, tally.window_end_ms = window(tally.per, now_ms)
    tally.window_from = serial
    tally.spent = tally.held = 0
