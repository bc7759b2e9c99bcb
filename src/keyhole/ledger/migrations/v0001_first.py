"""The first tables: keys and groups, attempts and their rollups, how far the journal is posted."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    Text,
    column,
    table,
)

revision = "0001"
down_revision = None

TEXT = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create them."""
    make_keys()
    make_books()
    make_rollups()


def make_keys() -> None:
    """Keys and groups, and the versions that their writers raise."""
    op.create_table(
        "changes",
        Column("name", TEXT, primary_key=True),
        Column("version", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    changes = table("changes", column("name"), column("version"))
    op.bulk_insert(changes, [{"name": "keys", "version": 0}, {"name": "books", "version": 0}])
    op.create_table(
        "groups",
        Column("name", TEXT, primary_key=True),
        Column("limits", TEXT, nullable=False),
        Column("version", BigInteger, nullable=False),
    )
    op.create_index("groups_by_version", "groups", ["version"])
    op.create_table(
        "keys",
        Column("id", TEXT, primary_key=True),
        Column("name", TEXT, nullable=False),
        Column("held_name", TEXT, unique=True),
        Column("digest", LargeBinary, nullable=False, unique=True),
        Column("group_name", TEXT, ForeignKey("groups.name")),
        Column("models", TEXT, nullable=False),
        Column("limits", TEXT, nullable=False),
        Column("labels", TEXT, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("expires_at_ms", BigInteger),
        Column("revoked_at_ms", BigInteger),
        Column("rotated_to", TEXT),
        Column("version", BigInteger, nullable=False),
    )
    op.create_index("keys_by_name", "keys", ["name"])
    op.create_index("keys_by_group", "keys", ["group_name"])
    op.create_index("keys_by_version", "keys", ["version"])
    op.create_table(
        "upstream_marks",
        Column("upstream", TEXT, primary_key=True),
        Column("reason", TEXT, nullable=False),
        Column("since_ms", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def make_books() -> None:
    """Attempts, and where the journal stands."""
    op.create_table(
        "attempts",
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
        sqlite_with_rowid=False,
    )
    op.create_index("attempts_by_time", "attempts", ["started_at_ms", "exchange_id", "attempt"])
    op.create_table(
        "open_intents",
        Column("exchange_id", TEXT, primary_key=True),
        Column("attempt", Integer, primary_key=True),
        Column("node", TEXT, nullable=False),
        Column("segment", TEXT, nullable=False),
        Column("intent", TEXT, nullable=False),
        Column("completion_tokens", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("open_intents_by_segment", "open_intents", ["node", "segment"])
    op.create_table(
        "segments",
        Column("node", TEXT, primary_key=True),
        Column("segment", TEXT, primary_key=True),
        Column("offset", BigInteger, nullable=False),
        Column("is_sealed", Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "forgotten",
        Column("table_name", TEXT, primary_key=True),
        Column("before_ms", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def make_rollups() -> None:
    """Sums of the attempts."""
    for name, start in (("hourly", "hour_ms"), ("daily", "day_ms")):
        op.create_table(
            name,
            Column("kind", TEXT, primary_key=True),
            Column(start, BigInteger, primary_key=True),
            Column("name", TEXT, primary_key=True),
            Column("requests", BigInteger, nullable=False),
            Column("errors", BigInteger, nullable=False),
            Column("prompt_tokens", BigInteger, nullable=False),
            Column("completion_tokens", BigInteger, nullable=False),
            Column("cost_microusd", BigInteger, nullable=False),
            sqlite_with_rowid=False,
        )
    op.create_table(
        "spent",
        Column("kind", TEXT, primary_key=True),
        Column("name", TEXT, primary_key=True),
        Column("hour_ms", BigInteger, nullable=False),
        Column("hour_microusd", BigInteger, nullable=False),
        Column("hour_tokens", BigInteger, nullable=False),
        Column("day_ms", BigInteger, nullable=False),
        Column("day_microusd", BigInteger, nullable=False),
        Column("day_tokens", BigInteger, nullable=False),
        Column("month_ms", BigInteger, nullable=False),
        Column("month_microusd", BigInteger, nullable=False),
        Column("month_tokens", BigInteger, nullable=False),
        Column("total_microusd", BigInteger, nullable=False),
        Column("total_tokens", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("spent_by_version", "spent", ["version"])
