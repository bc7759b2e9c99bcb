"""The ledger into the mirror: what workers need to know of keys, and of what was spent.

It decides when the mirror is told again and what of the books it needs; `mirror` writes the file.
Nothing of it is in memory but two versions, so that a million keys cost nothing here. They are also
in a file beside the mirror, written behind it: a clerk that starts tells the mirror what is new
since, and everything only where that file does not fit the ledger.

What was spent is told of those alone who have spent since, with the offsets that it counts up to.
A worker that starts adds the lines of the journal behind these offsets; so a segment must not be
deleted before they have passed it (`spent`, then `Poster.remove`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from keyhole.ledger import books as ledger_books
from keyhole.ledger.books import Books, Standing
from keyhole.ledger.keys import KeyStore
from keyhole.ledger.mirror import Mirror, MirrorError
from keyhole.wire.keys import Period
from keyhole.wire.mirror import Mark, Offset, Spent

LOOK_EVERY_MS = 2000
"""How often the mirror is told that the database was there, where nothing else is to be told."""


class Seen(Struct, frozen=True):
    """Which versions of a ledger the mirror has at least."""

    keys: int
    spent: int | None = None
    """Of the books; None where what was spent has not been told."""


class SeenFile:
    """What the mirror has seen of which ledger, for the next clerk."""

    def __init__(self, data: Path, ledger: str) -> None:
        """`ledger` names it; it may hold no password."""
        self._path = data / "keys.mirror-seen"
        self._ledger = hashlib.sha256(ledger.encode()).hexdigest()

    def read(self) -> Seen | None:
        """What is remembered; None where nothing is, or another ledger's."""
        try:
            ledger, keys, *spent = self._path.read_text().split()
            return Seen(int(keys), *map(int, spent)) if ledger == self._ledger else None
        except (OSError, ValueError, TypeError):
            return None

    def write(self, seen: Seen) -> None:
        """Remember what the mirror has; raises OSError."""
        spent = "" if seen.spent is None else f" {seen.spent}"
        draft = self._path.with_name(f"{self._path.name}.new")
        draft.touch(mode=0o600)
        draft.write_text(f"{self._ledger} {seen.keys}{spent}\n")
        draft.replace(self._path)


class Reflection:
    """Keeps a mirror like the ledger; used by one thread."""

    def __init__(self, keys: KeyStore, books: Books, mirror: Mirror, *, seen: SeenFile) -> None:
        self._seen = seen
        self._keys = keys
        self._books = books
        self._mirror = mirror
        had = None if mirror.is_empty else seen.read()
        self._version: int | None = None if had is None else had.keys
        """Of the keys in the mirror; None while it has to be made anew."""
        self._told_ms = 0
        self._spent_version: int | None = None if had is None else had.spent
        self._marks: list[Mark] | None = None

    def keys(self, now_ms: int) -> bool:
        """Tell the mirror what is new of the keys; whether there was anything.

        Raises LedgerUnavailable and MirrorError; the next call makes up for it.
        """
        if self._version is None:
            self._rebuild(now_ms)
            return True
        version = self._keys.version()
        if version < self._version:  # another ledger, or an older state of it
            self._rebuild(now_ms)
            return True
        if version == self._version:
            if now_ms - self._told_ms >= LOOK_EVERY_MS or now_ms < self._told_ms:
                self._update(now_ms)
            return False
        changes = self._keys.changes_since(self._version)
        self._version = None
        self._mirror.update(
            looked_at_ms=now_ms,
            keys=changes.keys,
            groups=changes.groups,
            have_existed=bool(changes.keys),
        )
        self._told_ms, self._version = now_ms, changes.version
        self._remember()
        return True

    def spent(self, now_ms: int) -> bool:
        """Tell the mirror what has been spent, up to where, and who is out of credits.

        True where any of it was new. Raises as `keys` does.
        """
        if self._version is None:  # a mirror without keys must not look like one of no keys
            raise MirrorError("The keys have to be told first.")
        had = -1 if self._spent_version is None else self._spent_version
        if self._books.version() < had:  # another ledger, or an older state of it
            had = -1
        with self._books.standing(since=had) as standing:
            if standing.version == self._spent_version:
                return False
            version, self._version, self._spent_version = self._version, None, None
            # Before the offsets: a worker that starts reads what is behind them by itself.
            self._tell_marks(standing, now_ms)
            self._mirror.update_spent(
                _spent(standing, now_ms),
                _offsets(standing),
                looked_at_ms=now_ms,
                is_all=had < 0,
            )
            self._told_ms, self._spent_version = now_ms, standing.version
            self._version = version
        self._remember()
        return True

    def _update(self, now_ms: int) -> None:
        known, self._version = self._version, None
        self._mirror.update(looked_at_ms=now_ms)
        self._told_ms, self._version = now_ms, known

    def _rebuild(self, now_ms: int) -> None:
        """Keys come with what they have spent: a worker may begin as soon as it sees them."""
        have_existed = self._keys.have_existed()
        with self._books.standing() as standing, self._keys.everything() as everything:
            self._mirror.rebuild(
                everything.keys,
                have_existed=have_existed,
                looked_at_ms=now_ms,
                spent=_spent(standing, now_ms),
                offsets=_offsets(standing),
            )
            self._marks = None
            # A group without a key is told when it gets its first one.
            self._version, self._told_ms = everything.version, now_ms
            self._tell_marks(standing, now_ms)
            self._spent_version = standing.version
        self._remember()

    def _tell_marks(self, standing: Standing, now_ms: int) -> None:
        marks = [Mark(it.upstream, it.since_ms, it.is_cleared) for it in standing.marks]
        if marks != self._marks:
            self._marks = None
            self._mirror.mark(marks, looked_at_ms=now_ms)
            self._marks = marks

    def _remember(self) -> None:
        if self._version is not None:
            self._seen.write(Seen(self._version, self._spent_version))


def _offsets(standing: Standing) -> list[Offset]:
    return [Offset(one.node, one.segment, one.offset) for one in standing.offsets]


def _spent(standing: Standing, now_ms: int) -> Iterator[Spent]:
    """What counts in the windows of now; older windows say that nothing was spent in this one."""
    starts = _window_starts(now_ms)
    for one in standing.spent:
        windows: Iterable[tuple[Period | None, ledger_books.Window]] = (
            ("hour", one.hour),
            ("day", one.day),
            ("month", one.month),
            (None, one.total),
        )
        for period, window in windows:
            # A clock that was set back has windows that begin later than now; those count, too.
            is_present = period is None or window.start_ms >= starts[period]
            if is_present and (window.microusd or window.tokens):
                began_ms = 0 if period is None else window.start_ms
                yield Spent(one.kind, one.name, period, began_ms, window.microusd, window.tokens)


def _window_starts(now_ms: int) -> dict[Period, int]:
    """When the present hour, day and month of UTC began."""
    hour_ms, day_ms = 3_600_000, 86_400_000
    first = datetime.fromtimestamp(now_ms / 1000, UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    return {
        "hour": now_ms - now_ms % hour_ms,
        "day": now_ms - now_ms % day_ms,
        "month": round(first.timestamp() * 1000),
    }
