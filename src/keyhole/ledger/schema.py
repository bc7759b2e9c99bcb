"""The tables of the ledger, for SQLAlchemy Core; the same on SQLite and PostgreSQL.

It does not create them: `migrations/` does, step by step, and a test compares what they made with
what stands here.

Text compares by bytes on both (`C` on PostgreSQL; SQLite does so anyway), so that pages are in
one order everywhere. Where a name is part of a primary key there is no NULL: the empty text, which
no name is, stands for "none".
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

METADATA = MetaData()

NO_NAME = ""
"""Who has no key or no group, where NULL cannot stand."""

TEXT = Text().with_variant(Text(collation="C"), "postgresql")

CHANGES = Table(
    "changes",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("version", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Two rows, `keys` and `books`. Each transaction that writes to either raises its version first,
which also makes writers take turns: versions become visible in their order."""

GROUPS = Table(
    "groups",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("limits", TEXT, nullable=False),  # JSON of wire.keys.Limits
    Column("version", BigInteger, nullable=False),
    Index("groups_by_version", "version"),
)

KEYS = Table(
    "keys",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False),
    # The same name while the key holds it, NULL from its revocation or rotation on.
    Column("held_name", TEXT, unique=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("group_name", TEXT, ForeignKey("groups.name")),
    Column("models", TEXT, nullable=False),  # JSON array
    Column("limits", TEXT, nullable=False),  # JSON of wire.keys.Limits
    Column("labels", TEXT, nullable=False),  # JSON object
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("rotated_to", TEXT),
    Column("version", BigInteger, nullable=False),
    Index("keys_by_name", "name"),
    Index("keys_by_group", "group_name"),
    Index("keys_by_version", "version"),
)

ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("exchange_id", TEXT, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("key_id", TEXT),
    Column("key", TEXT),
    Column("group_name", TEXT),
    Column("dialect", TEXT, nullable=False),
    Column("model", TEXT, nullable=False),
    Column("upstream", TEXT, nullable=False),
    Column("target", TEXT, nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", TEXT, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("basis", TEXT, nullable=False),
    Column("cost_microusd", BigInteger, nullable=False),
    Column("ttft_ms", Float),
    Column("duration_ms", Float, nullable=False),
    Index("attempts_by_time", "started_at_ms", "exchange_id", "attempt"),
    sqlite_with_rowid=False,
)
"""One row for each attempt that reached an upstream; it is never changed."""

OPEN_INTENTS = Table(
    "open_intents",
    METADATA,
    Column("exchange_id", TEXT, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("node", TEXT, nullable=False),
    Column("segment", TEXT, nullable=False),
    Column("intent", TEXT, nullable=False),  # JSON of wire.books.Intent
    Column("completion_tokens", BigInteger, nullable=False),  # of its latest Progress
    Index("open_intents_by_segment", "node", "segment"),
    sqlite_with_rowid=False,
)
"""Attempts of which no end has been posted."""

SEGMENTS = Table(
    "segments",
    METADATA,
    Column("node", TEXT, primary_key=True),
    Column("segment", TEXT, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("is_sealed", Boolean, nullable=False),
    sqlite_with_rowid=False,
)
"""How far each segment of a journal has been posted, in bytes."""


def _rollup(name: str, start: str) -> Table:
    return Table(
        name,
        METADATA,
        Column("kind", TEXT, primary_key=True),  # all, key, group, model or upstream
        Column(start, BigInteger, primary_key=True),
        Column("name", TEXT, primary_key=True),  # of a key: its id
        Column("requests", BigInteger, nullable=False),
        Column("errors", BigInteger, nullable=False),
        Column("prompt_tokens", BigInteger, nullable=False),
        Column("completion_tokens", BigInteger, nullable=False),
        Column("cost_microusd", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


HOURLY = _rollup("hourly", "hour_ms")
"""What was used in each hour of UTC, once for each way to look at it (`kind`)."""

DAILY = _rollup("daily", "day_ms")
"""The same for each day of UTC."""


def _window(period: str) -> list[Column[int]]:
    return [
        Column(f"{period}_ms", BigInteger, nullable=False),
        Column(f"{period}_microusd", BigInteger, nullable=False),
        Column(f"{period}_tokens", BigInteger, nullable=False),
    ]


SPENT = Table(
    "spent",
    METADATA,
    Column("kind", TEXT, primary_key=True),  # key, group or upstream
    Column("name", TEXT, primary_key=True),  # of a key: its id
    *_window("hour"),
    *_window("day"),
    *_window("month"),
    Column("total_microusd", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Index("spent_by_version", "version"),
    sqlite_with_rowid=False,
)
"""What budgets are held against: of each period the latest window that was spent in, and all."""

MARKS = Table(
    "upstream_marks",
    METADATA,
    Column("upstream", TEXT, primary_key=True),
    Column("reason", TEXT, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Upstreams that are out of credits."""

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    Column("table_name", TEXT, primary_key=True),
    Column("before_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Up to when retention has removed rows, or is about to."""
