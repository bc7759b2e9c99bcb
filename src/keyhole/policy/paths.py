"""Which dialect or page a path belongs to, and which methods it takes; default is deny.

Paths are compared as they came: no decoding, no merging of slashes, no trailing slash added,
so that two readers can never disagree on what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from keyhole.dialects.base import ClientDialect
from keyhole.errors import ClientError, Code
from keyhole.wire.http import Head, Page

CALL_METHODS = ("OPTIONS", "POST")
PAGE_METHODS = ("GET", "HEAD", "OPTIONS")


class Place(Struct, frozen=True):
    """What stands at a path: calls of a dialect, a page, or nothing."""

    dialect: ClientDialect
    """Whose words an error at this path is written in."""
    methods: tuple[str, ...] = ()
    """What it takes, for `Allow`; empty where nothing stands."""
    page: Page | None = None


class Paths:
    """Every path that is served."""

    def __init__(
        self, dialects: Iterable[ClientDialect], pages: Mapping[str, Page], default: ClientDialect
    ) -> None:
        self._places = {path: Place(default, PAGE_METHODS, page) for path, page in pages.items()}
        for dialect in dialects:
            self._places |= {path: Place(dialect, CALL_METHODS) for path in dialect.paths}
        self._nowhere = Place(default)

    def takes_calls(self, path: str) -> bool:
        """Whether calls of a dialect are taken there."""
        return self.find(path).methods is CALL_METHODS

    def find(self, path: str) -> Place:
        """The place at a path; where nothing stands, errors are in the default dialect."""
        return self._places.get(path, self._nowhere)


def check_method(head: Head, place: Place) -> None:
    """Raise ClientError: 404 where nothing stands, 405 for a method that is not taken."""
    if not place.methods:
        raise ClientError(
            Code.PATH_NOT_FOUND,
            "There is nothing at this path.",
            status=404,
            hint="Text is generated at POST /generate.",
        )
    if head.method not in place.methods:
        allowed = ", ".join(place.methods)
        raise ClientError(
            Code.METHOD_NOT_ALLOWED,
            f"This path takes only {allowed}.",
            status=405,
            allow=place.methods,
        )
