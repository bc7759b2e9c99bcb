"""Which tables tell what was used in a span of time: days, then hours, then rows; pure.

Whole days of UTC are summed from `daily`, whole hours beside them from `hourly`, and what is left
at both ends, less than an hour each, from the rows themselves: exact, and never many rows.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from keyhole.ledger.sums import DAY_MS, HOUR_MS

Source = Literal["daily", "hourly", "attempts"]


class Piece(Struct, frozen=True):
    """A part of a span, and the table that it is summed from."""

    source: Source
    since_ms: int
    until_ms: int
    """The first moment behind it."""


class Forgotten(Struct, frozen=True):
    """Up to when retention has removed rows."""

    attempts_ms: int = 0
    hourly_ms: int = 0


def widen(since_ms: int, until_ms: int, forgotten: Forgotten) -> tuple[int, int]:
    """The span whose sum can be told: whole hours and days where the finer rows are gone."""
    for unit_ms, gone_ms in ((HOUR_MS, forgotten.attempts_ms), (DAY_MS, forgotten.hourly_ms)):
        if _floor(since_ms, unit_ms) < gone_ms:
            since_ms = _floor(since_ms, unit_ms)
        if _floor(until_ms, unit_ms) < gone_ms:
            until_ms = _ceil(until_ms, unit_ms)
    return since_ms, until_ms


def pieces(since_ms: int, until_ms: int) -> list[Piece]:
    """The parts of a span, none empty, which cover it without overlapping."""
    return [piece for piece in _cut(since_ms, until_ms) if piece.since_ms < piece.until_ms]


def _cut(since_ms: int, until_ms: int) -> list[Piece]:
    first_hour, end_hour = _ceil(since_ms, HOUR_MS), _floor(until_ms, HOUR_MS)
    if first_hour >= end_hour:
        return [Piece("attempts", since_ms, until_ms)]
    rows = [
        Piece("attempts", since_ms, first_hour),
        Piece("attempts", end_hour, until_ms),
    ]
    first_day, end_day = _ceil(first_hour, DAY_MS), _floor(end_hour, DAY_MS)
    if first_day >= end_day:
        return [Piece("hourly", first_hour, end_hour), *rows]
    return [
        Piece("daily", first_day, end_day),
        Piece("hourly", first_hour, first_day),
        Piece("hourly", end_day, end_hour),
        *rows,
    ]


def _floor(moment_ms: int, unit_ms: int) -> int:
    return moment_ms - moment_ms % unit_ms


def _ceil(moment_ms: int, unit_ms: int) -> int:
    return moment_ms + -moment_ms % unit_ms
