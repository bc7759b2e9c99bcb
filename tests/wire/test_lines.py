"""The journal's lines: what was written is read, and nothing else ever is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.wire.books import Intent, Progress, Receipt
from keyhole.wire.lines import (
    RECEIPT_EXTRA_BYTES,
    Damaged,
    Line,
    SegmentName,
    decode_bodies,
    decode_line,
    encode_line,
    is_node,
    read_name,
)

NAMES = st.text(max_size=20)
COUNTS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
INTENTS = st.builds(
    Intent,
    NAMES,
    COUNTS,
    COUNTS,
    st.none() | NAMES,
    st.none() | NAMES,
    st.none() | NAMES,
    NAMES,
    NAMES,
    NAMES,
    NAMES,
    COUNTS,
    st.none() | COUNTS,
    st.none() | COUNTS,
)
RECEIPTS = st.builds(
    Receipt,
    INTENTS,
    COUNTS,
    st.sampled_from(["ok", "client_error", "upstream_error", "client_gone", "cut", "interrupted"]),
    COUNTS,
    COUNTS,
    st.sampled_from(["reported", "counted", "estimated"]),
    COUNTS,
    st.none() | TIMES,
    TIMES,
)
LINES = st.one_of(INTENTS, st.builds(Progress, NAMES, COUNTS, COUNTS), RECEIPTS)


@given(LINES)
def test_a_line_is_read_as_it_was_written(value: Line) -> None:
    line = encode_line(value)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert b"\0" not in line
    assert decode_line(line[:-1]) == value


@given(RECEIPTS)
def test_a_receipt_fits_into_the_room_that_its_intent_keeps(receipt: Receipt) -> None:
    """Whatever its numbers are, and however long its names."""
    kept = len(encode_line(receipt.intent)) + RECEIPT_EXTRA_BYTES
    assert len(encode_line(receipt)) <= kept


def test_the_longest_receipt_fits_into_the_room_that_its_intent_keeps() -> None:
    intent = Intent("x", 1, 1, None, None, None, "d", "m", "u", "t", 1, None, None)
    least, tiny = -(2**63), -2.2250738585072014e-308
    receipt = Receipt(intent, least, "upstream_error", least, least, "estimated", least, tiny, tiny)
    grown = len(encode_line(receipt)) - len(encode_line(intent))
    assert RECEIPT_EXTRA_BYTES - 16 < grown <= RECEIPT_EXTRA_BYTES


@given(LINES, st.data())
def test_a_changed_line_is_damaged(value: Line, data: st.DataObject) -> None:
    """One flipped bit anywhere, or an end that is missing."""
    line = bytearray(encode_line(value)[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    assert isinstance(decode_line(bytes(line[:place])), Damaged)
    line[place] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(decode_line(bytes(line)), Damaged)


@given(st.binary(max_size=200))
def test_any_bytes_are_damaged(raw: bytes) -> None:
    assert isinstance(decode_line(raw), Damaged)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "form"),
        (b"00000000", "form"),
        (b"0000000g {}", "checksum"),
        (b"99914b93  {}", "checksum"),
        (b'c2b27cd0 ["z"]', "checksum"),
        (b"a3fd8a39 {}", "checksum"),
        (b"99914B93 {}", "checksum"),
        (b"a505df1b 1", "checksum"),
        (b"83dcefb7 1", "content"),
    ],
)
def test_why_a_line_is_damaged_is_told(line: bytes, reason: str) -> None:
    assert decode_line(line) == Damaged(reason)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "host-1.example_org", "A" * 63])
def test_a_segments_name_says_who_wrote_it(name: str) -> None:
    assert is_node(name)
    segment = SegmentName(name, 1763863563123, 4194304, 12)
    assert segment.file == f"{name}-1763863563123-4194304-00000012.journal"
    assert segment.writer == f"{name}-1763863563123-4194304"
    assert read_name(segment.file) == segment


@pytest.mark.parametrize(
    "file",
    [
        "",
        "n-1763863563123-1-00000001.journal.new",
        "n-176386356312-1-00000001.journal",
        "-1763863563123-1-00000001.journal",
        "n-1763863563123-x-00000001.journal",
        "../n-1763863563123-1-00000001.journal",
        "n-1763863563123-1-00000001.journal\n",
    ],
)
def test_other_files_are_no_segments(file: str) -> None:
    assert read_name(file) is None


def test_names_sort_by_time() -> None:
    """Across the writers of a node, and the segments of a writer."""
    names = [
        SegmentName("n", 1763863563123, 10, 2),
        SegmentName("n", 1763863563124, 9, 1),
        SegmentName("n", 1763863563123, 10, 1),
    ]
    assert sorted(names) == [names[2], names[0], names[1]]


@pytest.mark.parametrize("node", ["", "a/b", "-a", "a b", "A" * 64, "é", "a\n"])
def test_a_node_is_a_plain_name(node: str) -> None:
    assert not is_node(node)


@pytest.mark.parametrize(
    "body", [b"", b"1", b'["p","x"]', b'["p","x",1,2],["p","y",1,2]', b'["p","\xff",1,2]']
)
def test_bodies_of_which_one_says_nothing_are_not_told(body: bytes) -> None:
    """Also where what stands in it would be lines, with a comma between them."""
    good = b'["p","x",1,2]'
    assert decode_bodies([good, good]) == [Progress("x", 1, 2)] * 2
    assert decode_bodies([good, body, good]) is None
