"""What an attempt costs in the journal: writing its two lines, and reading them as the clerk does.

One process, in a directory of its own beside the system's temporary files; CPU time of the whole
process, the best of some rounds.

    python bench/journal.py [--rounds N] [--attempts N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, Fsync, JournalSettings
from keyhole.ledger.segments import OpenIntents, Segment, list_segments
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.lines import encode_line

AT_ONCE = 32


def receipt(number: int) -> Receipt:
    exchange_id = f"019ac2f0-7c1e-7a51-b3a5-{number:012d}"
    key = ("key_0123456789abcdef", "class-a-17", "class-a")
    names = ("openai", "openai-community/gpt2", "hf", "hf/openai-community/gpt2")
    intent = Intent(exchange_id, 1, 1_763_863_563_123, *key, *names, 123, 150_000, 600_000)
    return Receipt(intent, 200, "ok", 100, 20, "reported", 27, 12.345678, 98.7654321)


def cpu_us(work: Callable[[], None], times: int) -> float:
    gc.collect()
    began = time.process_time()
    work()
    return (time.process_time() - began) / times * 1e6


def encode(receipts: list[Receipt]) -> None:
    for each in receipts:
        encode_line(each.intent)
        encode_line(each)


def write(journal: FileJournal, receipts: list[Receipt]) -> None:
    for begin in range(0, len(receipts), AT_ONCE):
        group = receipts[begin : begin + AT_ONCE]
        for each in group:
            journal.intend(each.intent)
        for each in group:
            journal.settle(each)


def write_raw(directory: Path, receipts: list[Receipt]) -> float:
    """The least it can be: the same bytes, allocated ahead and written the same way."""
    lines = [encode_line(line) for each in receipts for line in (each.intent, each)]
    descriptor = os.open(directory / "raw", os.O_RDWR | os.O_CREAT)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, sum(map(len, lines)))

    def work() -> None:
        end = 0
        for line in lines:
            end += os.pwrite(descriptor, line, end)

    cost_us = cpu_us(work, len(receipts))
    os.close(descriptor)
    (directory / "raw").unlink()
    return cost_us


def read(directory: Path) -> None:
    opens = OpenIntents()
    for name in list_segments(directory):
        with Segment(directory / name.file) as segment:
            offset, is_last = 0, False
            while not is_last:
                piece = segment.read(offset)
                offset, is_last = piece.offset, piece.is_last
                opens.take(name, piece.lines)
    assert not len(opens)


def measure(place: Path, attempts: int) -> dict[str, float]:
    receipts = [receipt(number) for number in range(attempts)]
    costs = {
        "encode": cpu_us(lambda: encode(receipts), attempts),
        "pwrite": write_raw(place, receipts),
    }
    modes: tuple[Fsync, ...] = ("never", "interval")
    for fsync in modes:
        directory = place / f"{fsync}-{time.monotonic_ns()}"
        settings = JournalSettings(fsync=fsync)
        journal = FileJournal(directory, settings, node="bench", clock=SystemClock(), say=print)
        costs[f"journal, fsync {fsync}"] = cpu_us(lambda j=journal: write(j, receipts), attempts)  # type: ignore[misc]
        journal.close()
        costs["read"] = cpu_us(lambda d=directory: read(d), attempts)  # type: ignore[misc]
    return costs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attempts", type=int, default=40_000)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        rounds = [measure(Path(place), options.attempts) for _ in range(options.rounds)]
    print(f"us of CPU an attempt (intent and receipt), Python {platform.python_version()}")
    for name in rounds[0]:
        print(f"{name:24} {min(costs[name] for costs in rounds):6.2f}")


if __name__ == "__main__":
    main()
