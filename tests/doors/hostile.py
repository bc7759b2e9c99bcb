"""The rows of golden/hostile_requests.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any, Literal

from doors.servers import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden" / "hostile_requests.toml"
HOST = b"Host: 127.0.0.1\r\n"
PROBE = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"


def call(text: str) -> bytes:
    """A request for a continuation of the text."""
    body = b'{"input": "%s"}' % text.encode()
    head = b"POST /generate HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n"
    return head % (HOST, len(body)) + body


@dataclass(frozen=True)
class Row:
    """What is sent, and what must become of it."""

    name: str
    content: bytes
    statuses: tuple[int, ...]
    fate: Literal["kept", "closed", "waits"]
    bodiless: tuple[int, ...]
    is_alone: bool
    """Whether it means something else between other requests."""

    def __str__(self) -> str:
        return self.name

    @property
    def records(self) -> list[int]:
        """The statuses of the requests that the core has ended, in no order."""
        return sorted(status for status in self.statuses if status >= 200)

    @property
    def sandwiched(self) -> Row:
        """The same between two good requests."""
        is_kept = self.fate == "kept"
        return Row(
            name=self.name,
            content=call("odd") + self.content + call("odd" if is_kept else "smuggled"),
            statuses=(200, *self.statuses, *((200,) if is_kept else ())),
            fate=self.fate,
            bodiless=tuple(place + 1 for place in self.bodiless),
            is_alone=False,
        )


def read_rows(door: str) -> list[Row]:
    """The table as it holds for a door."""
    rows = tomllib.loads(GOLDEN.read_text("utf-8"))["case"]
    return [_row(row, door) for row in rows if row.get("only") in {None, door}]


def _row(row: dict[str, Any], door: str) -> Row:
    row = row | (row.pop("asgi", {}) if door == "asgi-strict" else {})
    pieces = (
        part if isinstance(part, str) else part["text"] * part["times"] for part in row["send"]
    )
    return Row(
        name=row["name"],
        content="".join(pieces).encode("latin-1"),
        statuses=tuple(row["statuses"]),
        fate=row["fate"],
        bodiless=tuple(row.get("bodiless", ())),
        is_alone=row.get("alone", False) or row["fate"] == "waits",
    )
