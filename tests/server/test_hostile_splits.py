"""Every row of golden/hostile_requests.toml, split at every byte, comes to the same end."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest

from doors.composed import Composed
from doors.hostile import PROBE, Row, read_rows
from doors.servers import STRICT_DOORS
from server.lanes import Lane

SHORT_BYTES = 700
"""A longer row is split in its first bytes, its last ones, and at some places between."""
SEGMENT_BYTES = 256 * 1024
"""What uvloop reads at once."""
ROWS = [(door, row) for door in STRICT_DOORS for row in read_rows(door)]


def places(length: int) -> Iterable[int]:
    """Where a row is split."""
    if length <= SHORT_BYTES:
        return range(1, length)
    between = range(200, length - 50, max(length // 20, 1))
    return sorted({*range(1, 200, 3), *between, *range(length - 50, length)})


@pytest.mark.parametrize(("name", "row"), ROWS, ids=str)
async def test_a_row_split_at_every_byte(name: str, row: Row) -> None:
    composed = Composed(io.StringIO())
    lane = Lane(name, composed)
    for at in places(len(row.content)):
        lane = lane.another()
        composed.memory.records.clear()
        composed.memory.began_count = 0
        await lane.send(*segments(row.content[:at]), *segments(row.content[at:]))
        assert tuple(lane.statuses(bodiless=row.bodiless)) == row.statuses, at
        if name == "fastlane" or 413 not in row.statuses:  # for which the ASGI door waits a while
            assert lane.is_open == (row.fate != "closed"), at
        if name == "fastlane" and row.fate != "waits":
            assert sorted(record.status for record in composed.memory.records) == row.records, at
            assert composed.memory.began_count == len(row.records), at
        if row.fate == "kept":
            lane.transport.written.clear()
            await lane.send(PROBE)
            assert lane.statuses() == [200], at
        await lane.end()
    assert "smuggled" not in composed.transport.asked


def segments(content: bytes) -> list[bytes]:
    return [content[at : at + SEGMENT_BYTES] for at in range(0, len(content), SEGMENT_BYTES)]
