"""What a server writes for its requests: one line each, and nothing that a client can add."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

from processes.driving import PYTHON, Server, free_port, serving, started

ROOT = Path(__file__).parents[2]
HANDSHAKE = (
    b"GET /generate HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n"
) % (b"a" * 22 + b"==")
PATIENCE_S = 20
NO_HTTP = b"\x16\x03\x01\r\n\r\n"


def send(server: Server, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(said)
        while connection.recv(65536):
            pass


def paths_of_lines(server: Server, last: str) -> list[str]:
    """The path of each line but those of starting up, once the line of `last` is there.

    Raises ValueError for a line that is no JSON. A line is written just after its reply.
    """
    deadline = time.monotonic() + PATIENCE_S
    while f'"path":"{last}"' not in server.log:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)
    lines = [line for line in server.log.splitlines() if not line.startswith("keyhole: ")]
    start = next(at for at, line in enumerate(lines) if line.startswith("{"))
    paths = [json.loads(line)["path"] for line in lines[start:]]
    return [path for path in paths if path != "/health/ready"]


def test_clients_add_no_lines_of_their_own_to_the_log(home: Path, data: Path):
    with serving(data=data, home=home) as server:
        send(server, HANDSHAKE)
        send(server, NO_HTTP)
        server.get("/health/live?key=hidden")
        assert paths_of_lines(server, "/health/live") == ["/generate", "-", "/health/live"]


def test_python_app_py_writes_one_line_for_a_request_and_no_query(home: Path, data: Path):
    app, port = home / "app.py", free_port()
    shutil.copy(ROOT / "app.py", app)
    app.write_text(app.read_text().replace("port=5000", f"port={port}"))
    with started([PYTHON, app], data=data, home=home, port=port) as server:
        server.get("/health/live?key=hidden")
        assert paths_of_lines(server, "/health/live") == ["/health/live"]
