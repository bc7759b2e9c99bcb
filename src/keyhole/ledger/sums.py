"""What a batch of receipts adds to the rollups and to what is spent; pure arithmetic.

An attempt counts in the hour, day and month of UTC in which it started, however long it ran and
whenever it is posted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from keyhole.ledger.schema import NO_NAME
from keyhole.wire.books import Receipt

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

ERRORS = frozenset({"client_error", "upstream_error", "interrupted"})
"""Outcomes that rollups count as errors."""

KINDS = ("all", "key", "group", "model", "upstream")
"""The ways to look at what was used; `all` has one row for each hour and day."""

SPENDERS = ("key", "group", "upstream")
"""What can have a budget."""

Row = dict[str, Any]


@lru_cache(maxsize=1024)
def month_ms(day_ms: int) -> int:
    """The start of the month that a day is in."""
    day = datetime.fromtimestamp(day_ms / 1000, UTC)
    return round(day.replace(day=1).timestamp() * 1000)


class Sums:
    """What some receipts come to, in rows for the tables `hourly`, `daily` and `spent`."""

    def __init__(self, receipts: Iterable[Receipt]) -> None:
        self._hourly: dict[tuple[str, int, str], list[int]] = {}
        for receipt in receipts:
            self._add(receipt)

    def _add(self, receipt: Receipt) -> None:
        intent = receipt.intent
        hour_ms = intent.started_at_ms - intent.started_at_ms % HOUR_MS
        amounts = (
            1,
            int(receipt.outcome in ERRORS),
            receipt.prompt_tokens,
            receipt.completion_tokens,
            receipt.cost_microusd,
        )
        names = (
            NO_NAME,
            intent.key_id or NO_NAME,
            intent.group or NO_NAME,
            intent.model,
            intent.upstream,
        )
        for place in zip(KINDS, (hour_ms,) * 5, names, strict=True):
            sums = self._hourly.get(place)
            if sums is None:
                self._hourly[place] = list(amounts)
            else:
                for index, amount in enumerate(amounts):
                    sums[index] += amount

    def hourly(self) -> list[Row]:
        """Rows of the table `hourly`, in the order of its primary key."""
        return list(_rows("hour_ms", self._hourly))

    def daily(self) -> list[Row]:
        """The same of `daily`."""
        days: dict[tuple[str, int, str], list[int]] = {}
        for (kind, hour_ms, name), sums in self._hourly.items():
            place = (kind, hour_ms - hour_ms % DAY_MS, name)
            so_far = days.setdefault(place, [0] * len(sums))
            for index, amount in enumerate(sums):
                so_far[index] += amount
        return list(_rows("day_ms", days))

    def spent(self) -> list[Row]:
        """Rows of the table `spent`, without their version: of each period its latest window."""
        spenders: dict[tuple[str, str], Row] = {}
        for (kind, hour_ms, name), sums in sorted(self._hourly.items()):
            if kind not in SPENDERS or name == NO_NAME:
                continue
            tokens, microusd = sums[2] + sums[3], sums[4]
            day_ms = hour_ms - hour_ms % DAY_MS
            row = spenders.get((kind, name))
            if row is None:
                row = spenders[kind, name] = _nothing_spent(kind, name)
            starts = {"hour": hour_ms, "day": day_ms, "month": month_ms(day_ms), "total": 0}
            for period, start_ms in starts.items():
                if row.get(f"{period}_ms", 0) < start_ms:
                    row |= {f"{period}_microusd": 0, f"{period}_tokens": 0}
                    row[f"{period}_ms"] = start_ms
                row[f"{period}_microusd"] += microusd
                row[f"{period}_tokens"] += tokens
        return [spenders[place] for place in sorted(spenders)]


def _nothing_spent(kind: str, name: str) -> Row:
    row: Row = {"kind": kind, "name": name, "total_microusd": 0, "total_tokens": 0}
    for period in ("hour", "day", "month"):
        row |= {f"{period}_ms": -1, f"{period}_microusd": 0, f"{period}_tokens": 0}
    return row


def _rows(start: str, sums: dict[tuple[str, int, str], list[int]]) -> Iterator[Row]:
    for kind, start_ms, name in sorted(sums):
        requests, errors, prompt, completion, cost = sums[kind, start_ms, name]
        yield {
            "kind": kind,
            start: start_ms,
            "name": name,
            "requests": requests,
            "errors": errors,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "cost_microusd": cost,
        }
