"""Every row of golden/hostile_requests.toml over real sockets: whole, in drops, between others.

tests/server/test_hostile_splits.py has the same rows split at every byte.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from doors import servers
from doors.client import connect
from doors.hostile import PROBE, Row, read_rows
from doors.leaks import eventually, no_leaks
from doors.raw import told_apart
from doors.servers import STRICT_DOORS, Door
from keyhole.wire.records import CLIENT_GONE

PATIENCE_S = 30
DROPS_BYTES = 1000
"""A longer row is not sent byte by byte."""
ROWS = [(door, row) for door in STRICT_DOORS for row in read_rows(door)]


@pytest.fixture(scope="module")
def doors() -> Iterator[dict[str, Door]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(servers.strict(name)) for name in STRICT_DOORS}


def test_the_rows_have_names_of_their_own() -> None:
    assert len(set(map(str, ROWS))) == len(ROWS)


@pytest.mark.parametrize(("name", "row"), ROWS, ids=str)
def test_a_row(doors: dict[str, Door], name: str, row: Row) -> None:
    door = doors[name]
    with no_leaks(door.loop):
        exchange(door, row)
        if len(row.content) <= DROPS_BYTES:
            exchange(door, row, drop_bytes=1)
        if not row.is_alone:
            exchange(door, row.sandwiched)
    assert door.edge is not None
    assert door.edge.buffered_bytes == 0


def exchange(door: Door, row: Row, drop_bytes: int | None = None) -> None:
    """Send a row, and see that all is as the table says."""
    composed = door.composed[0]
    memory, known = composed.memory, len(composed.memory.records)
    asked = len(composed.transport.asked)
    with connect(door) as connection:
        connection.settimeout(PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send(connection, row.content, drop_bytes or len(row.content))
        received = receive(connection, row)
    statuses, _, rest = told_apart(received, bodiless=row.bodiless)
    assert (tuple(statuses), rest) == (row.statuses, b"")
    eventually(lambda: memory.began_count == len(memory.records))
    ended = [record.status for record in memory.records[known:]]
    # Without the fast lane, a request that breaks off is left, and refused: two of the core's.
    told = sorted(status for status in ended if status != CLIENT_GONE)
    assert told == sorted([*row.records, *([200] if row.fate == "kept" else [])])
    assert door.name != "fastlane" or len(ended) - len(told) <= (row.fate == "waits")
    assert "smuggled" not in composed.transport.asked[asked:]


def send(connection: socket.socket, content: bytes, drop_bytes: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for at in range(0, len(content), drop_bytes):
            connection.sendall(content[at : at + drop_bytes])


def receive(connection: socket.socket, row: Row) -> bytes:
    """All that comes, after the connection's fate was put to the test."""
    received = b""
    if row.fate != "closed":
        while len(told_apart(received, bodiless=row.bodiless)[0]) < len(row.statuses):
            received += read(connection)
    if row.fate == "kept":
        connection.sendall(PROBE)
        probed = b""
        while not told_apart(probed)[0]:
            probed += read(connection)
        assert told_apart(probed)[0] == [200]
        return received
    if row.fate == "waits":
        connection.shutdown(socket.SHUT_WR)
    while part := connection.recv(65536):
        received += part
    return received


def read(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    assert part, "closed"
    return part


@pytest.mark.parametrize("name", STRICT_DOORS)
def test_the_sweep_finds_who_is_slow_and_who_is_silent(name: str) -> None:
    """tests/server/test_strict_time.py has all the ways, with time told by hand."""
    bounds = {"sweep_every_s": 0.02, "read_timeout_s": 0.2, "idle_timeout_s": 0.2}
    with servers.strict(name, **bounds) as door, connect(door) as slow, connect(door) as silent:
        slow.sendall(b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert told_apart(read(slow))[0] == [408]
        assert slow.recv(1) == b""
        assert silent.recv(1) == b""
