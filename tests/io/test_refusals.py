"""The ring of refused requests: bounded, shared, and never in the way."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec

from keyhole.io.refusals import NEWER, OLDER, RefusalRing, find_refusal, read_refusals
from keyhole.wire.records import Refusal


def refusal(number: int, **more: object) -> Refusal:
    told = Refusal(
        exchange_id=f"id-{number}", at_ms=number, status=429, code="rate_limited", message="slow"
    )
    return msgspec.structs.replace(told, **more)


def test_what_was_refused_is_found_by_its_id(tmp_path: Path):
    ring = RefusalRing(tmp_path)
    for number in range(3):
        ring.append(refusal(number))
    ring.close()
    assert find_refusal(tmp_path, "id-1") == refusal(1)
    assert find_refusal(tmp_path, "id-9") is None
    assert [told.at_ms for told in read_refusals(tmp_path)] == [2, 1, 0]
    assert stat.S_IMODE((tmp_path / NEWER).stat().st_mode) == 0o600


def test_the_ring_is_bounded_and_keeps_the_newest(tmp_path: Path):
    ring = RefusalRing(tmp_path, file_bytes=4096)
    for number in range(1000):
        ring.append(refusal(number))
    ring.close()
    sizes = [(tmp_path / name).stat().st_size for name in (NEWER, OLDER)]
    assert max(sizes) <= 4096
    kept = [told.at_ms for told in read_refusals(tmp_path)]
    assert kept == list(range(999, 999 - len(kept), -1))
    assert len(kept) > 30


def test_two_workers_share_it(tmp_path: Path):
    """One that finds the file turned over goes on in the new one, and loses nothing newer."""
    first, second = (RefusalRing(tmp_path, file_bytes=4096) for _ in range(2))
    for number in range(0, 400, 2):
        first.append(refusal(number))
        second.append(refusal(number + 1))
    kept = {told.at_ms for told in read_refusals(tmp_path)}
    assert {398, 399} <= kept
    assert all((tmp_path / name).stat().st_size <= 4096 for name in (NEWER, OLDER))
    first.close()
    second.close()


def test_words_that_are_too_long_are_left_out(tmp_path: Path):
    ring = RefusalRing(tmp_path)
    ring.append(refusal(1, message="x" * 100_000))
    ring.close()
    found = find_refusal(tmp_path, "id-1")
    assert found is not None
    assert (found.message, found.code) == ("", "rate_limited")


def test_a_ring_that_cannot_be_written_is_left_out(tmp_path: Path):
    """And one that holds half a line is read around it."""
    ring = RefusalRing(tmp_path / "nowhere")
    ring.append(refusal(1))
    assert list(read_refusals(tmp_path / "nowhere")) == []
    (tmp_path / NEWER).write_bytes(b'{"exchange_id": "id-1", "at')
    assert list(read_refusals(tmp_path)) == []
