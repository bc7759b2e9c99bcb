"""Keys for tests."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from keyhole.wire.keys import Key, digest_of, secret_from

BEGAN_MS = 1_790_000_000_000


def secret(number: int) -> str:
    """A key's secret, the same each time."""
    return secret_from(sha256(b"%d" % number).digest())


def key(number: int, **fields: Any) -> Key:
    """The key with that secret."""
    known: dict[str, Any] = {
        "id": f"key_{number:016x}",
        "name": f"key-{number}",
        "digest": digest_of(secret(number).encode()),
        "created_at_ms": BEGAN_MS,
    }
    return Key(**known | fields)
