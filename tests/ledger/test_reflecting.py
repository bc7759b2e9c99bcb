"""The ledger into the mirror: what workers are told of keys, and of what was spent."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from keyhole.ledger.books import Batch, Books
from keyhole.ledger.database import Database
from keyhole.ledger.keys import Everything, KeyStore, NewKey
from keyhole.ledger.mirror import Mirror, MirrorError
from keyhole.ledger.reflecting import LOOK_EVERY_MS, Reflection, SeenFile
from keyhole.wire.books import Receipt
from keyhole.wire.keys import Limits
from standins.attempts import intent, receipt

NOW_MS = 1_763_863_600_000
DAY_MS = 86_400_000


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder}/ledger.sqlite")
        self.database.migrate()
        self.keys = KeyStore(self.database)
        self.books = Books(self.database)
        self.mirrors: list[Mirror] = []
        self.posted = 0

    def reflection(self, ledger: str = "here") -> Reflection:
        mirror = Mirror(self.folder)
        self.mirrors.append(mirror)
        seen = SeenFile(self.folder, ledger)
        return Reflection(self.keys, self.books, mirror, seen=seen)

    def make(self, name: str) -> str:
        made = self.keys.create(
            NewKey(name=name), now_ms=NOW_MS, random_bytes=lambda n: name.encode().ljust(n, b".")
        )
        return made.key.id

    def post(self, line: Receipt) -> None:
        """Post one line, a byte long."""
        batch = Batch(
            node="n", segment="s", begins_at=self.posted, ends_at=self.posted + 1, lines=[line]
        )
        self.books.post(batch)
        self.posted += 1

    def deface(self) -> None:
        """Mark what the mirror says was spent, to see what is told again."""
        with contextlib.closing(sqlite3.connect(self.folder / "keys.mirror")) as database, database:
            database.execute("UPDATE spent SET tokens = -1 WHERE scope = 'key'")

    def tampered(self) -> set[object]:
        """The keys whose mark is still there."""
        return {name for (name,) in self.query("SELECT name FROM spent WHERE tokens = -1")}

    def spenders(self) -> set[object]:
        """The keys that the mirror says have spent."""
        return {name for (name,) in self.query("SELECT name FROM spent WHERE scope = 'key'")}

    def query(self, text: str) -> list[tuple[object, ...]]:
        database = sqlite3.connect(f"file:{self.folder}/keys.mirror?mode=ro", uri=True)
        rows = database.execute(text).fetchall()
        database.close()
        return rows

    def mirrored(self) -> int:
        return len(self.query("SELECT 1 FROM keys WHERE value NOT NULL"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for mirror in made.mirrors:
        mirror.close()
    made.database.close()


def test_what_is_new_is_told_and_nothing_else(place: Place):
    reflection = place.reflection()
    place.make("ann")
    assert reflection.keys(NOW_MS)
    assert not reflection.keys(NOW_MS + 1)
    place.make("bob")
    assert reflection.keys(NOW_MS + 2)
    assert place.mirrored() == 2
    place.keys.set_group("g", Limits(rpm=1))
    assert reflection.keys(NOW_MS + 3)


def test_a_look_that_found_nothing_is_told_from_time_to_time(place: Place):
    reflection = place.reflection()
    reflection.keys(NOW_MS)
    reflection.keys(NOW_MS + LOOK_EVERY_MS - 1)
    assert place.query("SELECT looked_at_ms FROM meta") == [(NOW_MS,)]
    reflection.keys(NOW_MS + LOOK_EVERY_MS)
    assert place.query("SELECT looked_at_ms FROM meta") == [(NOW_MS + LOOK_EVERY_MS,)]


def test_a_clerk_that_starts_tells_what_it_missed(place: Place):
    place.make("ann")
    place.reflection().keys(NOW_MS)
    place.make("bob")
    assert place.reflection().keys(NOW_MS)
    assert place.mirrored() == 2
    assert not place.reflection().keys(NOW_MS)


def test_another_ledgers_keys_take_the_place_of_all(place: Place):
    """A version of one ledger says nothing of another's."""
    place.make("ann")
    place.reflection().keys(NOW_MS)
    assert place.reflection(ledger="elsewhere").keys(NOW_MS)


def test_only_those_who_spent_since_are_told(place: Place):
    """A mark that somebody else left in the mirror tells what was written; a reader sees by itself
    that a window is over."""
    reflection = place.reflection()
    reflection.keys(NOW_MS)
    mark = "UPDATE spent SET tokens = -1 WHERE scope != 'upstream'"

    def spend(number: int, now_ms: int) -> set[object]:
        other = {"key_id": f"key_{number}", "group": f"g{number}", "started_at_ms": now_ms}
        begun = structs.replace(intent(number), **other)
        line = structs.replace(receipt(number), intent=begun)
        place.books.post(Batch(node="n", segment=f"{number}", begins_at=0, ends_at=9, lines=[line]))
        with contextlib.closing(sqlite3.connect(place.folder / "keys.mirror")) as database:
            database.execute(mark)
            database.commit()
        assert reflection.spent(now_ms)
        told = place.query("SELECT name FROM spent WHERE tokens != -1")
        return {name for (name,) in told}

    assert spend(1, NOW_MS) == {"key_1", "g1", "hf"}
    assert spend(2, NOW_MS + 1) == {"key_2", "g2", "hf"}
    assert spend(3, NOW_MS + 3_600_000) == {"key_3", "g3", "hf"}


@pytest.mark.parametrize("days", [0, 40])
@pytest.mark.parametrize("is_made_before", [True, False])
def test_what_was_spent_is_told_with_the_offsets_it_counts(
    place: Place, days: int, is_made_before: bool
):
    """Of windows that are over only the total is left. A mirror that is made anew has it at once:
    a worker that finds its keys may begin."""
    reflection = place.reflection()
    if is_made_before:
        reflection.keys(NOW_MS)
    begun = structs.replace(intent(1), started_at_ms=NOW_MS - days * DAY_MS)
    line = structs.replace(receipt(1), intent=begun)
    place.books.post(Batch(node="n", segment="s", begins_at=0, ends_at=77, lines=[line]))
    if is_made_before:
        assert reflection.spent(NOW_MS)
    else:
        reflection.keys(NOW_MS)
    assert not reflection.spent(NOW_MS)
    assert place.query("SELECT node, segment, offset FROM offsets") == [("n", "s", 77)]
    told = place.query("SELECT scope, period, microusd FROM spent ORDER BY 1, 2")
    periods = ("", "day", "hour", "month") if days == 0 else ("",)
    assert told == [
        (scope, period, 27) for scope in ("group", "key", "upstream") for period in periods
    ]


def of_key(number: int) -> Receipt:
    """An attempt of a key of its own."""
    begun = structs.replace(intent(number), started_at_ms=NOW_MS, key_id=f"key_{number}")
    return structs.replace(receipt(number), intent=begun)


def test_only_what_was_spent_since_is_told(place: Place):
    """Also by the next clerk: a million keys that have spent are not told again at each start."""
    place.post(of_key(1))
    reflection = place.reflection()
    reflection.keys(NOW_MS)
    reflection.spent(NOW_MS)
    place.deface()
    place.post(of_key(2))
    reflection.spent(NOW_MS)
    assert place.tampered() == {"key_1"}
    place.post(of_key(3))
    later = place.reflection()
    assert not later.keys(NOW_MS)
    assert later.spent(NOW_MS)
    assert place.tampered() == {"key_1"}
    assert place.spenders() == {"key_1", "key_2", "key_3"}
    assert place.query("SELECT offset FROM offsets") == [(3,)]


def test_an_older_state_of_the_ledger_is_told_whole(place: Place):
    """A backup that was put back has spent less than the mirror says."""
    place.post(of_key(1))
    backup = sqlite3.connect(":memory:")
    with contextlib.closing(sqlite3.connect(place.folder / "ledger.sqlite")) as ledger:
        ledger.backup(backup)
    place.post(of_key(2))
    reflection = place.reflection()
    reflection.keys(NOW_MS)
    reflection.spent(NOW_MS)
    assert place.spenders() == {"key_1", "key_2"}
    with contextlib.closing(sqlite3.connect(place.folder / "ledger.sqlite")) as ledger:
        backup.backup(ledger)
    backup.close()
    assert place.reflection().spent(NOW_MS)
    assert place.spenders() == {"key_1"}


def test_sums_are_not_told_before_the_keys(place: Place) -> None:
    """A mirror with sums alone would be taken for one of no keys, by which anybody comes in."""
    place.make("ann")
    place.post(receipt(1))
    reflection = place.reflection()
    with pytest.raises(MirrorError):
        reflection.spent(NOW_MS)
    assert place.query("SELECT 1 FROM meta") == []
    reflection.keys(NOW_MS)
    assert place.spenders()


def test_keys_and_what_they_spent_appear_at_once(place: Place) -> None:
    """Nobody sees a mirror in between, however long its keys take."""
    place.make("ann")
    place.post(receipt(1))
    seen: list[int] = []
    everything = place.keys.everything

    @contextlib.contextmanager
    def looking() -> Iterator[Everything]:
        with everything() as found:
            seen.append(len(place.query("SELECT 1 FROM meta")))
            yield found

    place.keys.everything = looking  # type: ignore[method-assign]
    place.reflection().keys(NOW_MS)
    assert seen == [0]
    assert place.mirrored() == 1


def test_a_mirror_that_was_removed_is_made_anew(place: Place) -> None:
    place.make("ann")
    reflection = place.reflection()
    reflection.keys(NOW_MS)
    (place.folder / "keys.mirror").unlink()
    with pytest.raises(MirrorError, match="removed"):
        reflection.keys(NOW_MS + LOOK_EVERY_MS)
    reflection.keys(NOW_MS + LOOK_EVERY_MS)
    assert place.mirrored() == 1


def test_a_successor_goes_on_with_what_its_predecessor_spent(place: Place) -> None:
    key_id = place.make("ann")
    place.post(structs.replace(receipt(1), intent=structs.replace(intent(1), key_id=key_id)))
    reflection = place.reflection()
    reflection.keys(NOW_MS)
    reflection.spent(NOW_MS)
    issued = place.keys.rotate(
        "ann", grace_s=60, now_ms=NOW_MS, random_bytes=lambda n: b"successor".ljust(n, b".")
    )
    reflection.keys(NOW_MS + 1)
    assert reflection.spent(NOW_MS + 1)
    assert {key_id, issued.key.id} <= place.spenders()
