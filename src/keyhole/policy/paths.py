"""Which dialect or page a path belongs to, and which methods it takes; default is deny.

Paths are compared as they came: no decoding, no merging of slashes, no trailing slash added,
so that two readers can never disagree on what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from keyhole.dialects.base import ClientDialect
from keyhole.errors import ClientError, Code
from keyhole.wire.http import Head, Page

CALL_METHODS = ("OPTIONS", "POST")
PAGE_METHODS = ("GET", "HEAD", "OPTIONS")
BOTH_METHODS = ("GET", "HEAD", "OPTIONS", "POST")


class Place(Struct, frozen=True):
    """What stands at a path: calls of a dialect, a page, both, or nothing."""

    dialect: ClientDialect
    """Whose words an error at this path is written in."""
    methods: tuple[str, ...] = ()
    """What it takes, for `Allow`; empty where nothing stands."""
    page: Page | None = None
    """What answers a GET."""
    other: Other | None = None
    """A second dialect that shares the path."""


class Other(Struct, frozen=True):
    """A dialect that shares a path with another one; the body tells which is meant."""

    is_meant: Callable[[bytes], bool]
    place: Place


class Paths:
    """Every path that is served."""

    def __init__(
        self,
        dialects: Iterable[ClientDialect],
        pages: Mapping[str, Page],
        default: ClientDialect,
        *,
        prefixes: Mapping[str, Page] | None = None,
        others: Mapping[str, tuple[Callable[[bytes], bool], ClientDialect]] | None = None,
        words: Mapping[str, ClientDialect] | None = None,
        questions: Iterable[ClientDialect] = (),
    ) -> None:
        """`prefixes` are pages below which every path is theirs.

        `questions` are the dialects whose calls come by GET and have no body.

        `others` says by path which dialect is meant where the body says so, beside the one
        whose path it is; `words` in which dialect errors are written below a path.
        """
        self._nowhere = Place(default)
        self._words = {prefix: Place(dialect) for prefix, dialect in (words or {}).items()}
        self._places: dict[str, Place] = {}
        self._prefixes: dict[str, Place] = {}
        for dialect in dialects:
            for path in dialect.paths:
                self._places[path] = Place(dialect, CALL_METHODS)
            for prefix in dialect.prefixes:
                self._prefixes[prefix] = Place(dialect, CALL_METHODS)
        for dialect in questions:
            self._places.update(dict.fromkeys(dialect.paths, Place(dialect, PAGE_METHODS)))
        for path, (is_meant, dialect) in (others or {}).items():
            other = Other(is_meant, Place(dialect, CALL_METHODS))
            self._places[path] = replace(self._places[path], other=other)
        for path, page in pages.items():
            there = self._places.get(path)
            if there is None:
                self._places[path] = Place(self._nothing_at(path).dialect, PAGE_METHODS, page)
            else:
                self._places[path] = replace(there, methods=BOTH_METHODS, page=page)
        for prefix, page in (prefixes or {}).items():
            self._prefixes[prefix] = Place(self._nothing_at(prefix).dialect, PAGE_METHODS, page)

    def takes_calls(self, path: str) -> bool:
        """Whether calls of a dialect are taken there."""
        return "POST" in self.find(path).methods

    def find(self, path: str) -> Place:
        """The place at a path; where nothing stands, errors are in the default dialect."""
        place = self._places.get(path)
        if place is not None:
            return place
        for prefix, below in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return below
        return self._nothing_at(path)

    def _nothing_at(self, path: str) -> Place:
        return next(
            (place for prefix, place in self._words.items() if path.startswith(prefix)),
            self._nowhere,
        )


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
