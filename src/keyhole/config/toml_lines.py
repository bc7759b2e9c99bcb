"""Finds the line of every key of a TOML document that tomllib has already accepted.

tomllib gives no positions, and a message without a line sends its reader searching. This is not
a parser: it trusts that the document is valid, reads no values, and finds only where keys and
the items of arrays begin. It follows TOML 1.0 (https://toml.io/en/v1.0.0), and takes the line
breaks and trailing commas that 1.1 allows inside inline tables.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping

Path = tuple[str | int, ...]
"""Where a value is: keys, and the index of an item in an array or an array of tables."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# Up to two quotes before the closing three belong to the text.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?""""{0,2}'
    r"|'''.*?''''{0,2}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
# A number, a date or a word; a date and its time may have a space between them.
_SCALAR = re.compile(r"[^,\]}#\n]+")


def find_lines(document: str) -> Mapping[Path, int]:
    """The line, from 1, on which each table, key and array item is first named.

    The document must be one that tomllib accepts; the answer to any other is undefined.
    """
    return _Finder(document).find()


class _Finder:
    def __init__(self, document: str) -> None:
        self._text = document
        self._at = 0
        self._line_ends = [found.start() for found in re.finditer("\n", document)]
        self._lines: dict[Path, int] = {}
        self._tables_in: dict[Path, int] = {}
        """How many tables each array of tables has so far."""

    def find(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._next_is("["):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> Path:
        is_array = self._text.startswith("[[", self._at)
        line = self._line()
        self._at += 2 if is_array else 1
        *parents, last = self._key()
        self._at += 2 if is_array else 1
        path: Path = ()
        for key in parents:
            path = self._newest((*path, key), line)
        path = (*path, last)
        if not is_array:
            return self._newest(path, line)
        self._lines.setdefault(path, line)
        self._tables_in[path] = self._tables_in.get(path, 0) + 1
        return self._newest(path, line)

    def _newest(self, path: Path, line: int) -> Path:
        """The table at a path of a header; of an array of tables, the last one so far."""
        self._lines.setdefault(path, line)
        if path in self._tables_in:
            path = (*path, self._tables_in[path] - 1)
            self._lines.setdefault(path, line)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[str]:
        """The parts of a key, and go to what follows it."""
        parts = []
        while True:
            self._skip(_SPACE)
            if self._next_is('"') or self._next_is("'"):
                parts.append(_unquote(self._take(_STRING)))
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip(_SPACE)
            if not self._next_is("."):
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        if self._next_is("["):
            self._array(path)
        elif self._next_is("{"):
            self._inline_table(path)
        elif self._next_is('"') or self._next_is("'"):
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self._at += 1
        count = 0
        while not self._ends("]"):
            self._lines.setdefault((*path, count), self._line())
            self._value((*path, count))
            count += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while not self._ends("}"):
            self._pair(path)

    def _ends(self, bracket: str) -> bool:
        """Whether an array or inline table ends here; otherwise go to its next item."""
        self._skip(_BLANK)
        if self._next_is(","):
            self._at += 1
            self._skip(_BLANK)
        if self._next_is(bracket):
            self._at += 1
            return True
        return self._at >= len(self._text)

    def _next_is(self, character: str) -> bool:
        return self._text.startswith(character, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:  # only in a document that tomllib refuses
            self._at = len(self._text)
            return ""
        self._at = found.end()
        return found[0]

    def _line(self) -> int:
        return bisect_left(self._line_ends, self._at) + 1


def _unquote(key: str) -> str:
    """What a quoted key says; its escapes are tomllib's to read."""
    (plain,) = tomllib.loads(f"{key} = 0")
    return plain
