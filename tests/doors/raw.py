"""Replies as bytes: what a connection has sent, told apart without a forgiving client."""

from __future__ import annotations

import re
from collections.abc import Sequence

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*")


def told_apart(
    received: bytes, *, bodiless: Sequence[int] = ()
) -> tuple[list[int], list[bytes], bytes]:
    """The statuses and bodies of whole replies, and what is behind them.

    `bodiless` are the places of replies to HEAD. Anything but replies raises.
    """
    statuses: list[int] = []
    bodies: list[bytes] = []
    while received:
        head, ended, rest = received.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(lines[0])
        if not ended or status is None:
            assert not statuses or status is not None, received[:200]
            break
        lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
        assert len(lengths) == (0 if status[1] in {b"100", b"204"} else 1), head
        length = int(lengths[0].partition(b":")[2]) if lengths else 0
        if len(statuses) in bodiless:
            length = 0
        if len(rest) < length:
            break
        statuses.append(int(status[1]))
        bodies.append(rest[:length])
        received = rest[length:]
    return statuses, bodies, received
