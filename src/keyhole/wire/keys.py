"""A virtual key as everybody but its holder sees it: never the secret, only its digest.

It does not decide anything: `policy.credentials` says what a request may do with a key, and
`policy.limits` what it has left.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

PREFIX = "kh_"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_CHARS = 43
"""Base 62: 256 bits."""
SECRET_BYTES = 32
CHECKSUM_CHARS = 6
"""The CRC-32 of the prefix and the secret, in base 62: tells a mistyped key from an unknown one."""

KEY_CHARS = len(PREFIX) + SECRET_CHARS + CHECKSUM_CHARS

Period = Literal["hour", "day", "month"]


class Budget(Struct, frozen=True):
    """How much may be spent, in each period or, without one, in total."""

    amount: int
    """Micro-dollars or tokens."""
    unit: Literal["microusd", "tokens"] = "microusd"
    per: Period | None = None
    """Of UTC: a day begins at midnight, a month on its first day."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a key, a group or an upstream may use; None does not limit."""

    rpm: int | None = None
    """Requests in a minute of UTC."""
    tpm: int | None = None
    """Tokens, of prompts and answers, in a minute of UTC."""
    concurrency: int | None = None
    """Requests under way at once."""
    budget: Budget | None = None

    @property
    def are_none(self) -> bool:
        """Whether nothing is limited."""
        return self == NO_LIMITS


NO_LIMITS = Limits()


class Group(Struct, frozen=True, kw_only=True):
    """Keys that share limits: a class, a team."""

    name: str
    limits: Limits = NO_LIMITS


class Key(Struct, frozen=True, kw_only=True):
    """A virtual key."""

    id: str
    """`key_` and 16 hexadecimal digits: safe to show and to log."""
    name: str
    digest: bytes
    """The SHA-256 of the whole secret, 32 bytes; no credential, and in no reply."""
    group: Group | None = None
    models: tuple[str, ...] = ()
    """Public names and patterns that it may use; empty for all."""
    limits: Limits = NO_LIMITS
    labels: Mapping[str, str] = {}
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    rotated_to: str | None = None
    """The id of its successor; it lives on until `expires_at_ms`."""


class LiveKey(Struct, weakref=True, eq=False):
    """A key as a worker holds it: one object for everybody who uses it, kept up to date.

    Whoever keeps it, for a stream or a head that comes again, compares one number with the time
    to learn whether the key still lets in. `key` is replaced where its limits change.
    """

    key: Key | None
    """None where no key is needed, because there never was one."""
    good_until_ms: float
    """Milliseconds since 1970; infinity without an end, 0 once it is revoked, removed or over."""


def checksum(body: str) -> str:
    """The six last characters of a key, from all that stand before them."""
    number, digits = zlib.crc32(body.encode()), []
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def secret_from(random_bytes: bytes) -> str:
    """A key's secret, from at least 32 bytes that nobody can guess; ValueError for fewer."""
    if len(random_bytes) < SECRET_BYTES:
        raise ValueError(f"a key needs {SECRET_BYTES} random bytes, not {len(random_bytes)}")
    number, digits = int.from_bytes(random_bytes), []
    for _ in range(SECRET_CHARS):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    body = PREFIX + "".join(reversed(digits))
    return body + checksum(body)


def has_form_of_key(text: str) -> bool:
    """Whether it begins and is as long as a key, whatever its checksum says."""
    body = text.removeprefix(PREFIX)
    is_long_enough = len(body) == SECRET_CHARS + CHECKSUM_CHARS
    return text.startswith(PREFIX) and is_long_enough and set(body) <= _ALPHABET


def is_well_typed(text: str) -> bool:
    """Whether it is a key whose checksum is right: it may be unknown, but it is not mistyped."""
    return has_form_of_key(text) and checksum(text[:-CHECKSUM_CHARS]) == text[-CHECKSUM_CHARS:]


def digest_of(secret: bytes) -> bytes:
    """What is stored of a key, and what it is looked up by."""
    return hashlib.sha256(secret).digest()


_ALPHABET = frozenset(ALPHABET)
