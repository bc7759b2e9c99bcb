"""How quick a big ledger is: opening it, `usage --since 30d`, a page of rows, one exchange, a post.

    python bench/ledger.py [--keys N] [--rows N] [--days N] [--even] [--url URL] [--keep FOLDER]

It makes a ledger of that many keys and rows (a hundred thousand and a million), the rows over the
last days (60), and prints how long each takes, as the median of seven. Few keys make most rows, as
with people (the k-th of n about as often as 1/k); with --even each makes as many, which is the
worst case for sums by key. With --keep the file is made once and used again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Integer, Select, Table, case, func, literal, select, update
from sqlalchemy import cast as sql_cast

from keyhole.ledger.books import Batch, Books
from keyhole.ledger.database import Database, ledger_url
from keyhole.ledger.keys import KeyStore, NewKey
from keyhole.ledger.schema import ATTEMPTS, CHANGES, DAILY, HOURLY, NO_NAME, SPENT
from keyhole.ledger.sums import DAY_MS, ERRORS, HOUR_MS, SPENDERS, Row, month_ms
from keyhole.ledger.usage import UsageReader
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.ids import TAIL_DIGITS, uuid7, uuid7_tails
from keyhole.wire.keys import Budget, Limits

AT_ONCE = 10_000
ROUNDS = 7
POSTED = 2000
GROUPS = 100
MODELS = ("openai-community/gpt2", "openai-community/gpt2-large", "meta/llama-3", "qwen/qwen3")
UPSTREAMS = ("engine", "hf", "gpu")
LIMITS = Limits(rpm=10**9, tpm=10**12, concurrency=10**6, budget=Budget(amount=10**15, per="month"))
"""Of each key and group: everything is counted, and nothing refused."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--url")
    parser.add_argument("--keep", type=Path)
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = wanted.keep
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = ledger_url(wanted.url, folder)
        database = stack.enter_context(Database(url))
        database.migrate()
        if not KeyStore(database).have_existed():
            fill(database, wanted)
        measure(url, database)


def fill(
    database: Database,
    wanted: argparse.Namespace,
    *,
    keep_secret: Callable[[str], None] | None = None,
) -> None:
    """Make keys, rows, rollups and what was spent; `keep_secret` is given each key's."""
    began_s = time.perf_counter()
    ids = list(make_keys(database, wanted.keys, keep_secret))
    print(f"{len(ids):,} keys made in {time.perf_counter() - began_s:.1f} s")
    began_s = time.perf_counter()
    rows = make_rows(ids, wanted)
    while some := list(islice(rows, AT_ONCE)):
        with database.writing() as connection:
            connection.execute(ATTEMPTS.insert(), some)
    print(f"{wanted.rows:,} rows in {time.perf_counter() - began_s:.1f} s")
    began_s = time.perf_counter()
    roll_up(database)
    sum_up_spent(database)
    print(f"their rollups in {time.perf_counter() - began_s:.1f} s")


def make_keys(
    database: Database, count: int, keep_secret: Callable[[str], None] | None = None
) -> Iterator[str]:
    store, now_ms = KeyStore(database), round(time.time() * 1000)
    for number in range(min(count, GROUPS)):
        store.set_group(f"class-{number}", LIMITS)
    for start in range(0, count, AT_ONCE):
        new = [
            NewKey(name=f"student-{n}", group=f"class-{n % GROUPS}", limits=LIMITS)
            for n in range(start, min(start + AT_ONCE, count))
        ]
        issued = store.create_many(new, now_ms=now_ms, random_bytes=os.urandom)
        if keep_secret is not None:
            for one in issued:
                keep_secret(one.secret.reveal())
        yield from (one.key.id for one in issued)


def make_rows(ids: list[str], wanted: argparse.Namespace) -> Iterator[Row]:
    """Attempts in the order of their time, which ends now."""
    chance = random.Random(1)
    now_ms = round(time.time() * 1000)
    for n in range(wanted.rows):
        at_ms = now_ms - round((wanted.rows - n) / wanted.rows * wanted.days * DAY_MS)
        part = chance.random()
        which = int(len(ids) * part) if wanted.even else int(len(ids) ** part) - 1
        upstream, model = chance.choice(UPSTREAMS), chance.choice(MODELS)
        yield {
            "exchange_id": make_id(at_ms, chance),
            "attempt": 1,
            "started_at_ms": at_ms,
            "key_id": ids[which],
            "key": f"student-{which}",
            "group_name": f"class-{which % GROUPS}",
            "dialect": "openai",
            "model": model,
            "upstream": upstream,
            "target": f"{upstream}/{model}",
            "status": 200,
            "outcome": "ok",
            "prompt_tokens": 100 + n % 7,
            "completion_tokens": 200 + n % 11,
            "basis": "reported",
            "cost_microusd": 50 + n % 13,
            "ttft_ms": 55.5,
            "duration_ms": 900.5,
        }


def make_id(at_ms: int, chance: random.Random) -> str:
    """An exchange's id."""
    return uuid7(at_ms, uuid7_tails(f"{chance.getrandbits(4 * TAIL_DIGITS):0{TAIL_DIGITS}x}")[0])


def roll_up(database: Database) -> None:
    """Fill the rollups, the hours from the rows and the days from the hours."""
    rows, hours = ATTEMPTS.c, HOURLY.c
    names = {
        "all": literal(NO_NAME),
        "key": rows.key_id,
        "group": rows.group_name,
        "model": rows.model,
        "upstream": rows.upstream,
    }
    for kind, name in names.items():
        summed = select(
            literal(kind),
            (rows.started_at_ms - rows.started_at_ms % HOUR_MS).label("start"),
            name.label("name"),
            func.count(),
            func.sum(sql_cast(case((rows.outcome.in_(ERRORS), 1), else_=0), Integer)),
            func.sum(rows.prompt_tokens),
            func.sum(rows.completion_tokens),
            func.sum(rows.cost_microusd),
        ).group_by("start", "name")
        insert_sums(database, HOURLY, summed)
    amounts = [hours[column.name] for column in list(HOURLY.columns)[3:]]
    start = (hours.hour_ms - hours.hour_ms % DAY_MS).label("start")
    summed = select(hours.kind, start, hours.name, *map(func.sum, amounts))
    insert_sums(database, DAILY, summed.group_by(hours.kind, "start", hours.name))


def insert_sums(database: Database, table: Table, summed: Select[Any]) -> None:
    """Fill a table from a query."""
    columns = [column.name for column in table.columns]
    with database.writing() as connection:
        connection.execute(table.insert().from_select(columns, summed))


def sum_up_spent(database: Database) -> None:
    """Fill `spent` from the rollups: the latest day and month of all who have spent."""
    days = DAILY.c
    today_ms = round(time.time() * 1000) // DAY_MS * DAY_MS
    this_month_ms = month_ms(today_ms)
    tokens = days.prompt_tokens + days.completion_tokens
    amounts: list[Any] = []
    for start_ms in (today_ms, today_ms, this_month_ms, 0):
        is_in = days.day_ms >= start_ms
        sums = [func.sum(case((is_in, each), else_=0)) for each in (days.cost_microusd, tokens)]
        amounts += [sql_cast(literal(start_ms), BigInteger), *sums] if start_ms else sums
    summed = select(days.kind, days.name, *amounts, sql_cast(literal(1), BigInteger))
    of_spenders = summed.where(days.kind.in_(SPENDERS)).group_by(days.kind, days.name)
    insert_sums(database, SPENT, of_spenders)
    with database.writing() as connection:
        connection.execute(update(CHANGES).where(CHANGES.c.name == "books").values(version=1))


def measure(url: str, database: Database) -> None:
    """Time what a user or the clerk waits for."""
    reader, books = UsageReader(database), Books(database)
    since_ms = round(time.time() * 1000) - 30 * DAY_MS
    (some,) = reader.rows(since_ms=since_ms, limit=1)

    def open_it() -> None:
        with Database(url) as opened:
            opened.migrate()

    tell("open, and find the tables up to date", open_it)
    for by in ("key", "group", "model", "upstream", "day"):
        ask = partial(reader.usage, by, since_ms=since_ms, limit=50)
        tell(f"usage --by {by} --since 30d, first 50", ask)
    tell("a page of 1,000 rows", lambda: reader.rows(since_ms=since_ms, after=some.place))
    tell("one exchange", lambda: reader.exchange(some.exchange_id))
    tell("version of the keys", KeyStore(database).version)
    batches = list(make_batches(some.key_id or ""))
    numbers = iter(batches)
    took_s = tell(f"one post of {POSTED:,} rows", lambda: books.post(next(numbers)))
    print(f"  = {POSTED / took_s:,.0f} rows/s")


def make_batches(key_id: str) -> Iterator[Batch]:
    """What a busy worker with a thousand keys writes, for each round."""
    now_ms, segment = round(time.time() * 1000), f"bench-{time.time_ns()}"
    for number in range(ROUNDS):
        lines: list[Intent | Receipt] = []
        for n in range(POSTED):
            intent = Intent(
                exchange_id=make_id(now_ms, random.Random()),
                attempt=1,
                started_at_ms=now_ms,
                key_id=f"{key_id[:-3]}{n % 1000:03}",
                key="student",
                group="class-1",
                dialect="openai",
                model=MODELS[0],
                upstream="hf",
                target="hf/gpt2",
                prompt_estimate=100,
                prompt_price=None,
                completion_price=None,
            )
            lines += [intent, Receipt(intent, 200, "ok", 100, 200, "reported", 50, 55.5, 900.5)]
        begins_at = number * POSTED
        yield Batch(
            node="bench",
            segment=segment,
            begins_at=begins_at,
            ends_at=begins_at + POSTED,
            lines=lines,
        )


def tell(what: str, act: Callable[[], object]) -> float:
    """Print the median of some rounds, and the slowest; returns the median in seconds."""
    took_s = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        act()
        took_s.append(time.perf_counter() - began_s)
    median_s = statistics.median(took_s)
    print(f"{what}: {median_s * 1000:,.1f} ms (slowest {max(took_s) * 1000:,.1f})")
    return median_s


if __name__ == "__main__":
    main()
