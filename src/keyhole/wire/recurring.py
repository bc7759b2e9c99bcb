"""A frame of a stream that comes again and again, with nothing new but its piece of text.

An upstream of the OpenAI format sends the same bytes around each piece: id, model, index. Once one
such frame has been read and edited, the next ones need neither: what stands around the piece is
compared, the piece is looked at, and what the client gets is put together. Whatever differs in
anything else, or has a piece that JSON had to escape, is read as ever.

That the place found is that of the text, and of nothing else, is not guessed: a word of ours is
put there, and the frame read and edited once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from keyhole.wire.events import Delta, Event

Read = Callable[[bytes], Sequence[Event]]
Edit = Callable[[bytes], bytes]

_PROBE = "a piece of text that no model has written"
_PROBE_BYTES = _PROBE.encode()
_MAX_PLACES = 4
_plain = re.compile(rb'[^"\\\x00-\x1f]+').fullmatch
"""What stands in a JSON string as it is, where it is UTF-8 (RFC 8259, section 7)."""


class RecurringFrame:
    """The bytes of a frame around its piece of text, as they came and as they go on."""

    __slots__ = ("_after", "_before", "_new_after", "_new_before")

    def __init__(self, before: bytes, after: bytes, new_before: bytes, new_after: bytes) -> None:
        self._before = before
        self._after = after
        self._new_before = new_before
        self._new_after = new_after

    @classmethod
    def learn(cls, raw: bytes, events: Sequence[Event], read: Read, edit: Edit) -> Self | None:
        """What a frame is known again by; None where it has not one plain piece of text.

        `raw` is the frame and `events` what was read in it. `read` takes its bytes, too, must be
        free to read it again, and may raise anything for bytes that are no frame.
        """
        only = events[0] if len(events) == 1 else None
        if type(only) is not Delta or not only.text or only.token is not None:
            return None
        piece = msgspec.json.encode(only.text)
        wanted = [Delta(_PROBE, only.choice)]
        at = -1
        for _ in range(_MAX_PLACES):
            at = raw.find(piece, at + 1)
            if at < 0:
                break
            before, after = raw[: at + 1], raw[at + len(piece) - 1 :]
            probed = before + _PROBE_BYTES + after
            if _is_read_as(wanted, probed, read):
                new_before, is_there, new_after = edit(probed).partition(_PROBE_BYTES)
                is_same = edit(raw) == new_before + piece[1:-1] + new_after
                return cls(before, after, new_before, new_after) if is_there and is_same else None
        return None

    def again(self, raw: bytes) -> bytes | None:
        """What goes on of a frame that is this one again; None for any other."""
        if not (raw.startswith(self._before) and raw.endswith(self._after)):
            return None
        piece = raw[len(self._before) : -len(self._after)]
        if _plain(piece) is None:
            return None
        if not piece.isascii():
            try:
                piece.decode()
            except UnicodeDecodeError:
                return None
        return self._new_before + piece + self._new_after


def _is_read_as(wanted: list[Delta], raw: bytes, read: Read) -> bool:
    try:
        return list(read(raw)) == wanted
    except Exception:  # noqa: BLE001  # it was no frame with our word in that place
        return False
