"""The journal into the books: each segment's lines, in their order, from where the books are.

It decides which attempts are interrupted, by the rule of `segments`, and which segments are done
with. It does not delete them by itself (`remove` does, when it is told to): what the mirror says
was spent has to be as new as the segments that are gone. A pass that fails in the middle has
posted whole batches, and the next one goes on behind them; two clerks at once disturb each other,
and nothing else.

Bytes that are no line are told to the operator once, with segment and position, and kept aside in
`damaged/`; the lines around them are posted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from keyhole.ledger.books import Batch, Books, LostRace
from keyhole.ledger.segments import (
    Damage,
    Segment,
    list_segments,
    remove_unfinished,
)
from keyhole.wire.lines import SegmentName

ASIDE = "damaged"
"""The folder, in the journal's, of what was no line."""
ASIDE_BYTES = 16 * 1024 * 1024
"""What is kept in it at most, of all damage; more is only told."""
LOOK_BYTES = 128 * 1024
"""What is read of a segment where little happens, which nearly always is all."""
POST_BYTES = 2 * 1024 * 1024
"""What is read and posted at once at most: some 4,500 attempts, in 10 MB of memory.

What is done for each transaction, and for each name in it, is then done for many attempts."""

Say = Callable[[str], None]


def _nothing() -> None:
    """What is done between batches where nothing has to be."""


class Passed(Struct, frozen=True, kw_only=True):
    """What one pass over the journal did."""

    attempts: int = 0
    """Rows that it added to the books."""
    interrupted: int = 0
    """Of these, attempts whose end nobody saw."""
    read_bytes: int = 0
    """How much of the journal it posted."""
    done: tuple[SegmentName, ...] = ()
    """Segments that are in the books to their last byte, and without an open attempt."""


class Poster:
    """Posts one directory of segments into one ledger; used by one thread."""

    def __init__(self, books: Books, directory: Path, *, say: Say) -> None:
        self._books = books
        self._directory = directory
        self._say = say
        self._offsets: dict[tuple[str, str], int] | None = None
        """Up to where the books are; None while that has to be asked."""
        self._size = LOOK_BYTES
        """What is read at once: as much as all of what the last pass found, and more."""
        self._is_done: set[SegmentName] = set()
        """Segments that a pass before has found done with."""

    def run(self, between: Callable[[], object] = _nothing) -> Passed:
        """Post what there is; raises LedgerUnavailable, and OSError for a directory or a disk.

        `between` is called after each batch; what it raises ends the pass. What was posted before
        anything was raised stays posted.
        """
        sealed = self._seal()
        try:
            return self._post_all(sealed, between)
        except LostRace:
            self._offsets = None  # somebody else is posting; the next pass sees how far
            return Passed(read_bytes=1)
        except BaseException:
            self._offsets = None
            raise

    def remove(self, done: Iterable[SegmentName]) -> None:
        """Delete segments that are done with, and forget them; raises as `run` does."""
        for name in done:
            (self._directory / name.file).unlink(missing_ok=True)
            self._books.forget_segment(name.node, name.file)
            self._is_done.discard(name)
            if self._offsets is not None:
                self._offsets.pop((name.node, name.file), None)

    def tidy(self) -> None:
        """Remove what no pass would: halves of segments, and offsets of those that are gone.

        Only of nodes that have segments here, for others may share the ledger.
        """
        if self._directory.is_dir():
            remove_unfinished(self._directory)
        here = set(list_segments(self._directory))
        files, nodes = {name.file for name in here}, {name.node for name in here}
        for offset in self._books.offsets():
            if offset.node in nodes and offset.segment not in files and not offset.open_intents:
                self._books.forget_segment(offset.node, offset.segment)

    def _seal(self) -> set[SegmentName]:
        """The segments whose writers are done with them, as of now."""
        sealed = set(self._is_done)
        for name in list_segments(self._directory):
            if name in sealed:
                continue
            with contextlib.suppress(FileNotFoundError), self._open(name) as segment:
                if segment.seal():
                    segment.trim()
                    sealed.add(name)
        return sealed

    def _post_all(self, sealed: set[SegmentName], between: Callable[[], object]) -> Passed:
        """Post every segment that there is now, and then judge those that were sealed before.

        The directory is listed again, because a receipt may stand in a segment that its writer
        began after the first look.
        """
        if self._offsets is None:
            found = self._books.offsets()
            self._offsets = {(one.node, one.segment): one.offset for one in found}
        names = list_segments(self._directory)
        attempts = read_bytes = interrupted = 0
        for name in names:
            if name not in self._is_done:
                for added, size in self._post_segment(name, is_sealed=name in sealed):
                    attempts, read_bytes = attempts + added, read_bytes + size
                    between()
        for name in names:
            if name in sealed and name not in self._is_done:
                interrupted += len(self._books.interrupt(name.node, name.file))
                self._is_done.add(name)
        self._is_done.intersection_update(names)
        self._size = min(max(LOOK_BYTES, 2 * read_bytes), POST_BYTES)
        return Passed(
            attempts=attempts + interrupted,
            interrupted=interrupted,
            read_bytes=read_bytes,
            done=tuple(sorted(self._is_done)),
        )

    def _post_segment(self, name: SegmentName, *, is_sealed: bool) -> Iterator[tuple[int, int]]:
        """Post a segment to its end; of each batch how many rows it added, and its bytes."""
        assert self._offsets is not None  # noqa: S101  # the caller has asked
        place = (name.node, name.file)
        offset, size = self._offsets.get(place, 0), self._size
        with contextlib.suppress(FileNotFoundError), self._open(name) as segment:
            if is_sealed:
                segment.seal()
            while True:
                piece = segment.read(offset, size, is_brief=True)
                for damage in piece.damage:
                    self._keep_aside(name, segment, damage)
                is_end = piece.is_last and is_sealed
                if piece.offset > offset or is_end:
                    batch = Batch(
                        node=name.node,
                        segment=name.file,
                        begins_at=offset,
                        ends_at=piece.offset,
                        lines=piece.lines,
                        is_sealed=is_end,
                        is_plain=piece.is_plain,
                    )
                    inserted = self._books.post(batch).inserted
                    self._offsets[place] = piece.offset
                    yield inserted, piece.offset - offset
                    offset = piece.offset
                if piece.is_last:
                    return
                size = POST_BYTES

    def _open(self, name: SegmentName) -> Segment:
        return Segment(self._directory / name.file)

    def _keep_aside(self, name: SegmentName, segment: Segment, damage: Damage) -> None:
        """Copy what is no line, and tell the operator; nothing where that was done before."""
        folder = self._directory / ASIDE
        copy = folder / f"{name.file}.{damage.position}"
        if copy.exists():
            return
        where = f"{segment.path} at byte {damage.position}"
        told = f"The journal is damaged: {damage.length} bytes of {where} ({damage.reason})"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            kept = sum(path.stat().st_size for path in folder.iterdir())
            room = max(ASIDE_BYTES - kept, 0)
            with segment.path.open("rb") as source:
                source.seek(damage.position)
                content = source.read(min(damage.length, room)).rstrip(b"\0")
            with os.fdopen(
                os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as aside:
                aside.write(content)
            self._say(f"{told}; they are kept in {copy}, and the lines around them are booked.")
        except OSError as error:
            self._say(f"{told}; they cannot be kept aside: {error.strerror}.")


class Ends(Struct, frozen=True):
    """Up to where the segments of a journal are written, at one moment."""

    offsets: dict[SegmentName, int]


def journal_ends(books: Books, directory: Path) -> Ends:
    """Up to where the journal is written now; raises LedgerUnavailable and OSError."""
    posted = {(one.node, one.segment): one.offset for one in books.offsets()}
    ends = {}
    for name in list_segments(directory):
        offset = posted.get((name.node, name.file), 0)
        with contextlib.suppress(FileNotFoundError), Segment(directory / name.file) as segment:
            while True:
                piece = segment.read(offset)
                offset = piece.offset
                if piece.is_last:
                    break
            ends[name] = offset
    return Ends(ends)


def lag_bytes(books: Books, directory: Path, ends: Ends) -> int:
    """How much of the journal, as it was then, is not yet in the books; raises as above."""
    posted = {(one.node, one.segment): one.offset for one in books.offsets()}
    lag = 0
    for name, end in ends.offsets.items():
        offset = posted.get((name.node, name.file))
        if offset is None and not (directory / name.file).exists():
            continue  # posted, removed and forgotten
        lag += max(end - (offset or 0), 0)
    return lag
