"""The identity of an exchange: a UUIDv7, which sorts by time (RFC 9562, section 5.7).

Time and randomness are arguments. Python has uuid.uuid7 of its own only from 3.14 on.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:;=+/@-]{0,127}")


_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""A hexadecimal digit with its upper two bits replaced by those of RFC 9562's variant."""


def uuid7(unix_ms: int, random_hex: str) -> str:
    """The text form of a UUIDv7 made of milliseconds since 1970 and 19 random hexadecimal digits.

    74 of their 76 bits are used.
    """
    random_a, digit = random_hex[:3], _VARIANT[random_hex[3]]
    return f"{_time_part(unix_ms)}{random_a}-{digit}{random_hex[4:7]}-{random_hex[7:19]}"


@lru_cache(maxsize=2)
def _time_part(unix_ms: int) -> str:
    digits = f"{unix_ms & (1 << 48) - 1:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def sane_request_id(value: bytes | None) -> str | None:
    """A client's own request id, if it can be logged as it stands; otherwise None."""
    if value is None or _SANE.fullmatch(value) is None:
        return None
    return value.decode("ascii")
