"""What only the ASGI door can see or do: clients that hang up, and the end of a connection."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from doors.client import Replies, chunked, connect, generate, read_answer, request_bytes
from doors.composed import ODD_JSON, Composed
from doors.leaks import eventually
from doors.servers import ASGI_DOORS, STRICT_DOORS, Door

pytestmark = pytest.mark.parametrize("running", ASGI_DOORS, indirect=True, scope="session")


@pytest.fixture
def asgi(door: Door) -> Door:
    return door


@pytest.fixture
def composed(asgi: Door) -> Composed:
    return asgi.composed[0]


def reset(connection: socket.socket) -> None:
    """Close at once, with a reset instead of a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_hangs_up_cancels_the_attempt(
    asgi: Door, composed: Composed, is_reset: bool
) -> None:
    cancelled, known = composed.transport.cancelled, len(composed.memory.records)
    connection = connect(asgi)
    connection.sendall(request_bytes(asgi, "POST", "/generate", body=b'{"input": "wait"}'))
    eventually(lambda: composed.transport.inside == 1)
    reset(connection) if is_reset else connection.close()
    eventually(lambda: len(composed.memory.records) > known)
    assert composed.transport.cancelled == cancelled + 1
    assert composed.transport.inside == 0
    record = composed.memory.records[-1]
    assert (record.status, record.attempts, record.upstream) == (499, 1, "hf")


@pytest.mark.parametrize(
    "started",
    [
        (("Content-Length", "100"),),
        (("Transfer-Encoding", "chunked"),),
    ],
    ids=["length", "chunked"],
)
def test_a_client_that_hangs_up_within_its_body_is_recorded(
    asgi: Door, composed: Composed, started: tuple[tuple[str, str], ...]
) -> None:
    known = len(composed.memory.records)
    with connect(asgi) as connection:
        connection.sendall(request_bytes(asgi, "POST", "/generate", started) + b"5\r\n{")
        eventually(lambda: composed.memory.began_count > len(composed.memory.records))
    eventually(lambda: len(composed.memory.records) > known)
    record = composed.memory.records[-1]
    assert (record.status, record.attempts) == (499, 0)


def test_every_request_that_began_has_ended_once(asgi: Door, composed: Composed) -> None:
    for wanted in ("odd", "crash", "status 503", ["odd"], None):
        generate(asgi, {"input": wanted})
    assert composed.memory.began_count == len(composed.memory.records)
    ids = [record.request_id for record in composed.memory.records]
    assert len(set(ids)) == len(ids)


def closes(connection: socket.socket) -> bool:
    """Whether the server hangs up without another reply."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param((("Content-Length", "99999999"),), b"", 413, id="announced"),
        pytest.param(
            (("Transfer-Encoding", "chunked"),), chunked(*[b"x" * 65536] * 5), 413, id="chunked"
        ),
        pytest.param(
            (
                ("Expect", "100-continue"),
                ("Content-Length", "9"),
                ("Origin", "https://evil.example"),
            ),
            b"",
            403,
            id="refused before its body was asked for",
        ),
    ],
)
def test_a_connection_ends_where_a_body_was_left_unread(
    asgi: Door, headers: tuple[tuple[str, str], ...], body: bytes, status: int
) -> None:
    with connect(asgi) as connection:
        connection.sendall(request_bytes(asgi, "POST", "/generate", headers, body))
        answer = read_answer(connection)
        assert answer.status == status
        assert ("connection", "close") in answer.server_headers
        assert closes(connection)


def test_nothing_runs_behind_an_upgrade(asgi: Door, composed: Composed) -> None:
    """What stands behind `Connection: Upgrade` is never a second request."""
    known = len(composed.memory.records)
    smuggled = request_bytes(asgi, "POST", "/generate", body=b'{"input": "odd"}')
    headers = (
        ("Connection", "Upgrade"),
        ("Upgrade", "h2c"),
        ("Content-Length", str(len(smuggled))),
    )
    with connect(asgi) as connection:
        connection.sendall(request_bytes(asgi, "POST", "/generate", headers, smuggled))
        answer = read_answer(connection)
        assert answer.status == 400
        if asgi.name in STRICT_DOORS:  # which have read it as the body that it is
            connection.sendall(request_bytes(asgi, "GET", "/health/live"))
            assert read_answer(connection, "GET").status == 200
            known += 1
        else:
            assert ("connection", "close") in answer.server_headers
            assert closes(connection)
    assert len(composed.memory.records) == known + 1


def test_pipelined_requests_are_answered_in_their_order(asgi: Door) -> None:
    first = request_bytes(asgi, "POST", "/generate", body=b'{"input": "odd"}')
    second = request_bytes(asgi, "POST", "/generate", body=b"{}")
    third = request_bytes(asgi, "GET", "/health/live")
    with connect(asgi) as connection:
        connection.sendall(first + second + third)
        replies = Replies(connection)
        assert read_answer(replies).body == ODD_JSON
        assert read_answer(replies).status == 400
        assert read_answer(replies, "GET").json == {"status": "ok"}
        replies.end()


def test_a_draining_process_says_so(asgi: Door, composed: Composed) -> None:
    with connect(asgi) as connection:
        for is_draining, status, word in ((True, 503, "draining"), (False, 200, "ready")):
            composed.readiness.is_draining = is_draining
            connection.sendall(request_bytes(asgi, "GET", "/health/ready"))
            answer = read_answer(connection, "GET")
            assert (answer.status, answer.json) == (status, {"status": word})
