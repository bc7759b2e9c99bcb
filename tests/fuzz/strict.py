"""Any bytes in any splits at the strict connections, for as long as one likes.

    python tests/fuzz/strict.py SECONDS [SEED]

It mutates the rows of golden/hostile_requests.toml, strings them together with good requests,
splits them anywhere, and lets the client stall, read on, be slow and leave. What should never be
ends it with status 1, after the door and the pieces that did it. `play` is also what
tests/server/test_fastlane_fuzz.py calls.
"""

from __future__ import annotations

import asyncio
import io
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from doors.composed import Composed
from doors.hostile import PROBE, call, read_rows
from doors.servers import STRICT_DOORS
from server.lanes import Lane

STALL, TAKE, NAP, WAIT = b"<stall>", b"<take>", b"<nap>", b"<wait>"
"""Among the pieces: the client stops reading, reads again, is silent for some or a long time."""
LONG_BYTES = 3000
SEEDS = [row.content for row in read_rows("fastlane") if len(row.content) < LONG_BYTES]
GOOD = [PROBE, call("odd"), call("status 503"), call("crash"), call("x" * 40_000)]
WORDS = [
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b":", b"0", b"ffffffff", b"-1", b","),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"HTTP/1.0"),
    *(b"Host: 127.0.0.1\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"HEAD ", b"CONNECT "),
]
_HEAD = re.compile(rb"HTTP/1\.1 \d{3} [^\r\n]*\r\n(?:[!-9;-~]+: [\t -~]*\r\n)*\r\n")


async def play(name: str, pieces: Sequence[bytes]) -> None:
    """Send the pieces to a door, then leave.

    Raises AssertionError for what must never be: an exception, bytes that are no reply, two
    replies to one request, replies out of order, something left behind.
    """
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
    lane = Lane(name, Composed(io.StringIO()), read_timeout_s=10)
    for piece in pieces:
        if piece == STALL:
            lane.transport.is_read = False
        elif piece == TAKE:
            lane.transport.take()
        elif piece == NAP:
            lane.sweep_in(5)
        elif piece == WAIT:
            lane.sweep_in(100)
        else:
            if lane.transport.is_paused:
                lane.transport.take()
            await lane.send(piece)
    await lane.settle()
    await lane.end()
    assert not failures, failures
    records = lane.composed.memory.records
    methods = {record.request_id: record.method for record in records}
    assert len(methods) == len(records), "a request has ended twice"
    check_replies(bytes(lane.transport.written), methods)


def check_replies(received: bytes, methods: dict[str, str]) -> None:
    """Whole replies and nothing between, one to a request, in the order that was asked in."""
    told, numbers = [], []
    while received:
        head = _HEAD.match(received)
        assert head is not None, received[:300]
        fields = dict(line.split(b": ", 1) for line in head[0].split(b"\r\n")[1:-2])
        received = received[head.end() :]
        if head[0].startswith(b"HTTP/1.1 100"):
            continue
        told.append(fields[b"x-request-id"].decode())
        length = int(fields.get(b"content-length", b"0"))
        if methods[told[-1]] != "HEAD":
            assert len(received) >= length, "a reply is cut"
            numbers += re.findall(rb"number (\d+)", received[:length])
            received = received[length:]
    assert len(set(told)) == len(told), "two replies to one request"
    assert numbers == sorted(numbers, key=int), "replies out of order"


def stream(dice: random.Random) -> bytes:
    """Some requests behind each other, good ones and others."""
    parts = []
    for number in range(dice.randint(1, 6)):
        choice = dice.random()
        if choice < 0.4:
            parts.append(call(f"number {number}"))
        elif choice < 0.6:
            parts.append(dice.choice(GOOD))
        else:
            parts.append(mutated(dice, dice.choice(SEEDS)))
    return b"".join(parts)


def mutated(dice: random.Random, content: bytes) -> bytes:
    """The content with up to five bytes or words put in, taken out or exchanged."""
    changed = bytearray(content)
    for _ in range(dice.randint(0, 5)):
        start = dice.randint(0, len(changed))
        end = min(start + dice.choice((0, 0, 1, 1, 5, 40)), len(changed))
        changed[start:end] = dice.choice((b"", dice.choice(WORDS), dice.randbytes(1)))
    return bytes(changed)


def split(dice: random.Random, content: bytes) -> list[bytes]:
    """The content in pieces, with what the client does between."""
    count = dice.choice((0, 0, 1, 2, 5, 20))
    ends = sorted(dice.randint(0, len(content)) for _ in range(count))
    pieces = []
    for start, end in zip([0, *ends], [*ends, len(content)], strict=True):
        if dice.random() < 0.05:
            pieces.append(dice.choice((STALL, TAKE, NAP, NAP, WAIT)))
        pieces.append(content[start:end])
    return pieces


def main() -> int:
    """Play until the time is over, or something is wrong; the exit status."""
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    dice, end_s, count = random.Random(seed), time.monotonic() + seconds, 0
    print(f"seed {seed}")
    while time.monotonic() < end_s:
        name, pieces = dice.choice(list(STRICT_DOORS)), split(dice, stream(dice))
        try:
            asyncio.run(play(name, pieces))
        except BaseException:
            print(f"{name} after {count}:\n{pieces!r}")
            raise
        count += 1
    print(f"{count} connections, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
