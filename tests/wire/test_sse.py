"""Server-sent events: which frames are in which bytes, however they are split."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyhole.wire.sse import Frame, FrameTooLargeError, SseReader, frame

LIMIT = 64


def read(*chunks: bytes, limit: int = LIMIT) -> tuple[list[Frame], bool]:
    """The frames of a whole stream, and whether it broke off because one was too large."""
    reader, frames = SseReader(limit), []
    try:
        for chunk in chunks:
            frames += reader.feed(chunk)
        last = reader.end()
    except FrameTooLargeError:
        return frames, True
    return (frames if last is None else [*frames, last]), False


def values(stream: bytes) -> list[bytes | None]:
    return [frame.data for frame in read(stream)[0]]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:\n\n", [b""]),
        (b"data:  a \n\n", [b" a "]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\n\r\ndata: b\r\n\n", [b"a", b"b"]),
        (b"data: a\n\rdata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\r\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\ndata:\n\n", [b"a\nb\n"]),
        (b"data\n\n", [b""]),
        (b"data: \n\n", [b""]),
        (b": ping\n\n", [None]),
        (b": ping\ndata: a\n: pong\n\n", [b"a"]),
        (b"event: error\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\n", [None]),
        (b"database: a\n\nDATA: b\n\n data: c\n\n", [None, None, None]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\n\n\ndata: a\n\n", [None, b"a"]),
        (b'data: {"text":"a: b\\n\\n"}\n\n', [b'{"text":"a: b\\n\\n"}']),
        (b"data: a\x00\xff\n\n", [b"a\x00\xff"]),
    ],
)
def test_a_frame_has_the_value_of_its_data_lines(stream: bytes, data: list[bytes | None]) -> None:
    assert values(stream) == data
    assert b"".join(frame.raw for frame in read(stream)[0]) == stream


@pytest.mark.parametrize(
    ("stream", "last"),
    [
        (b"data: a\n", Frame(b"data: a\n\n", b"a")),
        (b"data: a\r\n", Frame(b"data: a\r\n\n", b"a")),
        (b"data: a\r", Frame(b"data: a\r\r", b"a")),
        (b"data: a\nid: 5", Frame(b"data: a\n\n", b"a")),
        (b"data: a", None),
        (b": ping\n", None),
        (b"", None),
    ],
)
def test_the_end_of_a_stream_completes_a_frame_that_lacks_only_its_empty_line(
    stream: bytes, last: Frame | None
) -> None:
    reader = SseReader(LIMIT)

    assert reader.feed(stream) == []
    assert reader.end() == last
    assert reader.end() is None


def test_a_frame_is_given_with_the_chunk_that_completes_it() -> None:
    """Nothing waits for what comes next, but a CR that may be half of a CRLF."""
    reader = SseReader(LIMIT)

    assert [len(reader.feed(chunk)) for chunk in (b"data: a", b"\n", b"\n")] == [0, 0, 1]
    assert [len(reader.feed(chunk)) for chunk in (b"data: a\r", b"\r")] == [0, 1]
    assert [len(reader.feed(chunk)) for chunk in (b"data: a\r\n\r", b"\n")] == [0, 1]


def test_what_was_read_before_a_frame_that_is_too_large_is_given_first() -> None:
    stream = b"data: a\n\n" + b"data: " + b"b" * LIMIT
    reader = SseReader(LIMIT)

    assert reader.feed(stream) == [Frame(b"data: a\n\n", b"a")]
    with pytest.raises(FrameTooLargeError, match="more than 64 bytes"):
        reader.feed(b"data: c\n\n")
    with pytest.raises(FrameTooLargeError):
        reader.end()


@pytest.mark.parametrize("separator", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("more", [0, 1])
def test_a_frame_may_be_as_large_as_the_bound_and_no_larger(separator: bytes, more: int) -> None:
    filling = LIMIT + more - len(b"data: ") - 2 * len(separator)
    stream = b"data: " + b"a" * filling + separator * 2

    for chunks in ([stream], [bytes([byte]) for byte in stream]):
        frames, is_broken = read(*chunks)
        assert (len(frames), is_broken) == (1 - more, bool(more))


def test_an_endless_frame_is_not_kept() -> None:
    reader = SseReader(LIMIT)
    with pytest.raises(FrameTooLargeError):
        reader.feed(b"x" * 10_000)

    assert len(reader._rest) == 0


PIECES = st.sampled_from(
    [
        *(b"data: ", b"data:", b"data", b": ping", b"id: 1", b"x", b" ", b":", b"\xef\xbb\xbf"),
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"data: {}\n\n", b"a" * 30),
    ]
)


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(PIECES, max_size=40), cuts=st.sets(st.integers(0, 400), max_size=20))
def test_any_split_of_the_bytes_gives_equal_frames(pieces: list[bytes], cuts: set[int]) -> None:
    stream = b"".join(pieces)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]

    whole = read(stream)
    assert read(*chunks) == whole
    assert read(*(bytes([byte]) for byte in stream)) == whole


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(PIECES, max_size=40))
def test_no_byte_is_lost_or_added(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    reader = SseReader(10_000)
    frames = reader.feed(stream)

    assert b"".join(frame.raw for frame in frames) + bytes(reader._rest) == stream


@settings(max_examples=100, deadline=None)
@given(text=st.text() | st.text("\x85\u2014\u2028\u2029x"))
def test_a_written_frame_is_read_as_what_was_written(text: str) -> None:
    written = frame(msgspec.json.encode(text))

    ((told,), is_broken) = read(written, limit=1000)
    assert told.data is not None
    assert (told.raw, msgspec.json.decode(told.data), is_broken) == (written, text, False)
    assert len(written.decode().splitlines()) == 2, "a line that some clients would cut"


def test_reading_takes_time_in_proportion_to_the_bytes() -> None:
    """A frame that comes byte by byte is searched once, not once for each byte."""

    class Counting(bytearray):
        searched = 0

        def find(self, wanted: bytes, start: int = 0) -> int:  # type: ignore[override]
            self.searched += len(self) - start
            return super().find(wanted, start)

    reader = SseReader(100_000)
    reader._rest = counted = Counting()
    for _ in range(20_000):
        reader.feed(b"x")

    assert counted.searched < 4 * 20_000
