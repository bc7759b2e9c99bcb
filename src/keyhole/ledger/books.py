"""The books: lines of the journal become rows, once each, and everything that is counted of them.

It reads no journal (`segments`, `posting`) and no prices but those that an intent carries.

One transaction posts a batch: it moves the segment's offset, from where the batch begins to where
it ends, and it inserts the rows. Whoever reads the same bytes again finds the offset moved, and
nothing is posted; a receipt that stands in two segments has its row already, and rollups and what
is spent count inserted rows only. The row `books` of the table `changes` is written first in each:
it makes writers take turns, so that versions become visible in their order and none deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import (
    Connection,
    Table,
    bindparam,
    delete,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from keyhole.ledger.database import Database
from keyhole.ledger.lines import Line, Place, Row, Sorted, clean, place_of, row_of, sort_lines
from keyhole.ledger.schema import (
    ATTEMPTS,
    CHANGES,
    DAILY,
    FORGOTTEN,
    HOURLY,
    MARKS,
    OPEN_INTENTS,
    SEGMENTS,
    SPENT,
)
from keyhole.ledger.sums import DAY_MS, HOUR_MS, KINDS, Sums
from keyhole.wire.books import OUT_OF_CREDITS, Intent, Receipt

Kept = Literal["attempts", "hourly", "daily"]
"""Tables that retention shortens."""

CLEARED = "cleared"
"""In place of a mark's reason: the operator took it back."""

_OF_MARKS = itemgetter(2, 8, 10, 11)
_VERSION = select(CHANGES.c.version).where(CHANGES.c.name == "books")
_ASKED_AT_ONCE = 1000
_FETCHED_AT_ONCE = 2000
_PERIODS = ("hour", "day", "month")


class LostRace(Exception):  # noqa: N818  # an answer, not a failure
    """The segment's offset is not where the batch begins: nothing has been posted."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the offset is {found}, not {expected}")
        self.expected = expected
        self.found = found


class _Known(Exception):  # noqa: N818  # an answer, not a failure
    """Of some receipts of a batch there are rows already: nothing has been posted."""


class Batch(Struct, frozen=True, kw_only=True):
    """Lines of one segment, all between two offsets and in their order."""

    node: str
    segment: str
    begins_at: int
    """In bytes; 0 for a segment that the ledger does not know."""
    ends_at: int
    lines: Sequence[Line]
    is_sealed: bool = False
    """Whether nothing will ever follow."""
    is_plain: bool = False
    """Whether the texts need no mending (`segments.Piece`)."""


class Posted(Struct, frozen=True):
    """What became of a batch."""

    inserted: int
    """Rows that were not there before."""
    version: int


class Offset(Struct, frozen=True):
    """How far a segment has been posted."""

    node: str
    segment: str
    offset: int
    is_sealed: bool
    open_intents: int


class OpenIntent(Struct, frozen=True):
    """An attempt of which no end has been posted."""

    intent: Intent
    completion_tokens: int
    """Of its latest Progress."""


class Window(Struct, frozen=True):
    """What was spent from some moment on."""

    start_ms: int
    microusd: int
    tokens: int


class Spent(Struct, frozen=True, kw_only=True):
    """What a key, a group or an upstream has spent, in the latest window of each period.

    A window that is not the present one says that nothing was spent in the present one.
    """

    kind: Literal["key", "group", "upstream"]
    name: str
    """Of a key: its id."""
    hour: Window
    day: Window
    month: Window
    total: Window


class Mark(Struct, frozen=True):
    """An upstream that is out of credits."""

    upstream: str
    reason: str
    since_ms: int

    @property
    def is_cleared(self) -> bool:
        """Whether it says instead that all which was said before holds no more."""
        return self.reason == CLEARED


class Standing(Struct, frozen=True):
    """What the books held at one moment."""

    version: int
    offsets: tuple[Offset, ...]
    """Up to where the journal is counted in `spent`."""
    marks: tuple[Mark, ...]
    spent: Iterator[Spent]
    """As they come from the database, while the transaction is open."""


class Books:
    """The books of one ledger. Every method raises LedgerUnavailable where it is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def post(self, batch: Batch) -> Posted:
        """Post a batch, all of it or nothing; LostRace where another has.

        As if no row were there yet, which nearly always is so; else once more, asking for each.
        """
        found = sort_lines(batch.lines, is_plain=batch.is_plain)
        try:
            return self._post(batch, found, is_sure=True)
        except _Known:
            return self._post(batch, found, is_sure=False)

    def _post(self, batch: Batch, found: Sorted, *, is_sure: bool) -> Posted:
        with self._database.writing() as connection:
            version = _raise_version(connection)
            _move_offset(connection, batch)
            new = _insert_attempts(connection, found.rows, is_sure=is_sure)
            _count(connection, new, version)
            _mark_upstreams(connection, new)
            _close_intents(connection, found.ended)
            _open_intents(connection, batch, found.intents, found.progress)
            _note_progress(connection, found.progress)
        return Posted(len(new), version)

    def interrupt(self, node: str, segment: str) -> list[Receipt]:
        """Book the open intents of a sealed segment as `interrupted`; returns their receipts.

        To be called once everything that their writer wrote, in whichever segment, is posted:
        an end that is posted afterwards is not counted. Does nothing to a segment that is not
        sealed.
        """
        with self._database.writing() as connection:
            version = _raise_version(connection)
            is_here = (SEGMENTS.c.node == node) & (SEGMENTS.c.segment == segment)
            if not connection.execute(select(SEGMENTS.c.is_sealed).where(is_here)).scalar():
                return []
            found = _read_open(connection, node, segment)
            receipts = [interrupted(one) for one in found]
            rows = [row_of(receipt) for receipt in receipts]
            new = _insert_attempts(connection, rows, is_sure=False)
            _count(connection, new, version)
            _close_intents(connection, {row[:2] for row in rows})
        places = {row[:2] for row in new}
        return [receipt for receipt in receipts if place_of(receipt.intent) in places]

    def open_intents(self, node: str, segment: str) -> list[OpenIntent]:
        """The attempts that were begun in a segment and of which no end has been posted."""
        with self._database.reading() as connection:
            return _read_open(connection, node, segment)

    def offsets(self, node: str | None = None) -> list[Offset]:
        """How far the segments have been posted; of one node or of all."""
        with self._database.reading() as connection:
            return list(_read_offsets(connection, node))

    def forget_segment(self, node: str, segment: str) -> None:
        """Drop the offset of a segment whose file is gone; after the file, never before it."""
        is_here = (SEGMENTS.c.node == node) & (SEGMENTS.c.segment == segment)
        with self._database.writing() as connection:
            _raise_version(connection)
            connection.execute(delete(SEGMENTS).where(is_here))

    def version(self) -> int:
        """A number that every write to the books raises, retention apart."""
        with self._database.reading() as connection:
            return _version(connection)

    @contextmanager
    def standing(self, *, since: int = -1) -> Iterator[Standing]:
        """All offsets and marks, and what was spent by those whose amounts changed after `since`.

        In little memory, however many they are.
        """
        with self._database.reading() as connection:
            version = _version(connection)
            offsets, marks = tuple(_read_offsets(connection, None)), _read_marks(connection)
            streamed = connection.execution_options(yield_per=_FETCHED_AT_ONCE)
            with streamed.execute(select(SPENT).where(SPENT.c.version > since)) as rows:
                yield Standing(version, offsets, marks, (_spent_of(row) for row in rows))

    def forget(self, kept: Kept, *, before_ms: int, at_most: int = 5000) -> int:
        """Remove up to that many of the oldest rows from before a moment; how many there were.

        Rows go by whole hours and rollups by whole days, so that sums can be told exactly of
        what is left; what is coarser is to be kept at least as long. Budgets' totals stay.
        """
        unit_ms = HOUR_MS if kept == "attempts" else DAY_MS
        before_ms -= before_ms % unit_ms
        with self._database.writing() as connection:
            row = {"table_name": kept, "before_ms": before_ms}
            insert = _insert(connection, FORGOTTEN)
            grown = {"before_ms": insert.excluded.before_ms}
            is_later = FORGOTTEN.c.before_ms < insert.excluded.before_ms
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["table_name"], set_=grown, where=is_later
                ),
                row,
            )
            if kept == "attempts":
                is_old = ATTEMPTS.c.started_at_ms < before_ms
                return _delete(connection, ATTEMPTS, is_old, ATTEMPTS.c.started_at_ms, at_most)
            table, gone = (HOURLY if kept == "hourly" else DAILY), 0
            start = table.c.hour_ms if kept == "hourly" else table.c.day_ms
            for kind in KINDS:
                is_old = (table.c.kind == kind) & (start < before_ms)
                gone += _delete(connection, table, is_old, start, at_most - gone)
            return gone

    def mark(self, upstream: str, *, reason: str, now_ms: int) -> None:
        """Mark an upstream as out of credits, since now."""
        with self._database.writing() as connection:
            _raise_version(connection)
            _put_mark(connection, upstream, reason, now_ms)

    def clear_mark(self, upstream: str, *, now_ms: int) -> bool:
        """Take back what was said up to now; whether there was a mark.

        That it was taken back is kept, because workers may have heard what the journal has not
        brought here yet.
        """
        with self._database.writing() as connection:
            _raise_version(connection)
            marked = {mark.upstream for mark in _read_marks(connection) if not mark.is_cleared}
            _put_mark(connection, upstream, CLEARED, now_ms)
            return clean(upstream) in marked

    def marks(self) -> tuple[Mark, ...]:
        """The upstreams that are marked, by name."""
        with self._database.reading() as connection:
            return tuple(mark for mark in _read_marks(connection) if not mark.is_cleared)


def interrupted(found: OpenIntent) -> Receipt:
    """What is booked of an attempt whose end nobody saw: its prompt, estimated, and progress."""
    intent, completion = found.intent, found.completion_tokens
    millionths = intent.prompt_estimate * (intent.prompt_price or 0)
    millionths += completion * (intent.completion_price or 0)
    return Receipt(
        intent=intent,
        status=0,
        outcome="interrupted",
        prompt_tokens=intent.prompt_estimate,
        completion_tokens=completion,
        basis="estimated",
        cost_microusd=-(-millionths // 1_000_000),
        ttft_ms=None,
        duration_ms=0.0,
    )


def _raise_version(connection: Connection) -> int:
    raised = update(CHANGES).where(CHANGES.c.name == "books").values(version=CHANGES.c.version + 1)
    return int(connection.execute(raised.returning(CHANGES.c.version)).scalar_one())


def _version(connection: Connection) -> int:
    return int(connection.execute(_VERSION).scalar_one())


def _insert(connection: Connection, table: Table) -> Any:
    """The two dialects' INSERT, which know ON CONFLICT in the same words."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def _move_offset(connection: Connection, batch: Batch) -> None:
    is_here = (SEGMENTS.c.node == batch.node) & (SEGMENTS.c.segment == batch.segment)
    found = connection.execute(select(SEGMENTS.c.offset).where(is_here)).scalar()
    if (found or 0) != batch.begins_at:
        raise LostRace(batch.begins_at, found or 0)
    values = {"offset": batch.ends_at, "is_sealed": batch.is_sealed}
    if found is None:
        row = {"node": batch.node, "segment": batch.segment, **values}
        connection.execute(SEGMENTS.insert(), row)
    else:
        connection.execute(update(SEGMENTS).where(is_here).values(values))


def _known(connection: Connection, table: Table, places: Sequence[Place]) -> set[Place]:
    """Which of these attempts a table has a row for."""
    found: set[Place] = set()
    for start in range(0, len(places), _ASKED_AT_ONCE):
        ids = {place[0] for place in places[start : start + _ASKED_AT_ONCE]}
        query = select(table.c.exchange_id, table.c.attempt).where(table.c.exchange_id.in_(ids))
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found.intersection(places)


def _insert_attempts(connection: Connection, rows: list[Row], *, is_sure: bool) -> list[Row]:
    """Insert those that have no row yet, and return them; _Known where that was thought of all."""
    if not is_sure:
        firsts = {row[:2]: row for row in reversed(rows)}
        known = _known(connection, ATTEMPTS, list(firsts))
        rows = [row for place, row in sorted(firsts.items()) if place not in known]
    if _execute_many(connection, _INSERT_ATTEMPT, rows) != len(rows):
        raise _Known
    return rows


def _execute_many(connection: Connection, statement: str, rows: Sequence[Row]) -> int:
    """Execute a statement with `?` for each row; how many rows of the table that concerned.

    Past SQLAlchemy's own parameters, which cost more than all that SQLite does.
    """
    if not rows:
        return 0
    if connection.dialect.paramstyle != "qmark":
        statement = statement.replace("?", "%s")
    return connection.exec_driver_sql(statement, list(rows)).rowcount


def _count(connection: Connection, new: Sequence[Row], version: int) -> None:
    """Add inserted rows to the rollups and to what is spent."""
    sums = Sums(new)
    _execute_many(connection, _ADD_HOURLY, sums.hourly())
    _execute_many(connection, _ADD_DAILY, sums.daily())
    _execute_many(connection, _ADD_SPENT, sums.spent(version))


def _inserting(table: Table) -> str:
    """An INSERT of all columns, in the schema's order; the same in both dialects."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    values = ", ".join("?" * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({values})"  # noqa: S608  # ours alone


def _adding(table: Table, grown: dict[str, str]) -> str:
    """An INSERT that changes the row that is there, by expressions of `old` and `new`."""
    keys = ", ".join(column.name for column in table.primary_key)
    changes = ", ".join(
        f"{name} = {value.replace('old.', table.name + '.').replace('new.', 'excluded.')}"
        for name, value in grown.items()
    )
    return f"{_inserting(table)} ON CONFLICT ({keys}) DO UPDATE SET {changes}"


def _adding_sums(table: Table) -> str:
    amounts = [column.name for column in table.columns if not column.primary_key]
    return _adding(table, {name: f"old.{name} + new.{name}" for name in amounts})


def _adding_spent() -> str:
    """Add to the same window, replace an earlier one, leave a later one as it is."""
    grown = {"version": "new.version"}
    grown |= {name: f"old.{name} + new.{name}" for name in ("total_microusd", "total_tokens")}
    for period in _PERIODS:
        start = f"{period}_ms"
        for name in (f"{period}_microusd", f"{period}_tokens"):
            grown[name] = (
                f"CASE WHEN old.{start} = new.{start} THEN old.{name} + new.{name}"
                f" WHEN old.{start} < new.{start} THEN new.{name} ELSE old.{name} END"
            )
        grown[start] = f"CASE WHEN old.{start} < new.{start} THEN new.{start} ELSE old.{start} END"
    return _adding(SPENT, grown)


_INSERT_ATTEMPT = f"{_inserting(ATTEMPTS)} ON CONFLICT DO NOTHING"
_INSERT_OPEN = f"{_inserting(OPEN_INTENTS)} ON CONFLICT DO NOTHING"
_CLOSE = "DELETE FROM open_intents WHERE exchange_id = ? AND attempt = ?"
_ADD_HOURLY, _ADD_DAILY, _ADD_SPENT = _adding_sums(HOURLY), _adding_sums(DAILY), _adding_spent()


def _is_place(table: Table) -> Any:
    return (table.c.exchange_id == bindparam("id")) & (table.c.attempt == bindparam("number"))


def _close_intents(connection: Connection, ended: set[Place]) -> None:
    """Few are open at a time: they are looked for among the ended, not these among the open."""
    some = max(len(ended), _ASKED_AT_ONCE)
    found = select(OPEN_INTENTS.c.exchange_id, OPEN_INTENTS.c.attempt).limit(some)
    opened = connection.execute(found).fetchall()
    if len(opened) < some:
        ended = ended.intersection(map(tuple, opened))
    _execute_many(connection, _CLOSE, sorted(ended))


def _open_intents(
    connection: Connection, batch: Batch, intents: dict[Place, Intent], progress: dict[Place, int]
) -> None:
    """Keep those whose end has not been posted, by way of another segment."""
    ended = _known(connection, ATTEMPTS, list(intents))
    rows = []
    for place, intent in sorted(intents.items()):
        if place not in ended:
            told = msgspec.json.encode(intent).decode()
            rows.append((*place, batch.node, batch.segment, told, progress.get(place, 0)))
    _execute_many(connection, _INSERT_OPEN, rows)


def _note_progress(connection: Connection, progress: dict[Place, int]) -> None:
    rows = [{"id": p[0], "number": p[1], "tokens": n} for p, n in sorted(progress.items())]
    if rows:
        is_less = OPEN_INTENTS.c.completion_tokens < bindparam("tokens")
        further = update(OPEN_INTENTS).where(_is_place(OPEN_INTENTS) & is_less)
        connection.execute(further.values(completion_tokens=bindparam("tokens")), rows)


def _read_open(connection: Connection, node: str, segment: str) -> list[OpenIntent]:
    is_of = (OPEN_INTENTS.c.node == node) & (OPEN_INTENTS.c.segment == segment)
    rows = connection.execute(
        select(OPEN_INTENTS.c.intent, OPEN_INTENTS.c.completion_tokens)
        .where(is_of)
        .order_by(OPEN_INTENTS.c.exchange_id, OPEN_INTENTS.c.attempt)
    )
    return [OpenIntent(_read_intent(row.intent), row.completion_tokens) for row in rows]


def _read_offsets(connection: Connection, node: str | None) -> Iterator[Offset]:
    is_its = (OPEN_INTENTS.c.node == SEGMENTS.c.node) & (
        OPEN_INTENTS.c.segment == SEGMENTS.c.segment
    )
    opened = select(func.count()).select_from(OPEN_INTENTS).where(is_its).scalar_subquery()
    query = select(SEGMENTS, opened.label("opened"))
    if node is not None:
        query = query.where(SEGMENTS.c.node == node)
    for row in connection.execute(query.order_by(SEGMENTS.c.node, SEGMENTS.c.segment)):
        yield Offset(row.node, row.segment, row.offset, row.is_sealed, row.opened)


def _mark_upstreams(connection: Connection, rows: Iterable[Row]) -> None:
    """Mark those that said in one of these attempts that their credits are gone."""
    said: dict[str, int] = {}
    for row in rows:
        since_ms, upstream, status, outcome = _OF_MARKS(row)
        if status == OUT_OF_CREDITS and outcome == "upstream_error":
            said[upstream] = max(said.get(upstream, 0), since_ms)
    for name in sorted(said):
        _put_mark(connection, name, str(OUT_OF_CREDITS), said[name])


def _put_mark(connection: Connection, upstream: str, reason: str, since_ms: int) -> None:
    """Write what is newer than what is known of the upstream."""
    row = {"upstream": clean(upstream), "reason": clean(reason), "since_ms": since_ms}
    insert = _insert(connection, MARKS)
    newer = {"reason": insert.excluded.reason, "since_ms": insert.excluded.since_ms}
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["upstream"],
            set_=newer,
            where=MARKS.c.since_ms <= insert.excluded.since_ms,
        ),
        row,
    )


def _read_marks(connection: Connection) -> tuple[Mark, ...]:
    rows = connection.execute(select(MARKS).order_by(MARKS.c.upstream))
    return tuple(Mark(row.upstream, row.reason, row.since_ms) for row in rows)


def _spent_of(row: Any) -> Spent:
    return Spent(
        kind=row.kind,
        name=row.name,
        hour=Window(row.hour_ms, row.hour_microusd, row.hour_tokens),
        day=Window(row.day_ms, row.day_microusd, row.day_tokens),
        month=Window(row.month_ms, row.month_microusd, row.month_tokens),
        total=Window(0, row.total_microusd, row.total_tokens),
    )


def _delete(connection: Connection, table: Table, is_old: Any, order: Any, at_most: int) -> int:
    if at_most <= 0:
        return 0
    keys = list(table.primary_key)
    oldest = select(*keys).where(is_old).order_by(order).limit(at_most)
    return connection.execute(delete(table).where(tuple_(*keys).in_(oldest))).rowcount


_read_intent = msgspec.json.Decoder(Intent).decode
