"""What an attempt costs the clerk: its two lines read, its row, its sums, the mirror.

    python bench/posting.py [--attempts N] [--each N] [--keys N] [--url URL] [--directory DIR]

A journal is written and posted in turns, as the clerk finds it under load: `--each` attempts
between two looks (5,000; a hundred of them still under way), the mirror told of what was spent
after every second one. CPU time of posting and of telling the mirror, system calls included, by
this one process (an SQLite ledger; PostgreSQL's server is not counted). --profile shows where it
goes.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import pstats
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.ledger.books import Books
from keyhole.ledger.database import Database, ledger_url
from keyhole.ledger.keys import KeyStore
from keyhole.ledger.mirror import Mirror
from keyhole.ledger.posting import Poster
from keyhole.ledger.reflecting import Reflection, SeenFile
from keyhole.ledger.usage import UsageReader
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.ids import uuid7, uuid7_tails

UNDER_WAY = 100
MODELS = ("openai-community/gpt2", "openai-community/gpt2-large", "meta/llama-3", "qwen/qwen3")
UPSTREAMS = ("engine", "hf", "gpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempts", type=int, default=50_000)
    parser.add_argument("--each", type=int, default=5_000)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--url")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--profile", action="store_true")
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(dir=wanted.directory))
        url = ledger_url(wanted.url, Path(made))
        database = stack.enter_context(Database(url))
        database.migrate()
        measure(database, Path(made), wanted)


def measure(database: Database, folder: Path, wanted: argparse.Namespace) -> None:
    """Write and post in turns, and print what posting took."""
    books, mirror = Books(database), Mirror(folder)
    seen = SeenFile(folder, "bench")
    reflection = Reflection(KeyStore(database), books, mirror, seen=seen)
    journal = FileJournal(
        folder / "journal", JournalSettings(), node="n", clock=SystemClock(), say=print
    )
    poster = Poster(books, folder / "journal", say=print)
    profile = cProfile.Profile() if wanted.profile else None
    chance, open_ones = random.Random(1), deque[Intent]()
    posting: list[float] = []
    telling = wall_s = 0.0
    rounds = wanted.attempts // wanted.each
    for number in range(rounds):
        write(journal, wanted, chance, open_ones)
        if number == rounds - 1:
            while open_ones:
                journal.settle(receipt(open_ones.popleft(), chance))
        began_s = time.perf_counter()
        posting.append(timed(lambda: poster.remove(poster.run().done), profile))
        wall_s += time.perf_counter() - began_s
        if number % 2:
            telling += timed(lambda: reflection.spent(time.time_ns() // 1_000_000), profile)
    journal.close()
    poster.remove(poster.run().done)
    total = UsageReader(database).usage("key").total
    count = rounds * wanted.each
    assert total.requests == count, total
    each = f"{count:,} attempts of {wanted.keys} keys, {wanted.each:,} at a time"
    usual, mean = statistics.median(posting) / wanted.each, sum(posting) / count
    print(
        f"{each}: {usual * 1e6:.1f} us posting (median; mean {mean * 1e6:.1f})"
        f" + {telling / count * 1e6:.2f} us mirror of CPU each ({wall_s / count * 1e6:.1f} us"
        f" from beginning to end)"
    )
    mirror.close()
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def write(
    journal: FileJournal,
    wanted: argparse.Namespace,
    chance: random.Random,
    open_ones: deque[Intent],
) -> None:
    """What a worker does between two looks; some attempts are not over at the end of it."""
    for _ in range(wanted.each):
        begun = intent(chance, wanted.keys)
        journal.intend(begun)
        open_ones.append(begun)
        if len(open_ones) > UNDER_WAY:
            journal.settle(receipt(open_ones.popleft(), chance))


def intent(chance: random.Random, keys: int) -> Intent:
    now_ms = time.time_ns() // 1_000_000
    which = chance.randrange(keys)
    model, upstream = chance.choice(MODELS), chance.choice(UPSTREAMS)
    return Intent(
        exchange_id=uuid7(now_ms, uuid7_tails(f"{chance.getrandbits(76):019x}")[0]),
        attempt=1,
        started_at_ms=now_ms,
        key_id=f"key_{which:016x}",
        key=f"student-{which}",
        group=f"class-{which % 5}",
        dialect="openai",
        model=model,
        upstream=upstream,
        target=f"{upstream}/{model}",
        prompt_estimate=123,
        prompt_price=150_000,
        completion_price=600_000,
    )


def receipt(of: Intent, chance: random.Random) -> Receipt:
    return Receipt(of, 200, "ok", chance.randrange(200), 20, "reported", 27, 12.345678, 98.7654321)


def timed(work: Callable[[], object], profile: cProfile.Profile | None) -> float:
    """CPU seconds of some work."""
    began = time.process_time()
    if profile is None:
        work()
    else:
        profile.runcall(work)
    return time.process_time() - began


if __name__ == "__main__":
    main()
