"""What a worker that starts takes for spent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from keyhole.bookkeeping import journal_dir, spent_before
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.wire.mirror import Offset, Spent
from standins.attempts import StillClock, intent, receipt


class Mirror:
    """What the clerk has told; `on_read` happens once it has been read."""

    def __init__(self) -> None:
        self.told: list[Offset] = []
        self.sums: list[Spent] = []
        self.on_read = lambda: None

    def offsets(self) -> list[Offset]:
        return self.told

    def spent(self) -> list[Spent]:
        self.on_read()
        return self.sums


def write_journal(data: Path, count: int) -> list[Path]:
    journal = FileJournal(
        journal_dir(data), JournalSettings(fsync="never"), node="n", clock=StillClock(), say=print
    )
    for number in range(count):
        journal.intend(intent(number))
        journal.settle(receipt(number))
    journal.close()
    return list(journal_dir(data).iterdir())


def requests(data: Path, mirror: Mirror) -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for name, spent in spent_before(data, mirror):  # type: ignore[arg-type]  # all that is asked
        found[name] += spent.requests
    return dict(found)


def test_what_the_ledger_has_not_counted_yet_is_read_from_the_journal(tmp_path: Path) -> None:
    write_journal(tmp_path, 3)
    assert requests(tmp_path, Mirror()) == {
        ("upstream", "hf"): 3,
        ("key", "key_0123456789abcdef"): 3,
        ("group", "class-a"): 3,
    }


def test_what_it_has_counted_is_not_counted_again(tmp_path: Path) -> None:
    (segment,) = write_journal(tmp_path, 3)
    mirror = Mirror()
    mirror.told = [Offset("n", segment.name, segment.stat().st_size)]
    mirror.sums = [Spent("key", "key_0123456789abcdef", None, 0, 81, 60)]
    (only,) = spent_before(tmp_path, mirror)  # type: ignore[arg-type]
    assert only[0] == ("key", "key_0123456789abcdef")
    assert (only[1].tokens, only[1].cost_microusd) == (60, 81)


def test_a_segment_that_the_clerk_removes_meanwhile_is_counted_all_the_same(tmp_path: Path) -> None:
    """The mirror was read before it counted the segment, which is gone when it is looked for."""
    (segment,) = write_journal(tmp_path, 3)
    mirror = Mirror()
    mirror.on_read = segment.unlink
    assert requests(tmp_path, mirror)["key", "key_0123456789abcdef"] == 3
