"""The journal's lines as bytes, and the names of its files; nothing is read or written here.

A line is the CRC-32 of a JSON text in eight hexadecimal digits, a space, the JSON, a newline. The
JSON is an Intent, a Progress or a Receipt of `books`. It cannot hold a NUL or a newline of its
own (RFC 8259, section 7, has both escaped), so a NUL is a byte that nobody has written yet, and a
newline ends a line. A line is whole or it is none: nothing is ever made of a part of one.

A segment is named NODE-STARTED-PID-SEQUENCE.journal. What stands before the sequence is the
writer, one process in one life; names of one node sort by time.
"""

from __future__ import annotations

import re
from typing import Literal
from zlib import crc32

import msgspec
from msgspec import Struct

from keyhole.wire.books import Intent, Progress, Receipt

Line = Intent | Progress | Receipt
"""What a line says."""

MAX_LINE_BYTES = 64 * 1024
"""No line is longer, its newline included; so a reader knows when it waits for one in vain."""
RECEIPT_EXTRA_BYTES = 176
"""A receipt's line is at most this much longer than the line of the intent that it repeats: the
punctuation, the longest words, 64-bit numbers (20 characters) and floats (24)."""
UNFINISHED = ".new"
"""Behind the name of a segment that is being made: it has no lines yet."""

_SUFFIX = ".journal"
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_NAME = re.compile(
    rf"({_NODE.pattern})-([0-9]{{13}})-([0-9]{{1,10}})-([0-9]{{8}})\.journal", re.ASCII
)
_CRC_CHARS = 8

_encode = msgspec.json.Encoder().encode
_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_LINES_DECODER: msgspec.json.Decoder[list[Line]] = msgspec.json.Decoder(list[Line])


class Damaged(Struct, frozen=True):
    """Bytes that are no line: they are counted and skipped."""

    reason: Literal["form", "checksum", "content"]
    """No CRC in front; one that does not match; or JSON that this version does not know."""


class SegmentName(Struct, frozen=True, order=True):
    """What the name of a segment tells; sorts by node, then by time."""

    node: str
    """The machine, or whatever the state directory belongs to."""
    started_at_ms: int
    """When its writer started."""
    pid: int
    sequence: int
    """1 for the writer's first segment."""

    @property
    def writer(self) -> str:
        """The process that wrote it, in that one life; common to all its segments."""
        return f"{self.node}-{self.started_at_ms:013d}-{self.pid}"

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.writer}-{self.sequence:08d}{_SUFFIX}"


def is_node(text: str) -> bool:
    """Whether a node may be called so: 1 to 63 letters, digits, dots, dashes, underscores."""
    return _NODE.fullmatch(text) is not None


def read_name(file: str) -> SegmentName | None:
    """What a file's name tells; None if it is no segment's."""
    found = _NAME.fullmatch(file)
    if found is None:
        return None
    node, started, pid, sequence = found.groups()
    return SegmentName(node, int(started), int(pid), int(sequence))


def encode_line(value: Line) -> bytes:
    """A line, its newline included; ValueError for a text that is not Unicode.

    0.5 us for an intent, 0.6 for a receipt, of which msgspec takes 0.3; into a kept bytearray it
    would be 1.0, for the slice that the CRC needs.
    """
    body = _encode(value)
    return b"%08x %b\n" % (crc32(body), body)


def is_whole(line: bytes) -> bool:
    """Whether a line, given without its newline, begins with the checksum of the rest."""
    return line[: _CRC_CHARS + 1] == b"%08x " % crc32(line[_CRC_CHARS + 1 :])


def decode_bodies(bodies: list[bytes]) -> list[Line] | None:
    """What lines say whose checksums were right, given without them; None where one says nothing.

    All at once takes half as long as one by one.
    """
    try:
        lines = _LINES_DECODER.decode(b"[" + b",".join(bodies) + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return lines if len(lines) == len(bodies) else None


def decode_line(line: bytes) -> Line | Damaged:
    """What a line says, given without its newline."""
    body = line[_CRC_CHARS + 1 :]
    if line[_CRC_CHARS : _CRC_CHARS + 1] != b" ":
        return Damaged("form")
    if not is_whole(line):
        return Damaged("checksum")
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Damaged("content")
