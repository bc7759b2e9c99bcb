"""The upstream of bench/stream.py: chat completions in pieces, each on time, as cheap as it gets.

    python bench/stream_upstream.py PORT

It answers every POST with the same stream. The head and the first piece leave at once, each
further piece an interval after the one before, by one wheel of a millisecond's steps; a piece
is made beforehand, is one HTTP chunk and one system call. There is no event loop and no object
for a timer: at 100,000 pieces a second those would be what is measured. It refuses nothing and
knows no errors.

GET /pace/MS sets the interval while no stream is open; GET /status tells how many are, how many
pieces were sent, how many of them late, and how often a reader was slow.

Facts: the frames are as vLLM and OpenAI write them, the role in the first one, usage in a frame
of its own where `stream_options.include_usage` asks for it (docs of both, 2026-11). A poll of
epoll waits whole milliseconds (epoll_wait(2)).
"""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import sys
import time
from typing import Any

CHUNKS = 64
WORDS = ("Word00", *(f" word{number:02}" for number in range(1, CHUNKS)))
"""What the pieces say, each something else: one that is missing or doubled shows."""
PACE_MS = 20
TICK_S = 0.001
LATE_S = 0.005
"""From here on a piece counts as late."""

_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 20:00:00 GMT\r\nServer: bench\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_USAGE = {"prompt_tokens": 16, "completion_tokens": CHUNKS, "total_tokens": 16 + CHUNKS}


def frame(choices: list[dict[str, Any]], **more: object) -> bytes:
    """One server-sent event of a chat completion."""
    event = {
        "id": "chatcmpl-8f1c2b7e4a5d4c0e9b3f6a7d",
        "object": "chat.completion.chunk",
        "created": 1795377600,
        "model": "bench-chat",
        "choices": choices,
        **more,
    }
    return b"data: %b\n\n" % json.dumps(event, separators=(",", ":")).encode()


def pieces(*, with_usage: bool) -> list[bytes]:
    """What is written, write by write: the first has the response's head, the last its end."""
    bodies = []
    for word in WORDS:
        delta = {"content": word} if bodies else {"role": "assistant", "content": word}
        bodies.append(frame([{"index": 0, "delta": delta, "finish_reason": None}]))
    bodies[-1] += frame([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if with_usage:
        bodies[-1] += frame([], usage=_USAGE)
    bodies[-1] += b"data: [DONE]\n\n"
    written = [b"%x\r\n%b\r\n" % (len(body), body) for body in bodies]
    written[0] = _HEAD + written[0]
    written[-1] += b"0\r\n\r\n"
    return written


def request_length(received: bytes) -> int | None:
    """The length of a whole request at the beginning of `received`; None while it is not whole."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            needed = int(line[15:])
            return None if len(body) < needed else len(head) + 4 + needed
    return len(head) + 4


def _wants_usage(request: bytes) -> bool:
    return b'"include_usage":true' in request.replace(b" ", b"")


class Connection:
    """One connection and the stream on it, if there is one."""

    __slots__ = ("received", "send", "slot", "socket", "unsent", "written")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.send = accepted.send
        self.received = b""
        self.unsent = b""
        """What the socket did not take: the reader is slow. It is tried again at the next turn."""
        self.written: list[bytes] = []
        """What is still to be written, the next one last."""
        self.slot: set[Connection] | None = None


class Upstream:
    """All connections, and the wheel that says whose turn it is."""

    def __init__(self, listener: socket.socket, *, interval_ms: int = PACE_MS) -> None:
        listener.settimeout(0)
        self._listener = listener
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        # A stream whose turn comes every interval stays in its slot from beginning to end.
        self._slots: list[set[Connection]] = [set() for _ in range(interval_ms)]
        self._ticks = 0
        self._next_s = time.perf_counter()
        self._streams = {
            with_usage: list(reversed(pieces(with_usage=with_usage)))
            for with_usage in (False, True)
        }
        self.is_closed = False
        self._open = self._chunks = self._late = self._slow = 0

    def run(self) -> None:
        """Serve until `is_closed` is set."""
        poll, listener = self._epoll.poll, self._listener.fileno()
        while not self.is_closed:
            wait_s = self._next_s - time.perf_counter() if self._open else 0.1
            for number, _ in poll(max(wait_s, 0)):
                if number == listener:
                    self._accept()
                else:
                    self._read(self._connections[number])
            if not self._open:
                self._next_s = time.perf_counter()
            now_s = time.perf_counter()
            while self._next_s <= now_s:
                self._tick()
                now_s = time.perf_counter()
        for connection in list(self._connections.values()):
            self._close(connection)
        self._epoll.close()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.settimeout(0)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[accepted.fileno()] = Connection(accepted)
                self._epoll.register(accepted, select.EPOLLIN)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.received += data
        length = request_length(connection.received)
        if length is None:
            return
        request, connection.received = connection.received[:length], connection.received[length:]
        if request.startswith(b"GET "):
            _, path, _ = request.split(b" ", 2)
            if path.startswith(b"/pace/") and not self._open:
                self._slots = [set() for _ in range(int(path[6:]))]
            connection.send(self._status())
        elif connection.slot is None:
            self._start(connection, with_usage=_wants_usage(request))

    def _start(self, connection: Connection, *, with_usage: bool) -> None:
        connection.written = self._streams[with_usage].copy()
        # The tick before the next one comes round again in an interval, less what is gone of it.
        slot = self._slots[(self._ticks - 1) % len(self._slots)]
        slot.add(connection)
        connection.slot = slot
        self._open += 1
        self._write(connection)

    def _tick(self) -> None:
        slot = self._slots[self._ticks % len(self._slots)]
        late = time.perf_counter() - self._next_s > LATE_S
        self._ticks += 1
        self._next_s += TICK_S
        if slot:
            self._late += len(slot) if late else 0
            for connection in list(slot):
                self._write(connection)

    def _write(self, connection: Connection) -> None:
        if connection.written:
            data = connection.written.pop()
            self._chunks += 1
        else:
            data = b""
        if connection.unsent:
            data = connection.unsent + data
            connection.unsent = b""
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        if sent < len(data):
            connection.unsent = data[sent:]
            self._slow += 1
        elif not connection.written:
            self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        if connection.slot is not None:
            connection.slot.discard(connection)
            connection.slot = None
            self._open -= 1

    def _close(self, connection: Connection) -> None:
        self._leave(connection)
        if self._connections.pop(connection.socket.fileno(), None):
            self._epoll.unregister(connection.socket)
            connection.socket.close()

    def _status(self) -> bytes:
        names = ("open_now", "chunks", "late", "slow")
        counts = (self._open, self._chunks, self._late, self._slow)
        body = json.dumps(dict(zip(names, counts, strict=True))).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def main() -> None:
    port = int(sys.argv[1])
    gc.disable()
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        Upstream(listener).run()


if __name__ == "__main__":
    main()
