"""The Journal port: every attempt in an append-only file, before it is made and after it.

It does not read (`ledger.segments` does) and knows no database. It is one long file because room,
rotation and failure are decided together, of the same few numbers. What it rests on:

- A line is the kernel's when `pwrite` returns, or when it has been copied into the file's pages
  (MappingDisk): after that, only the machine can lose it, not the process. A `pwrite` costs 0.9
  us and a copy 0.25, less than any way of collecting lines costs in care.
- A segment's space is allocated before it is used, and a part of it is kept for one receipt of
  each open intent. So a full disk refuses attempts and loses no receipt. On file systems that
  copy on write (btrfs, ZFS) an allocated block may fail all the same; then see below.
- After a short write or an error nobody knows what stands at the end: the segment is never
  written again, and a new one begins. Where that fails too, receipts wait in memory, and no
  attempt is made until they are written. An intent whose write was reported as failed may yet
  be found whole by a reader (EIO): an attempt too many in the books is the harmless way round.
- The writer holds flock on each segment that has the intent of an attempt which is not settled,
  and on the one it writes: a free lock means that no such attempt is under way. The lock goes
  with the process, however that ends. A segment is made under another name, so that none is ever
  seen without its lock. Nothing here survives a fork: open it in the process that serves.
- What survives the machine is up to fsync (`man 2 fdatasync`): never asked for, every second by
  a thread, or awaited by each request. After a failed one the kernel may have dropped the pages
  and a second one says nothing (https://wiki.postgresql.org/wiki/Fsync_Errors, read in November
  2026): the segment is given up then, as after a failed write.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Literal

from msgspec import Struct, structs

from keyhole.errors import Code, GatewayError, SetupError
from keyhole.io.syncing import Syncer
from keyhole.ports import Clock
from keyhole.wire.books import Intent, Progress, Receipt
from keyhole.wire.lines import (
    MAX_LINE_BYTES,
    RECEIPT_EXTRA_BYTES,
    UNFINISHED,
    SegmentName,
    encode_line,
    is_node,
)

RETRY_S = 0.25
"""How long after a failure the disk is tried again: a refused request must cost next to nothing."""

_ZEROS = bytes(256 * 1024)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Fsync = Literal["never", "interval", "always"]


_MAPPED_ON = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})
"""Where a block that was allocated is written in place. Elsewhere (btrfs copies on write, a network
may go away) a write through memory could end the process where `pwrite` only fails."""
_BLOCK_BYTES = 512
"""What st_blocks counts in (POSIX leaves it open; Linux and macOS mean this)."""


class JournalSettings(Struct, frozen=True, kw_only=True):
    """How the journal is kept."""

    fsync: Fsync = "interval"
    """When the disk must have what was written: when the system likes; within `interval_s`;
    before a request is answered."""
    segment_bytes: int = 8 * 1024 * 1024
    """A segment is this long, and longer by what is kept for the receipts of open intents."""
    max_bytes: int = 1024 * 1024 * 1024
    """All segments of the directory together, of every writer."""
    interval_s: float = 1.0


class Disk:
    """The system calls that may fail; a test passes one that does."""

    pwrite = staticmethod(os.pwrite)

    def allocate(self, descriptor: int, size: int) -> None:
        """Make an empty file that long, of zeros whose place on the disk is certain."""
        os.posix_fallocate(descriptor, 0, size)

    def sync(self, descriptor: int) -> None:
        """Return when what was written to a file or directory is on the disk."""
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync leaves it in the drive's cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(descriptor)

    def map(self, descriptor: int, size: int) -> mmap | None:  # noqa: ARG002  # for those that can
        """The file's pages, to be written without a system call; None: they have to be."""
        return None


class MappingDisk(Disk):
    """One whose files are written through memory, where their blocks are certain to be there.

    What is written so is the kernel's at once, like what `pwrite` wrote, and outlives the process;
    it takes a third of the time, and a request does not lose what the processor had learned of it
    to two system calls (39.1 us and 34.4 a request; in-process, November 2026). A file system that
    does not allocate ahead (ZFS), or only says so, would end the process with SIGBUS when it is
    full: there the blocks are not accounted to the file, and it is written as ever.
    """

    def map(self, descriptor: int, size: int) -> mmap | None:
        """As Disk says."""
        status = os.fstat(descriptor)
        if status.st_blocks * _BLOCK_BYTES < size or file_system(status.st_dev) not in _MAPPED_ON:
            return None
        with contextlib.suppress(OSError, ValueError):
            return mmap(descriptor, size)
        return None


def file_system(device: int, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system with that device number; empty where that cannot be known.

    Fact (Linux, Documentation/filesystems/proc.rst, 3.5, 2026-11): the third field of a line is
    MAJOR:MINOR, the first behind a lone dash the type.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, behind = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) > 2 and fields[2] == wanted:
            return behind.split(" ")[0]
    return ""


class ZeroingDisk(Disk):
    """One of a system that allocates nothing ahead: macOS."""

    def allocate(self, descriptor: int, size: int) -> None:
        """As Disk says."""
        done = 0
        while done < size:
            done += os.pwrite(descriptor, _ZEROS[: size - done], done)


class _Segment:
    """A file of ours that is open and locked."""

    __slots__ = (
        *("descriptor", "end", "is_done", "is_doubtful", "open", "pages", "size", "synced"),
        *("trouble",),
    )

    def __init__(self, descriptor: int, size: int, pages: mmap | None = None) -> None:
        self.descriptor = descriptor
        self.pages = pages
        """Where it is written without a system call; None: it is not."""
        self.size = size
        """What may be written: the space that was allocated; 0 once it is given up."""
        self.end = 0
        """Where the next line goes."""
        self.open = 0
        """Intents in it that have not been settled."""
        self.trouble: str | None = None
        """Why it was given up."""
        self.is_done = False
        """No line will be added and none of its intents is open: it can be unlocked."""
        self.synced = -1
        """Up to where the disk was asked to have it; -1 while it may not have the name either."""
        self.is_doubtful = False
        """The disk said that it does not have it."""

    def close(self) -> None:
        """Unlock it."""
        if self.pages is not None:
            self.pages.close()
        os.close(self.descriptor)


class NoJournal:
    """ports.Journal for those who only look and spend nothing."""

    is_slow = False

    def intend(self, intent: Intent) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def settle(self, receipt: Receipt) -> None:
        """Nothing."""

    async def synced(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class FileJournal:
    """Segments in one directory, written by this process; other writers have their own.

    Used in one thread, that of the event loop. `say` hears what the operator should know: when
    attempts are refused, and when no longer; it is called in the journal's own thread, too.
    """

    def __init__(
        self,
        directory: Path,
        settings: JournalSettings,
        *,
        node: str,
        clock: Clock,
        say: Callable[[str], None],
        disk: Disk | None = None,
    ) -> None:
        """Open the directory and a first segment; raises SetupError where it cannot be used.

        A disk that is merely full is no reason not to start.
        """
        if not is_node(node):
            raise ValueError(f"{node!r} cannot be a node's name")
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._say = say
        self._disk = disk or (MappingDisk() if hasattr(os, "posix_fallocate") else ZeroingDisk())
        self._pwrite = self._disk.pwrite
        self._name = SegmentName(node, clock.unix_ms(), os.getpid(), 0)
        self._segment = _Segment(-1, 0)
        """The one that is written; without a descriptor while there never was one."""
        self._held: list[_Segment] = []
        """Every segment that is open: this one, and those before it that are still needed."""
        self._open: dict[tuple[str, int], tuple[_Segment, int]] = {}
        """Where the intent of each attempt under way stands, and what is kept for its receipt."""
        self._kept = 0
        """What is kept in `_segment` for receipts, those in `_unwritten` included."""
        self._unwritten: deque[tuple[bytes, tuple[_Segment, int] | None]] = deque()
        """Receipts that could not be written: no attempt is made meanwhile, so at most one for
        each that was under way when it began."""
        self._retry: asyncio.TimerHandle | None = None
        self._retry_at_s = 0.0
        self._trouble: str | None = None
        """Why attempts are refused; None while they are not."""
        self._troubled = self._segment
        """The segment that was written when the trouble began. Receipts leave a little of the
        room that was kept for them, so some attempts may still fit: that is no end of it."""
        self._is_closed = False
        self._failures = 0
        """How often the disk did not take what it was asked to."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory_descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unusable(directory, error) from None
        try:
            self._begin_segment(0)
        except OSError as error:
            if error.errno not in _FULL:
                os.close(self._directory_descriptor)
                raise _unusable(directory, error) from None
            self._begin_trouble(_words(error))
        self._syncer = Syncer(self._sync_all)
        if settings.fsync == "interval":
            self._syncer.run_every(settings.interval_s)

    @property
    def is_slow(self) -> bool:
        """As the port says."""
        return self._settings.fsync == "always"

    def intend(self, intent: Intent) -> None:
        """As the port says."""
        line = encode_line(intent)
        size = len(line)
        kept = size + RECEIPT_EXTRA_BYTES
        segment = self._segment
        if (
            segment.end + self._kept + size + kept > segment.size
            or kept > MAX_LINE_BYTES
            or self._unwritten
        ):
            self._make_room(size, kept)
        written = self._put(line)
        if written is None:
            raise self._refusal()
        written.open += 1
        self._kept += kept
        self._open[(intent.exchange_id, intent.attempt)] = (written, kept)
        if self._trouble is not None and written is not self._troubled:
            self._end_trouble()

    def progress(self, progress: Progress) -> None:
        """As the port says."""
        with contextlib.suppress(ValueError):
            line = encode_line(progress)
            if self._has_room(len(line)) or self._renew(len(line)):
                self._put(line)

    def settle(self, receipt: Receipt) -> None:
        """As the port says."""
        intent = receipt.intent
        held = self._open.pop((intent.exchange_id, intent.attempt), None)
        try:
            line = encode_line(receipt)
        except ValueError:
            # Without a receipt it will be booked as interrupted.
            self._say(f"The receipt of {intent.exchange_id} cannot be written: it is not Unicode.")
            self._forget(held)
            return
        if held is None and not (self._has_room(len(line)) or self._renew(len(line))):
            # Nobody kept room for it, and it may not take another's.
            self._say(f"A receipt of {intent.exchange_id} is left out: it has no intent.")
            return
        if self._unwritten or self._put(line) is None:
            self._unwritten.append((line, held))
            self._write_unwritten()
            return
        self._forget(held)

    async def synced(self) -> None:
        """As the port says; those who come while the disk is busy share the next turn."""
        if not self.is_slow:
            return
        failures = self._failures
        error = await self._syncer.sync()
        if error is None and self._failures != failures:
            # What we wrote may be in a segment that failed in the turn before ours.
            error = OSError(errno.EIO, os.strerror(errno.EIO))
        if error is not None or self._unwritten:
            reason = self._trouble if error is None else _words(error)
            raise GatewayError(
                Code.JOURNAL_FULL,
                f"The journal could not be written to the disk: {reason}.",
                status=503,
                hint="The operator must look after the disk.",
            )

    def close(self) -> None:
        """Write what waits, and unlock everything. What is still open will be `interrupted`."""
        if self._is_closed:
            return
        if self._unwritten:
            self._retry_at_s = 0.0
            self._write_unwritten()
        if self._retry is not None:
            self._retry.cancel()
        if self._unwritten:
            self._say(
                f"{len(self._unwritten)} receipts could not be written to the journal:"
                f" {self._trouble}. Their requests will be in the books as interrupted."
            )
        self._is_closed = True
        self._syncer.close()
        self._trim(self._segment)
        if self._settings.fsync != "never":
            self._sync_all()
        for segment in self._held:
            segment.close()
        self._held.clear()
        self._segment = _Segment(-1, 0)
        os.close(self._directory_descriptor)

    def _put(self, line: bytes) -> _Segment | None:
        """Write a line; the segment that it is in, None if it is nowhere."""
        segment, size = self._segment, len(line)
        if segment.end + size <= segment.size:
            trouble = self._write(segment, line)
            if trouble is None:
                return segment
            segment.trouble, segment.size = trouble, 0
        if not self._renew(size):
            return None
        segment = self._segment
        trouble = self._write(segment, line)
        if trouble is None:
            return segment
        segment.trouble, segment.size = trouble, 0
        self._begin_trouble(trouble)
        return None

    def _write(self, segment: _Segment, line: bytes) -> str | None:
        """Write a line to the end of a segment that has room; what went wrong, if anything."""
        begin, size = segment.end, len(line)
        if segment.pages is not None:
            segment.pages[begin : begin + size] = line
        else:
            try:
                written = self._pwrite(segment.descriptor, line, begin)
            except OSError as error:
                return _words(error)
            if written != size:
                return f"{written} of {size} bytes were written"
        segment.end = begin + size
        return None

    def _write_unwritten(self) -> None:
        """Write the receipts that wait, or see to it that it is tried again."""
        while self._unwritten:
            line, held = self._unwritten[0]
            if self._put(line) is None:
                self._try_again_later()
                return
            self._unwritten.popleft()
            self._forget(held)
        if self._trouble is not None and self._segment is not self._troubled:
            self._end_trouble()

    def _try_again_later(self) -> None:
        if self._retry is not None or self._is_closed:
            return
        with contextlib.suppress(RuntimeError):  # no loop runs: the next call tries again
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._write_unwritten()

    def _forget(self, held: tuple[_Segment, int] | None) -> None:
        """An attempt needs its segment's lock and the room for its receipt no more."""
        if held is None:
            return
        segment, kept = held
        self._kept -= kept
        segment.open -= 1
        if not segment.open and segment is not self._segment:
            self._release(segment)

    def _has_room(self, size: int) -> bool:
        """Whether that much fits beside what is kept."""
        segment = self._segment
        return segment.end + self._kept + size <= segment.size

    def _make_room(self, size: int, kept: int) -> None:
        """Room for an intent and its receipt; raises GatewayError where there is none."""
        if kept > MAX_LINE_BYTES:
            raise GatewayError(
                Code.JOURNAL_FULL,
                f"The names in this request are too long for the journal: {size} bytes.",
                status=503,
                hint="Use shorter names.",
            )
        if self._unwritten:
            self._write_unwritten()
        if self._unwritten or not (self._has_room(size + kept) or self._renew(size + kept)):
            raise self._refusal()

    def _renew(self, size: int) -> bool:
        """Begin a new segment with room for that much; False where it cannot be, or not yet."""
        if self._is_closed or self._clock.monotonic() < self._retry_at_s:
            return False
        old = self._segment
        try:
            self._begin_segment(size)
        except OSError as error:
            self._begin_trouble(_words(error))
            return False
        if old.trouble is not None:
            self._say(f"A segment of the journal was given up for a new one: {old.trouble}.")
        return True

    def _begin_segment(self, size: int) -> None:
        """A segment in place of the present one; raises OSError and changes nothing."""
        allocated = self._settings.segment_bytes + self._kept + size
        old = self._segment
        used = _used_bytes(self._directory)
        if used + allocated > self._settings.max_bytes:
            raise OSError(
                errno.EDQUOT,
                f"it has {used} of at most {self._settings.max_bytes} bytes, which the ledger has"
                " not taken yet",
            )
        self._segment = self._create(allocated)
        self._held.append(self._segment)
        self._trim(old)
        if not old.open and old.descriptor >= 0:
            self._release(old)

    def _create(self, size: int) -> _Segment:
        """A new file, locked and allocated; raises OSError and leaves nothing behind."""
        name = structs.replace(self._name, sequence=self._name.sequence + 1)
        while True:
            path = self._directory / name.file
            unfinished = self._directory / (name.file + UNFINISHED)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                descriptor = os.open(unfinished, flags, 0o600)
            except FileExistsError:
                name = self._name_after(name)
                continue
            try:
                if not path.exists():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._disk.allocate(descriptor, size)
                    unfinished.rename(path)
                    self._name = name
                    return _Segment(descriptor, size, self._disk.map(descriptor, size))
            except (BlockingIOError, FileNotFoundError):
                pass  # the clerk took it for one whose writer had died before locking it
            except BaseException:
                _discard(descriptor, unfinished)
                raise
            _discard(descriptor, unfinished)
            name = self._name_after(name)

    def _name_after(self, name: SegmentName) -> SegmentName:
        """Another name, where one is taken: a first one by a process with our number, just now."""
        if self._name.sequence == 0:
            return structs.replace(name, started_at_ms=name.started_at_ms + 1)
        return structs.replace(name, sequence=name.sequence + 1)

    def _trim(self, segment: _Segment) -> None:
        """Give back what a segment did not use; one that was given up stays as it is."""
        if segment.descriptor >= 0 and segment.trouble is None:
            with contextlib.suppress(OSError):
                os.ftruncate(segment.descriptor, segment.end)

    def _release(self, segment: _Segment) -> None:
        """Unlock it: at once, or when the thread that may be at it has seen to it."""
        segment.is_done = True
        if self._settings.fsync == "never":
            self._held.remove(segment)
            segment.close()

    def _sync_all(self) -> OSError | None:
        """Ask the disk for all that has changed, and unlock what is done; in the thread."""
        failed: OSError | None = None
        for segment in list(self._held):
            is_done, end = segment.is_done, segment.end
            if segment.synced != end:
                error = self._sync(segment)
                segment.synced = end
                if error is not None:
                    segment.is_doubtful = True
                    self._failures += 1
                    segment.trouble, segment.size = _words(error), 0
                    failed = error
                    self._say(f"The disk did not take what was journaled: {_words(error)}.")
            if is_done:
                self._held.remove(segment)
                segment.close()
        return failed

    def _sync(self, segment: _Segment) -> OSError | None:
        if segment.is_doubtful:  # asked again, the disk would say that all is well
            return OSError(errno.EIO, segment.trouble)
        try:
            if segment.synced < 0:
                self._disk.sync(self._directory_descriptor)
            self._disk.sync(segment.descriptor)
        except OSError as error:
            return error
        return None

    def _begin_trouble(self, reason: str) -> None:
        self._retry_at_s = self._clock.monotonic() + RETRY_S
        if self._trouble is None:
            self._say(f"The journal cannot be written, so requests are refused: {reason}.")
        self._trouble, self._troubled = reason, self._segment

    def _end_trouble(self) -> None:
        self._trouble = None
        self._say("The journal can be written again.")

    def _refusal(self) -> GatewayError:
        return GatewayError(
            Code.JOURNAL_FULL,
            f"The journal cannot take the request: {self._trouble or 'it is closed'}.",
            status=503,
            hint="Try again later; the operator must make room, or see why the ledger is behind.",
        )


def _used_bytes(directory: Path) -> int:
    """What all files of the directory have together."""
    used = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # the clerk has just removed it
                used += entry.stat(follow_symlinks=False).st_size
    return used


def _discard(descriptor: int, path: Path) -> None:
    os.close(descriptor)
    with contextlib.suppress(OSError):
        path.unlink()


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _unusable(directory: Path, error: OSError) -> SetupError:
    return SetupError(
        f"The journal's directory {directory} cannot be used: {_words(error)}.",
        hint="choose another with --data",
    )
