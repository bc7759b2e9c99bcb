"""The books, on both databases: every attempt once, whatever is posted how often."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from receipts import DAY_MS, HOUR_MS, NOON_MS, batch, intent, progress, receipt
from sqlalchemy import text

from keyhole.ledger.books import Books, LostRace, OpenIntent, Posted, Spent, Window
from keyhole.ledger.database import Database, LedgerUnavailable
from keyhole.ledger.keys import KeyStore, NewKey
from keyhole.ledger.usage import UsageReader
from keyhole.wire.books import Intent, Receipt
from postgres import running_privately

ROLLUPS = ("SELECT * FROM hourly ORDER BY 1, 2, 3", "SELECT * FROM daily ORDER BY 1, 2, 3")


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


def empty(database: Database) -> None:
    """Let the next example of a property begin anew."""
    with database.writing() as connection:
        for table in ("attempts", "open_intents", "segments", "hourly", "daily", "spent"):
            connection.execute(text(f"DELETE FROM {table}"))


def everything(database: Database) -> dict[str, Any]:
    """All that was counted, in an order that does not depend on the way there."""
    with database.reading() as connection:
        rollups = [tuple(map(tuple, connection.execute(text(sql)))) for sql in ROLLUPS]
    return {
        "rows": UsageReader(database).rows(limit=10_000),
        "rollups": rollups,
        "spent": spent(Books(database)),
    }


def spent(books: Books, since: int = -1) -> dict[tuple[str, str], Spent]:
    with books.standing(since=since) as standing:
        return {(one.kind, one.name): one for one in standing.spent}


def test_a_receipt_becomes_a_row_with_all_its_fields(books: Books, database: Database) -> None:
    one = receipt(intent(1, attempt=2, at_ms=NOON_MS + 123))
    assert books.post(batch(one)) == Posted(1, 1)
    (row,) = UsageReader(database).rows()
    assert row.promised() == {
        "exchange_id": one.intent.exchange_id,
        "attempt": 2,
        "key": "anna",
        "key_id": "key_anna",
        "group": "class-a",
        "dialect": "openai",
        "model": "gpt2",
        "upstream": "hf",
        "target": "hf/gpt2",
        "status": 200,
        "outcome": "ok",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "basis": "reported",
        "cost_microusd": 50,
        "ttft_ms": 5.5,
        "duration_ms": 60.25,
        "started_at": "2025-11-22T12:00:00.123Z",
    }


def test_a_caller_without_a_key_is_booked(books: Books, database: Database) -> None:
    local = intent(1, key_id=None, key=None, group=None, prompt_price=None)
    books.post(batch(receipt(local, ttft_ms=None)))
    (row,) = UsageReader(database).rows()
    assert (row.key, row.key_id, row.group, row.ttft_ms) == (None, None, None, None)
    assert list(spent(books)) == [("upstream", "hf")]


# Once


def test_a_batch_that_was_posted_is_not_posted_again(books: Books, database: Database) -> None:
    """After a crash between the commit and its news, say."""
    one = batch(receipt(intent(1)))
    books.post(one)
    before = everything(database), books.version()
    with pytest.raises(LostRace) as caught:
        books.post(one)
    assert (caught.value.expected, caught.value.found) == (0, 10)
    assert (everything(database), books.version()) == before


def test_a_batch_that_begins_elsewhere_is_not_posted(books: Books, database: Database) -> None:
    """Neither behind a gap, nor in a segment that is unknown."""
    for other in ("segment-1", "segment-2"):
        with pytest.raises(LostRace):
            books.post(batch(receipt(intent(1)), begins_at=10, segment=other))
    assert everything(database)["rows"] == []
    assert books.offsets() == []


def test_a_receipt_that_stands_in_two_segments_counts_once(
    books: Books, database: Database
) -> None:
    books.post(batch(receipt(intent(1)), receipt(intent(2))))
    before = everything(database)["rollups"]
    again = batch(receipt(intent(1)), receipt(intent(1)), segment="segment-2")
    assert books.post(again).inserted == 0
    assert everything(database)["rollups"] == before
    mixed = batch(receipt(intent(1)), receipt(intent(3)), segment="segment-3")
    assert books.post(mixed).inserted == 1
    assert len(UsageReader(database).rows()) == 3


def test_attempts_of_one_exchange_are_rows_of_their_own(books: Books, database: Database) -> None:
    posted = books.post(batch(*[receipt(intent(1, attempt=n)) for n in (1, 2, 3)]))
    assert posted.inserted == 3
    found = UsageReader(database).exchange(intent(1).exchange_id)
    assert [row.attempt for row in found.attempts] == [1, 2, 3]


OUTCOMES = ("ok", "client_error", "upstream_error", "client_gone", "cut", "interrupted")


def line(number: int) -> Receipt:
    """The only receipt that this number ever has; different numbers differ in everything."""
    by_number = random.Random(number)
    return receipt(
        intent(
            number,
            at_ms=NOON_MS + by_number.choice([0, 1, HOUR_MS, -HOUR_MS, 9 * DAY_MS, -30 * DAY_MS]),
            key_id=by_number.choice([None, "key_anna", "key_ben"]),
            group=by_number.choice([None, "class-a", "class-b"]),
            model=by_number.choice(["gpt2", "llama"]),
            upstream=by_number.choice(["hf", "gpu"]),
        ),
        outcome=by_number.choice(OUTCOMES),
        prompt_tokens=by_number.randrange(100),
        completion_tokens=by_number.randrange(100),
        cost_microusd=by_number.randrange(10**6),
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), numbers=st.sets(st.integers(0, 30), min_size=1))
def test_any_order_repetition_and_retry_comes_to_the_same(
    database: Database, data: st.DataObject, numbers: set[int]
) -> None:
    """Whatever way the same receipts come, cut into batches and segments in any way."""
    books = Books(database)
    empty(database)
    books.post(batch(*[line(number) for number in sorted(numbers)]))
    expected = everything(database)
    assert len(UsageReader(database).rows()) == len(numbers)
    starts = [[row[1] for row in rollup] for rollup in expected["rollups"]]
    assert (
        {start % HOUR_MS for start in starts[0]} == {start % DAY_MS for start in starts[1]} == {0}
    )
    empty(database)

    repeated = data.draw(st.lists(st.sampled_from(sorted(numbers)), max_size=20))
    order = data.draw(st.permutations([*sorted(numbers), *repeated]))
    offsets = {"a": 0, "b": 0, "c": 0}
    while order:
        size = data.draw(st.integers(1, len(order)))
        segment = data.draw(st.sampled_from(sorted(offsets)))
        some = [
            part
            for n in order[:size]
            for part in ((line(n).intent, line(n)) if n % 2 else [line(n)])
        ]
        wanted = batch(*some, begins_at=offsets[segment], segment=segment)
        books.post(wanted)
        if data.draw(st.booleans()):
            with contextlib.suppress(LostRace):
                books.post(wanted)
        offsets[segment] = wanted.ends_at
        order = order[size:]
    got = everything(database)
    assert got == expected
    assert books.open_intents("node-1", "a") == []


def test_posters_at_once_post_each_line_once(books: Books, database: Database) -> None:
    """Both read the same journal; the offset decides whose batch it is."""
    together = threading.Barrier(2)
    lines = [[receipt(intent(100 * part + n)) for n in range(20)] for part in range(10)]

    def post_all(_: int) -> int:
        won, at = 0, 0
        together.wait(10)
        for some in lines:
            try:
                won += books.post(batch(*some, begins_at=at)).inserted
            except LostRace as lost:
                assert at + 200 <= lost.found  # noqa: PT017  # whether it is raised is chance
            at += 200
        return won

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(post_all, range(2))) == 200
    assert UsageReader(database).usage("key").total.requests == 200
    assert [one.offset for one in books.offsets()] == [2000]


def test_posters_of_two_nodes_at_once_add_up(books: Books, database: Database) -> None:
    """They write the same rollups, in any order, and none waits for the other for ever."""

    def post_all(node: int) -> None:
        for part in range(10):
            numbers = [1000 * node + 20 * part + n for n in range(20)]
            lines = [receipt(intent(n, model=f"m{(n * 7) % 20}")) for n in numbers]
            books.post(batch(*lines, begins_at=200 * part, node=f"node-{node}"))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(post_all, range(3)))
    usage = UsageReader(database).usage("model")
    assert usage.total.requests == sum(one.requests for one in usage.sums) == 600
    assert spent(books)["upstream", "hf"].total == Window(0, 600 * 50, 600 * 30)
    assert books.version() == 30


# Open intents


def test_an_intent_is_open_until_its_receipt(books: Books) -> None:
    opened, ended = intent(1), intent(2)
    books.post(batch(opened, ended, receipt(ended), progress(opened, 7)))
    assert books.open_intents("node-1", "segment-1") == [OpenIntent(opened, 7)]
    assert [one.open_intents for one in books.offsets("node-1")] == [1]
    assert books.offsets("node-2") == []
    books.post(batch(progress(opened, 9), progress(opened, 8), begins_at=40))
    assert books.open_intents("node-1", "segment-1") == [OpenIntent(opened, 9)]
    books.post(batch(receipt(opened), begins_at=60))
    assert books.open_intents("node-1", "segment-1") == []


def test_a_receipt_in_another_segment_closes_the_intent(books: Books) -> None:
    """Whichever of the two is posted first."""
    books.post(batch(intent(1)))
    books.post(batch(receipt(intent(1)), receipt(intent(2)), segment="segment-2"))
    books.post(batch(intent(2), begins_at=10))
    assert books.open_intents("node-1", "segment-1") == []


@pytest.mark.parametrize("count", [3, 1100])
def test_of_many_that_are_open_those_that_ended_are_closed(books: Books, count: int) -> None:
    opened = [intent(n) for n in range(1200)]
    books.post(batch(*opened))
    ended = [receipt(one) for one in opened[-count:]]
    books.post(batch(*ended, segment="segment-2"))
    left = [one.intent for one in books.open_intents("node-1", "segment-1")]
    assert left == opened[:-count]


def test_what_a_dead_writer_left_open_is_interrupted(books: Books, database: Database) -> None:
    """With the prompt's estimate and the last progress, at the prices that the intent carries."""
    dead = intent(1, prompt_estimate=101, prompt_price=1_000_001, completion_price=10)
    unpriced = intent(2, prompt_price=None, completion_price=None, key_id=None)
    other = intent(3)
    books.post(batch(dead, unpriced, progress(dead, 30), is_sealed=True))
    books.post(batch(other, segment="segment-2", is_sealed=True))
    receipts = books.interrupt("node-1", "segment-1")
    rows = {row.exchange_id: row for row in UsageReader(database).rows()}
    assert [one.intent for one in receipts] == [dead, unpriced]
    row = rows[dead.exchange_id]
    assert (row.outcome, row.status, row.basis) == ("interrupted", 0, "estimated")
    assert (row.prompt_tokens, row.completion_tokens, row.cost_microusd) == (101, 30, 102)
    assert (row.ttft_ms, row.duration_ms) == (None, 0.0)
    assert rows[unpriced.exchange_id].cost_microusd == 0
    assert len(rows) == 2
    assert books.open_intents("node-1", "segment-1") == []
    assert books.open_intents("node-1", "segment-2") == [OpenIntent(other, 0)]
    assert UsageReader(database).usage("key").total.errors == 2


def test_interrupting_twice_or_after_the_end_counts_nothing(
    books: Books, database: Database
) -> None:
    books.post(batch(intent(1), is_sealed=True))
    assert len(books.interrupt("node-1", "segment-1")) == 1
    before = everything(database)
    assert books.interrupt("node-1", "segment-1") == []
    books.post(batch(receipt(intent(1)), segment="segment-2"))
    assert everything(database) == before


@pytest.mark.parametrize("segment", ["segment-1", "unknown"])
def test_a_segment_that_is_not_sealed_is_not_interrupted(books: Books, segment: str) -> None:
    books.post(batch(intent(1)))
    assert books.interrupt("node-1", segment) == []
    assert len(books.open_intents("node-1", "segment-1")) == 1


def test_a_segment_is_sealed_without_a_line_and_forgotten(books: Books) -> None:
    books.post(batch(receipt(intent(1))))
    books.post(batch(begins_at=10, is_sealed=True))
    (one,) = books.offsets()
    assert (one.offset, one.is_sealed, one.open_intents) == (10, True, 0)
    books.forget_segment("node-1", "segment-1")
    assert books.offsets() == []


# What is spent


def test_what_is_spent_is_of_the_latest_windows_and_in_total(books: Books) -> None:
    at = {1: NOON_MS - 40 * DAY_MS, 2: NOON_MS - DAY_MS, 3: NOON_MS - HOUR_MS, 4: NOON_MS}
    lines = [receipt(intent(n, at_ms=moment), cost_microusd=10**n) for n, moment in at.items()]
    books.post(batch(*lines))
    november_ms = NOON_MS - 12 * HOUR_MS - 21 * DAY_MS
    anna = Spent(
        kind="key",
        name="key_anna",
        hour=Window(NOON_MS, 10_000, 30),
        day=Window(NOON_MS - 12 * HOUR_MS, 11_000, 60),
        month=Window(november_ms, 11_100, 90),
        total=Window(0, 11_110, 120),
    )
    assert spent(books)["key", "key_anna"] == anna
    assert {place[0] for place in spent(books)} == {"key", "group", "upstream"}


def test_only_those_who_spent_since_are_told(books: Books) -> None:
    version = books.post(batch(receipt(intent(1)))).version
    books.post(batch(receipt(intent(2, key_id="key_ben")), begins_at=10))
    assert set(spent(books, since=version)) == {
        ("key", "key_ben"),
        ("group", "class-a"),
        ("upstream", "hf"),
    }
    with books.standing(since=version) as standing:
        assert (standing.version, standing.offsets[0].offset) == (version + 1, 20)


def test_a_rotation_does_not_fill_up_a_budget(books: Books, database: Database) -> None:
    store = KeyStore(database)
    old = store.create(NewKey(name="anna"), now_ms=1, random_bytes=lambda size: b"a" * size).key
    books.post(batch(receipt(intent(1, key_id=old.id))))
    new = store.rotate("anna", grace_s=0, now_ms=2, random_bytes=lambda size: b"b" * size).key
    books.post(batch(receipt(intent(2, key_id=new.id)), begins_at=10))
    assert spent(books)["key", old.id].total == Window(0, 50, 30)
    assert spent(books)["key", new.id].total == Window(0, 100, 60)
    assert UsageReader(database).usage("key").total.cost_microusd == 100


# What comes from outside


HOSTILE = ["a\0b", "\ud800", "'; DROP TABLE attempts; --", "x" * 1_000_000, "%s ? :a", "é" * 5000]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_keeps_a_batch_from_being_posted(
    books: Books, database: Database, hostile: str
) -> None:
    """The journal would stand still for ever."""
    names = ("exchange_id", "key_id", "key", "group", "dialect", "model", "upstream", "target")
    bad = intent(1, **dict.fromkeys(names, hostile))
    opened = intent(2, model=hostile, exchange_id="2" + hostile)
    assert books.post(batch(receipt(bad), opened, progress(opened, 3))).inserted == 1
    (row,) = UsageReader(database).rows()
    assert row.model == row.key == row.exchange_id
    assert 0 < len(row.model) <= 300
    assert books.open_intents("node-1", "segment-1")[0].completion_tokens == 3
    books.post(batch(receipt(opened), receipt(bad), begins_at=30))
    assert books.open_intents("node-1", "segment-1") == []
    assert UsageReader(database).usage("model").sums[0].requests == 2
    books.mark(hostile, reason=hostile, now_ms=1)
    assert books.clear_mark(hostile, now_ms=2)
    UsageReader(database).exchange(hostile)


@pytest.mark.parametrize("amount", [-1, -(2**70), 2**70])
def test_no_amount_keeps_a_batch_from_being_posted(
    books: Books, database: Database, amount: int
) -> None:
    bad = receipt(intent(1), prompt_tokens=amount, completion_tokens=amount, cost_microusd=amount)
    books.post(batch(bad, intent(2), progress(intent(2), amount)))
    total = UsageReader(database).usage("key").total
    assert total.cost_microusd == total.prompt_tokens == (10**15 if amount > 0 else 0)


# Marks


def test_an_upstream_is_marked_anew_until_it_is_cleared(books: Books) -> None:
    version = books.version()
    books.mark("hf", reason="402", now_ms=1)
    books.mark("hf", reason="402 again", now_ms=2)
    books.mark("a", reason="402", now_ms=3)
    assert [(m.upstream, m.reason, m.since_ms) for m in books.marks()] == [
        ("a", "402", 3),
        ("hf", "402 again", 2),
    ]
    with books.standing() as standing:
        assert (standing.version, standing.marks) == (version + 3, books.marks())
    assert books.clear_mark("hf", now_ms=4)
    assert not books.clear_mark("hf", now_ms=4)
    assert [mark.upstream for mark in books.marks()] == ["a"]
    with books.standing() as standing:
        assert [(m.upstream, m.since_ms, m.is_cleared) for m in standing.marks] == [
            ("a", 3, False),
            ("hf", 4, True),
        ]


def test_a_receipt_that_says_so_marks_its_upstream(books: Books) -> None:
    def out_of_credits(number: int, outcome: str = "upstream_error") -> Receipt:
        return receipt(intent(number, at_ms=NOON_MS + number), status=402, outcome=outcome)

    lines = (out_of_credits(1), out_of_credits(2), receipt(intent(3)), out_of_credits(9, "cut"))
    books.post(batch(*lines, ends_at=10))
    (mark,) = books.marks()
    assert (mark.upstream, mark.since_ms) == ("hf", NOON_MS + 2)
    assert books.clear_mark("hf", now_ms=NOON_MS + 10)
    books.post(batch(out_of_credits(5), begins_at=10, ends_at=20))
    assert books.marks() == (), "it had said so before it was cleared"
    books.post(batch(out_of_credits(11), begins_at=20, ends_at=30))
    assert len(books.marks()) == 1


# Retention


def test_old_rows_go_in_slices_and_by_whole_hours(books: Books, database: Database) -> None:
    times = [NOON_MS - 2 * HOUR_MS + n * (HOUR_MS // 4) for n in range(12)]
    books.post(batch(*[receipt(intent(n, at_ms=at)) for n, at in enumerate(times)]))
    before = NOON_MS + 1
    slices = [books.forget("attempts", before_ms=before, at_most=3) for _ in range(4)]
    assert slices == [3, 3, 2, 0]
    assert {row.started_at_ms for row in UsageReader(database).rows()} == {
        at for at in times if at >= NOON_MS
    }
    assert UsageReader(database).usage("key").total.requests == 12


def test_old_rollups_go_by_whole_days(books: Books, database: Database) -> None:
    days = [NOON_MS - DAY_MS, NOON_MS]
    books.post(batch(*[receipt(intent(n, at_ms=at)) for n, at in enumerate(days)]))
    assert books.forget("hourly", before_ms=NOON_MS, at_most=3) == 3
    assert books.forget("hourly", before_ms=NOON_MS) == 2
    assert books.forget("hourly", before_ms=NOON_MS) == 0
    assert UsageReader(database).usage("day").total.requests == 2
    assert books.forget("daily", before_ms=NOON_MS) == 5
    assert UsageReader(database).usage("day").total.requests == 1
    assert spent(books)["key", "key_anna"].total == Window(0, 100, 60)


# A database that is away


def test_a_locked_file_delays_a_post_and_loses_nothing(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path}/ledger.sqlite", patience_s=0.05) as database:
        database.migrate()
        books, wanted = Books(database), batch(receipt(intent(1)))
        holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable):
            books.post(wanted)
        holder.close()
        assert books.post(wanted).inserted == 1


def test_a_server_that_stops_in_between_loses_nothing() -> None:
    """Stopped at any point of a post: it is in the books once when the server is back."""
    with running_privately() as server, Database(server.url, patience_s=2) as database:
        database.migrate()
        books = Books(database)
        books.post(batch(receipt(intent(1))))
        server.stop()
        wanted = batch(receipt(intent(2)), begins_at=10)
        for _ in range(2):
            with pytest.raises(LedgerUnavailable):
                books.post(wanted)
        server.start()
        assert books.post(wanted).inserted == 1
        assert UsageReader(database).usage("key").total.requests == 2


def test_a_server_that_stops_within_a_transaction_undoes_it() -> None:
    with running_privately() as server, Database(server.url, patience_s=2) as database:
        database.migrate()

        def write() -> None:
            with database.writing() as connection:
                connection.execute(text("UPDATE changes SET version = 7"))
                server.stop()
                connection.execute(text("UPDATE changes SET version = 8"))

        with pytest.raises(LedgerUnavailable):
            write()
        server.start()
        assert Books(database).version() == 0


def test_the_type_of_an_intent_survives(books: Books) -> None:
    """An intent with every field that may be absent comes back as it was."""
    local = intent(1, key_id=None, key=None, group=None, prompt_price=None, completion_price=None)
    books.post(batch(local))
    (found,) = books.open_intents("node-1", "segment-1")
    assert found.intent == local
    assert isinstance(found.intent, Intent)
