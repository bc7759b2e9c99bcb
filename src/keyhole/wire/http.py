"""HTTP as the core sees it: a Head and a Reply at the door, an UpstreamRequest behind.

It does not parse or write HTTP; doors and transports do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from keyhole.catalog import Upstream

JSON = "application/json"


class Head(Struct, frozen=True, kw_only=True):
    """A client's request before its body."""

    method: str
    path: str
    """The raw path, percent-escapes and all, without the query."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Names in lower case, in the order they came, repeats included."""
    peer: str | None = None
    """The caller's IP address; None for a Unix socket."""

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header; `name` in lower case."""
        return [value for key, value in self.headers if key == name]

    def first(self, name: bytes) -> bytes | None:
        """The first value of a header, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Reply(Struct, kw_only=True):
    """What goes back through the door."""

    status: int
    headers: list[tuple[str, str]]
    """Names in lower case; content-length is the door's to add."""
    body: bytes = b""


Page = Callable[[Head], Reply]
"""A reply of the server's own, such as health and metrics: made at once, from the head alone."""


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """One request to one upstream; the transport adds the secret, and nobody else sees it."""

    upstream: Upstream
    path: str
    """Appended to the upstream's URL."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


class UpstreamResponse(Struct, frozen=True, kw_only=True):
    """A whole answer of an upstream."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of repeated ones the first."""
    body: bytes


class Timeouts(Struct, frozen=True, kw_only=True):
    """The bounds of one attempt, in seconds."""

    connect_s: float
    first_byte_s: float
    """From the start of the attempt to the first byte of the answer."""
    total_s: float
