"""HTTP as the core sees it: a Head and a Reply at the door, an UpstreamRequest behind.

It does not parse or write HTTP; doors and transports do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from keyhole.catalog import Upstream
from keyhole.wire.keys import Key

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
    shows_key_in_query: bool = False
    """Whether the query, which is not kept, held something like a key."""

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header; `name` in lower case."""
        return [value for key, value in self.headers if key == name]

    def first(self, name: bytes) -> bytes | None:
        """The first value of a header, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Sink(Protocol):
    """A door's end of a stream. Neither call blocks or raises."""

    def send(self, data: bytes) -> None:
        """Some of the body, never empty."""
        ...

    def end(self, data: bytes) -> None:
        """The last of the body, possibly empty."""
        ...


class ReplyStream(Protocol):
    """A body that comes as it is made. The door calls `start` once, or `cancel`."""

    def start(self, sink: Sink, first: bytes) -> None:
        """Send `first`, which is the reply's body, and then what comes; maybe all at once."""
        ...

    def pause(self) -> None:
        """The client does not take what is sent; what was sent before this is the door's."""
        ...

    def resume(self) -> None:
        """It does again."""
        ...

    def cancel(self) -> None:
        """The client has gone; nothing where the body has ended."""
        ...


class Reply(Struct, kw_only=True, gc=False):
    """What goes back through the door."""

    status: int
    headers: list[tuple[str, str]]
    """Names in lower case; content-length is the door's to add."""
    body: bytes = b""
    stream: ReplyStream | None = None
    """What comes behind `body`, for `stream.start`; None where the body is whole."""


Page = Callable[[Head, Key | None], Reply]
"""A reply of the server's own, such as health and metrics: made at once, from the head, and the
key that it was let in with."""


class UpstreamRequest(Struct, frozen=True, kw_only=True, gc=False):
    """One request to one upstream; the transport adds the secret, and nobody else sees it."""

    upstream: Upstream
    path: str
    """Appended to the upstream's URL."""
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"


class UpstreamResponse(Struct, frozen=True, gc=False):
    """A whole answer of an upstream."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of repeated ones the first."""
    body: bytes


class Timeouts(Struct, frozen=True, gc=False):
    """The bounds of one attempt, in seconds."""

    connect_s: float
    first_byte_s: float
    """From the start of the attempt to the first byte of the answer."""
    total_s: float
