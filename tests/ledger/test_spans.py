"""Which tables tell a span: all of it, nothing twice, and rows for less than two hours only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receipts import DAY_MS, HOUR_MS, NOON_MS

from keyhole.ledger.spans import Forgotten, Piece, pieces, widen

MIDNIGHT_MS = NOON_MS - 12 * HOUR_MS
UNITS = {"attempts": 1, "hourly": HOUR_MS, "daily": DAY_MS}

moments = st.one_of(
    st.integers(0, 40 * DAY_MS),
    st.builds(lambda n, off: max(n * HOUR_MS + off, 0), st.integers(0, 960), st.integers(-1, 1)),
)


@given(moments, moments)
def test_the_parts_cover_the_span_without_overlapping(since_ms: int, until_ms: int) -> None:
    parts = sorted(pieces(since_ms, until_ms), key=lambda part: part.since_ms)
    at = since_ms
    for part in parts:
        assert part.since_ms == at < part.until_ms
        assert part.since_ms % UNITS[part.source] == part.until_ms % UNITS[part.source] == 0
        at = part.until_ms
    assert at == max(since_ms, until_ms) or not parts
    rows = [part for part in parts if part.source == "attempts"]
    assert sum(part.until_ms - part.since_ms for part in rows) < 2 * HOUR_MS


@given(moments, moments, moments, moments)
def test_nothing_that_is_gone_is_asked_for(
    since_ms: int, until_ms: int, rows_gone: int, hours_gone: int
) -> None:
    """Retention removes rows by whole hours and hours by whole days."""
    gone = Forgotten(rows_gone - rows_gone % HOUR_MS, hours_gone - hours_gone % DAY_MS)
    wider = widen(since_ms, until_ms, gone)
    assert wider[0] <= since_ms
    assert wider[1] >= until_ms
    for part in pieces(*wider):
        if part.source == "attempts":
            assert part.since_ms >= gone.attempts_ms
        if part.source == "hourly":
            assert part.since_ms >= gone.hourly_ms


@pytest.mark.parametrize(
    ("since_ms", "until_ms", "expected"),
    [
        (NOON_MS + 1, NOON_MS + 2, [Piece("attempts", NOON_MS + 1, NOON_MS + 2)]),
        (NOON_MS, NOON_MS + HOUR_MS, [Piece("hourly", NOON_MS, NOON_MS + HOUR_MS)]),
        (MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS, [Piece("daily", MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)]),
        (NOON_MS, NOON_MS, []),
        (NOON_MS + 1, NOON_MS, []),
    ],
)
def test_a_span_is_told_by_the_coarsest_tables(
    since_ms: int, until_ms: int, expected: list[Piece]
) -> None:
    assert pieces(since_ms, until_ms) == expected
