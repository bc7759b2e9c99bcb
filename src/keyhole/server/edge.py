"""What all client connections of a worker share."""

from __future__ import annotations

from msgspec import Struct, field

from keyhole.exchange import Gateway
from keyhole.outbox import Outbox
from keyhole.server.heads import KnownHeads


class Edge(Struct, kw_only=True):
    """What all connections of a worker share: the core, the bounds, and what is buffered."""

    gateway: Gateway
    read_timeout_s: float
    """For a head, and then for a body, to arrive; and for a client to take its reply."""
    idle_timeout_s: float
    """How long a connection may be silent between requests."""
    max_buffered_bytes: int
    """Of the bodies of all requests that have not ended, together."""
    buffered_bytes: int = 0
    default_headers: list[tuple[bytes, bytes]] | None = None
    """uvicorn's own, such as the date, that `default_head` was written from."""
    default_head: bytes = b""
    known_heads: KnownHeads = field(default_factory=KnownHeads)
    outbox: Outbox = field(default_factory=Outbox)
