"""The writer of the keys' mirror: what the clerk tells the workers of the database.

It reads no database: keys and sums come as arguments. One process writes at a time; that is the
clerk's lock. Each call is one transaction, so a reader sees all of it or nothing, whenever the
writer is killed. It only writes what differs: a reader learns of what has changed and of no more.

The file holds digests, limits and names, no secret; it is its owner's alone (0600), and so are
the two beside it that SQLite makes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from keyhole.wire.keys import Group, Key
from keyhole.wire.mirror import (
    FILE_NAME,
    FORMAT,
    MARKER_NAME,
    TABLES,
    Mark,
    Offset,
    Spent,
    encode_group,
    encode_key,
)

_MARKER_TEXT = """\
Keys have existed here, so nobody is served without one, whatever becomes of the database.
Remove this file, with keys.mirror and the database's keys, only to serve this machine without.
"""
_BATCH = 1000
_UPSERT_KEY = (
    "INSERT INTO keys (digest, group_name, value, version) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (digest) DO UPDATE SET group_name = excluded.group_name,"
    " value = excluded.value, version = excluded.version"
    " WHERE value IS NOT excluded.value OR group_name IS NOT excluded.group_name"
)
_UPSERT_GROUP = (
    "INSERT INTO groups (name, value, version) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value, version = excluded.version"
    " WHERE value IS NOT excluded.value"
)
_T = TypeVar("_T")


class MirrorError(Exception):
    """The mirror could not be written; workers go on with what it held."""


class Mirror:
    """DATA/keys.mirror, open for writing."""

    def __init__(self, data: Path) -> None:
        """Open it, or make an empty one, also where there is one that cannot be used.

        An empty one tells readers nothing yet: `rebuild` fills it. Raises MirrorError.
        """
        self._path, self._marker = data / FILE_NAME, data / MARKER_NAME
        self._database: sqlite3.Connection | None = None
        try:
            if not self._is_opened_fit():
                self._make_anew()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise MirrorError(f"{self._path} cannot be made: {error}") from error

    @property
    def is_empty(self) -> bool:
        """Whether it tells nothing yet, so that `update` is not enough."""
        with self._told():
            return not self._rows("SELECT 1 FROM meta")

    def rebuild(
        self,
        keys: Iterable[Key],
        *,
        have_existed: bool,
        looked_at_ms: int,
        spent: Iterable[Spent] | None = None,
        offsets: Iterable[Offset] = (),
    ) -> None:
        """Make it hold these keys and no others; with `spent`, these sums and offsets likewise.

        At once, for a reader that sees keys goes by their sums, and one that saw sums alone would
        take it for a mirror of no keys.

        Raises MirrorError; where it says that the mirror was damaged, an empty one has taken its
        place, and calling again fills it.
        """
        with self._written() as version:
            self._run("CREATE TEMP TABLE IF NOT EXISTS seen (digest BLOB PRIMARY KEY)")
            self._run("DELETE FROM temp.seen")
            has_none = not self._rows("SELECT 1 FROM keys LIMIT 1")
            groups: dict[str, Group] = {}
            for batch in _batches(keys):
                self._put(batch, version, groups)
                if not has_none:
                    digests = [(key.digest,) for key in batch]
                    self._many("INSERT OR IGNORE INTO temp.seen VALUES (?)", digests)
            if not has_none:
                self._run(
                    "UPDATE keys SET value = NULL, group_name = NULL, version = ?"
                    " WHERE value IS NOT NULL AND digest NOT IN (SELECT digest FROM temp.seen)",
                    version,
                )
            self._put_groups(groups.values(), version)
            self._run("DELETE FROM temp.seen")
            if spent is not None:
                self._put_spent(spent, offsets, is_all=True)
            self._put_meta(version, have_existed=have_existed, looked_at_ms=looked_at_ms)
        with contextlib.suppress(sqlite3.Error):  # a reader is in the way; another time
            self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
            self._rows("PRAGMA shrink_memory")

    def update(
        self,
        *,
        looked_at_ms: int,
        keys: Iterable[Key] = (),
        groups: Iterable[Group] = (),
        removed: Iterable[bytes] = (),
        have_existed: bool = False,
    ) -> None:
        """Tell what is new since: keys that were made or changed, with their groups.

        `removed` are the digests of keys that there are no more. `looked_at_ms` is the last time at
        which the database could be asked. That keys have existed is never taken back. Raises
        MirrorError as `rebuild` does.
        """
        with self._written() as version:
            found = {group.name: group for group in groups}
            for batch in _batches(keys):
                self._put(batch, version, found)
            self._many(
                "UPDATE keys SET value = NULL, group_name = NULL, version = ? WHERE digest = ?",
                [(version, digest) for digest in removed],
            )
            self._put_groups(found.values(), version)
            self._put_meta(version, have_existed=have_existed, looked_at_ms=looked_at_ms)

    def update_spent(
        self,
        spent: Iterable[Spent],
        offsets: Iterable[Offset],
        *,
        looked_at_ms: int,
        is_all: bool = False,
    ) -> None:
        """Tell what was spent, and up to where the journals are counted in it.

        `offsets` take the place of all that were told before; `spent` of what was told of the
        same key, group or upstream and period, or with `is_all` of everything. Raises MirrorError
        as `rebuild` does.
        """
        with self._written() as version:
            self._put_spent(spent, offsets, is_all=is_all)
            self._put_meta(version, have_existed=False, looked_at_ms=looked_at_ms)

    def mark(self, marks: Iterable[Mark], *, looked_at_ms: int) -> None:
        """Tell which upstreams are out of credits, in place of what was told before.

        Raises MirrorError as `rebuild` does.
        """
        with self._written() as version:
            self._run("DELETE FROM marks")
            rows = [(mark.upstream, mark.since_ms, int(mark.is_cleared)) for mark in marks]
            self._many("INSERT INTO marks VALUES (?, ?, ?)", rows)
            self._put_meta(version, have_existed=False, looked_at_ms=looked_at_ms)

    def close(self) -> None:
        """Close it; what was told stays."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _put(self, keys: list[Key], version: int, groups: dict[str, Group]) -> None:
        groups.update((key.group.name, key.group) for key in keys if key.group is not None)
        rows = [
            (key.digest, key.group and key.group.name, encode_key(key), version) for key in keys
        ]
        self._many(_UPSERT_KEY, rows)

    def _put_spent(
        self, spent: Iterable[Spent], offsets: Iterable[Offset], *, is_all: bool
    ) -> None:
        if is_all:
            self._run("DELETE FROM spent")
        for batch in _batches(spent):
            rows = [(each.scope, each.name, each.period or "", *_amounts(each)) for each in batch]
            self._many("INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._run("DELETE FROM offsets")
        self._many(
            "INSERT INTO offsets VALUES (?, ?, ?)",
            [(offset.node, offset.segment, offset.offset) for offset in offsets],
        )

    def _put_groups(self, groups: Iterable[Group], version: int) -> None:
        rows = [(group.name, encode_group(group), version) for group in groups]
        self._many(_UPSERT_GROUP, rows)

    def _put_meta(self, version: int, *, have_existed: bool, looked_at_ms: int) -> None:
        """The last step: without a change of a key or a group, the version stays."""
        has_changed = self._rows(
            "SELECT EXISTS (SELECT 1 FROM keys WHERE version = :v)"
            " OR EXISTS (SELECT 1 FROM groups WHERE version = :v)",
            {"v": version},
        )[0][0]
        had = self._rows("SELECT have_existed FROM meta")
        has_keys = self._rows("SELECT EXISTS (SELECT 1 FROM keys)")[0][0]
        exists = have_existed or has_keys or self._marker.exists() or bool(had and had[0][0])
        if exists:
            self._leave_marker()
        self._run(
            "INSERT INTO meta VALUES (1, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " format = excluded.format, version = excluded.version,"
            " have_existed = excluded.have_existed, looked_at_ms = excluded.looked_at_ms",
            FORMAT,
            version if has_changed or not had else version - 1,
            int(exists),
            looked_at_ms,
        )

    def _leave_marker(self) -> None:
        """Write down, before any reader hears of it, that a key is needed from now on."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(self._marker, flags, 0o600)
        except FileExistsError:
            return
        with os.fdopen(descriptor, "w") as file:
            file.write(_MARKER_TEXT)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self._marker.parent)

    # ---- the file

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        database = sqlite3.connect(self._path, isolation_level=None, timeout=5)
        self._database = database
        status = self._path.stat()
        self._place = (status.st_dev, status.st_ino)
        # FULL: what is told must be on the disk before anybody remembers that it was told, or a
        # power cut could undo a revocation for good.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536"):
            database.execute(f"PRAGMA {pragma}").fetchall()

    def _is_opened_fit(self) -> bool:
        try:
            self._open()
            return self._is_fit()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            return False

    def _is_fit(self) -> bool:
        """Whether the tables are there, or can be made; of another format they are not."""
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master")}
        if not tables:
            self._make_tables()
            return True
        if not {"meta", "keys", "groups", "spent", "offsets", "marks"} <= tables:
            return False
        meta = self._rows("SELECT format FROM meta")
        return not meta or meta[0][0] == FORMAT

    def _make_anew(self) -> None:
        """Throw the file away and begin an empty one; its log goes before it is made."""
        self.close()
        for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
            self._path.with_name(name).unlink(missing_ok=True)
        self._open()
        self._make_tables()

    def _make_tables(self) -> None:
        self._run("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            self._run(statement)
        self._run("COMMIT")

    @contextlib.contextmanager
    def _written(self) -> Iterator[int]:
        """One transaction, under a version of its own."""
        with self._told():
            self._check_place()
            self._run("BEGIN IMMEDIATE")
            try:
                meta = self._rows("SELECT version FROM meta")
                yield meta[0][0] + 1 if meta else 1
                self._run("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._run("ROLLBACK")
                raise

    def _check_place(self) -> None:
        """Raise MirrorError where the file was removed or replaced; an empty one is put there."""
        status = None
        with contextlib.suppress(FileNotFoundError):
            status = self._path.stat()
        if status is None or (status.st_dev, status.st_ino) != self._place:
            self._make_anew()
            raise MirrorError(f"{self._path} was removed, and is made anew.")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as ours; a damaged mirror is thrown away."""
        try:
            yield
        except sqlite3.Error as error:
            self._fail(error)

    def _fail(self, error: sqlite3.Error) -> NoReturn:
        if not _is_damage(error):
            raise MirrorError(f"{self._path} could not be written: {error}") from error
        try:
            self._make_anew()
        except (OSError, sqlite3.Error) as again:
            raise MirrorError(
                f"{self._path} is damaged and cannot be made anew: {again}"
            ) from again
        raise MirrorError(f"{self._path} was damaged and has been emptied: {error}") from error

    def _rows(self, query: str, values: dict[str, object] | None = None) -> list[Any]:
        if self._database is None:
            raise MirrorError(f"{self._path} is closed")
        return self._database.execute(query, values or {}).fetchall()

    def _run(self, statement: str, *values: object) -> None:
        if self._database is None:
            raise MirrorError(f"{self._path} is closed")
        self._database.execute(statement, values)

    def _many(self, statement: str, rows: list[Any]) -> None:
        if self._database is None:
            raise MirrorError(f"{self._path} is closed")
        self._database.executemany(statement, rows)


def _amounts(spent: Spent) -> tuple[int, int, int]:
    return spent.began_ms, spent.microusd, spent.tokens


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
