"""A value that cannot leak by accident: not printed, formatted, pickled or timed.

It does not keep the value out of this process's memory; Python cannot.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, SupportsIndex

MASK = "<secret>"

_PART_CHARS = 12
"""Characters in a row that are taken for a part of the secret and not for chance."""


class Secret:
    """An upstream's token or password; only `reveal` gives it out."""

    __slots__ = ("_encoded", "_value")

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a secret must not be empty")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(
                "a secret must be printable ASCII without spaces or line breaks:"
                " it travels in an HTTP header"
            )
        self._value = value
        self._encoded = value.encode()

    def reveal(self) -> str:
        """The value itself: for the one place that sends it upstream."""
        return self._value

    def is_in(self, body: bytes) -> bool:
        """Whether a body holds the value: to keep an upstream's echo of it from travelling."""
        return self._encoded in body

    def has_part_in(self, text: str) -> bool:
        """Whether the text holds the value or a telling part of it, such as its first half."""
        length = min(len(self._value), _PART_CHARS)
        starts = range(len(self._value) - length + 1)
        return any(self._value[start : start + length] in text for start in starts)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time; a plain string is never equal."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._encoded, other._encoded)

    __hash__ = None  # type: ignore[assignment]  # a hash would be a fingerprint

    def __repr__(self) -> str:
        """Never the value."""
        return MASK

    __str__ = __repr__

    def __format__(self, format_spec: str, /) -> str:
        """Never the value, whatever the format."""
        return MASK

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError("a Secret cannot be pickled or copied")
