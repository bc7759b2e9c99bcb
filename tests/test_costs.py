"""What the profiler's samples are made into: parts of a request, and a flame graph."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

import costs
import parts

STRICT = "keyhole/server/strict.py"


def sampled(*frames: str, count: int = 1) -> str:
    return ";".join(
        ("run (keyhole/worker.py:1)", "Runner.run (asyncio/runners.py:118)", *frames)
    ) + (f" {count}")


def line_of(file: str, text: str) -> int:
    lines = (parts.SOURCE / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_sample_belongs_to_the_frame_nearest_to_its_end_that_is_known() -> None:
    writing = line_of(STRICT, "self.transport.write(")
    reply = f"StrictProtocol.send_unsent ({STRICT}:{{}})"
    profile = parts.read_folded(
        [
            sampled(),
            sampled(reply.format(writing), count=2),
            sampled(reply.format(writing - 1), count=3),
            sampled(reply.format(1), "SystemClock.monotonic (keyhole/io/clock.py:20)", count=4),
            sampled("AccessLog.ended (keyhole/server/log.py:1)", "encode (json/x.py:1)", count=5),
            sampled("dance (keyhole/unheard_of.py:1)", "encode (json/x.py:1)", count=6),
            "run (threading.py:1);_await_parent_end (keyhole/worker.py:1) 1000",
        ]
    )
    counts = {part: count for part, count in profile.by_part().items() if count}
    assert counts == {
        parts.LOOP: 1,
        parts.CLIENT_WRITE: 2,
        parts.ANSWER: 7,
        parts.END: 5,
        parts.OTHER: 6,
    }
    assert profile.unattributed() == [("encode (json/x.py)", 6)]
    assert parts.read_folded(parts.folded(profile).splitlines()) == profile
    assert parts.flame_graph(profile, "a < b").count("<rect") > 5


@pytest.mark.parametrize("rule", parts.RULES, ids=lambda rule: f"{rule.where} {rule.part}")
def test_the_parts_name_what_the_source_has(rule: parts.Rule) -> None:
    """Otherwise the time of a function that was renamed would be told of another part."""
    path = parts.SOURCE / rule.where
    if not rule.where.startswith("keyhole/"):
        return
    assert path.exists()
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    source = "\n".join(file.read_text() for file in files)
    assert [name for name in rule.functions if f"def {name}(" not in source] == []
    assert rule.line in source


def test_the_parts_add_up_to_the_whole() -> None:
    by_part = dict.fromkeys(parts.PARTS, 0) | {parts.LOOP: 3, parts.END: 1}
    rows = {part: cells for part, *cells in costs.table(by_part, 40.0)}
    assert rows[parts.LOOP] == ["75.0", "30.0"]
    assert rows["all"] == ["100.0", "40.0"]
