"""An upstream whose payer's credits are gone (402): not asked again until the month turns.

It is told apart from a limit of our own, which is 429 and the client's. What upstreams include is
for a month of UTC (Hugging Face, hub-docs `pricing.md`, read November 2026); whoever pays sooner
says so, and `io.counters` forgets it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from keyhole.errors import Code, UpstreamError
from keyhole.policy.limits import month


def are_gone(since_ms: int, now_ms: int) -> bool:
    """Whether what an upstream said at a time still holds, in milliseconds of UTC both."""
    return now_ms < month(since_ms)[1]


def refusal(upstream: str, since_ms: int) -> UpstreamError:
    """What a client hears in place of an upstream that would only say it again."""
    said = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=since_ms)
    turns = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=month(since_ms)[1])
    return UpstreamError(
        Code.UPSTREAM_OUT_OF_CREDITS,
        f"The upstream '{upstream}' said at {said:%Y-%m-%dT%H:%M:%SZ} that its credits are gone"
        f" (402); it is not asked again before {turns:%Y-%m-%d}.",
        hint="The operator can pay, and then run keyhole upstream clear.",
        upstream_status=402,
    )
