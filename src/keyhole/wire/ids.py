"""The identity of an exchange: a UUIDv7, which sorts by time (RFC 9562, section 5.7).

Time and randomness are arguments. Python has uuid.uuid7 of its own only from 3.14 on.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:;=+/@-]{0,127}")


_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""A hexadecimal digit with its upper two bits replaced by those of RFC 9562's variant."""


TAIL_DIGITS = 19
"""How many random hexadecimal digits a UUIDv7 takes; 74 of their 76 bits are used."""


def uuid7(unix_ms: int, tail: str) -> str:
    """The text form of a UUIDv7 made of milliseconds since 1970 and one of `uuid7_tails`."""
    return _time_part(unix_ms) + tail


def uuid7_tails(random_hex: str) -> list[str]:
    """The random ends of as many UUIDv7s as the digits are enough for; no two are to be the same.

    Made for many at once, because a request's id costs a third then.
    """
    return [
        f"{random_hex[at : at + 3]}-{_VARIANT[random_hex[at + 3]]}{random_hex[at + 4 : at + 7]}"
        f"-{random_hex[at + 7 : at + TAIL_DIGITS]}"
        for at in range(0, len(random_hex) - TAIL_DIGITS + 1, TAIL_DIGITS)
    ]


@lru_cache(maxsize=2)
def _time_part(unix_ms: int) -> str:
    digits = f"{unix_ms & (1 << 48) - 1:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def sane_request_id(value: bytes | None) -> str | None:
    """A client's own request id, if it can be logged as it stands; otherwise None."""
    if value is None or _SANE.fullmatch(value) is None:
        return None
    return value.decode("ascii")
