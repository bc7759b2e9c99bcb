"""The journal into the books: each attempt once, whoever dies and whatever is away."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.ledger.books import Books
from keyhole.ledger.database import Database, LedgerUnavailable
from keyhole.ledger.posting import ASIDE, Poster, journal_ends, lag_bytes
from keyhole.ledger.segments import list_segments
from keyhole.ledger.usage import Attempt, UsageReader
from standins.attempts import intent, progress, receipt

POST_FOREVER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from keyhole.ledger.books import Books\n"
    "from keyhole.ledger.database import Database\n"
    "from keyhole.ledger.posting import Poster\n"
    "poster = Poster(Books(Database(sys.argv[1])), Path(sys.argv[2]), say=print)\n"
    "print('posting', flush=True)\n"
    "while True:\n"
    "    poster.remove(poster.run().done)\n"
)


class Place:
    """A journal's directory beside an SQLite ledger."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/ledger.sqlite"
        self.journal = folder / "journal"
        self.database = Database(self.url, patience_s=0.2)
        self.database.migrate()
        self.books = Books(self.database)
        self.said: list[str] = []

    def poster(self) -> Poster:
        return Poster(self.books, self.journal, say=self.said.append)

    def writer(self) -> FileJournal:
        settings = JournalSettings(fsync="never", segment_bytes=64 * 1024)
        return FileJournal(
            self.journal, settings, node="n", clock=SystemClock(), say=self.said.append
        )

    def rows(self) -> dict[str, Attempt]:
        rows = UsageReader(self.database).rows(limit=10_000)
        found = {row.exchange_id: row for row in rows}
        assert len(found) == len(rows)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.database.close()


async def test_an_attempt_under_way_is_not_interrupted_while_its_writer_lives(place: Place):
    writer, poster = place.writer(), place.poster()
    for number in (1, 2, 3):
        writer.intend(intent(number))
    writer.progress(progress(2, 7))
    writer.settle(receipt(1))
    passed = poster.run()
    assert (passed.attempts, passed.interrupted, passed.done) == (1, 0, ())
    writer.close()
    passed = poster.run()
    assert (passed.attempts, passed.interrupted) == (2, 2)
    rows = place.rows()
    outcomes = [rows[intent(number).exchange_id].outcome for number in (1, 2, 3)]
    assert outcomes == ["ok", "interrupted", "interrupted"]
    seen = rows[intent(2).exchange_id]
    assert (seen.basis, seen.prompt_tokens, seen.completion_tokens) == (
        "estimated",
        intent(2).prompt_estimate,
        7,
    )


async def test_a_segment_goes_when_it_is_done_with_and_not_before(place: Place):
    writer, poster = place.writer(), place.poster()
    writer.intend(intent(1))
    writer.settle(receipt(1))
    assert poster.run().done == ()
    writer.close()
    (segment,) = list_segments(place.journal)
    assert poster.run().done == (segment,)
    assert poster.run().done == (segment,)  # until it is removed
    poster.remove((segment,))
    assert list_segments(place.journal) == []
    assert place.books.offsets() == []
    assert (poster.run().attempts, len(place.rows())) == (0, 1)


async def test_a_damaged_line_is_told_once_and_kept_aside(place: Place):
    writer = place.writer()
    for number in (1, 2, 3):
        writer.intend(intent(number))
        writer.settle(receipt(number))
    writer.close()
    (segment,) = list_segments(place.journal)
    path = place.journal / segment.file
    content = path.read_bytes()
    position = content.index(b"\n") + 1
    end = content.index(b"\n", position)
    path.write_bytes(content[:position] + b"x" * (end - position) + content[end:])
    place.poster().run()
    assert len(place.rows()) == 3  # of the second line, the receipt of 1, the intent is left
    assert place.rows()[intent(1).exchange_id].outcome == "interrupted"
    place.poster().run()
    (told,) = place.said
    assert str(path) in told
    assert f"at byte {position}" in told
    (kept,) = (place.journal / ASIDE).iterdir()
    assert kept.read_bytes().strip() == b"x" * (end - position)
    assert kept.stat().st_mode & 0o077 == 0


async def test_a_locked_database_delays_the_books_and_loses_nothing(place: Place):
    writer, poster = place.writer(), place.poster()
    for number in range(50):
        writer.intend(intent(number))
        writer.settle(receipt(number))
    with place.database.writing():
        with pytest.raises(LedgerUnavailable):
            poster.run()
        ends = journal_ends(place.books, place.journal)
        assert lag_bytes(place.books, place.journal, ends) > 0
    poster.run()
    assert lag_bytes(place.books, place.journal, ends) == 0
    assert len(place.rows()) == 50
    writer.close()


async def test_what_is_raised_between_batches_ends_the_pass_and_keeps_what_was_posted(
    place: Place,
):
    writer, poster = place.writer(), place.poster()
    for number in range(400):
        writer.intend(intent(number))
        writer.settle(receipt(number))

    def stop() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        poster.run(stop)
    begun = len(place.rows())
    assert 0 < begun < 400
    poster.run()
    assert len(place.rows()) == 400
    writer.close()


async def test_two_clerks_at_once_book_each_attempt_once(place: Place):
    writer = place.writer()
    is_over = threading.Event()

    def post() -> None:
        database = Database(place.url, patience_s=10)
        poster = Poster(Books(database), place.journal, say=place.said.append)
        while not is_over.is_set():
            poster.remove(poster.run().done)
        database.close()

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1500):
        writer.intend(intent(number))
        if number % 3:
            writer.settle(receipt(number))
    writer.close()
    _until(lambda: not list_segments(place.journal), "the journal is empty")
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(place.rows()) == 1500
    outcomes = [row.outcome for row in place.rows().values()]
    assert (outcomes.count("ok"), outcomes.count("interrupted")) == (1000, 500)


@pytest.mark.timeout(180)
def test_writers_and_clerks_that_are_killed_book_every_attempt_once(place: Place):
    """Killed with -9 at random moments, over and over: no intent is lost, no receipt doubled."""
    chance = random.Random(5)
    intended: set[str] = set()
    received: set[str] = set()
    base = 0
    clerk = _start(POST_FOREVER, place.url, str(place.journal))
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place.journal), str(base)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert writer.stdout is not None
        read = [writer.stdout.readline() for _ in range(chance.randrange(1, 300))]
        if chance.random() < 0.6:
            _kill(clerk)
            clerk = _start(POST_FOREVER, place.url, str(place.journal))
        said = b"".join(read) + _kill(writer)
        for word in said.split(b"\n")[:-1]:
            numbers = intended if word[:1] == b"i" else received
            numbers.add(intent(int(word[1:])).exchange_id)
        base += 100_000
    _kill(clerk)
    poster = place.poster()
    poster.remove(poster.run().done)
    assert list_segments(place.journal) == []
    rows = place.rows()
    assert place.said == []
    assert intended <= set(rows)
    assert all(rows[one].outcome == "ok" for one in received)
    # What was written in the instant before the kill could not be said any more.
    assert len(set(rows) - intended) <= 12
    assert UsageReader(place.database).usage("upstream").total.requests == len(rows)


WRITER = (
    "import os, sys\n"
    "from pathlib import Path\n"
    "from keyhole.io.clock import SystemClock\n"
    "from keyhole.io.journal import FileJournal, JournalSettings\n"
    "from standins.attempts import intent, receipt\n"
    "settings = JournalSettings(fsync='never', segment_bytes=16 * 1024)\n"
    "journal = FileJournal(Path(sys.argv[1]), settings, node='n', clock=SystemClock(), say=print)\n"
    "number = int(sys.argv[2])\n"
    "while True:\n"
    "    number += 1\n"
    "    journal.intend(intent(number))\n"
    "    os.write(1, b'i%d\\n' % number)\n"
    "    if number % 5:\n"
    "        journal.settle(receipt(number))\n"
    "        os.write(1, b'r%d\\n' % number)\n"
)


def _start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _kill(process: subprocess.Popen[bytes]) -> bytes:
    """End it at once; what it had still said."""
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    return said


def _until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
