"""What a batch of rows adds to the rollups and to what is spent; pure arithmetic.

An attempt counts in the hour, day and month of UTC in which it started, however long it ran and
whenever it is posted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter

from keyhole.ledger.lines import Row
from keyhole.ledger.schema import NO_NAME

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

ERRORS = frozenset({"client_error", "upstream_error", "interrupted"})
"""Outcomes that rollups count as errors."""

KINDS = ("all", "key", "group", "model", "upstream")
"""The ways to look at what was used; `all` has one row for each hour and day."""

_COUNTED = itemgetter(2, 3, 5, 7, 8, 11, 12, 13, 15)
"""Of a row: its time, the names of KINDS, its outcome, tokens and cost."""

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
        for row in map(_COUNTED, rows):
            at_ms, key_id, group, model, upstream, outcome, prompt, completion, cost = row
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
        for (hour, key_id, group, model, upstream), sums in found.items():
            hour_ms = hour * HOUR_MS
            _add(self._hourly, ("all", hour_ms, NO_NAME), sums)
            _add(self._hourly, ("key", hour_ms, key_id or NO_NAME), sums)
            _add(self._hourly, ("group", hour_ms, group or NO_NAME), sums)
            _add(self._hourly, ("model", hour_ms, model), sums)
            _add(self._hourly, ("upstream", hour_ms, upstream), sums)

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
        requests, errors, prompt, completion, cost = more
        so_far[0] += requests
        so_far[1] += errors
        so_far[2] += prompt
        so_far[3] += completion
        so_far[4] += cost
