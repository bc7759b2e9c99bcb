"""What is told about a request once it is over: for the log, the metrics, and `keyhole explain`.

It never holds a prompt, an answer or a secret.
"""

from __future__ import annotations

from msgspec import Struct

CLIENT_GONE = 499
"""The status of a request whose client left first; nginx's number for it."""


class AccessRecord(Struct, gc=False):
    """One client request, filled in as the exchange learns more."""

    request_id: str
    began_unix_ms: int
    """When its head had come, in milliseconds since 1970, UTC."""
    method: str
    path: str
    """As it came, but for what looks like a key."""
    client_request_id: str | None = None
    """The client's own x-request-id, if it sent a sane one."""
    status: int = 0
    code: str | None = None
    """The error's code, if it was refused or failed."""
    key: str | None = None
    """The name of the key that it was let in with."""
    model: str | None = None
    """The route that answered."""
    public_model: str = ""
    """The model's name as the client gave it, or else the route's; for the answer."""
    upstream: str | None = None
    target: str | None = None
    """UPSTREAM/MODEL of the last attempt."""
    is_revoked: bool = False
    """Whether its key let in no more while it ran."""
    attempts: int = 0
    duration_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    usage: tuple[int, int] | None = None
    """Prompt and completion tokens, where the upstream said."""


class Refusal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that was refused before it reached an upstream."""

    exchange_id: str
    at_ms: int
    """Milliseconds since 1970, UTC."""
    status: int
    code: str
    """Of errors.Code."""
    message: str
    """As the client was told it."""
    hint: str | None = None
    path: str = ""
    key_id: str | None = None
    key: str | None = None
    """The key's name."""
    group: str | None = None
    dialect: str | None = None
    model: str | None = None
    """The route's public name, where it had been found."""
