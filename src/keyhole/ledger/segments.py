"""The journal, read: its segments, their lines, and which attempts nobody will ever settle.

It writes nothing but the end of a segment whose writer is gone, knows no database, and decides
nothing about when a segment goes. What it gives is a line that was written, or nothing.

How a reader tells what it sees in a segment (`wire.lines` has the format):

- NUL, or a line without its newline, is *not yet* written while the writer lives: the lock is
  taken (`io.journal`). It is *torn*, and counted as damage, once the segment is sealed.
- Bytes before others that are there have been written before those; so what is not a line
  although a newline follows is *damaged*, sealed or not. It is counted and skipped.
- A machine that lost its power may leave pages of zeros in the middle: damage as well.

When an attempt is `interrupted`, that is, will never have a receipt (OpenIntents):

1. The lock of the segment that has its intent is free. Its writer has settled all that it will
   settle of it: it is dead, or has written the receipts into later segments of its own and
   then unlocked this one.
2. After that was seen, the directory was listed, and every segment of the same writer in it has
   been read up to what it then held. A receipt would be there.

Age plays no part: a stream of an hour is as much alive as its writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Self
from zlib import crc32

from msgspec import Struct, structs

from keyhole.ledger.lines import MAX_TEXT_CHARS
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.lines import (
    MAX_LINE_BYTES,
    UNFINISHED,
    Damaged,
    Line,
    SegmentName,
    decode_bodies,
    decode_line,
    is_whole,
    read_name,
)

CHUNK_BYTES = 256 * 1024
"""What is read at once: some thousand lines."""

_PLAIN_BODY_BYTES = MAX_TEXT_CHARS + 50
"""An intent's JSON has 51 bytes beside its texts, a receipt's 88."""
_BEGINNING = re.compile(rb'[0-9a-f]{8} \["[ipr]",')
"""How a line begins. In the middle of one it cannot stand: JSON has quotes escaped in texts."""


class Damage(Struct, frozen=True):
    """A part of a segment that is no line."""

    position: int
    length: int
    reason: Literal["form", "checksum", "content", "torn"]
    """As of wire.lines.Damaged; or the unfinished line at the end of a sealed segment."""


class Piece(Struct, frozen=True):
    """What was read of a segment at once."""

    lines: list[Line]
    damage: list[Damage]
    offset: int
    """Where the next piece begins."""
    is_last: bool
    """Whether there was nothing more: not yet, or, of a sealed segment, for good."""
    is_plain: bool = False
    """Whether the texts are known to be such as every database takes (`lines.clean`)."""


def list_segments(directory: Path) -> list[SegmentName]:
    """The segments in a directory, in the order in which to read them; empty if there is none."""
    with contextlib.suppress(FileNotFoundError):
        names = (read_name(name) for name in os.listdir(directory))  # noqa: PTH208  # names only
        return sorted(name for name in names if name is not None)
    return []


def remove_unfinished(directory: Path) -> int:
    """Remove what writers left who died while they made a segment; how many there were."""
    removed = 0
    for path in directory.glob(f"*{UNFINISHED}"):
        if read_name(path.name.removesuffix(UNFINISHED)) is None:
            continue
        with contextlib.suppress(FileNotFoundError), Segment(path) as segment:
            # A writer who has not come to locking it yet finds it gone and makes another.
            if segment.seal():
                path.unlink()
                removed += 1
    return removed


class Segment:
    """A segment, opened for reading; raises OSError where it cannot be.

    Use it in a `with`, or close it. Its lock, once taken, is held until then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.is_sealed = False
        """Whether its writer is known to be done with it: nothing will be added."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, and give its lock back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def seal(self) -> bool:
        """Take its lock if its writer does not hold it; whether the segment is sealed now."""
        if not self.is_sealed:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.is_sealed = True
        return self.is_sealed

    def trim(self) -> int:
        """Give back the space behind the last byte of a sealed segment; how much that was.

        A worker that dies again and again while the database is down would otherwise fill the
        journal with segments that have nothing in them.
        """
        if not self.is_sealed:
            return 0
        size = os.fstat(self._descriptor).st_size
        end = size
        while end:
            begin = max(end - CHUNK_BYTES, 0)
            used = self._read_at(end - begin, begin).rstrip(b"\0")
            if used:
                end = begin + len(used)
                break
            end = begin
        if end < size:
            os.truncate(self.path, end)
        return size - end

    def read(self, offset: int, size: int = CHUNK_BYTES, *, is_brief: bool = False) -> Piece:
        """The whole lines of the `size` bytes from there on; raises OSError, and nothing else.

        `size` is taken as at least twice the longest line. A brief reading may leave out an
        intent whose receipt stands in the same piece: the receipt repeats it.
        """
        size = max(size, 2 * MAX_LINE_BYTES)
        is_sealed = self.is_sealed
        data = self._read_at(size, offset)
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        whole = data[:end]
        if b"\0" in whole:
            # Maybe it was written while it was read: a second look tells that from damage.
            whole = self._read_at(end, offset)
        damage: list[Damage] = []
        bodies = _read_briefly(whole) if is_brief else None
        lines = None if bodies is None else decode_bodies(bodies)
        is_plain = lines is not None and _is_plain(whole, bodies or [])
        if lines is None:
            lines = []
            _read_lines(whole, offset, lines, damage)
        position = offset + end
        is_full = len(data) == size
        piece = Piece(lines, damage, position, not is_full, is_plain)
        if not rest:
            return piece
        if is_full and not rest.endswith(b"\0") and len(rest) < MAX_LINE_BYTES:
            return piece
        if not is_sealed and (rest.endswith(b"\0") or not is_full):
            return structs.replace(piece, is_last=True)
        return self._skip(position, rest, structs.replace(piece, is_last=False))

    def _read_at(self, size: int, position: int) -> bytes:
        return os.pread(self._descriptor, size, position)

    def _skip(self, position: int, rest: bytes, piece: Piece) -> Piece:
        """What comes of a piece whose end is no line and will never be one."""
        used = len(rest.rstrip(b"\0"))
        beyond = self._find_more(position + len(rest))
        if beyond is not None:
            damage = Damage(position, beyond - position, "form")
            return structs.replace(piece, damage=[*piece.damage, damage], offset=beyond)
        damaged = [Damage(position, used, "torn")] if used else []
        return structs.replace(
            piece, damage=piece.damage + damaged, offset=position + used, is_last=True
        )

    def _find_more(self, position: int) -> int | None:
        """Where the next byte is that is no NUL; None if there is none."""
        while data := self._read_at(CHUNK_BYTES, position):
            begun = data.lstrip(b"\0")
            if begun:
                return position + len(data) - len(begun)
            position += len(data)
        return None


def _read_briefly(data: bytes) -> list[bytes] | None:
    """The JSON in a text that ends with a newline; None where a line of it is damaged.

    Intents with a receipt are left out, by their bytes alone: they stand in the receipt again, up
    to the first bracket behind. (An intent whose names have one in them is found among the rest.)
    """
    intents: dict[bytes, bytes] = {}
    bodies: list[bytes] = []
    for raw in data.split(b"\n")[:-1]:
        body = raw[9:]
        if body.startswith(b'["i"'):
            intents[body] = raw
        elif raw[:9] == b"%08x " % crc32(body):  # is_whole, without its call
            bodies.append(body)
            intents.pop(body[5 : body.find(b"]", 5) + 1], None)
        else:
            return None
    if not all(map(is_whole, intents.values())):
        return None
    return [*intents, *bodies]


def _is_plain(data: bytes, bodies: list[bytes]) -> bool:
    """Whether there is nothing but ASCII without escapes, in texts of at most MAX_TEXT_CHARS."""
    longest = max(map(len, bodies), default=0)
    return data.isascii() and b"\\" not in data and longest <= _PLAIN_BODY_BYTES


def _read_lines(data: bytes, position: int, lines: list[Line], damage: list[Damage]) -> None:
    """Add what stands in a text that ends with a newline."""
    for raw in data.split(b"\n")[:-1]:
        line = decode_line(raw)
        if isinstance(line, Damaged):
            begin, salvaged = _salvage(raw)
            damage.append(Damage(position, begin, line.reason))
            lines.extend(salvaged)
        else:
            lines.append(line)
        position += len(raw) + 1


def _salvage(raw: bytes) -> tuple[int, list[Line]]:
    """A whole line behind what is damaged, where the newline between them is; and where it begins.

    Its checksum is as good as any other's, and no text in a line can look like one: JSON has
    the quotes in it escaped.
    """
    for found in _BEGINNING.finditer(raw, 1):
        line = decode_line(raw[found.start() :])
        if not isinstance(line, Damaged):
            return found.start(), [line]
    return len(raw) + 1, []


class OpenAttempt(Struct):
    """An attempt of which no receipt has been read."""

    intent: Intent
    segment: SegmentName
    """Where the intent is."""
    completion_tokens: int = 0
    """As its last Progress said."""


class OpenIntents:
    """The attempts that are under way or interrupted, from the lines as they are read.

    Of one segment, lines are taken in order; the segments of a writer, in order too. Even so a
    receipt may be read before its intent, where the writer went on to another segment between
    two looks: that is remembered. It is memory only, and two readings of the same receipt are
    one: that a row is in the books once is for the books to see to.
    """

    def __init__(self, known: Iterable[OpenAttempt] = ()) -> None:
        self._open: dict[tuple[str, int], OpenAttempt] = {}
        self._early: dict[tuple[str, int], SegmentName] = {}
        self._unread: dict[SegmentName, set[SegmentName]] = {}
        """Of each segment whose lock is free: what must be read before it is judged."""
        for attempt in known:
            self._open[_key(attempt.intent)] = attempt

    def __iter__(self) -> Iterator[OpenAttempt]:
        """Those of which no receipt has been read, in the order in which they began."""
        return iter(self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def take(self, segment: SegmentName, lines: Iterable[Line]) -> None:
        """Learn what was read of a segment."""
        for line in lines:
            if isinstance(line, Receipt):
                key = _key(line.intent)
                if self._open.pop(key, None) is None:
                    self._early[key] = segment
            elif isinstance(line, Intent):
                key = _key(line)
                if self._early.pop(key, None) is None:
                    self._open[key] = OpenAttempt(line, segment)
            else:
                attempt = self._open.get((line.exchange_id, line.attempt))
                if attempt is not None:
                    attempt.completion_tokens = max(
                        attempt.completion_tokens, line.completion_tokens
                    )

    def free(self, segment: SegmentName, listed: Iterable[SegmentName]) -> None:
        """Learn that a segment's lock was free, and what the directory had *after* that."""
        self._unread[segment] = {segment} | {
            other
            for other in listed
            if other.writer == segment.writer and other.sequence > segment.sequence
        }

    def caught_up(self, segment: SegmentName) -> None:
        """Learn that a reading begun after the last `free` has come to the segment's end."""
        for unread in self._unread.values():
            unread.discard(segment)

    def is_judged(self, segment: SegmentName) -> bool:
        """Whether all that a segment's attempts could still get has been read."""
        return not self._unread.get(segment, True)

    def interrupted(self) -> list[OpenAttempt]:
        """Those that will never have a receipt. They stay until `close` is told of them."""
        return [attempt for attempt in self if self.is_judged(attempt.segment)]

    def close(self, attempts: Iterable[OpenAttempt]) -> None:
        """Learn that these are in the books."""
        for attempt in attempts:
            self._open.pop(_key(attempt.intent), None)

    def has_open(self, segment: SegmentName) -> bool:
        """Whether a segment has the intent of one that is open: then it must stay."""
        return any(attempt.segment == segment for attempt in self)

    def drop(self, segment: SegmentName) -> None:
        """Learn that a segment has been removed."""
        self._unread.pop(segment, None)
        self._early = {key: where for key, where in self._early.items() if where != segment}


def _key(intent: Intent) -> tuple[str, int]:
    return intent.exchange_id, intent.attempt
