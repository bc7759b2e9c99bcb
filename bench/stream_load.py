"""Load for bench/stream.py: many streams at once, read to their end and checked.

Each connection asks, reads the stream to its end, and asks again, so that as many streams are
open at any time as there are connections. The first requests are spread over one stream's
length: streams begin and end all the time, as they do in a server that has run for a while.
What it does for a piece is a system call, a look at the clock and an append; what was received
is taken apart when its stream has ended. Nothing is tried again: whatever goes wrong is counted.

Facts: a chunked body ends with an empty chunk (RFC 9112, 7.1).
"""

from __future__ import annotations

import contextlib
import gc
import re
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from process_tree import BenchError
from stream_upstream import WORDS

GUARD_S = 0.3
"""What is measured as time begins so long after the streams are open: whoever reads /proc at
that moment has the load's core for some milliseconds."""
DRAIN_WITHIN_S = 20.0
CONNECT_WITHIN_S = 10.0
GAP_STEP_S = 0.0001
LONGEST_GAP_STEPS = 20_000
_END = b"0\r\n\r\n"
_CHUNK = b'" word'
"""Once in each chunk but the first, and in no repetition of the whole text."""
_TEXT = re.compile(rb'"(?:content|text)": ?"([^"\\]*)"')


@dataclass(frozen=True)
class Load:
    """What is asked, and how often."""

    port: int
    path: str
    body: str
    """JSON."""
    ending: bytes
    """What the last frame has, and no other."""
    streams: int
    """At once."""
    ramp_s: float
    """How long it takes until all are open: about the length of a stream."""
    seconds: float
    """From then on."""

    def request(self) -> bytes:
        """What is sent."""
        body = self.body.encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "User-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Measured:
    """What was seen."""

    streams: int = 0
    """Whole and right, from the first to the last."""
    errors: Counter[str] = field(default_factory=Counter)
    first_byte_s: array[float] = field(default_factory=lambda: array("d"))
    """From a request to the first byte of its first event."""
    chunks: int = 0
    """Of text; those that came while all streams were open."""
    reads: int = 0
    """In how many pieces these came."""
    gaps: array[int] = field(default_factory=lambda: array("q", bytes(8 * LONGEST_GAP_STEPS)))
    """How often it took so many steps of GAP_STEP_S from a piece to the next of its stream."""

    def gap_s(self, share: float) -> float:
        """As long as `share` of all gaps take at most."""
        wanted, seen = share * sum(self.gaps), 0
        for steps, count in enumerate(self.gaps):
            seen += count
            if seen >= wanted:
                return (steps + 1) * GAP_STEP_S
        return LONGEST_GAP_STEPS * GAP_STEP_S


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed; raises BenchError if there are none."""
    if not values:
        raise BenchError("no stream began while it was measured")
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def fault(received: bytes, ending: bytes) -> str | None:
    """What is wrong with a whole response; None if it is as it should be."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return "status"
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return "not chunked"
    body = dechunk(rest)
    if body is None:
        return "broken chunks"
    if tuple(text.decode() for text in _TEXT.findall(body)) != WORDS:
        return "not the upstream's text"
    last = body.rstrip(b"\n").rpartition(b"\n\n")[2]
    return None if ending in last and body.count(ending) == 1 else "no right end"


def dechunk(body: bytes) -> bytes | None:
    """The bytes in a chunked body, which must be whole; None if it is not."""
    parts, start = [], 0
    while True:
        line = body.find(b"\r\n", start)
        try:
            size = int(body[start:line], 16)
        except ValueError:
            return None
        start, end = line + 2, line + 2 + size
        if line < 0 or body[end : end + 2] != b"\r\n":
            return None
        if size == 0:
            return b"".join(parts) if end + 2 == len(body) else None
        parts.append(body[start:end])
        start = end + 2


class _Client:
    """One connection."""

    __slots__ = ("asked_s", "last_s", "received", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.received: list[bytes] = []
        self.asked_s = 0.0
        self.last_s = 0.0
        """When the last piece came; 0 before the first event."""


class _Run:
    """The streams of one load, from the first to the last."""

    def __init__(self, load: Load, clients: Sequence[_Client]) -> None:
        self._load = load
        self._request = load.request()
        self._by_number = {client.socket.fileno(): client for client in clients}
        self._waiting = list(reversed(clients))
        self._epoll = select.epoll()
        self._open = 0
        self._asks_again = True
        self._is_timed = False
        self._chunks = self._reads = 0
        self.measured = Measured()

    def close(self) -> None:
        self._epoll.close()

    def until(self, end_s: float, *, started_s: float | None = None) -> None:
        """Read what comes until then, or until no stream is open any more.

        With `started_s`, when the first stream was asked for, others are asked for in their turn.
        """
        step_s = self._load.ramp_s / self._load.streams
        while (now_s := time.perf_counter()) < end_s and (self._open or self._waiting):
            wait_s = end_s - now_s
            if started_s is not None and self._waiting:
                due_s = started_s + (self._load.streams - len(self._waiting)) * step_s
                if due_s <= now_s:
                    self._begin(self._waiting.pop())
                    continue
                wait_s = min(wait_s, due_s - now_s)
            for number, _ in self._epoll.poll(wait_s):
                self._read(self._by_number[number])

    def begin_rest(self) -> None:
        """Ask for the streams whose turn came too late."""
        while self._waiting:
            self._begin(self._waiting.pop())

    def count(self) -> tuple[int, int]:
        """How many chunks have come so far, and in how many pieces."""
        return self._chunks, self._reads

    def time(self, *, on: bool) -> None:
        """Whether what comes from now on counts for times."""
        self._is_timed = on

    def end(self) -> None:
        """Ask no more, and wait for the streams that are open."""
        self._asks_again = False
        self.until(time.perf_counter() + DRAIN_WITHIN_S + self._load.ramp_s)
        self.measured.errors["unfinished"] += self._open

    def _begin(self, client: _Client) -> None:
        self._epoll.register(client.socket, select.EPOLLIN)
        self._open += 1
        self._ask(client)

    def _ask(self, client: _Client) -> None:
        client.received = []
        client.last_s = 0.0
        client.asked_s = time.perf_counter()
        try:
            client.socket.send(self._request)
        except OSError:
            self._fail(client, "write")

    def _read(self, client: _Client) -> None:
        try:
            piece = client.socket.recv(16384)
        except OSError:
            self._fail(client, "read")
            return
        now_s = time.perf_counter()
        received = client.received
        received.append(piece)
        if client.last_s:
            if self._is_timed:
                steps = int((now_s - client.last_s) / GAP_STEP_S)
                self.measured.gaps[min(steps, LONGEST_GAP_STEPS - 1)] += 1
            client.last_s = now_s
            self._chunks += piece.count(_CHUNK)
            self._reads += 1
            if len(piece) < len(_END) and piece:
                piece = b"".join(received[-len(_END) :])
            if piece.endswith(_END):
                self._finish(client)
                return
        else:
            self._read_first(client, now_s)
        if not piece:
            self._fail(client, "closed")

    def _read_first(self, client: _Client, now_s: float) -> None:
        so_far = b"".join(client.received)
        if len(so_far) >= 13 and not so_far.startswith(b"HTTP/1.1 200 "):
            self._fail(client, f"answered {so_far[:400]!r}")
        elif b"data:" in so_far:
            client.last_s = now_s
            self._chunks += 1 + so_far.count(_CHUNK)
            self._reads += 1
            if self._is_timed:
                self.measured.first_byte_s.append(now_s - client.asked_s)
            if so_far.endswith(_END):
                self._finish(client)

    def _finish(self, client: _Client) -> None:
        if why := fault(b"".join(client.received), self._load.ending):
            self._fail(client, why)
            return
        self.measured.streams += 1
        if self._asks_again:
            self._ask(client)
        else:
            self._forget(client)

    def _fail(self, client: _Client, why: str) -> None:
        if client.socket.fileno() in self._by_number:
            self.measured.errors[why] += 1
            self._forget(client)

    def _forget(self, client: _Client) -> None:
        del self._by_number[client.socket.fileno()]
        self._epoll.unregister(client.socket)
        client.socket.close()
        self._open -= 1


def run(load: Load, *, at_open: Callable[[], None], at_close: Callable[[], None]) -> Measured:
    """Keep the streams open for a while; errors are counted, not raised.

    `at_open` is called when all are open, `at_close` before the last of them end.
    """
    with contextlib.ExitStack() as stack:
        clients = list(_connect(load, stack))
        run_of = _Run(load, clients)
        stack.callback(run_of.close)
        gc.disable()
        stack.callback(gc.enable)
        started_s = time.perf_counter()
        run_of.until(started_s + load.ramp_s, started_s=started_s)
        run_of.begin_rest()
        before = run_of.count()
        at_open()
        opened_s = time.perf_counter()
        run_of.until(opened_s + GUARD_S)
        run_of.time(on=True)
        run_of.until(opened_s + load.seconds)
        run_of.time(on=False)
        after = run_of.count()
        at_close()
        run_of.end()
        measured = run_of.measured
        measured.chunks, measured.reads = (
            now - then for now, then in zip(after, before, strict=True)
        )
        return measured


def _connect(load: Load, stack: contextlib.ExitStack) -> Iterator[_Client]:
    for number in range(load.streams):
        try:
            opened = socket.create_connection(("127.0.0.1", load.port), CONNECT_WITHIN_S)
        except OSError as error:
            raise BenchError(f"stream {number + 1} was not connected: {error}") from None
        stack.callback(opened.close)
        opened.settimeout(0)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield _Client(opened)
