"""The clerk's turns, one by one: how often it looks at the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyhole import main
from keyhole.clerk import BUSY_BYTES, Clerk
from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.ledger.usage import UsageReader
from standins.attempts import intent, receipt

MANY = BUSY_BYTES // 300


class Place:
    """A clerk, and a writer of its journal."""

    def __init__(self, data: Path) -> None:
        settings = main.load_settings(config=None, data=data)
        main.make_data_dir(data)
        self.database = main.open_database(settings)
        self.clerk = Clerk(settings, self.database, say=lambda _: None)
        self.journal = FileJournal(
            data / "journal",
            JournalSettings(fsync="never"),
            node="n",
            clock=SystemClock(),
            say=lambda _: None,
        )
        self.count = 0

    def serve(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            self.journal.intend(intent(self.count))
            self.journal.settle(receipt(self.count))

    def turn(self) -> int:
        """One turn; how many attempts are in the books after it."""
        assert self.clerk.turn()
        return UsageReader(self.database).usage("upstream").total.requests


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "data")
    yield made
    made.journal.close()
    made.database.close()


def test_where_little_happens_each_turn_posts(place: Place) -> None:
    for count in (1, 2, 3):
        place.serve(1)
        assert place.turn() == count


def test_where_much_happens_the_next_turn_leaves_it_to_collect(place: Place) -> None:
    place.serve(MANY)
    assert place.turn() == MANY
    place.serve(1)
    assert place.turn() == MANY
    place.clerk.stop()  # then all of it is posted
    assert place.turn() == MANY + 1
