"""A client that sends exactly the bytes it is told to, and reads one reply with http.client."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from doors.servers import Door

TIMEOUT_S = 90
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

# What servers add of their own, or may: dates, framing of the connection, their name.
_THE_SERVERS_OWN = {"date", "server", "connection", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Answer:
    """A reply, with its id taken out so that it can be compared."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """In lower case and sorted, without the servers' own and without x-request-id."""
    body: bytes
    """With ID in place of the request's id."""
    length: int
    """Of the body as it came."""
    request_id: str
    server_headers: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


def connect(door: Door) -> socket.socket:
    return socket.create_connection(door.address, timeout=TIMEOUT_S)


def request_bytes(
    door: Door,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    host: str | None = "127.0.0.1",
) -> bytes:
    """A request with a Host and, where it has a body, a Content-Length unless it is framed."""
    lines = [f"{method} {door.prefix}{path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    names = {name.lower() for name, _ in headers}
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + (body or b"")


class Replies:
    """Several replies on one connection: http.client reads ahead, so they need one buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")
        self.read, self.readline = self._file.read, self._file.readline
        self.readinto = self._file.readinto

    def makefile(self, mode: str) -> Replies:
        return self

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Nothing: it is called after each reply, and the connection goes on."""

    def end(self) -> None:
        self._file.close()


def read_answer(connection: socket.socket | Replies, method: str = "POST") -> Answer:
    """The next reply on the connection."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        body = response.read()
    finally:
        response.close()
    headers = [(name.lower(), value) for name, value in response.getheaders()]
    ids = [value for name, value in headers if name == "x-request-id"]
    assert len(ids) == 1, "every reply has exactly one x-request-id"
    assert UUID7.fullmatch(ids[0]), "x-request-id is a UUIDv7"
    ours = [item for item in headers if item[0] not in {*_THE_SERVERS_OWN, "x-request-id"}]
    return Answer(
        status=response.status,
        headers=tuple(sorted(ours)),
        body=body.replace(ids[0].encode(), b"ID"),
        length=len(body),
        request_id=ids[0],
        server_headers=tuple(item for item in headers if item[0] in _THE_SERVERS_OWN),
    )


def ask(
    door: Door,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    host: str | None = "127.0.0.1",
) -> Answer:
    """One request on a connection of its own."""
    with connect(door) as connection:
        connection.sendall(request_bytes(door, method, path, tuple(headers), body, host=host))
        return read_answer(connection, method)


def ask_status(
    door: Door,
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    host: str | None = "127.0.0.1",
) -> int:
    """The status alone, of a reply that need not be ours."""
    with connect(door) as connection:
        connection.sendall(request_bytes(door, method, path, tuple(headers), host=host))
        with http.client.HTTPResponse(connection, method=method) as response:
            response.begin()
            return response.status


def generate(door: Door, value: Any, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """POST /generate with a JSON value."""
    body = json.dumps(value).encode()
    return ask(door, "POST", "/generate", [("Content-Type", "application/json"), *headers], body)


def chunked(*parts: bytes) -> bytes:
    """The parts as a chunked body."""
    written = io.BytesIO()
    for part in (*parts, b""):
        written.write(b"%x\r\n%s\r\n" % (len(part), part))
    return written.getvalue()
