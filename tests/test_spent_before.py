"""What a worker that starts takes for spent, while the clerk goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from keyhole.bookkeeping import Before, journal_dir
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.wire.mirror import Offset, Spent
from standins.attempts import StillClock, intent, receipt

KEY = ("key", "key_0123456789abcdef")


class Mirror:
    """What the clerk has told; `on_read` happens when sums are read."""

    def __init__(self) -> None:
        self.told: list[Offset] = []
        self.tokens = 0
        self.on_read: Callable[[], object] = lambda: None

    def offsets(self) -> list[Offset]:
        return list(self.told)

    def spent(self, scope: str, name: str) -> list[Spent]:
        tokens = self.tokens if (scope, name) == KEY else 0
        self.on_read()
        return [Spent("key", name, None, 0, tokens, tokens)] if tokens else []


def write_journal(data: Path, count: int) -> Path:
    """A journal of attempts with 20 tokens each, and more of the prompt's."""
    journal = FileJournal(
        journal_dir(data), JournalSettings(fsync="never"), node="n", clock=StillClock(), say=print
    )
    for number in range(count):
        journal.intend(intent(number))
        journal.settle(receipt(number))
    journal.close()
    (segment,) = journal_dir(data).iterdir()
    return segment


def tokens_of_key(data: Path, mirror: Mirror) -> int:
    before = Before(data, mirror, StillClock())  # type: ignore[arg-type]  # all that is asked
    before.read()
    return sum(spent.tokens for spent in before.look_up(KEY))  # type: ignore[arg-type]


ALL = 3 * 20 + 0 + 1 + 2


def test_what_the_ledger_has_not_counted_yet_is_read_from_the_journal(tmp_path: Path) -> None:
    write_journal(tmp_path, 3)
    assert tokens_of_key(tmp_path, Mirror()) == ALL


def test_what_it_has_counted_is_not_counted_again(tmp_path: Path) -> None:
    segment = write_journal(tmp_path, 3)
    mirror = Mirror()
    mirror.told = [Offset("n", segment.name, segment.stat().st_size)]
    mirror.tokens = ALL
    assert tokens_of_key(tmp_path, mirror) == ALL


def test_a_segment_that_the_clerk_removes_meanwhile_is_counted_once(tmp_path: Path) -> None:
    """It tells the mirror first, and removes the segment then: both between two looks of ours."""
    segment = write_journal(tmp_path, 3)
    mirror = Mirror()

    def post() -> None:
        if segment.exists():
            mirror.told = [Offset("n", segment.name, segment.stat().st_size)]
            mirror.tokens = ALL
            segment.unlink()

    mirror.on_read = post
    assert tokens_of_key(tmp_path, mirror) == ALL


def test_a_part_that_the_clerk_posts_meanwhile_is_counted_once(tmp_path: Path) -> None:
    segment = write_journal(tmp_path, 3)
    mirror = Mirror()

    def post() -> None:
        mirror.told = [Offset("n", segment.name, segment.stat().st_size)]
        mirror.tokens = ALL

    mirror.on_read = post
    assert tokens_of_key(tmp_path, mirror) == ALL
