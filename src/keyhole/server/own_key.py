"""What a key's holder is told of it at GET /v1/key: limits, what is used, what is left, resets.

It counts nothing: what is used comes as an argument. It tells nothing of anybody else's, no
digest, and none of the operator's labels, which may be notes about the holder. Of a group it
tells its limits and what is left of them, because they are the key's too: a refusal names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from keyhole.policy.limits import MINUTE_MS, UNLIMITED, Scopes, Tally, window
from keyhole.wire.http import JSON, Reply
from keyhole.wire.keys import Key, Period

PATH = "/v1/key"

_OfMinute = tuple[Literal["rpm", "tpm"], Literal["requests", "tokens"], int, int]
"""A limit of the minute, its unit, its amount and what is used."""


class Use(Struct, frozen=True, kw_only=True):
    """One limit, and how much of it is used."""

    scope: Literal["key", "group"]
    limit: Literal["rpm", "tpm", "concurrency", "budget"]
    unit: Literal["requests", "tokens", "microusd"]
    amount: int
    used: int
    """With what is held for requests under way."""
    per: Period | Literal["minute"] | None = None
    """None for a budget in total, and for concurrency."""
    resets_at_ms: int | None = None


def uses_of(scopes: Scopes, now_ms: int) -> list[Use]:
    """How the limits of a key stand, and those of its group."""
    found: list[Use] = []
    for tally in scopes:
        if tally.place == "upstream":
            continue
        is_new = now_ms >= tally.minute_end_ms
        minute_ends_ms = now_ms - now_ms % MINUTE_MS + MINUTE_MS
        of_minute: tuple[_OfMinute, ...] = (
            ("rpm", "requests", tally.rpm, tally.requests),
            ("tpm", "tokens", tally.tpm, tally.tokens),
        )
        found += [
            Use(
                scope=tally.place,
                limit=limit,
                unit=unit,
                amount=amount,
                used=0 if is_new else used,
                per="minute",
                resets_at_ms=minute_ends_ms,
            )
            for limit, unit, amount, used in of_minute
            if amount != UNLIMITED
        ]
        if tally.concurrency != UNLIMITED:
            found.append(
                Use(
                    scope=tally.place,
                    limit="concurrency",
                    unit="requests",
                    amount=tally.concurrency,
                    used=tally.running,
                )
            )
        if tally.budget != UNLIMITED:
            found.append(_budget(tally, tally.place, now_ms))
    return found


def _budget(tally: Tally, place: Literal["key", "group"], now_ms: int) -> Use:
    return Use(
        scope=place,
        limit="budget",
        unit="tokens" if tally.counts_tokens else "microusd",
        amount=tally.budget,
        used=0 if now_ms >= tally.window_end_ms else tally.spent,
        per=tally.per,
        resets_at_ms=None if tally.per is None else window(tally.per, now_ms)[1],
    )


def show_key(key: Key, uses: Iterable[Use], *, unix_ms: int) -> Reply:
    """The reply for the holder of a key."""
    value = {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "group": None if key.group is None else key.group.name,
        "models": list(key.models),
        "created_at": _time(key.created_at_ms),
        "expires_at": _time(key.expires_at_ms),
        "replaced": key.rotated_to is not None,
        "limits": [_limit(use) for use in uses],
        "now": _time(unix_ms),
    }
    headers = [
        ("content-type", JSON),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ]
    return Reply(status=200, headers=headers, body=msgspec.json.encode(value))


def _limit(use: Use) -> dict[str, Any]:
    return {
        "scope": use.scope,
        "limit": use.limit,
        "unit": use.unit,
        "per": use.per,
        "amount": use.amount,
        "used": use.used,
        "remaining": max(use.amount - use.used, 0),
        "resets_at": _time(use.resets_at_ms),
    }


def _time(unix_ms: int | None) -> str | None:
    """As RFC 3339, to the second; None for one that no calendar holds."""
    if unix_ms is None:
        return None
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return None
