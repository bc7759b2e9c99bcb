"""The identity of an exchange: a UUIDv7, which sorts by time (RFC 9562, section 5.7).

Time and randomness are arguments. Python has uuid.uuid7 of its own only from 3.14 on.
"""

from __future__ import annotations

import re

_SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:;=+/@-]{0,127}")


def uuid7(unix_ms: int, random_bits: int) -> str:
    """The text form of a UUIDv7 made of milliseconds since 1970 and 74 random bits."""
    value = (unix_ms & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random_bits & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def sane_request_id(value: bytes | None) -> str | None:
    """A client's own request id, if it can be logged as it stands; otherwise None."""
    if value is None or _SANE.fullmatch(value) is None:
        return None
    return value.decode("ascii")
