"""The Keys port over the mirror that the clerk writes: a file on this machine, and no database.

It writes nothing and decides nothing of a request. What a worker uses is in memory, at most
`MAX_HELD_KEYS` keys; the rest is found by its digest, one indexed look (15 us), so a million keys
cost no memory. Every 200 ms `look` asks whether anything has changed: then each LiveKey that
anybody holds is brought up to date, and `on_gone` hears which ones let in no more.

What cannot be known is refused with keys_unavailable: a mirror that is missing, damaged, of
another format or too old never makes a key unknown, and never opens the gateway. A key in memory
goes on working without the mirror, until `max_stale_s` after the clerk's last look at the
database.

Facts: a reader of a database in write-ahead mode neither waits for its writer nor sees half a
transaction; `mode=ro` still lets it make the index of the log that a killed writer left
(https://www.sqlite.org/wal.html, sections 2.2 and 8, 2026-11). `PRAGMA data_version` changes with
every transaction of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote
from weakref import WeakValueDictionary

import msgspec

from keyhole.errors import Code, GatewayError
from keyhole.ports import Clock
from keyhole.wire.keys import Key, LiveKey
from keyhole.wire.mirror import (
    FILE_NAME,
    FORMAT,
    MARKER_NAME,
    Mark,
    Offset,
    Scope,
    Spent,
    decode_key,
)

LOOK_S = 0.2
MAX_HELD_KEYS = 4096
MAX_MISSES = 1024
"""Digests that are known to be unknown: for whoever asks with the same wrong key again and again.
A flood of different ones costs a look each and 100 KB in all."""
MAX_STALE_S = 86400.0
"""How old the clerk's last look may be. A day is longer than an outage that somebody works on,
and short enough that a machine that was cut off or forgotten does not honour keys for ever that
were revoked elsewhere."""
_MAX_CHANGES = 1000
"""More than these are not read one by one: those in memory are read again instead."""
_BUSY_S = 0.05

_Row: TypeAlias = tuple[bytes, bytes | None, bytes | None]
"""A digest, its key without group (None for one that there is no more), and the group."""

_FIND = (
    "SELECT keys.value, groups.value FROM keys LEFT JOIN groups ON groups.name = group_name"
    " WHERE digest = ?"
)
_MARKS = "SELECT upstream, since_ms, is_cleared FROM marks"
_CHANGED = (
    "SELECT digest, keys.value, groups.value FROM keys"
    " LEFT JOIN groups ON groups.name = group_name WHERE keys.version > ? LIMIT ?"
)
_SPENT = "SELECT period, began_ms, microusd, tokens FROM spent WHERE scope = ? AND name = ?"


class NoKeys:
    """ports.Keys of whoever needs none: the operator, at a command line."""

    have_existed = False

    def __init__(self) -> None:
        self.without_key = LiveKey(None, math.inf)
        self.held: Mapping[bytes, LiveKey] = {}

    def find(self, digest: bytes) -> LiveKey | None:  # noqa: ARG002  # the port's signature
        """There is none."""
        return None


class MirroredKeys:
    """The virtual keys, from DATA/keys.mirror; for one thread."""

    def __init__(
        self,
        data: Path,
        clock: Clock,
        *,
        max_stale_s: float = MAX_STALE_S,
        max_held: int = MAX_HELD_KEYS,
        on_gone: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        """`max_stale_s` of 0 is no limit."""
        self._path, self._marker = data / FILE_NAME, data / MARKER_NAME
        self._clock = clock
        self._max_stale_ms = max_stale_s * 1000 or math.inf
        self._max_held = max_held
        self.on_gone = on_gone
        """Told the ids of keys that let in no more; must not raise."""
        self.on_marks: Callable[[list[Mark]], None] | None = None
        """Told of all upstreams that are out of credits, or no more, when anything changed."""
        self.without_key = LiveKey(None, 0)
        """What lets callers in while there never was a key; it ends with the first."""
        self._held: dict[bytes, LiveKey] = {}
        self._tracked: WeakValueDictionary[bytes, LiveKey] = WeakValueDictionary()
        """All that anybody holds: also those that had to go from `held`."""
        self._misses: set[bytes] = set()
        self._database: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._data_version = self._version = -1
        self._looked_at_ms = 0
        self._next_end_ms = math.inf
        self._ended_up_to_ms = 0
        self._have_existed = False
        self._problem: str | None = "their copy has not been read yet"

    @property
    def held(self) -> Mapping[bytes, LiveKey]:
        """Keys in memory, by digest."""
        return self._held

    @property
    def problem(self) -> str | None:
        """Why keys cannot be looked up, for the operator; None where they can."""
        return self._problem or self._staleness()

    @property
    def have_existed(self) -> bool:
        """As ports.Keys says; the marker alone is enough for a yes."""
        if not self._have_existed:
            self._check()
        return self._have_existed

    def find(self, digest: bytes) -> LiveKey | None:
        """As ports.Keys says."""
        live = self._tracked.get(digest)
        if live is not None:
            if (stale := self._staleness()) is not None:
                raise _unavailable(stale)
            return self._hold(digest, live)
        self._check()
        if digest in self._misses:
            return None
        rows = self._select(_FIND, digest)
        if not rows or rows[0][0] is None:
            if len(self._misses) >= MAX_MISSES:
                self._misses.clear()
            self._misses.add(digest)
            return None
        key = self._decode(*rows[0])
        live = LiveKey(key, self._good_until_ms(key))
        self._tracked[digest] = live
        return self._hold(digest, live)

    def spent(self, scope: Scope, name: str) -> list[Spent]:
        """What was used of a budget, up to `offsets`; raises GatewayError."""
        rows = self._select(_SPENT, scope, name)
        return [Spent(scope, name, period or None, *rest) for period, *rest in rows]

    def offsets(self) -> list[Offset]:
        """Up to where the journals are in the ledger; raises GatewayError."""
        return [Offset(*row) for row in self._select("SELECT node, segment, offset FROM offsets")]

    def marks(self) -> list[Mark]:
        """What upstreams have said of their credits, and the operator; raises GatewayError."""
        rows = self._select(_MARKS)
        return [Mark(upstream, since_ms, bool(cleared)) for upstream, since_ms, cleared in rows]

    def look(self) -> None:
        """Bring what is held up to date, if anything has changed. Must not raise."""
        now_ms = self._clock.unix_ms()
        gone: set[str] = set()
        try:
            self._reopen()
            gone |= self._read_changes(now_ms)
        except (OSError, sqlite3.Error, msgspec.DecodeError, _UnfitError) as error:
            if not _is_busy(error):
                self._close()
                self._problem = _words(error)
        gone |= self._end_expired(now_ms)
        self._settle_entrance()
        if gone and self.on_gone is not None:
            self.on_gone(gone)

    async def watch(self) -> None:
        """Look every 200 ms, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    async def wait_until_readable(self, timeout_s: float) -> bool:
        """Wait for the clerk's first mirror; whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                self.look()
                while self.problem is not None:
                    await asyncio.sleep(LOOK_S / 10)
                    self.look()
        return self.problem is None

    async def wait_until_fresh(self, max_age_s: float, timeout_s: float) -> None:
        """Wait until the clerk's last look at the database is no older than that, or in vain."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._clock.unix_ms() - self._looked_at_ms > max_age_s * 1000:
                    await asyncio.sleep(LOOK_S / 10)
                    self.look()

    def close(self) -> None:
        """Close the file; nothing can be looked up afterwards."""
        self._close()
        self._problem = "the server is stopping"

    # ---- what the mirror says

    def _reopen(self) -> None:
        """Open the mirror where it is another file than the one that is open."""
        status = self._path.stat()
        file = (status.st_dev, status.st_ino)
        if self._database is not None and file == self._file:
            return
        self._close()
        # A path may hold what means something in a URI.
        uri = f"file:{quote(str(self._path.absolute()))}?mode=ro"
        self._database = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
        self._file = file

    def _read_changes(self, now_ms: int) -> set[str]:
        """Take over what is new; the ids of keys that let in no more."""
        (data_version,) = self._rows("PRAGMA data_version")[0]
        if data_version == self._data_version:
            return set()
        with self._snapshot():
            meta = self._rows("SELECT format, version, have_existed, looked_at_ms FROM meta")
            if not meta:
                raise _UnfitError("it is empty")
            ((written_as, version, have_existed, looked_at_ms),) = meta
            if written_as != FORMAT:
                raise _UnfitError(f"it is of format {written_as}, not {FORMAT}")
            gone = set() if version == self._version else self._refresh(version, now_ms)
            marks = self._rows(_MARKS)
        was_unfit = self._problem is not None or self._staleness() is not None
        self._version, self._data_version = version, data_version
        self._looked_at_ms = looked_at_ms
        self._have_existed = self._have_existed or bool(have_existed)
        self._problem = None
        if was_unfit and self._staleness() is None:
            self._restore()
        if self.on_marks is not None:
            self.on_marks(
                [Mark(name, since_ms, bool(cleared)) for name, since_ms, cleared in marks]
            )
        return gone

    def _refresh(self, version: int, now_ms: int) -> set[str]:
        """Read again those of the tracked keys that have changed; the ids of those gone."""
        self._misses.clear()
        tracked = dict(self._tracked)
        is_newer = 0 <= self._version < version
        rows = self._read_newer(tracked) if is_newer else None
        if rows is None or len(rows) > _MAX_CHANGES:
            rows = self._read_again(tracked)
        gone = set()
        for digest, value, group in rows:
            live = tracked.get(digest)
            if live is not None and (key_id := self._bring_up(live, value, group, now_ms)):
                gone.add(key_id)
        return gone

    def _read_newer(self, tracked: Mapping[bytes, LiveKey]) -> list[_Row]:
        changed = self._rows("SELECT name FROM groups WHERE version > ?", self._version)
        groups = {name for (name,) in changed}
        of_groups = [digest for digest, live in tracked.items() if _group(live) in groups]
        return [
            *self._rows(_CHANGED, self._version, _MAX_CHANGES + 1),
            *self._read_again(of_groups),
        ]

    def _read_again(self, digests: Iterable[bytes]) -> list[_Row]:
        found = []
        for digest in digests:
            rows = self._rows(_FIND, digest)
            found.append((digest, *rows[0]) if rows else (digest, None, None))
        return found

    def _bring_up(
        self, live: LiveKey, value: bytes | None, group: bytes | None, now_ms: int
    ) -> str | None:
        """Take over what is now said of a key; its id if it let in and does no more."""
        before = live.key
        assert before is not None  # noqa: S101  # only those of keys are tracked
        if value is None:
            self._held.pop(before.digest, None)
            self._tracked.pop(before.digest, None)
            live.good_until_ms = 0
        else:
            live.key = decode_key(value, group)
            live.good_until_ms = self._good_until_ms(live.key)
        was_good = before.revoked_at_ms is None and now_ms < (before.expires_at_ms or math.inf)
        return before.id if was_good and now_ms >= live.good_until_ms else None

    def _good_until_ms(self, key: Key) -> float:
        if key.revoked_at_ms is not None:
            return 0
        if key.expires_at_ms is None:
            return math.inf
        if key.expires_at_ms <= self._clock.unix_ms():
            return 0
        self._next_end_ms = min(self._next_end_ms, key.expires_at_ms)
        return key.expires_at_ms

    def _end_expired(self, now_ms: int) -> set[str]:
        """The ids of keys whose time has come since the last look."""
        since_ms, self._ended_up_to_ms = self._ended_up_to_ms, now_ms
        if now_ms < self._next_end_ms:
            return set()
        gone, self._next_end_ms = set(), math.inf
        for live in list(self._tracked.values()):
            key = live.key
            if key is None or key.expires_at_ms is None or key.revoked_at_ms is not None:
                continue
            if key.expires_at_ms > now_ms:
                self._next_end_ms = min(self._next_end_ms, key.expires_at_ms)
            elif key.expires_at_ms > since_ms:
                live.good_until_ms = 0
                gone.add(key.id)
        return gone

    # ---- what may be said without it

    def _settle_entrance(self) -> None:
        """Say to whoever holds what let them in whether it still does."""
        if not self._have_existed:
            with contextlib.suppress(OSError):
                self._have_existed = self._marker.exists()
        if self._staleness() is not None:
            for live in list(self._tracked.values()):
                live.good_until_ms = 0  # `find` says why; streams that run go on
        is_open = not self._have_existed and self.problem is None
        self.without_key.good_until_ms = math.inf if is_open else 0

    def _restore(self) -> None:
        """Let in again those whom only a mirror that was too old kept out."""
        for live in list(self._tracked.values()):
            if live.key is not None:
                live.good_until_ms = self._good_until_ms(live.key)

    def _staleness(self) -> str | None:
        age_ms = self._clock.unix_ms() - self._looked_at_ms
        if age_ms <= self._max_stale_ms or not self._looked_at_ms:
            return None
        return (
            f"their copy is {age_ms // 1000} s old,"
            f" and keys.max_stale_s is {self._max_stale_ms / 1000:g}"
        )

    def _check(self) -> None:
        if (problem := self.problem) is not None:
            raise _unavailable(problem)

    # ---- the file

    def _hold(self, digest: bytes, live: LiveKey) -> LiveKey:
        if digest not in self._held and len(self._held) >= self._max_held:
            del self._held[next(iter(self._held))]
        self._held[digest] = live
        return live

    def _decode(self, value: bytes, group: bytes | None) -> Key:
        try:
            return decode_key(value, group)
        except msgspec.DecodeError as error:
            raise _unavailable(_words(error)) from None

    def _select(self, query: str, *values: object) -> list[Any]:
        """Rows for a caller; raises GatewayError."""
        self._check()
        try:
            return self._rows(query, *values)
        except sqlite3.Error as error:
            raise _unavailable(_words(error)) from None

    def _rows(self, query: str, *values: object) -> list[Any]:
        if self._database is None:
            raise _UnfitError("it is closed")
        # All of them: a cursor that is not read to its end keeps the log from being emptied.
        return self._database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """One state of the mirror for several reads."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            self._rows("ROLLBACK")

    def _close(self) -> None:
        database, self._database = self._database, None
        self._file, self._data_version, self._version = None, -1, -1
        if database is not None:
            database.close()


def _unavailable(why: str) -> GatewayError:
    return GatewayError(
        Code.KEYS_UNAVAILABLE,
        f"Keys cannot be looked up now: {why}.",
        status=503,
        hint="Try again in a moment.",
    )


class _UnfitError(Exception):
    """The mirror is none that can be used."""


def _group(live: LiveKey) -> str | None:
    key = live.key
    return None if key is None or key.group is None else key.group.name


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def _words(error: Exception) -> str:
    """Why the mirror cannot be read; without its path, for clients read it too."""
    if isinstance(error, FileNotFoundError):
        return "their copy is not there (yet)"
    if isinstance(error, OSError):
        return f"their copy cannot be read ({error.strerror})"
    if isinstance(error, _UnfitError):
        return f"their copy cannot be used: {error}"
    return "their copy is damaged" if not _is_busy(error) else "their copy is being written"
