"""What was used, read from the books: sums of a span, the rows themselves, one exchange.

It writes nothing, and knows no tables for people, no CSV and no shares; `cli` and the admin
interface do.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    case,
    func,
    literal,
    select,
    tuple_,
    union,
    union_all,
)

from keyhole.ledger.books import OpenIntent
from keyhole.ledger.database import Database
from keyhole.ledger.schema import (
    ATTEMPTS,
    DAILY,
    FORGOTTEN,
    HOURLY,
    KEYS,
    NO_NAME,
    OPEN_INTENTS,
)
from keyhole.ledger.spans import Forgotten, Piece, pieces, widen
from keyhole.ledger.sums import DAY_MS, ERRORS, HOUR_MS
from keyhole.wire.books import Basis, Intent, Outcome

By = Literal["key", "group", "model", "upstream", "day"]
View = By | Literal["all"]

FOREVER_MS = 253_402_300_800_000
"""The first moment of the year 10000."""
MAX_ROWS = 10_000
"""Of one page."""
MAX_NAMES = 1000
"""Of one answer that has a limit."""
_MAX_STARTS = 400
_SHARES = 40
"""Who is shown has at least this part of what each would have if those shown had shared all: with
a million keys, of which the k-th is used 1/k as often as the first, it is a fourteenth."""
_MAX_BUSY = 1000

_AMOUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_microusd")


class Sum(Struct, frozen=True, kw_only=True):
    """What was used under one name."""

    name: str | None
    """None: without a key, or without a group; in a total."""
    key_id: str | None = None
    """Of sums by key: the same name may have been several keys'."""
    day_ms: int | None = None
    """Of sums by day: when it begins."""
    requests: int
    """Attempts that reached an upstream."""
    errors: int
    """Of these, those whose outcome is client_error, upstream_error or interrupted."""
    prompt_tokens: int
    completion_tokens: int
    cost_microusd: int


class Usage(Struct, frozen=True):
    """What was used in a span, and by whom."""

    since_ms: int
    """As it was summed: earlier than asked for where only whole hours or days are kept."""
    until_ms: int
    sums: tuple[Sum, ...]
    """By cost, then by tokens, the most first; days in their order."""
    total: Sum
    """Of everybody, also of those whom a limit left out of `sums`."""


class Place(Struct, frozen=True):
    """Where a page of rows ended."""

    started_at_ms: int
    exchange_id: str
    attempt: int


class Attempt(Struct, frozen=True, kw_only=True):
    """One row of the books."""

    exchange_id: str
    attempt: int
    key: str | None
    key_id: str | None
    group: str | None
    dialect: str
    model: str
    upstream: str
    target: str
    status: int
    outcome: Outcome
    prompt_tokens: int
    completion_tokens: int
    basis: Basis
    cost_microusd: int
    ttft_ms: float | None
    duration_ms: float
    started_at_ms: int

    @property
    def place(self) -> Place:
        """Where a page that ends with it ends."""
        return Place(self.started_at_ms, self.exchange_id, self.attempt)

    def promised(self) -> dict[str, Any]:
        """The object that `keyhole usage --rows --json` prints; `started_at` as in RFC 3339."""
        fields = msgspec.structs.asdict(self)
        fields["started_at"] = in_words(fields.pop("started_at_ms"))
        for name in ("ttft_ms", "duration_ms"):
            if fields[name] is not None:
                fields[name] = round(fields[name], 3)
        return fields


class Exchange(Struct, frozen=True):
    """What the books hold of one exchange; nothing where both are empty."""

    attempts: tuple[Attempt, ...]
    open_intents: tuple[OpenIntent, ...]


class UsageReader:
    """Reads the books. Every method raises LedgerUnavailable where they are not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def usage(
        self,
        by: By,
        *,
        since_ms: int = 0,
        until_ms: int = FOREVER_MS,
        limit: int | None = None,
        skip: int = 0,
    ) -> Usage:
        """What was used from one moment to another, the second not included."""
        since_ms, until_ms = max(since_ms, 0), min(max(until_ms, 0), FOREVER_MS)
        with self._database.reading() as connection:
            since_ms, until_ms = widen(since_ms, until_ms, _read_forgotten(connection))
            first_ms, end_ms = _read_extent(connection)
            parts = pieces(max(since_ms, first_ms), min(until_ms, end_ms))
            total = _make_sum(connection.execute(_summed(parts, "all")).first(), None)
            names = None
            if limit is not None and by != "day":
                limit = min(limit, MAX_NAMES)
                names, skip = _most(connection, parts, by, total, (skip, skip + limit)), 0
            query = _summed(parts, by, names).limit(limit).offset(skip)
            sums = tuple(_sum_of(row, by) for row in connection.execute(query))
            return Usage(since_ms, until_ms, sums, total)

    def rows(
        self,
        *,
        since_ms: int = 0,
        until_ms: int = FOREVER_MS,
        after: Place | None = None,
        limit: int = 1000,
    ) -> list[Attempt]:
        """The attempts that started in a span, oldest first.

        The next page is `after` the last one's `place`.
        """
        started = ATTEMPTS.c.started_at_ms
        order = (started, ATTEMPTS.c.exchange_id, ATTEMPTS.c.attempt)
        query = select(ATTEMPTS).where(started >= since_ms, started < until_ms)
        if after is not None:
            passed = (after.started_at_ms, after.exchange_id, after.attempt)
            query = query.where(tuple_(*order) > tuple_(*map(literal, passed)))
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(*order).limit(min(limit, MAX_ROWS)))
            return [_attempt_of(row) for row in found]

    def exchange(self, exchange_id: str) -> Exchange:
        """The attempts of one exchange, and those whose end is not posted yet."""
        if not exchange_id.isprintable():
            return Exchange((), ())
        ended = select(ATTEMPTS).where(ATTEMPTS.c.exchange_id == exchange_id)
        opened = select(OPEN_INTENTS).where(OPEN_INTENTS.c.exchange_id == exchange_id)
        with self._database.reading() as connection:
            rows = connection.execute(ended.order_by(ATTEMPTS.c.attempt))
            attempts = tuple(_attempt_of(row) for row in rows)
            under_way = connection.execute(opened.order_by(OPEN_INTENTS.c.attempt))
            return Exchange(
                attempts,
                tuple(
                    OpenIntent(_read_intent(row.intent), row.completion_tokens) for row in under_way
                ),
            )


def in_words(moment_ms: int) -> str:
    """A moment as RFC 3339 writes it, in UTC: `2026-11-23T02:00:00.123Z`."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment_ms % 1000:03d}Z"


def _summed(parts: list[Piece], by: View, names: list[str] | None = None) -> Select[Any]:
    """The sums of all parts, by one of the ways to look at them; of all names or of these."""
    found = union_all(*_parts(parts, by, names)).subquery()
    amounts = [func.sum(found.c[amount]).label(amount) for amount in _AMOUNTS]
    if by == "all":
        return select(*amounts)
    summed = select(found.c.name, *amounts).group_by(found.c.name)
    if by == "day":
        return summed.order_by(found.c.name)
    sums = summed.subquery()
    label: ColumnElement[Any] = sums.c.name
    source: FromClause = sums
    if by == "key":
        source = sums.outerjoin(KEYS, KEYS.c.id == sums.c.name)
        label = func.coalesce(KEYS.c.name, sums.c.name)
    tokens = sums.c.prompt_tokens + sums.c.completion_tokens
    most_first = (sums.c.cost_microusd.desc(), tokens.desc(), sums.c.name)
    return select(sums, label.label("label")).select_from(source).order_by(*most_first)


def _most(
    connection: Connection, parts: list[Piece], by: View, total: Sum, place: tuple[int, int]
) -> list[str]:
    """The names from one place to another in the order of `_summed`.

    Grouping a million names is sorting them. So only those are grouped first who have much in at
    least one hour, day or rest of an hour; whoever has not has less than all these together. Where
    that does not put everybody else behind the wanted places, all are grouped.
    """
    first, end = place
    by_cost = total.cost_microusd > 0
    measured = total.cost_microusd if by_cost else total.prompt_tokens + total.completion_tokens
    stretches = sum(_stretches(part) for part in parts)
    much = measured // max(_SHARES * end * stretches, 1)
    if much:
        busy = union(*(_busy(part, by, much, by_cost=by_cost) for part in parts)).subquery()
        query = select(busy.c.name).limit(_MAX_BUSY + 1)
        names = [row.name for row in connection.execute(query)]
        if end <= len(names) <= _MAX_BUSY:
            ranked = connection.execute(_ranked(parts, by, names).limit(end)).all()
            last = ranked[-1]
            if len(ranked) == end and (last.cost if by_cost else last.tokens) >= much * stretches:
                return [row.name for row in ranked[first:]]
    ranked = connection.execute(_ranked(parts, by).limit(end - first).offset(first)).all()
    return [row.name for row in ranked]


def _stretches(part: Piece) -> int:
    """How many sums of one name a part holds; of rows it is one, once they are grouped."""
    if part.source == "attempts":
        return 1
    return (part.until_ms - part.since_ms) // (DAY_MS if part.source == "daily" else HOUR_MS)


def _busy(part: Piece, by: View, much: int, *, by_cost: bool) -> Select[Any]:
    """The names that have so much in at least one stretch of a part."""
    (query,) = _parts([part], by)
    of = query.selected_columns
    amount = of.cost_microusd if by_cost else of.prompt_tokens + of.completion_tokens
    names = query.with_only_columns(of.name)
    if part.source == "attempts":
        return names.group_by(of.name).having(func.sum(amount) >= much)
    return names.where(amount >= much)


def _ranked(parts: list[Piece], by: View, names: list[str] | None = None) -> Select[Any]:
    """The names in the order of `_summed`, all or some of them, and nothing else.

    Grouping many names is sorting, which is quicker the less there is of each.
    """
    narrow = []
    for part in _parts(parts, by, names):
        of = part.selected_columns
        tokens_of = (of.prompt_tokens + of.completion_tokens).label("tokens")
        narrow.append(part.with_only_columns(of.name, of.cost_microusd.label("cost"), tokens_of))
    found = union_all(*narrow).subquery()
    cost, tokens = func.sum(found.c.cost).label("cost"), func.sum(found.c.tokens).label("tokens")
    ranked = select(found.c.name, cost, tokens).group_by(found.c.name)
    return ranked.order_by(cost.desc(), tokens.desc(), found.c.name)


def _parts(parts: list[Piece], by: View, names: list[str] | None = None) -> list[Select[Any]]:
    """A select for each part, at least one, all of the same columns."""
    nothing = Piece("attempts", 0, 0)
    return [
        _of_rows(part, by, names) if part.source == "attempts" else _of_rollup(part, by, names)
        for part in parts or [nothing]
    ]


def _of_rollup(part: Piece, by: View, names: list[str] | None) -> Select[Any]:
    table, unit_ms = (DAILY, DAY_MS) if part.source == "daily" else (HOURLY, HOUR_MS)
    start = table.c.day_ms if part.source == "daily" else table.c.hour_ms
    name: ColumnElement[Any] = table.c.name
    if by == "day":
        name = start - start % DAY_MS
    amounts = [table.c[amount] for amount in _AMOUNTS]
    query = select(name.label("name"), *amounts).where(
        table.c.kind == ("all" if by == "day" else by)
    )
    if names is not None:
        query = query.where(name.in_(names))
        starts = range(part.since_ms, part.until_ms, unit_ms)
        if len(starts) <= _MAX_STARTS:
            # Each is found by the primary key, instead of looking through all the names.
            return query.where(start.in_(starts))
    return query.where(start >= part.since_ms, start < part.until_ms)


def _of_rows(part: Piece, by: View, names: list[str] | None) -> Select[Any]:
    rows = ATTEMPTS.c
    ways: dict[str, ColumnElement[Any]] = {
        "all": literal(NO_NAME),
        "key": func.coalesce(rows.key_id, NO_NAME),
        "group": func.coalesce(rows.group_name, NO_NAME),
        "model": rows.model,
        "upstream": rows.upstream,
        "day": rows.started_at_ms - rows.started_at_ms % DAY_MS,
    }
    query = select(
        ways[by].label("name"),
        literal(1).label("requests"),
        case((rows.outcome.in_(ERRORS), 1), else_=0).label("errors"),
        rows.prompt_tokens,
        rows.completion_tokens,
        rows.cost_microusd,
    ).where(rows.started_at_ms >= part.since_ms, rows.started_at_ms < part.until_ms)
    return query if names is None else query.where(ways[by].in_(names))


def _read_extent(connection: Connection) -> tuple[int, int]:
    """When the first day begins that anything is kept of, and when the last one ends."""
    days = select(func.min(DAILY.c.day_ms), func.max(DAILY.c.day_ms)).where(DAILY.c.kind == "all")
    first_ms, last_ms = connection.execute(days).one()
    return (0, 0) if first_ms is None else (first_ms, last_ms + DAY_MS)


def _read_forgotten(connection: Connection) -> Forgotten:
    rows = connection.execute(select(FORGOTTEN.c.table_name, FORGOTTEN.c.before_ms))
    before = {row.table_name: row.before_ms for row in rows}
    return Forgotten(before.get("attempts", 0), before.get("hourly", 0))


def _sum_of(row: Row[Any], by: By) -> Sum:
    if by == "day":
        day_ms = int(row.name)
        return _make_sum(row, in_words(day_ms)[:10], day_ms=day_ms)
    return _make_sum(row, row.label or None, key_id=(row.name or None) if by == "key" else None)


def _make_sum(
    row: Row[Any] | None,
    name: str | None,
    *,
    key_id: str | None = None,
    day_ms: int | None = None,
) -> Sum:
    # PostgreSQL sums into NUMERIC, and nothing into NULL, as SQLite does.
    requests, errors, prompt, completion, cost = (
        int(getattr(row, amount) or 0) for amount in _AMOUNTS
    )
    return Sum(
        name=name,
        key_id=key_id,
        day_ms=day_ms,
        requests=requests,
        errors=errors,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_microusd=cost,
    )


def _attempt_of(row: Row[Any]) -> Attempt:
    fields = dict(row._mapping)  # noqa: SLF001  # the public way to a mapping of a row
    fields["group"] = fields.pop("group_name")
    return Attempt(**fields)


_read_intent = msgspec.json.Decoder(Intent).decode
