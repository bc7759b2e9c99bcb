"""The journal as it is read: every line that was written and survived, and nothing else."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.ledger.segments import (
    CHUNK_BYTES,
    Damage,
    OpenAttempt,
    OpenIntents,
    Piece,
    Segment,
    list_segments,
    remove_unfinished,
)
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.lines import MAX_LINE_BYTES, UNFINISHED, Line, SegmentName, encode_line
from standins.attempts import StillClock, intent, progress, receipt

LINES: list[Line] = [line for n in range(20) for line in (intent(n), progress(n, n), receipt(n))]
TEXT = b"".join(map(encode_line, LINES))


def name(sequence: int, pid: int = 7) -> SegmentName:
    return SegmentName("n", 1763863563123, pid, sequence)


class Writer:
    """Somebody who holds a segment's lock and puts bytes into it."""

    def __init__(self, directory: Path, sequence: int = 1, size: int = 1024 * 1024) -> None:
        self.path = directory / name(sequence).file
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        os.ftruncate(self.descriptor, size)
        self.is_alive = True

    def put(self, data: bytes, position: int) -> None:
        os.pwrite(self.descriptor, data, position)

    def die(self) -> None:
        if self.is_alive:
            os.close(self.descriptor)
            self.is_alive = False


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.die()


def read_all(
    segment: Segment, size: int = CHUNK_BYTES, *, is_brief: bool = False
) -> tuple[list[Line], list[Damage]]:
    lines: list[Line] = []
    damage: list[Damage] = []
    offset = 0
    for _ in range(1000):
        piece = segment.read(offset, size, is_brief=is_brief)
        assert piece.is_last or piece.offset > offset, "it must come further"
        offset = piece.offset
        lines += piece.lines
        damage += piece.damage
        if piece.is_last:
            assert segment.read(offset, size) == Piece([], [], offset, is_last=True)
            return lines, damage
    raise AssertionError("it never ends")


@pytest.mark.parametrize("size", [0, 1024 * 1024])
def test_what_is_not_there_yet_is_waited_for(writer: Writer, size: int) -> None:
    """Zeros, the end of the file, and a line that is cut anywhere, while the writer lives."""
    os.ftruncate(writer.descriptor, size)
    with Segment(writer.path) as segment:
        assert segment.read(0) == Piece([], [], 0, is_last=True)
        for end in range(len(TEXT)):
            writer.put(TEXT[:end], 0)
            assert not segment.seal()
            lines, damage = read_all(segment)
            assert lines == LINES[: TEXT.count(b"\n", 0, end)]
            assert damage == []


def test_what_is_not_there_when_its_writer_is_gone_is_torn(writer: Writer) -> None:
    end = len(TEXT) - 10
    writer.put(TEXT[:end], 0)
    writer.die()
    with Segment(writer.path) as segment:
        assert segment.seal()
        begin = TEXT.rindex(b"\n", 0, end) + 1
        assert read_all(segment) == (LINES[:-1], [Damage(begin, end - begin, "torn")])


def test_what_is_written_while_it_is_read_is_no_damage(writer: Writer) -> None:
    """The end of a line was there when it was come to; its middle was not, a moment before."""

    class Racing(Segment):
        is_first = True

        def _read_at(self, size: int, position: int) -> bytes:
            data = super()._read_at(size, position)
            if self.is_first:
                self.is_first = False
                return data[:300] + bytes(20) + data[320:]
            return data

    writer.put(TEXT, 0)
    with Racing(writer.path) as segment:
        assert read_all(segment) == (LINES, [])


def test_reading_goes_on_where_it_ended(writer: Writer) -> None:
    """In pieces of any size, however lines lie across them."""
    many = [receipt(n) for n in range(2000)]
    text = b"".join(map(encode_line, many))
    writer.put(text, 0)
    with Segment(writer.path) as segment:
        for size in (1, 2 * MAX_LINE_BYTES + 17, 4 * MAX_LINE_BYTES):
            assert read_all(segment, size) == (many, [])
        writer.put(encode_line(receipt(1)), len(text))
        assert segment.read(len(text)).lines == [receipt(1)]


def test_two_readers_do_not_seal_one_segment(writer: Writer) -> None:
    writer.die()
    with Segment(writer.path) as one, Segment(writer.path) as other:
        assert one.seal()
        assert one.seal()
        assert not other.seal()
    with Segment(writer.path) as other:
        assert other.seal()


def test_damage_in_the_middle_does_not_stop_the_rest(writer: Writer) -> None:
    """While the writer lives, too; it is counted, and told where."""
    second = TEXT.index(b"\n") + 1
    third = TEXT.index(b"\n", second) + 1
    writer.put(TEXT, 0)
    writer.put(b"!", second + 20)
    with Segment(writer.path) as segment:
        damage = [Damage(second, third - second, "checksum")]
        assert read_all(segment) == ([LINES[0], *LINES[2:]], damage)


def test_zeros_in_the_middle_are_damage(writer: Writer) -> None:
    """A machine that lost its power leaves pages unwritten; as large as may be."""
    hole = 3 * CHUNK_BYTES + 5
    writer.put(TEXT[:1000], 0)
    writer.put(TEXT, hole)
    writer.die()
    with Segment(writer.path) as segment:
        segment.seal()
        begin = TEXT.rindex(b"\n", 0, 1000) + 1
        lines, damage = read_all(segment)
        assert lines == LINES[: TEXT.count(b"\n", 0, 1000)] + LINES
        assert damage == [Damage(begin, hole - begin, "form")]


def test_a_line_behind_a_lost_newline_is_read(writer: Writer) -> None:
    """One flipped bit costs one line at most."""
    newline = TEXT.index(b"\n")
    writer.put(TEXT, 0)
    writer.put(b"\x0b", newline)
    with Segment(writer.path) as segment:
        lines, damage = read_all(segment)
        assert lines == LINES[1:]
        assert damage == [Damage(0, newline + 1, "checksum")]


def test_a_text_in_a_line_is_never_taken_for_one(writer: Writer) -> None:
    """A model may be called like a line, by a client who wants to be in the books."""
    forged = encode_line(receipt(7)).decode().strip()
    line = bytearray(encode_line(intent(1, model=forged)))
    line[0] ^= 1
    writer.put(bytes(line), 0)
    with Segment(writer.path) as segment:
        lines, damage = read_all(segment)
        assert lines == []
        assert [d.length for d in damage] == [len(line)]


def test_endless_bytes_are_damage(writer: Writer) -> None:
    """No newline for longer than any line."""
    writer.put(b"x" * 500_000 + b"\n" + TEXT, 0)
    with Segment(writer.path) as segment:
        lines, damage = read_all(segment)
        assert lines == LINES
        assert sum(d.length for d in damage) == 500_001


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_whatever_becomes_of_a_segment_only_written_lines_are_read(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Cut, flipped, zeroed, filled with any bytes: no error, nothing made up, little lost."""
    text = bytearray(TEXT + bytes(data.draw(st.sampled_from([0, 10, 5000, 400_000]))))
    del text[data.draw(st.integers(0, len(text))) :]
    whole = text.count(b"\n")
    changes = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(TEXT)), st.one_of(st.integers(0, 7), st.binary())),
            max_size=4,
        )
    )
    lost = 0
    for place, change in changes:
        if isinstance(change, bytes):
            lost += text.count(b"\n", place, place + len(change)) + 1
            text[place : place + len(change)] = change
        elif place < len(text):
            lost += 1
            text[place] ^= 1 << change
    path = tmp_path / name(1).file
    path.write_bytes(text)
    with Segment(path) as segment:
        live, _ = read_all(segment)
        assert segment.seal()
        lines, damage = read_all(segment)
        assert all(line in LINES for line in live + lines)
        assert len(lines) >= whole - lost
        assert damage or lines == LINES[: len(lines)]
        brief, brief_damage = read_all(segment, is_brief=True)
        ended = [line.intent for line in brief if isinstance(line, Receipt)]
        assert all(line in brief or line in ended for line in lines)
        assert all(line in lines for line in brief)
        assert all(each in damage for each in brief_damage)
        segment.trim()
        assert read_all(segment) == (lines, damage)


def test_a_brief_reading_leaves_out_intents_with_their_receipt_in_the_same_piece(
    writer: Writer,
) -> None:
    lines = [intent(1), progress(1, 5), intent(2), receipt(1), receipt(3)]
    text = b"".join(map(encode_line, lines))
    writer.put(text, 0)
    with Segment(writer.path) as segment:
        piece = segment.read(0, is_brief=True)
        assert piece.lines == [intent(2), progress(1, 5), receipt(1), receipt(3)]
        assert piece.is_plain
        # Another intent than the receipt's is no less looked at because of it.
        changed = text.replace(b'"gpt2","hf"', b'"gpt3","hf"', 1)
        writer.put(changed, 0)
        piece = segment.read(0, is_brief=True)
        assert piece.lines == lines[1:]
        assert piece.damage == [Damage(0, len(encode_line(intent(1))), "checksum")]
        assert not piece.is_plain


@pytest.mark.parametrize(
    ("model", "is_plain"),
    [("x" * 50, True), ("x" * 301, False), ("é", False), ("\n", False), ("\0", False)],
)
def test_a_text_that_may_have_to_be_mended_is_not_plain(
    writer: Writer, model: str, is_plain: bool
) -> None:
    bare = Intent("", 1, 0, None, None, None, "", model, "", "", 0, None, None)
    writer.put(encode_line(Receipt(bare, 0, "ok", 0, 0, "counted", 0, None, 0.0)), 0)
    with Segment(writer.path) as segment:
        assert segment.read(0, is_brief=True).is_plain == is_plain


def test_a_name_with_a_bracket_hides_no_line(writer: Writer) -> None:
    begun = intent(1, model='a]","b"]')
    lines = [begun, intent(2, model="]"), structs.replace(receipt(1), intent=begun)]
    writer.put(b"".join(map(encode_line, lines)), 0)
    with Segment(writer.path) as segment:
        assert segment.read(0, is_brief=True).lines == lines


def test_what_a_dead_writer_did_not_use_is_given_back(writer: Writer) -> None:
    writer.put(TEXT, 0)
    with Segment(writer.path) as segment:
        assert segment.trim() == 0
        writer.die()
        segment.seal()
        assert segment.trim() == 1024 * 1024 - len(TEXT)
        assert segment.trim() == 0
        assert read_all(segment) == (LINES, [])
    assert writer.path.stat().st_size == len(TEXT)


def test_an_empty_segment_is_trimmed_to_nothing(writer: Writer) -> None:
    writer.die()
    with Segment(writer.path) as segment:
        segment.seal()
        segment.trim()
    assert writer.path.stat().st_size == 0


def test_segments_are_listed_in_the_order_to_read_them(tmp_path: Path) -> None:
    assert list_segments(tmp_path / "nowhere") == []
    for file in (name(10).file, name(2).file, name(1, pid=12).file, "x", name(3).file + UNFINISHED):
        (tmp_path / file).write_bytes(b"")
    assert list_segments(tmp_path) == [name(2), name(10), name(1, pid=12)]


def test_what_a_writer_left_half_made_is_removed(tmp_path: Path) -> None:
    """Not what a living one is making, and nothing that is not ours."""
    left, living, other = (
        tmp_path / (name(1).file + UNFINISHED),
        tmp_path / (name(2).file + UNFINISHED),
        tmp_path / ("notes" + UNFINISHED),
    )
    for path in (left, living, other):
        path.write_bytes(bytes(100))
    with living.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_unfinished(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([living, other])


def test_an_attempt_is_interrupted_when_its_writer_is_gone_and_all_is_read() -> None:
    """With its last count."""
    opens = OpenIntents()
    opens.take(name(1), [intent(1), intent(2), progress(2, 5), progress(2, 9), receipt(1)])
    opens.caught_up(name(1))
    assert opens.interrupted() == []  # its lock is not free
    opens.free(name(1), [name(1)])
    assert opens.interrupted() == []  # it was not read since
    opens.caught_up(name(1))
    assert opens.interrupted() == [OpenAttempt(intent(2), name(1), 9)]
    assert opens.has_open(name(1))
    opens.close(opens.interrupted())
    assert opens.interrupted() == []
    assert not opens.has_open(name(1))


def test_a_free_segment_waits_for_its_writers_later_ones() -> None:
    """A receipt may stand in any of them, and in nobody else's."""
    opens = OpenIntents()
    opens.take(name(1), [intent(1), intent(2)])
    opens.free(name(1), [name(1), name(2), name(3), name(5, pid=8)])
    opens.caught_up(name(1))
    opens.caught_up(name(3))
    assert opens.interrupted() == []
    opens.take(name(2), [receipt(1)])
    opens.caught_up(name(2))
    assert [attempt.intent for attempt in opens.interrupted()] == [intent(2)]


def test_attempts_of_a_living_segment_are_not_interrupted_by_the_end_of_another() -> None:
    opens = OpenIntents()
    opens.take(name(1), [intent(1)])
    opens.take(name(2), [intent(2)])
    opens.free(name(1), [name(1), name(2)])
    opens.caught_up(name(1))
    opens.caught_up(name(2))
    assert [attempt.intent for attempt in opens.interrupted()] == [intent(1)]
    assert len(opens) == 2


def test_a_receipt_may_be_read_before_its_intent() -> None:
    """The writer went on to another segment after the first was looked at."""
    opens = OpenIntents()
    opens.take(name(2), [receipt(1)])
    opens.take(name(1), [intent(1)])
    assert list(opens) == []


def test_receipts_that_came_early_are_forgotten_with_their_segment() -> None:
    opens = OpenIntents()
    opens.take(name(2), [receipt(1)])
    opens.drop(name(2))
    assert opens._early == {}


def test_what_was_open_before_is_taken_up_again() -> None:
    """From the database, when the clerk starts."""
    opens = OpenIntents([OpenAttempt(intent(1), name(1), 3), OpenAttempt(intent(2), name(1))])
    opens.take(name(1), [progress(1, 2), progress(2, 4), progress(3, 1)])
    opens.free(name(1), [name(1)])
    opens.caught_up(name(1))
    assert [attempt.completion_tokens for attempt in opens.interrupted()] == [3, 4]


def test_clerk_and_writer_agree(tmp_path: Path) -> None:
    """A real journal, rotated under open attempts: never is one that lives interrupted."""
    directory = tmp_path / "journal"
    journal = FileJournal(
        directory,
        JournalSettings(fsync="never", segment_bytes=4096),
        node="n",
        clock=StillClock(),
        say=lambda text: None,
    )
    opens = OpenIntents()
    offsets: dict[SegmentName, int] = {}

    def look() -> set[int]:
        """As the clerk does."""
        for segment_name in list_segments(directory):
            with Segment(directory / segment_name.file) as segment:
                if segment.seal():
                    opens.free(segment_name, list_segments(directory))
        for segment_name in list_segments(directory):
            with Segment(directory / segment_name.file) as segment:
                piece = segment.read(offsets.get(segment_name, 0))
                assert piece.is_last
                offsets[segment_name] = piece.offset
                opens.take(segment_name, piece.lines)
                opens.caught_up(segment_name)
        return {attempt.intent.prompt_estimate for attempt in opens.interrupted()}

    for number in range(200):
        journal.intend(intent(number))
        if number >= 30:
            journal.settle(receipt(number - 30))
        assert look() == set()
    assert len(offsets) > 10
    assert [attempt.intent.prompt_estimate for attempt in opens] == list(range(170, 200))
    journal.close()
    assert look() == set(range(170, 200))
