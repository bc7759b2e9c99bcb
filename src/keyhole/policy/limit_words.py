"""What is said of limits: the refusal of a request that does not fit, and headers of what is left.

It takes nothing and gives nothing back; `limits` has the arithmetic. Of an upstream's limits,
which are the operator's own, clients hear the kind and when it resets, and no amounts.

Facts (huggingface_hub 2.4.0, `utils/_http.py`, read November 2026; the IETF's draft
draft-ietf-httpapi-ratelimit-headers-10): huggingface_hub reads the first `"name";r=..;t=..` of
`RateLimit`, a name being word characters and r standing before t, and of `RateLimit-Policy` the
first q with a w behind it. The draft has units `requests` (the default), `content-bytes` and
`concurrent-requests`; `tokens` and `microusd` are ours. OpenAI's SDKs wait no longer than a
minute for `Retry-After`; its `x-ratelimit-reset-*` are durations like 23s or 1m0s.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from msgspec import Struct

from keyhole.errors import ClientError, Code
from keyhole.policy.limits import (
    MINUTE_MS,
    UNLIMITED,
    Bound,
    Scopes,
    Tally,
    window,
)
from keyhole.wire.amounts import show_usd

MAX_RETRY_AFTER_S = 60
_SOON_S = 1
"""When to come back where a request under way has to end first: nobody knows when that is."""

_CODES = {
    "requests": Code.REQUESTS_LIMITED,
    "tokens": Code.TOKENS_LIMITED,
    "concurrency": Code.CONCURRENCY_LIMITED,
    "budget": Code.BUDGET_SPENT,
}
_FEWER = "Ask for fewer tokens (max_tokens), or send a shorter prompt."

Headers = tuple[tuple[str, str], ...]


class _State(Struct, frozen=True):
    """How one limit of one tally stands."""

    tally: Tally
    kind: str
    """One of _CODES."""
    limit: int
    used: int
    amount: int
    """What the request needs of it."""
    in_use: int
    """How much of `used` comes back as soon as requests under way have ended."""
    resets_ms: int | None
    """When all of it is there again; None where time alone does nothing."""

    @property
    def left(self) -> int:
        """How much is left; never less than nothing."""
        return max(self.limit - self.used, 0)

    @property
    def is_short(self) -> bool:
        """Whether the request does not fit; one that spends nothing fits any budget."""
        is_free = self.kind == "budget" and not self.amount
        return self.used + self.amount > self.limit and not is_free

    @property
    def unit(self) -> str:
        """What it counts."""
        if self.kind != "budget":
            return self.kind
        return "tokens" if self.tally.counts_tokens else "microusd"

    def reset_s(self, now_ms: int) -> int | None:
        """Whole seconds until it resets, rounded up, at least one."""
        return None if self.resets_ms is None else max(-((now_ms - self.resets_ms) // 1000), 1)

    def wait_s(self, now_ms: int) -> int | None:
        """After how many seconds the request may fit; None where a minute of waiting is no use."""
        if self.used - self.in_use + self.amount <= self.limit:
            return _SOON_S
        reset_s = self.reset_s(now_ms)
        if self.kind in {"requests", "tokens"} and reset_s is not None:
            return min(reset_s, MAX_RETRY_AFTER_S)
        return reset_s if reset_s is not None and reset_s <= MAX_RETRY_AFTER_S else None


def refusal(scopes: Scopes, bound: Bound, now_ms: int) -> ClientError:
    """Why a request does not fit: 400 where it never will, or else 429.

    Of several limits that are short the one is told that keeps the request out for longest.
    """
    short = [state for state in _states(scopes, now_ms, bound) if state.is_short]
    never = next((state for state in short if state.amount > state.limit), None)
    if never is not None:
        return _too_large(never)
    waits = [(state.wait_s(now_ms), state) for state in short]
    wait_s, told = max(waits, key=lambda wait: UNLIMITED if wait[0] is None else wait[0])
    hint = None
    if told.kind == "tokens" or (told.kind == "budget" and told.left):
        hint = "Ask for fewer tokens (max_tokens), or come back then."
    message = f"{_what_is_left(told)}{_when(told, now_ms)}"
    error = ClientError(_CODES[told.kind], message, status=429, hint=hint)
    error.retry_after_s = wait_s
    error.headers = headers(scopes, now_ms, first=told.kind)
    return error


def headers(scopes: Scopes, now_ms: int, *, first: str = "") -> Headers:
    """`RateLimit` and `RateLimit-Policy`; of each kind the limit that least is left of.

    Every reply to somebody with limits has them, so this is written flat.
    """
    left = _left(scopes, now_ms)
    items = left.items(now_ms)
    if not items:
        return ()
    if first in items:
        items = {first: items[first], **items}
    return (("ratelimit", ", ".join(items.values())), ("ratelimit-policy", left.policy(first)))


def openai_headers(scopes: Scopes, now_ms: int) -> Headers:
    """OpenAI's `x-ratelimit-*`, for requests and tokens a minute where those are limited."""
    left = _left(scopes, now_ms)
    found: list[tuple[str, str]] = []
    if left.rpm != UNLIMITED:
        found += (
            ("x-ratelimit-limit-requests", str(left.rpm)),
            ("x-ratelimit-remaining-requests", str(max(left.requests, 0))),
            ("x-ratelimit-reset-requests", _openai_duration(left.minute_s)),
        )
    if left.tpm != UNLIMITED:
        found += (
            ("x-ratelimit-limit-tokens", str(left.tpm)),
            ("x-ratelimit-remaining-tokens", str(max(left.tokens, 0))),
            ("x-ratelimit-reset-tokens", _openai_duration(left.minute_s)),
        )
    return tuple(found)


class _Left(Struct, gc=False):
    """Of each kind of limit the one that least is left of, and how much."""

    minute_s: int
    """Whole seconds until the minute is over."""
    rpm: int = UNLIMITED
    requests: int = UNLIMITED
    tpm: int = UNLIMITED
    tokens: int = UNLIMITED
    concurrency: int = UNLIMITED
    slots: int = UNLIMITED
    share: float = 2.0
    """Of the budget, as budgets may be in different units; more than all where there is none."""
    budget: int = 0
    amount: int = 0
    counts_tokens: bool = False
    window: tuple[int, int] | None = None
    """The budget's, in milliseconds; None for one that does not reset."""

    def items(self, now_ms: int) -> dict[str, str]:
        """The items of `RateLimit`, by kind; what is overdrawn has nothing left."""
        found = {}
        if self.rpm != UNLIMITED:
            left = self.requests if self.requests > 0 else 0  # max(): 0.1 us, four times
            found["requests"] = f'"requests";r={left};t={self.minute_s}'
        if self.tpm != UNLIMITED:
            left = self.tokens if self.tokens > 0 else 0
            found["tokens"] = f'"tokens";r={left};t={self.minute_s}'
        if self.concurrency != UNLIMITED:
            left = self.slots if self.slots > 0 else 0
            found["concurrency"] = f'"concurrency";r={left}'
        if self.share <= 1:
            left = self.amount if self.amount > 0 else 0
            item = f'"budget";r={left}'
            if self.window is not None:
                item += f";t={(self.window[1] - now_ms + 999) // 1000 or 1}"
            found["budget"] = item
        return found

    def policy(self, first: str) -> str:
        """The value of `RateLimit-Policy`; the same for all requests of a key."""
        window_s = None
        if self.window is not None:
            window_s = (self.window[1] - self.window[0]) // 1000
        budget = self.budget if self.share <= 1 else UNLIMITED
        amounts = (self.rpm, self.tpm, self.concurrency, budget)
        return _policy(amounts, window_s, self.counts_tokens, first)


@lru_cache(maxsize=1024)
def _policy(
    amounts: tuple[int, int, int, int],
    window_s: int | None,
    counts_tokens: bool,  # noqa: FBT001
    first: str,
) -> str:
    rpm, tpm, concurrency, budget = amounts
    found = {}
    if rpm != UNLIMITED:
        found["requests"] = f'"requests";q={rpm};w=60'
    if tpm != UNLIMITED:
        found["tokens"] = f'"tokens";q={tpm};w=60;qu="tokens"'
    if concurrency != UNLIMITED:
        found["concurrency"] = f'"concurrency";q={concurrency};qu="concurrent-requests"'
    if budget != UNLIMITED:
        each = "" if window_s is None else f";w={window_s}"
        unit = "tokens" if counts_tokens else "microusd"
        found["budget"] = f'"budget";q={budget}{each};qu="{unit}"'
    if first in found:
        found = {first: found[first], **found}
    return ", ".join(found.values())


def _left(scopes: Scopes, now_ms: int) -> _Left:
    """What is left to a client; an upstream's limits are the operator's own and not told."""
    left = _Left(60 - now_ms // 1000 % 60)
    for tally in scopes:
        if tally.place == "upstream":
            continue
        is_new = now_ms >= tally.minute_end_ms
        if tally.rpm != UNLIMITED:
            requests = tally.rpm - (0 if is_new else tally.requests)
            if requests < left.requests:
                left.rpm, left.requests = tally.rpm, requests
        if tally.tpm != UNLIMITED:
            tokens = tally.tpm - (0 if is_new else tally.tokens)
            if tokens < left.tokens:
                left.tpm, left.tokens = tally.tpm, tokens
        if tally.concurrency != UNLIMITED:
            slots = tally.concurrency - tally.running
            if slots < left.slots:
                left.concurrency, left.slots = tally.concurrency, slots
        if tally.budget != UNLIMITED:
            _look_at_budget(tally, left, now_ms)
    return left


def _look_at_budget(tally: Tally, left: _Left, now_ms: int) -> None:
    is_new = now_ms >= tally.window_end_ms
    amount = tally.budget - (0 if is_new else tally.spent)
    share = amount / tally.budget
    if share < left.share:
        left.share, left.amount, left.budget = share, amount, tally.budget
        left.counts_tokens = tally.counts_tokens
        left.window = None
        if tally.per is not None:
            is_stale = is_new or not tally.window_end_ms
            ends = window(tally.per, now_ms) if is_stale else None
            left.window = ends or (tally.window_start_ms, tally.window_end_ms)


def _states(scopes: Scopes, now_ms: int, bound: Bound) -> Iterator[_State]:
    """Every limit that is set, as it stands to a request that `take` has refused."""
    requests, cost = bound.requests, bound.cost_microusd
    tokens = bound.prompt_tokens + bound.completion_tokens
    for tally in scopes:
        is_new = now_ms >= tally.minute_end_ms
        ends_ms = now_ms - now_ms % MINUTE_MS + MINUTE_MS if is_new else tally.minute_end_ms
        if tally.rpm != UNLIMITED:
            used = 0 if is_new else tally.requests
            yield _State(tally, "requests", tally.rpm, used, requests, 0, ends_ms)
        if tally.tpm != UNLIMITED:
            used = 0 if is_new else tally.tokens
            yield _State(tally, "tokens", tally.tpm, used, tokens, 0, ends_ms)
        if tally.concurrency != UNLIMITED:
            running = tally.running
            yield _State(tally, "concurrency", tally.concurrency, running, requests, running, None)
        if tally.budget != UNLIMITED:
            is_new = now_ms >= tally.window_end_ms
            used, held = (0, 0) if is_new else (tally.spent, tally.held)
            amount = tokens if tally.counts_tokens else cost
            resets_ms = None if tally.per is None else tally.window_end_ms
            yield _State(tally, "budget", tally.budget, used, amount, held, resets_ms)


def _openai_duration(duration_s: int) -> str:
    minutes, rest_s = divmod(duration_s, 60)
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"


def _too_large(state: _State) -> ClientError:
    limit = "less" if _is_secret(state) else f"only {_amount(state, state.limit)}{_each(state)}"
    return ClientError(
        Code.OVER_LIMIT,
        f"This request may {_use(state)}, but {_holder(state)} {_may(state)} {limit}:"
        " it would never fit.",
        hint=_FEWER if state.kind in {"tokens", "budget"} else None,
    )


def _what_is_left(state: _State) -> str:
    holder = _holder(state)
    if _is_secret(state):
        what = {
            "requests": "its requests a minute",
            "tokens": "its tokens a minute",
            "concurrency": "its requests at once",
            "budget": "its budget",
        }
        return _sentence(f"{holder} has reached the limit of {what[state.kind]}")
    of = f"{_amount(state, state.limit)}{_each(state)}"
    if state.kind == "concurrency":
        return _sentence(f"{holder} has {state.used} of {of} under way")
    if state.kind == "requests":
        return _sentence(f"{holder} has {state.left} of {of} left")
    left = show_usd(state.left) if state.unit == "microusd" else state.left
    return f"This request may {_use(state)}, and {holder} has {left} of {of} left"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _when(state: _State, now_ms: int) -> str:
    if state.kind == "concurrency":
        return "; one has to end first."
    if state.resets_ms is None:
        return "; that does not come back by itself."
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=state.resets_ms)
    reset_s = state.reset_s(now_ms)
    return f"; that resets in {reset_s} s, at {at:%Y-%m-%dT%H:%M:%SZ}."


def _holder(state: _State) -> str:
    return f"the {state.tally.place} '{state.tally.name}'"


def _is_secret(state: _State) -> bool:
    return state.tally.place == "upstream"


def _each(state: _State) -> str:
    if state.kind in {"requests", "tokens"}:
        return " a minute"
    if state.kind == "budget" and state.tally.per is not None:
        return f" {'an' if state.tally.per == 'hour' else 'a'} {state.tally.per}"
    return ""


def _amount(state: _State, number: int) -> str:
    if state.unit == "microusd":
        return show_usd(number)
    noun = "tokens" if state.unit == "tokens" else "requests"
    return f"{number} {noun if number != 1 else noun[:-1]}"


def _use(state: _State) -> str:
    amount = _amount(state, state.amount)
    if state.unit == "microusd":
        return f"cost up to {amount}"
    return f"take up to {amount}" if state.unit == "tokens" else f"take {amount}"


def _may(state: _State) -> str:
    return "may spend" if state.unit == "microusd" else "may take"
