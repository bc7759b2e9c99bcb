"""Server-sent events: cuts a stream's bytes into frames, and writes a frame.

It does not know what stands in a frame (the dialects do), and keeps no event names, ids or
reconnection times: no text-generation API means anything by them.

Facts (WHATWG HTML, "Server-sent events", November 2026): a line ends with LF, CRLF or CR; an
empty line ends a frame; a line that begins with a colon is a comment; one space behind a field's
colon is not part of its value; several `data` lines are one value, joined with LF. What servers
do: sse-starlette ends lines with CRLF, TGI leaves the space out, llama.cpp sends comments to
keep a stream alive, and some leave out the empty line behind the last frame.
"""

from __future__ import annotations

import re

from msgspec import Struct

# An empty line behind the end of another line. `\n\r` is looked at once the byte behind it is
# there, for that may be its LF. Two CR are not made to wait so: an LF behind them begins the
# next frame, where an empty line means nothing; so frames are the same in every split, and a
# stream of bare CR is not a frame late.
_EMPTY_LINE = re.compile(rb"\n(?:\n|\r\n|\r(?=[^\n]))|\r\r")
_LONGEST_BEGINNING = 2
"""How much of an empty line may have come without being one yet: `\\n\\r`."""

_SPACE = 0x20
_BOM = b"\xef\xbb\xbf"
_ENDS_OF_LINES = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


class Frame(Struct, frozen=True, gc=False):
    """What stands between two empty lines."""

    raw: bytes
    """The bytes as they came, with the empty line behind them."""
    data: bytes | None
    """The value of its data lines; None where it has none, as a comment has not."""


class FrameTooLargeError(Exception):
    """A frame is larger than the bound; nothing more can be read of its stream."""


class SseReader:
    """Cuts one stream into frames, however its bytes come; keeps at most one unfinished frame."""

    __slots__ = (*("_has_cr", "max_frame_bytes", "is_between", "is_broken", "_rest", "_searched"),)

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._rest = bytearray()
        self._searched = 0
        """So much of the rest is known to hold no empty line."""
        self._has_cr = False
        """Whether the stream has ever had a CR; most have none and are cut faster."""
        self.is_between = True
        """Whether nothing is unfinished and nothing went wrong."""
        self.is_broken = False
        """Whether a frame was too large: the next call raises."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that the chunk completes.

        Raises FrameTooLargeError, at the next call where there are frames to be given first.
        """
        if (
            self.is_between
            and chunk.startswith(b"data:")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and b"\r" not in chunk
            and len(chunk) <= self.max_frame_bytes
        ):  # nearly all are so
            return [Frame(chunk, chunk[6:-2] if chunk[5] == _SPACE else chunk[5:-2])]
        self._check()
        if not self._has_cr and b"\r" in chunk:
            self._has_cr = True
        self._rest += chunk
        frames = self._cut()
        if not frames:
            self._check()
        return frames

    def end(self) -> Frame | None:
        """What the end of the stream completes: a frame whose empty line was left out.

        It is given one. A line that was cut off is not part of it, and without a whole data line
        there is no frame. Raises FrameTooLargeError as `feed` does.
        """
        self._check()
        rest = bytes(self._rest)
        self._rest.clear()
        self._searched, self.is_between = 0, True
        whole = rest[: max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1]
        data = data_of(whole)
        return None if data is None else Frame(whole + whole[-1:], data)

    def _cut(self) -> list[Frame]:
        """Take the finished frames from the rest, up to one that is too large."""
        rest, limit = self._rest, self.max_frame_bytes
        frames: list[Frame] = []
        start, at = 0, self._searched
        while (end := self._end_of_frame(at)) > 0 and end - start <= limit:
            raw = bytes(rest[start:end])
            frames.append(Frame(raw, data_of(raw)))
            start = at = end
        if end > 0 or len(rest) - start > limit:
            self.is_broken = True
            rest.clear()
        del rest[:start]
        self._searched = max(len(rest) - _LONGEST_BEGINNING, 0)
        self.is_between = not rest and not self.is_broken
        return frames

    def _end_of_frame(self, at: int) -> int:
        """Where the first frame ends that ends behind `at`; 0 for nowhere yet."""
        if not self._has_cr:
            line_end = self._rest.find(b"\n\n", at)
            return line_end + 2 if line_end >= 0 else 0
        found = _EMPTY_LINE.search(self._rest, at)
        return found.end() if found else 0

    def _check(self) -> None:
        if self.is_broken:
            raise FrameTooLargeError(f"A frame has more than {self.max_frame_bytes} bytes.")


def frame(data: bytes) -> bytes:
    """A frame that holds the data, which is JSON on one line.

    huggingface_hub (2.4.0, through httpx2) takes U+0085, U+2028 and U+2029 for the ends of
    lines, as str.splitlines does, and JSON leaves them as they are: here they are escaped.
    """
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for char, escape in _ENDS_OF_LINES:
            data = data.replace(char, escape)
    return b"data: %b\n\n" % data


def data_of(raw: bytes) -> bytes | None:
    """The value of the data lines of a frame; None for a frame without any."""
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return raw[6:-2]  # the most frequent; the rest of this is true of it, too
    values = []
    for line in raw.removeprefix(_BOM).splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    return b"\n".join(values) if values else None
