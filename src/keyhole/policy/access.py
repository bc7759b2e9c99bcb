"""Who may call while no keys exist, what needs which key once they do, and CORS.

While there are none: local callers, and no web page that was not named.

An open service on a loopback address can be reached by any page in the user's browser, in two
ways: by a request from the page's own origin to ours (then the browser sends `Origin`), and by
DNS rebinding, where the page's own name comes to point at 127.0.0.1 (then `Host` is that
name). So `Host` must name a loopback address, and an `Origin` must be ours or an allowed one.
What credential a caller sends is not looked at, and nothing of it travels on.
"""

from __future__ import annotations

import ipaddress
import re
from enum import Enum, auto
from functools import lru_cache

from keyhole.catalog import Access
from keyhole.errors import ClientError, Code
from keyhole.wire.http import Head

_EXPOSED = (
    "x-request-id, x-keyhole-model, x-keyhole-translated, retry-after, x-should-retry,"
    " x-error-code, x-error-message, ratelimit, ratelimit-policy,"
    " x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests,"
    " x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_ALWAYS_ALLOWED = ("authorization", "content-type", "x-api-key", "x-request-id")
_ALLOWED_IF_ASKED = re.compile(
    r"openai-(organization|project)|user-agent|idempotency-key|x-(use-cache|wait-for-model)"
    r"|x-stainless-[a-z-]{1,30}"
)
"""What the SDKs of OpenAI and Hugging Face send beside those; none of it goes on or is acted on,
but for the two of the hosted API."""
_MAX_ALLOWED = 20
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.\-]+)(?::([0-9]{1,5}))?", re.ASCII)


class Need(Enum):
    """What a request must show once keys have existed."""

    NOTHING = auto()
    KEY = auto()
    ADMIN = auto()
    """The admin key, also while there are no keys."""
    ADMIN_OR_LOCAL = auto()
    """The admin key, or a caller on this machine (`is_local_caller`)."""


OPEN_PATHS = frozenset({"/", "/key", "/health", "/health/live", "/health/ready"})
"""Static pages, and whether this process lives: they tell nothing of anybody."""
OPEN_PREFIX = "/page/"
ADMIN_PREFIX = "/admin/"


def need_of(head: Head) -> Need:
    """What a request must show; a path that is not known here needs a key, whatever it is.

    OPTIONS needs nothing, because browsers ask without a key before they send one; it tells
    which methods a path takes.
    """
    path, method = head.path, head.method
    if path.startswith(ADMIN_PREFIX):
        return Need.ADMIN
    if method == "OPTIONS":
        return Need.NOTHING
    if method in {"GET", "HEAD"}:
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return Need.NOTHING
        if path == "/metrics":
            return Need.ADMIN_OR_LOCAL
    return Need.KEY


def is_local_caller(head: Head, access: Access) -> bool:
    """Whether a request comes from this machine, and from no web page that was not named."""
    try:
        _check_local_caller(head, access)
    except ClientError:
        return False
    return True


def check_caller(head: Head, access: Access) -> None:
    """Raise ClientError (403) for a caller who may not come in."""
    if access.is_local_only:
        _check_local_caller(head, access)


def _check_local_caller(head: Head, access: Access) -> None:
    if head.peer is not None and not is_loopback(head.peer):
        raise ClientError(
            Code.CALLER_NOT_LOCAL,
            "Only callers on this machine are served, because no keys exist.",
            status=403,
        )
    if _is_forwarded(head):
        raise ClientError(
            Code.CALLER_NOT_LOCAL,
            "A proxy passes on a caller from another machine, and no keys exist.",
            status=403,
        )
    host = _single(head, b"host")
    if host is None or not is_loopback(_host_name(host)):
        raise ClientError(
            Code.HOST_NOT_ALLOWED,
            "The Host header does not name this machine.",
            status=403,
            hint="Use 127.0.0.1 or localhost as the address.",
        )
    origin = head.first(b"origin")
    if origin is not None and not _is_origin_allowed(head, host, access):
        raise ClientError(
            Code.ORIGIN_NOT_ALLOWED,
            "Web pages of that origin may not call Keyhole.",
            status=403,
            hint="The operator can allow one with server.allowed_origins.",
        )


def cors_headers(head: Head, access: Access) -> list[tuple[str, str]]:
    """What tells a browser that a page of an allowed origin may read the reply."""
    if not access.allowed_origins:
        return []
    origin = _single(head, b"origin")
    if origin is None or origin not in access.allowed_origins:
        return [("vary", "Origin")]
    return [
        ("vary", "Origin"),
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", _EXPOSED),
    ]


def preflight_headers(
    head: Head, access: Access, methods: tuple[str, ...]
) -> list[tuple[str, str]]:
    """What `cors_headers` lacks for the answer to a preflight; empty where it is none."""
    origin = _single(head, b"origin")
    if origin not in access.allowed_origins or head.first(b"access-control-request-method") is None:
        return []
    return [
        ("access-control-allow-methods", ", ".join(methods)),
        ("access-control-allow-headers", ", ".join([*_ALWAYS_ALLOWED, *_asked_for(head)])),
        ("access-control-max-age", "600"),
    ]


def _asked_for(head: Head) -> list[str]:
    """The headers that a page wants to send and may; a browser names them in lower case."""
    asked = _single(head, b"access-control-request-headers") or ""
    names = (name.strip().lower() for name in asked.split(","))
    return [name for name in names if _ALLOWED_IF_ASKED.fullmatch(name)][:_MAX_ALLOWED]


@lru_cache(maxsize=256)
def is_loopback(host: str | None) -> bool:
    """Whether a host name or address can only mean this machine.

    Remembered, because callers send the same few again and again, and reading an address costs
    as much as reading a request.
    """
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_forwarded(head: Head) -> bool:
    """Whether a proxy on this machine says that its own caller is elsewhere.

    What such a header says is believed only against the caller: leaving it out is the proxy's
    business, so a proxy that does lets everybody in.
    """
    if head.first(b"forwarded") is not None:
        return True
    told = [*head.values(b"x-forwarded-for"), *head.values(b"x-real-ip")]
    addresses = (part.strip() for value in told for part in value.decode("latin-1").split(","))
    return not all(is_loopback(address) for address in addresses)


def _single(head: Head, name: bytes) -> str | None:
    """A header that came exactly once, in ASCII; otherwise None."""
    values = head.values(name)
    if len(values) != 1 or not values[0].isascii():
        return None
    return values[0].decode("ascii")


@lru_cache(maxsize=256)
def _host_name(host: str) -> str | None:
    found = _HOST.fullmatch(host)
    return found[1].lower() if found else None


def _is_origin_allowed(head: Head, host: str, access: Access) -> bool:
    origin = _single(head, b"origin")
    if origin is None:
        return False
    return origin in access.allowed_origins or origin in {f"http://{host}", f"https://{host}"}
