"""A worker takes as many connections as the system's hard limit allows."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from processes.driving import KEYHOLE, started

SOFT_LIMIT = 64
CONNECTIONS = 2 * SOFT_LIMIT
PAGE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_more_connections_than_the_soft_limit_of_open_files(tmp_path: Path):
    """Most systems set it to 1024, for programs of another kind."""
    limited = ("sh", "-c", f'ulimit -Sn {SOFT_LIMIT}; exec "$0" "$@"', KEYHOLE)
    options = ("serve", "--listen", "127.0.0.1:0", "--config", os.devnull)
    command = (*limited, *options, "--data", tmp_path / "data")
    with (
        started(command, data=tmp_path / "data", home=tmp_path) as server,
        ExitStack() as stack,
    ):
        address = ("127.0.0.1", server.port)
        clients = [
            stack.enter_context(socket.create_connection(address, timeout=30))
            for _ in range(CONNECTIONS)
        ]
        for client in clients:
            client.sendall(PAGE)
        answers = {client.recv(65536)[:15] for client in clients}
    assert answers == {b"HTTP/1.1 200 OK"}
