"""What a batch of rows adds to the rollups and to what is spent; pure arithmetic.

An attempt counts in the hour, day and month of UTC in which it started, however long it ran and
whenever it is posted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from keyhole.ledger.lines import Row
from keyhole.ledger.schema import NO_NAME

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

ERRORS = frozenset({"client_error", "upstream_error", "interrupted"})
"""Outcomes that rollups count as errors."""

KINDS = ("all", "key", "group", "model", "upstream")
"""The ways to look at what was used; `all` has one row for each hour and day."""

SPENDERS = ("key", "group", "upstream")
"""What can have a budget."""

Sum = tuple[str | int, ...]
"""A row of a table of sums: its columns in the schema's order."""


@lru_cache(maxsize=1024)
def month_ms(day_ms: int) -> int:
    """The start of the month that a day is in."""
    day = datetime.fromtimestamp(day_ms / 1000, UTC)
    return round(day.replace(day=1).timestamp() * 1000)


class Sums:
    """What some attempts come to, in rows for the tables `hourly`, `daily` and `spent`."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """First under all that an attempt counts by, at once, then by each: 0.5 us a row."""
        found: dict[tuple[int, str | None, str | None, str, str], list[int]] = {}
        for row in rows:
            _, _, at_ms, key_id, _, group, _, model, upstream, _, _, outcome, *amounts = row
            prompt, completion, _, cost, _, _ = amounts
            place = (at_ms // HOUR_MS, key_id, group, model, upstream)
            sums = found.get(place)
            if sums is None:
                sums = found[place] = [0, 0, 0, 0, 0]
            sums[0] += 1
            if outcome in ERRORS:
                sums[1] += 1
            sums[2] += prompt
            sums[3] += completion
            sums[4] += cost
        self._hourly: dict[tuple[str, int, str], list[int]] = {}
        for (hour, *names), sums in found.items():
            for kind, name in zip(KINDS, (NO_NAME, *names), strict=True):
                _add(self._hourly, (kind, hour * HOUR_MS, name or NO_NAME), sums)

    def hourly(self) -> list[Sum]:
        """Rows of the table `hourly`, in the order of its primary key."""
        return [(*place, *sums) for place, sums in sorted(self._hourly.items())]

    def daily(self) -> list[Sum]:
        """The same of `daily`."""
        days: dict[tuple[str, int, str], list[int]] = {}
        for (kind, hour_ms, name), sums in self._hourly.items():
            _add(days, (kind, hour_ms - hour_ms % DAY_MS, name), sums)
        return [(*place, *sums) for place, sums in sorted(days.items())]

    def spent(self, version: int) -> list[Sum]:
        """Rows of the table `spent`, of that version: of each period its latest window."""
        spenders: dict[tuple[str, str], list[int]] = {}
        for (kind, hour_ms, name), sums in sorted(self._hourly.items()):
            if kind not in SPENDERS or name == NO_NAME:
                continue
            microusd, tokens = sums[4], sums[2] + sums[3]
            day_ms = hour_ms - hour_ms % DAY_MS
            amounts = spenders.setdefault((kind, name), [-1, 0, 0] * 3 + [0, 0])
            for at, start_ms in zip((0, 3, 6), (hour_ms, day_ms, month_ms(day_ms)), strict=True):
                if amounts[at] < start_ms:
                    amounts[at : at + 3] = start_ms, 0, 0
                amounts[at + 1] += microusd
                amounts[at + 2] += tokens
            amounts[-2] += microusd
            amounts[-1] += tokens
        return [(*place, *amounts, version) for place, amounts in sorted(spenders.items())]


def _add(
    sums: dict[tuple[str, int, str], list[int]], place: tuple[str, int, str], more: list[int]
) -> None:
    so_far = sums.get(place)
    if so_far is None:
        sums[place] = more.copy()
    else:
        for index, amount in enumerate(more):
            so_far[index] += amount
