"""The journal as it is written: nothing acknowledged is lost, whatever the disk does.

One long file: every way for a disk to fail is tried with the same disk and the same desk.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyhole.errors import Code, GatewayError, SetupError
from keyhole.io.journal import (
    RETRY_S,
    Disk,
    FileJournal,
    JournalSettings,
    ZeroingDisk,
    file_system,
)
from keyhole.ledger.segments import Segment, list_segments
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.lines import UNFINISHED, Line, encode_line, read_name
from standins.attempts import StillClock, intent, progress, receipt

SMALL = JournalSettings(fsync="never", segment_bytes=4096)
INTENT_BYTES = len(encode_line(intent(1)))


class FailingDisk(Disk):
    """A disk that is full, short or broken where a test says so, and remembers what it did."""

    def __init__(self) -> None:
        self.is_full = False
        self.write_error: int | None = None
        self.next_write: str | None = None
        """How the next write alone goes: "short" or "error"."""
        self.allocations = 0
        self.written: list[tuple[int, int]] = []
        self.sync_errors: list[int] = []
        self.synced: list[int] = []
        self.has_synced = threading.Event()
        self.may_sync = threading.Event()
        self.may_sync.set()

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:  # type: ignore[override]
        self.written.append((descriptor, offset))
        if self.write_error is not None:
            raise OSError(self.write_error, os.strerror(self.write_error))
        failure, self.next_write = self.next_write, None
        if failure == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.pwrite(descriptor, data[:-1] if failure == "short" else data, offset)

    def allocate(self, descriptor: int, size: int) -> None:
        self.allocations += 1
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self.synced.append(descriptor)
        self.has_synced.set()
        assert self.may_sync.wait(10)
        if self.sync_errors:
            error = self.sync_errors.pop()
            raise OSError(error, os.strerror(error))


class Desk:
    """A directory, and the journals that a test opens in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = StillClock()
        self.said: list[str] = []
        self.is_well = asyncio.Event()
        self._opened: list[FileJournal] = []

    def open(self, settings: JournalSettings = SMALL, disk: Disk | None = None) -> FileJournal:
        journal = FileJournal(
            self.directory,
            settings,
            node="n",
            clock=self.clock,
            say=self._hear,
            disk=disk,
        )
        self._opened.append(journal)
        return journal

    def _hear(self, text: str) -> None:
        self.said.append(text)
        if "again" in text:
            self.is_well.set()

    def close(self) -> None:
        for journal in self._opened:
            journal.close()

    def read(self) -> list[Line]:
        """All the lines there are; none may be damaged."""
        lines: list[Line] = []
        for name in list_segments(self.directory):
            with Segment(self.directory / name.file) as segment:
                piece = segment.read(0)
                assert (piece.damage, piece.is_last) == ([], True)
                lines += piece.lines
        return lines

    def locked(self) -> list[bool]:
        """Of each segment, whether its writer holds it."""
        held = []
        for name in list_segments(self.directory):
            with Segment(self.directory / name.file) as segment:
                held.append(not segment.seal())
        return held

    def sizes(self) -> list[int]:
        return [(self.directory / n.file).stat().st_size for n in list_segments(self.directory)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "data" / "journal")
    yield desk
    desk.close()


def refused(journal: FileJournal, number: int) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        journal.intend(intent(number))
    assert (caught.value.code, caught.value.status) == (Code.JOURNAL_FULL, 503)
    return caught.value


def test_what_was_written_can_be_read_at_once(desk: Desk) -> None:
    """By another process's eyes, while the writer goes on."""
    journal = desk.open()
    journal.intend(intent(1))
    assert desk.read() == [intent(1)]
    journal.progress(progress(1, 7))
    journal.settle(receipt(1))
    assert desk.read() == [intent(1), progress(1, 7), receipt(1)]


def test_only_the_operator_can_read_it(desk: Desk) -> None:
    desk.open()
    assert desk.directory.stat().st_mode & 0o777 == 0o700
    (path,) = desk.directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    name = read_name(path.name)
    assert name is not None
    assert (name.node, name.pid, name.sequence) == ("n", os.getpid(), 1)


def test_a_full_segment_is_followed_by_another(desk: Desk) -> None:
    """Each gives back what it did not use, and only the last one stays locked."""
    journal = desk.open()
    for number in range(100):
        journal.intend(intent(number))
        journal.settle(receipt(number))
    assert desk.read() == [line for n in range(100) for line in (intent(n), receipt(n))]
    sizes = desk.sizes()
    assert len(sizes) > 5
    assert max(sizes[:-1]) < sizes[-1]
    assert desk.locked() == [False] * (len(sizes) - 1) + [True]


def test_a_segment_stays_locked_while_one_of_its_attempts_is_open(desk: Desk) -> None:
    journal = desk.open()
    journal.intend(intent(0))
    for number in range(1, 50):
        journal.intend(intent(number))
        journal.settle(receipt(number))
    assert desk.locked()[:3] == [True, False, False]
    journal.settle(receipt(0))
    assert desk.locked()[:3] == [False, False, False]
    assert desk.read()[-1] == receipt(0)


def test_a_closed_journal_holds_no_lock(desk: Desk) -> None:
    journal = desk.open()
    journal.intend(intent(0))
    journal.close()
    assert desk.locked() == [False]
    assert desk.sizes() == [INTENT_BYTES]
    refused(journal, 1)


def test_a_full_disk_refuses_attempts_and_loses_no_receipt(desk: Desk) -> None:
    """Those of every open attempt have their room, across segments too; then it recovers."""
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    for number in range(60):  # more than one segment holds
        journal.intend(intent(number))
    disk.is_full = True
    last = 60
    with contextlib.suppress(GatewayError):
        for last in range(60, 1000):
            journal.intend(intent(last))
    error = refused(journal, last)
    assert "No space left on device" in error.message
    count = len(disk.written)
    for number in range(last):
        journal.settle(receipt(number))
    assert len(disk.written) == count + last
    assert {n.exchange_id for n in desk.read() if isinstance(n, Intent)} == {
        intent(n).exchange_id for n in range(last)
    }
    assert [n for n in desk.read() if isinstance(n, Receipt)] == [receipt(n) for n in range(last)]
    with contextlib.suppress(GatewayError):
        for last in range(1000, 2000):
            journal.intend(intent(last))
    assert 1000 < last < 1999, "some fit where receipts were shorter than what was kept"
    assert "No space left on device" in refused(journal, last).message
    assert len(desk.said) == 1
    disk.is_full = False
    refused(journal, last)  # until it is tried again
    desk.clock.now_s += RETRY_S
    journal.intend(intent(last))
    assert [said.partition(":")[0] for said in desk.said] == [
        "The journal cannot be written, so requests are refused",
        "The journal can be written again.",
    ]


def test_a_refused_request_costs_next_to_nothing(desk: Desk) -> None:
    """However many there are, the disk is tried four times a second."""
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    disk.is_full = True
    number = 0
    with contextlib.suppress(GatewayError):
        for number in range(1000):
            journal.intend(intent(number))
    before = disk.allocations
    for _ in range(500):
        refused(journal, number)
    assert disk.allocations == before
    desk.clock.now_s += RETRY_S
    for _ in range(500):
        refused(journal, number)
    assert disk.allocations == before + 1
    assert len(desk.said) == 1


def test_a_disk_that_is_full_at_the_start_does_not_stop_it(desk: Desk) -> None:
    disk = FailingDisk()
    disk.is_full = True
    journal = desk.open(disk=disk)
    refused(journal, 1)
    journal.progress(progress(1, 1))
    disk.is_full = False
    desk.clock.now_s += RETRY_S
    journal.intend(intent(1))
    assert desk.read() == [intent(1)]
    assert not list(desk.directory.glob(f"*{UNFINISHED}"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_file_system_that_is_really_full(tiny_disk: Path) -> None:
    """Filled by somebody else while forty attempts are open: all their receipts are written."""
    desk = Desk(tiny_disk / "journal")
    journal = desk.open(JournalSettings(fsync="never", segment_bytes=64 * 1024))
    for number in range(40):
        journal.intend(intent(number))
    stuff = tiny_disk / "stuff"
    with contextlib.suppress(OSError), stuff.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    number = 40
    with contextlib.suppress(GatewayError):
        for number in range(40, 2000):
            journal.intend(intent(number))
    assert "No space left" in refused(journal, number).message
    for settled in range(number):
        journal.settle(receipt(settled))
    assert [n for n in desk.read() if isinstance(n, Receipt)] == [receipt(n) for n in range(number)]
    stuff.unlink()
    desk.clock.now_s += RETRY_S
    journal.intend(intent(number))
    desk.close()


@pytest.mark.parametrize("failure", ["short", "error"])
def test_after_a_failed_write_a_new_segment_begins(desk: Desk, failure: str) -> None:
    """What stood in the broken one stays, and nothing is written behind what nobody knows."""
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    journal.intend(intent(1))
    journal.intend(intent(2))
    broken, _ = disk.written[-1]
    disk.next_write = failure
    journal.settle(receipt(1))
    count = len(disk.written)
    journal.settle(receipt(2))
    journal.intend(intent(3))
    assert broken not in {descriptor for descriptor, _ in disk.written[count:]}
    names = list_segments(desk.directory)
    pieces = []
    for name in names:
        with Segment(desk.directory / name.file) as segment:
            segment.seal()
            pieces.append(segment.read(0))
    assert [piece.lines for piece in pieces] == [
        [intent(1), intent(2)],
        [receipt(1), receipt(2), intent(3)],
    ]
    assert [d.reason for d in pieces[0].damage] == (["torn"] if failure == "short" else [])
    assert desk.locked() == [False, True]
    assert len(desk.said) == 1


async def test_receipts_wait_in_memory_when_everything_fails(desk: Desk) -> None:
    """They are written by themselves, as soon as it works; until then no attempt is made."""
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    for number in range(3):
        journal.intend(intent(number))
    disk.write_error = errno.EIO
    disk.is_full = True
    for number in range(3):
        journal.settle(receipt(number))
    refused(journal, 9)
    assert desk.locked() == [True]
    disk.write_error = None
    disk.is_full = False
    desk.clock.now_s += RETRY_S
    async with asyncio.timeout(10):
        await desk.is_well.wait()
    assert desk.read() == [intent(0), intent(1), intent(2), receipt(0), receipt(1), receipt(2)]
    assert desk.locked() == [False, True]
    journal.intend(intent(9))
    assert "refused: " in desk.said[0]
    assert desk.said[-1] == "The journal can be written again."


def test_receipts_that_wait_are_written_when_it_is_closed(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    journal.intend(intent(1))
    disk.write_error = errno.EIO
    journal.settle(receipt(1))
    disk.write_error = None
    journal.close()
    assert desk.read() == [intent(1), receipt(1)]


def test_receipts_that_never_could_be_written_are_told(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    journal.intend(intent(1))
    disk.write_error = errno.EIO
    journal.settle(receipt(1))
    journal.close()
    assert "1 receipts could not be written" in desk.said[-1]


def test_the_directory_is_bounded(desk: Desk) -> None:
    """Whoever else writes there counts, and it goes on when the clerk has removed something."""
    settings = JournalSettings(fsync="never", segment_bytes=4096, max_bytes=20_000)
    journal = desk.open(settings)
    (desk.directory / "n-1763863563123-1-00000001.journal").write_bytes(bytes(6000))
    number = 0
    with contextlib.suppress(GatewayError):
        for number in range(1000):
            journal.intend(intent(number))
            journal.settle(receipt(number))
    assert 10 < number < 40
    assert sum(desk.sizes()) <= 20_000
    assert "the ledger has not taken" in refused(journal, number).message
    first = list_segments(desk.directory)[0]
    assert first.pid == 1
    (desk.directory / first.file).unlink()
    desk.clock.now_s += RETRY_S
    journal.intend(intent(number))


def test_progress_takes_no_receipts_room(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    disk.is_full = True
    number = 0
    with contextlib.suppress(GatewayError):
        for number in range(1000):
            journal.intend(intent(number))
    for tokens in range(1000):
        journal.progress(progress(0, tokens))
    for settled in range(number):
        journal.settle(receipt(settled))
    assert [n for n in desk.read() if isinstance(n, Receipt)] == [receipt(n) for n in range(number)]


def test_names_that_are_too_long_are_refused(desk: Desk) -> None:
    journal = desk.open(JournalSettings(fsync="never"))
    with pytest.raises(GatewayError, match="too long for the journal"):
        journal.intend(intent(1, model="m" * 40_000))
    journal.intend(intent(1, model="m" * 30_000))
    assert desk.read() == [intent(1, model="m" * 30_000)]


def test_what_cannot_be_written_down_does_not_raise(desk: Desk) -> None:
    """A surrogate in a name: the attempt will be interrupted, and the segment is let go."""
    journal = desk.open()
    journal.intend(intent(1))
    bad = Receipt(intent(1, model="\ud800"), 200, "ok", 1, 1, "reported", 0, None, 1.0)
    journal.settle(bad)
    journal.progress(progress(1, 1))
    assert "cannot be written" in desk.said[0]
    assert journal._kept == 0


def test_a_receipt_without_an_intent_takes_nobodys_room(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    for number in range(30):
        journal.intend(intent(number))
    journal.settle(receipt(100))
    disk.is_full = True
    for number in range(101, 200):
        journal.settle(receipt(number))
    for number in range(30):
        journal.settle(receipt(number))
    settled = [n.prompt_tokens for n in desk.read() if isinstance(n, Receipt)]
    assert settled[-30:] == list(range(30))
    assert settled[0] == 100
    assert "has no intent" in desk.said[-1]


def test_receipts_that_wait_go_before_the_next_attempt(desk: Desk) -> None:
    """Where no loop runs, and a progress line has found that there is room again."""
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    journal.intend(intent(1))
    disk.write_error = errno.EIO
    journal.settle(receipt(1))
    disk.write_error = None
    desk.clock.now_s += RETRY_S
    journal.progress(progress(3, 1))
    journal.intend(intent(2))
    assert desk.read() == [intent(1), progress(3, 1), receipt(1), intent(2)]


def test_two_writers_share_a_directory(desk: Desk) -> None:
    """Even with one number and one time, as two containers may have."""
    one, other = desk.open(), desk.open()
    for number in range(50):
        (one if number % 2 else other).intend(intent(number))
    names = list_segments(desk.directory)
    assert len({name.writer for name in names}) == 2
    one.close()
    assert set(desk.locked()) == {True, False}
    assert {line.prompt_estimate for line in desk.read() if isinstance(line, Intent)} == set(
        range(50)
    )


def test_a_segment_is_never_seen_without_its_lock(desk: Desk) -> None:
    """While it is made it has another name."""
    seen: list[tuple[bool, list[bool]]] = []

    class Looking(Disk):
        def allocate(self, descriptor: int, size: int) -> None:
            (path,) = desk.directory.glob(f"*{UNFINISHED}")
            with path.open() as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                raise AssertionError("it is not locked")
            seen.append((list_segments(desk.directory) == [], desk.locked()))
            super().allocate(descriptor, size)

    desk.open(disk=Looking())
    assert seen == [(True, [])]


def test_a_segment_that_the_clerk_takes_away_while_it_is_made_is_made_again(desk: Desk) -> None:
    class Removing(Disk):
        calls = 0

        def allocate(self, descriptor: int, size: int) -> None:
            self.calls += 1
            if self.calls == 1:
                (path,) = desk.directory.glob(f"*{UNFINISHED}")
                path.unlink()
            super().allocate(descriptor, size)

    journal = desk.open(disk=Removing())
    journal.intend(intent(1))
    assert desk.read() == [intent(1)]
    assert desk.said == []


def test_where_nothing_can_be_allocated_ahead_zeros_are_written(desk: Desk) -> None:
    """As on macOS."""
    settings = JournalSettings(fsync="never", segment_bytes=600_000)
    journal = desk.open(settings, disk=ZeroingDisk())
    journal.intend(intent(1))
    assert desk.sizes() == [600_000]
    assert desk.read() == [intent(1)]


def test_a_directory_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file/journal cannot be used: Not a directory"):
        Desk(tmp_path / "file" / "journal").open()


def test_fsync_never(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(disk=disk)
    journal.intend(intent(1))
    journal.close()
    assert not journal.is_slow
    assert disk.synced == []


def test_fsync_at_an_interval_is_a_threads(desk: Desk) -> None:
    """A disk that takes long stops nobody; what is unlocked has been synced before."""
    disk = FailingDisk()
    disk.may_sync.clear()
    settings = JournalSettings(fsync="interval", segment_bytes=4096, interval_s=0.001)
    journal = desk.open(settings, disk=disk)
    assert disk.has_synced.wait(10)
    for number in range(50):
        journal.intend(intent(number))
        journal.settle(receipt(number))
    assert len(desk.read()) == 100
    assert all(desk.locked())
    disk.may_sync.set()
    journal.close()
    assert not any(desk.locked())
    # Each segment at least once, and the directory each time that a name is new.
    assert len(set(disk.synced)) == len(desk.locked()) + 1


def test_what_has_not_changed_is_not_synced(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(JournalSettings(fsync="always"), disk=disk)
    journal.intend(intent(1))
    journal._sync_all()
    assert len(disk.synced) == 2  # the directory, then the file
    journal._sync_all()
    assert len(disk.synced) == 2
    journal.settle(receipt(1))
    journal._sync_all()
    assert len(disk.synced) == 3


async def test_fsync_always_is_awaited_together(desk: Desk) -> None:
    """Who comes while the disk is busy waits for the next turn, and shares it."""
    disk = FailingDisk()
    journal = desk.open(JournalSettings(fsync="always"), disk=disk)
    assert journal.is_slow
    journal.intend(intent(0))
    await journal.synced()
    disk.synced.clear()
    disk.has_synced.clear()
    disk.may_sync.clear()
    order: list[int] = []

    async def ask(number: int) -> None:
        journal.intend(intent(number))
        await journal.synced()
        order.append(number)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(ask(1))
        await asyncio.to_thread(disk.has_synced.wait, 10)
        waiting = [group.create_task(ask(number)) for number in range(2, 30)]
        await asyncio.sleep(0)
        assert order == []
        waiting[0].cancel()  # one that leaves does not take it from the others
        disk.may_sync.set()
    assert order == [1, *range(3, 30)]
    assert len(disk.synced) == 2


async def test_what_the_disk_did_not_take_is_told_and_not_asked_again(desk: Desk) -> None:
    """A second fsync would say that all is well: the segment is given up."""
    disk = FailingDisk()
    journal = desk.open(JournalSettings(fsync="always"), disk=disk)
    journal.intend(intent(1))
    disk.sync_errors = [errno.EIO]
    with pytest.raises(GatewayError, match="Input/output error"):
        await journal.synced()
    journal.settle(receipt(1))
    journal.intend(intent(2))
    await journal.synced()
    assert len(list_segments(desk.directory)) == 2
    assert desk.read() == [intent(1), receipt(1), intent(2)]
    assert "The disk did not take" in desk.said[0]


async def test_what_was_written_while_the_disk_failed_has_failed_too(desk: Desk) -> None:
    """It stands in the segment that the disk did not take, though nobody had seen that yet."""
    disk = FailingDisk()
    journal = desk.open(JournalSettings(fsync="always"), disk=disk)
    disk.may_sync.clear()
    disk.sync_errors = [errno.EIO]
    journal.intend(intent(1))
    async with asyncio.timeout(10):
        first = asyncio.ensure_future(journal.synced())
        await asyncio.to_thread(disk.has_synced.wait, 10)
        journal.intend(intent(2))
        second = asyncio.ensure_future(journal.synced())
        await asyncio.sleep(0)
        disk.may_sync.set()
        for waiting in (first, second):
            with pytest.raises(GatewayError, match="Input/output error"):
                await waiting


async def test_a_receipt_that_waits_in_memory_is_not_on_the_disk(desk: Desk) -> None:
    disk = FailingDisk()
    journal = desk.open(JournalSettings(fsync="always"), disk=disk)
    journal.intend(intent(1))
    disk.write_error = errno.EIO
    journal.settle(receipt(1))
    with pytest.raises(GatewayError, match="Input/output error"):
        await journal.synced()


@pytest.mark.parametrize("fsync", ["never", "interval"])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, fsync: str) -> None:
    """At random moments of a process that writes as fast as it can."""
    luck = random.Random(5)
    for _ in range(10):
        directory = tmp_path / str(luck.random())
        after = luck.randrange(2000)
        acknowledged = kill_a_writer(directory, fsync, after=after)
        assert len(acknowledged) > after
        lines: set[str] = set()
        desk = Desk(directory)
        assert not any(desk.locked())
        for name in list_segments(directory):
            with Segment(directory / name.file) as segment:
                assert segment.seal()
                piece = segment.read(0)
                assert {damage.reason for damage in piece.damage} <= {"torn"}
                for line in piece.lines:
                    if isinstance(line, Intent):
                        assert line == intent(line.prompt_estimate)
                        lines.add(f"i{line.prompt_estimate}")
                    elif isinstance(line, Receipt):
                        assert line == receipt(line.prompt_tokens)
                        lines.add(f"r{line.prompt_tokens}")
        assert acknowledged <= lines
        assert len(lines - acknowledged) <= 1  # written, and killed before it could say so


def kill_a_writer(directory: Path, fsync: str, after: int) -> set[str]:
    """What it had acknowledged when it was killed, after it had acknowledged so much."""
    with subprocess.Popen(
        [sys.executable, "-m", "standins.journal_writer", directory, fsync],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as child:
        assert child.stdout is not None
        said = b"".join(child.stdout.readline() for _ in range(after + 1))
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read()
    assert child.returncode == -signal.SIGKILL
    return {line.decode() for line in said.split(b"\n")[:-1]}


def test_the_file_system_is_told_by_its_device(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "30 22 0:26 / /mnt\\\\040x rw shared:1 - btrfs /dev/vdb rw\n"
        "broken\n"
    )
    assert file_system(os.makedev(254, 0), mounts) == "ext4"
    assert file_system(os.makedev(0, 26), mounts) == "btrfs"
    assert file_system(os.makedev(9, 9), mounts) == ""
    assert file_system(0, tmp_path / "none") == ""
