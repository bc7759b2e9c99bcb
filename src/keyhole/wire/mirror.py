"""The keys' mirror: what the clerk writes for the workers, in DATA/keys.mirror, an SQLite file.

It opens no file: `ledger.mirror` writes it, `io.keys` reads it. It holds digests and no secret.

Every key has the `version` in which it last changed, so that a reader finds what is new without
reading the rest; a key that was removed stays, without a value, for readers to learn of it. The
file is written in place, in transactions of SQLite's write-ahead log, and never renamed over: a
log that was left beside it by a killed writer belongs to it and to no other
(https://www.sqlite.org/wal.html, 2026-11).
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from keyhole.wire.keys import Group, Key, Period

FILE_NAME = "keys.mirror"
MARKER_NAME = "keys.required"
"""Beside it, from the first key on: without it and the mirror, nobody is let in by mistake."""

FORMAT = 2
"""Of the tables; a reader of another one waits until its clerk has written its own."""

TABLES = """
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL,
    version INTEGER NOT NULL,
    have_existed INTEGER NOT NULL,
    looked_at_ms INTEGER NOT NULL
);
CREATE TABLE keys (
    digest BLOB NOT NULL UNIQUE,
    group_name TEXT,
    value BLOB,
    version INTEGER NOT NULL
);
CREATE INDEX keys_by_version ON keys (version);
CREATE TABLE groups (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE spent (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    period TEXT NOT NULL,
    began_ms INTEGER NOT NULL,
    microusd INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (scope, name, period)
) WITHOUT ROWID;
CREATE TABLE offsets (
    node TEXT NOT NULL,
    segment TEXT NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (node, segment)
) WITHOUT ROWID;
CREATE TABLE marks (
    upstream TEXT PRIMARY KEY,
    since_ms INTEGER NOT NULL,
    is_cleared INTEGER NOT NULL
) WITHOUT ROWID;
"""

Scope = Literal["key", "group", "upstream"]


class Spent(Struct, frozen=True):
    """What was used of a budget by all that the ledger has counted."""

    scope: Scope
    name: str
    """A key's id; a group's or an upstream's name."""
    period: Period | None
    """None for a budget in total."""
    began_ms: int
    """When the period began, which may be over; 0 for one in total."""
    microusd: int
    tokens: int


class Offset(Struct, frozen=True):
    """Up to where a segment of a journal is in the ledger, and so in what was spent."""

    node: str
    segment: str
    offset: int


class Mark(Struct, frozen=True):
    """An upstream that said that its credits are gone, or of which that was taken back."""

    upstream: str
    since_ms: int
    is_cleared: bool
    """Whether what was said up to `since_ms` holds no more."""


def encode_key(key: Key) -> bytes:
    """A key without its group, which stands in a table of its own."""
    return msgspec.msgpack.encode(key if key.group is None else replace(key, group=None))


def decode_key(value: bytes, group: bytes | None) -> Key:
    """The key, with its group; raises msgspec.DecodeError."""
    key = _KEY.decode(value)
    return key if group is None else replace(key, group=_GROUP.decode(group))


def encode_group(group: Group) -> bytes:
    """What `decode_key` takes for its second argument."""
    return msgspec.msgpack.encode(group)


_KEY = msgspec.msgpack.Decoder(Key)
_GROUP = msgspec.msgpack.Decoder(Group)
