"""Heads of requests that need not be read again, because the same bytes were read and let in.

It parses nothing and lets nobody in: it recognises bytes. What may differ from one request to
the next is the digits of Content-Length; a client that changes anything else, such as a trace's
id, is parsed each time.
"""

from __future__ import annotations

import re

from keyhole.exchange import Admission

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)
_MAX_KNOWN_HEADS = 1024


class KnownHead:
    """The bytes of a head that was let in, around the digits of its Content-Length."""

    __slots__ = ("_after", "_before", "admission")

    def __init__(self, before: bytes, after: bytes, admission: Admission) -> None:
        self._before = before
        self._after = after
        self.admission = admission

    def begins(self, data: bytes) -> tuple[bytes, int] | None:
        """What has come of the body, and how much is missing, if the data is this head again.

        None where it is another one, where the body is too long, or more comes behind it.
        """
        if not data.startswith(self._before):
            return None
        begin = len(self._before)
        end = data.find(b"\r", begin, begin + 10)
        digits = data[begin:end]
        if not data.startswith(self._after, end) or not digits.isdigit():
            return None
        body = data[end + len(self._after) :]
        length = int(digits)
        missing = length - len(body)
        return (body, missing) if missing >= 0 and length <= self.admission.max_body_bytes else None


MAX_KNOWN_BYTES = 2048
"""Of one head; what clients send has a few hundred. With their headers, all take 4 MB at most."""


class KnownHeads:
    """The heads that all connections of a worker know, each once."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str | None, bytes, bytes], KnownHead] = {}

    def learn(self, data: bytes, admission: Admission) -> KnownHead | None:
        """What to know a head again by; None for one that has no Content-Length.

        `data` begins with the head, which the parser has read and the core let in, and holds
        nothing behind its body. That there is one Content-Length and no folded line is the
        parser's doing.
        """
        end = data.find(b"\r\n\r\n", 0, MAX_KNOWN_BYTES) + 2
        length = _LENGTH.search(data, 0, end)
        if length is None or len(data) - end - 2 > int(length[1]):
            return None
        before, after = data[: length.start(1)], data[length.end(1) : end + 2]
        key = (admission.head.peer, before, after)
        known = self._heads.get(key)
        if known is None:
            if len(self._heads) >= _MAX_KNOWN_HEADS:
                self._heads.clear()
            known = self._heads[key] = KnownHead(before, after, admission)
        return known
