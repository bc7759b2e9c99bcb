"""Usage, rows and single exchanges, on both databases."""

from __future__ import annotations

import random

import pytest
from receipts import DAY_MS, HOUR_MS, NOON_MS, batch, intent, progress, receipt

from keyhole.ledger.books import Books, OpenIntent
from keyhole.ledger.database import Database
from keyhole.ledger.keys import KeyStore, NewKey
from keyhole.ledger.usage import By, Sum, UsageReader, in_words


@pytest.fixture
def books(database: Database) -> Books:
    return Books(database)


@pytest.fixture
def reader(database: Database) -> UsageReader:
    return UsageReader(database)


def names_and_requests(sums: tuple[Sum, ...]) -> dict[str | None, int]:
    return {one.name: one.requests for one in sums}


def test_usage_is_told_by_each_way_to_look_at_it(
    books: Books, reader: UsageReader, database: Database
) -> None:
    ids = iter([b"s" * 32, b"\x01" * 8])
    key = KeyStore(database).create(NewKey(name="anna"), now_ms=1, random_bytes=lambda _: next(ids))
    mine = {"key_id": key.key.id}
    books.post(
        batch(
            receipt(intent(1, **mine), cost_microusd=100),
            receipt(intent(2, **mine, model="llama", upstream="gpu"), outcome="client_error"),
            receipt(intent(3, key_id=None, group=None), outcome="upstream_error"),
            receipt(intent(4, key_id="key_of_nobody", at_ms=NOON_MS + DAY_MS), outcome="cut"),
        )
    )
    by_key = reader.usage("key")
    assert by_key.sums[0] == Sum(
        name="anna",
        key_id=key.key.id,
        requests=2,
        errors=1,
        prompt_tokens=20,
        completion_tokens=40,
        cost_microusd=150,
    )
    assert [(one.name, one.key_id) for one in by_key.sums[1:]] == [
        (None, None),
        ("key_of_nobody", "key_of_nobody"),
    ]
    assert names_and_requests(reader.usage("group").sums) == {"class-a": 3, None: 1}
    assert names_and_requests(reader.usage("model").sums) == {"gpt2": 3, "llama": 1}
    assert names_and_requests(reader.usage("upstream").sums) == {"hf": 3, "gpu": 1}
    by_day = reader.usage("day").sums
    assert [(one.name, one.requests) for one in by_day] == [("2025-11-22", 3), ("2025-11-23", 1)]
    assert by_day[0].day_ms == NOON_MS - 12 * HOUR_MS
    total = by_key.total
    assert (total.requests, total.errors, total.cost_microusd) == (4, 2, 250)
    for by in ("group", "model", "upstream", "day"):
        assert reader.usage(by).total == total


def test_who_cost_most_comes_first_and_a_limit_leaves_out_the_rest(
    books: Books, reader: UsageReader
) -> None:
    costs = [(1, 5, 0), (2, 9, 0), (3, 5, 1), (4, 5, 1)]
    lines = [
        receipt(intent(n, model=f"m{n}"), cost_microusd=cost, prompt_tokens=tokens)
        for n, cost, tokens in costs
    ]
    books.post(batch(*lines))
    assert [one.name for one in reader.usage("model").sums] == ["m2", "m3", "m4", "m1"]
    some = reader.usage("model", limit=2, skip=1)
    assert [one.name for one in some.sums] == ["m3", "m4"]
    assert some.total.requests == 4


@pytest.mark.parametrize("costs", ["alike", "few", "none"])
def test_who_used_most_is_the_same_with_a_limit(
    books: Books, reader: UsageReader, costs: str
) -> None:
    """However it is spread over names and hours."""
    chance = random.Random(7)
    lines = []
    for n in range(400):
        name = chance.randrange(80) if costs == "alike" else int(80 ** chance.random())
        lines.append(
            receipt(
                intent(n, model=f"m{name}", at_ms=NOON_MS + chance.randrange(3 * DAY_MS)),
                cost_microusd=0 if costs == "none" else chance.randrange(100),
            )
        )
    books.post(batch(*lines))
    since = NOON_MS + HOUR_MS // 3
    whole = reader.usage("model", since_ms=since)
    for limit, skip in ((1, 0), (5, 0), (5, 3), (30, 30), (100, 0)):
        some = reader.usage("model", since_ms=since, limit=limit, skip=skip)
        assert some.sums == whole.sums[skip : skip + limit]
        assert some.total == whole.total


def test_who_uses_a_little_in_each_hour_can_be_the_first(books: Books, reader: UsageReader) -> None:
    """Of sixty others each has much in one hour, and less in all."""
    midnight_ms = NOON_MS - 12 * HOUR_MS
    lines = [
        receipt(intent(n, model=f"m{n}", at_ms=midnight_ms), cost_microusd=6400) for n in range(60)
    ]
    lines += [
        receipt(intent(100 + n, model="steady", at_ms=midnight_ms + n * HOUR_MS), cost_microusd=400)
        for n in range(23)
    ]
    books.post(batch(*lines))
    span = (midnight_ms, midnight_ms + 23 * HOUR_MS)
    (first,) = reader.usage("model", since_ms=span[0], until_ms=span[1], limit=1).sums
    assert (first.name, first.cost_microusd) == ("steady", 23 * 400)


def test_nothing_was_used_where_nothing_is(reader: UsageReader) -> None:
    for by in ("key", "group", "model", "upstream", "day"):
        usage = reader.usage(by, since_ms=NOON_MS, until_ms=NOON_MS)
        assert (usage.sums, usage.total.requests) == ((), 0)
    assert reader.usage("key").total.cost_microusd == 0
    assert reader.rows() == []


def test_usage_of_any_span_equals_the_sum_of_its_rows(books: Books, reader: UsageReader) -> None:
    """At the millisecond, whether it begins and ends in an hour or between days."""
    chance = random.Random(5)
    edges = [NOON_MS + n * HOUR_MS + off for n in (-30, -1, 0, 12, 36) for off in (-1, 0, 1)]
    times = edges + [NOON_MS + chance.randrange(-2 * DAY_MS, 2 * DAY_MS) for _ in range(60)]
    models = ["a", "b", "c"]
    lines = [
        receipt(
            intent(n, at_ms=at, model=chance.choice(models)), cost_microusd=chance.randrange(1000)
        )
        for n, at in enumerate(times)
    ]
    books.post(batch(*lines))
    for _ in range(40):
        since, until = sorted((chance.choice(times), chance.choice(times)))
        rows = reader.rows(since_ms=since, until_ms=until)
        expected = {
            model: sum(row.cost_microusd for row in rows if row.model == model)
            for model in {row.model for row in rows}
        }
        usage = reader.usage("model", since_ms=since, until_ms=until)
        assert {one.name: one.cost_microusd for one in usage.sums} == expected
        assert usage.total.requests == len(rows)
        assert reader.usage("model", since_ms=since, until_ms=until, limit=9) == usage
        assert (usage.since_ms, usage.until_ms) == (since, until)
        by_day = reader.usage("day", since_ms=since, until_ms=until)
        assert sum(one.requests for one in by_day.sums) == len(rows)


@pytest.mark.parametrize("by", ["key", "day"])
def test_what_retention_left_is_told_by_whole_hours_and_days(
    books: Books, reader: UsageReader, by: By
) -> None:
    """And the answer says from when it counts."""
    times = [NOON_MS + 10, NOON_MS + HOUR_MS // 2, NOON_MS + 2 * HOUR_MS]
    books.post(batch(*[receipt(intent(n, at_ms=at)) for n, at in enumerate(times)]))
    asked = NOON_MS + 20
    usage = reader.usage(by, since_ms=asked)
    assert (usage.total.requests, usage.since_ms) == (2, asked)
    books.forget("attempts", before_ms=NOON_MS + HOUR_MS)
    usage = reader.usage(by, since_ms=asked)
    assert (usage.total.requests, usage.since_ms) == (3, NOON_MS)
    books.forget("hourly", before_ms=NOON_MS + DAY_MS)
    usage = reader.usage(by, since_ms=NOON_MS + HOUR_MS)
    assert (usage.total.requests, usage.since_ms) == (3, NOON_MS - 12 * HOUR_MS)


def test_pages_of_rows_make_up_the_whole_in_order(books: Books, reader: UsageReader) -> None:
    """Also where many started in the same millisecond, and exchanges have several attempts."""
    lines = [
        receipt(intent(n, attempt=attempt, at_ms=NOON_MS + n % 3))
        for n in range(10)
        for attempt in (1, 2)
    ]
    books.post(batch(*lines))
    whole = reader.rows()
    order = [(row.started_at_ms, row.exchange_id, row.attempt) for row in whole]
    assert order == sorted(order)
    assert len(set(order)) == 20
    pages, after = [], None
    while page := reader.rows(after=after, limit=3):
        pages += page
        after = page[-1].place
    assert pages == whole


def test_an_exchange_is_told_with_what_is_still_under_way(
    books: Books, reader: UsageReader
) -> None:
    second = intent(1, attempt=2)
    books.post(batch(receipt(intent(1), outcome="upstream_error"), second, progress(second, 4)))
    found = reader.exchange(second.exchange_id)
    assert [row.outcome for row in found.attempts] == ["upstream_error"]
    assert found.open_intents == (OpenIntent(second, 4),)


@pytest.mark.parametrize(
    "hostile", ["", "' OR 1=1 --", "%", "a\0b", "\ud800", "x" * 1_000_000, "?", ":id"]
)
def test_an_unknown_exchange_is_nothing(books: Books, reader: UsageReader, hostile: str) -> None:
    books.post(batch(receipt(intent(1))))
    found = reader.exchange(hostile)
    assert (found.attempts, found.open_intents) == ((), ())


def test_moments_are_written_as_in_rfc_3339() -> None:
    assert in_words(0) == "1970-01-01T00:00:00.000Z"
    assert in_words(NOON_MS + 7) == "2025-11-22T12:00:00.007Z"
