"""An upstream for streams whose socket a test can watch: it plays what the test has written.

    upstream.plays(FRAME, upstream.gate, LAST)

Every request takes the next script: bytes are sent, each as a chunk of the body; a threading
Event is waited for; HANG waits until the other side has closed the connection, and says when.
Behind the last step the body ends, unless it was CUT, which closes without its end.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 60
HANG, CUT = "hang", "cut"

Step = bytes | str | threading.Event
HEAD = (
    b"HTTP/1.1 %d Told\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n"
)


@dataclass
class Script:
    """What one request gets."""

    steps: tuple[Step, ...]
    status: int = 200
    content_type: str = "text/event-stream"
    gate: threading.Event = field(default_factory=threading.Event)
    sent_bytes: int = 0
    """How much of the body the sockets have taken."""
    has_left: threading.Event = field(default_factory=threading.Event)
    left_at_s: float = 0.0
    """When the other side closed, on the clock of time.monotonic."""
    asked: Any = None
    """The JSON of the request."""
    path: str = ""


class Upstream:
    """The server, in threads."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        self._scripts: deque[Script] = deque()
        self._thread = threading.Thread(target=self._accept, name="upstream")
        self._thread.start()

    def plays(self, *steps: Step, **fields: Any) -> Script:
        """What the next request gets that no script stands ready for."""
        script = Script(steps, **fields)
        self._scripts.append(script)
        return script

    def forget(self) -> None:
        """Drop what nobody asked for."""
        self._scripts.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), name="played").start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        with connection, contextlib.suppress(OSError):
            first, body = _read(connection)
            script = self._scripts.popleft()
            script.path, script.asked = first.split(" ")[1], json.loads(body)
            connection.sendall(HEAD % (script.status, script.content_type.encode()))
            self._play(connection, script)

    def _play(self, connection: socket.socket, script: Script) -> None:
        try:
            for step in script.steps:
                if isinstance(step, bytes):
                    connection.sendall(b"%x\r\n%b\r\n" % (len(step), step))
                    script.sent_bytes += len(step)
                elif isinstance(step, threading.Event):
                    assert step.wait(PATIENCE_S)
                elif step == HANG:
                    assert connection.recv(1) == b""
                    return
                else:
                    return
            connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass
        finally:
            script.left_at_s = time.monotonic()
            script.has_left.set()


def _read(connection: socket.socket) -> tuple[str, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return head.decode().split("\r\n")[0], body


@contextlib.contextmanager
def running_upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    try:
        yield upstream
    finally:
        upstream.close()
