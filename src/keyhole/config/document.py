"""A configuration file as TOML: its text read, its sections checked, its problems with lines.

It does not know what the sections mean; that is `settings`, `upstreams` and `routes`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from keyhole.config.toml_lines import Path as KeyPath
from keyhole.config.toml_lines import find_lines
from keyhole.config.values import HIDDEN, Check, Wrong, closest, meant, not_a_table, quoted, shown
from keyhole.errors import SetupError

_MAX_FILE_BYTES = 1024 * 1024
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# tomllib shows the section's path as a tuple.
_TWICE = re.compile(r"Cannot declare \((.*)\) twice")
_QUOTED = re.compile(r"'([^']*)'")
_UNQUOTED_NAME = re.compile(r"\s*\[\s*(route|upstream|price)\s*\.[^\"'\]]*[/*:@+]")


class Problem(Struct, frozen=True):
    """One thing that is wrong with the configuration."""

    file: str
    """The file as it was named; or the flag or variable that was wrong."""
    line: int
    """From 1; 0 where there are no lines."""
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        """On one line: FILE:LINE: message (hint)."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(SetupError):
    """Every problem of a configuration at once, in the order of its lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))


class Document:
    """A file's tables, and the problems that were found in them so far."""

    def __init__(self, name: str, tables: Mapping[str, Any], lines: Mapping[KeyPath, int]) -> None:
        self.name = name
        self.tables = tables
        self.problems: list[Problem] = []
        self._lines = lines
        self._explained: set[KeyPath] = set()
        """Tables and keys that are missing because of a problem that is told already."""

    def blame(self, path: KeyPath, message: str, hint: str | None = None) -> None:
        """Add a problem with what stands at a path, or with what it stands in."""
        line, known = 0, path
        while known and not (line := self._lines.get(known, 0)):
            known = known[:-1]
        place = spell(path)
        message = f"{place}: {message}" if place else message
        self.problems.append(Problem(self.name, line, message, hint))

    def blame_missing(self, path: KeyPath, key: str, hint: str) -> None:
        """Add that a table lacks a key, unless another problem explains it."""
        if path not in self._explained and (*path, key) not in self._explained:
            self.blame(path, f"{key} is missing", hint)

    def blame_wrong(self, path: KeyPath, wrong: Wrong) -> None:
        """Add what a check found wrong with the value at a path."""
        item = () if wrong.where is None else (wrong.where,)
        self.blame((*path, *item), wrong.message, wrong.hint)

    def section(self, path: KeyPath, table: object, checks: Mapping[str, Check]) -> dict[str, Any]:
        """The values of a table that pass their checks; the others become problems."""
        good: dict[str, Any] = {}
        if not isinstance(table, dict):
            self.blame_wrong(path, not_a_table(table, f"write [{spell(path)}] above its settings"))
            return good
        for key, value in table.items():
            if key not in checks:
                self._blame_unknown(path, key, value, checks)
                continue
            try:
                good[key] = checks[key](value)
            except* Wrong as group:
                for wrong in group.exceptions:
                    if isinstance(wrong, Wrong):
                        self.blame_wrong((*path, key), wrong)
        return good

    def named(self, section: str) -> dict[str, Any]:
        """The tables [section.NAME], by name; anything else there becomes a problem."""
        tables = self.tables.get(section, {})
        hint = f"write [{section}.NAME] above its settings"
        if not isinstance(tables, dict):
            self.blame_wrong((section,), not_a_table(tables, hint))
            return {}
        for name, table in tables.items():
            if not isinstance(table, dict):
                self.blame_wrong((section, name), not_a_table(table, hint))
        return {name: table for name, table in tables.items() if isinstance(table, dict)}

    def _blame_unknown(
        self, path: KeyPath, key: str, value: object, checks: Mapping[str, Check]
    ) -> None:
        hint = meant(key, checks)
        if close := closest(key, checks):
            self._explained.add((*path, close))
        if len(path) == 2 and isinstance(value, dict):
            self._explained.add(path)
            hint = f'a name with a dot stands in quotes: [{path[0]}."{path[1]}.{key}"]'
        self.blame((*path, key), "unknown key", hint)


def read_document(path: Path, *, name: str, named_by: str | None) -> Document:
    """Read a file; raises ConfigError with a single problem where it is no TOML document.

    `named_by` is the flag or variable that named the file, to blame where it cannot be read.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            [Problem(named_by or name, 0, f"there is no file {quoted(name)}")]
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read {quoted(name)}: {reason}"
        raise ConfigError([Problem(named_by or name, 0, message)]) from None
    if len(content) > _MAX_FILE_BYTES:
        message = f"the file is larger than {_MAX_FILE_BYTES} bytes; that is no configuration"
        raise ConfigError([Problem(name, 0, message)])
    return _parse(content, name)


def spell(path: KeyPath) -> str:
    """A path as TOML writes it; the index of an item is left out, its line says which."""
    keys = [key for key in path if isinstance(key, str)]
    return ".".join(map(_spell_key, keys))


def _spell_key(key: str) -> str:
    if shown(key) == HIDDEN:
        return HIDDEN
    return key if _BARE_KEY.fullmatch(key) else f'"{quoted(key)[1:-1]}"'


def _parse(content: bytes, name: str) -> Document:
    try:
        source = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(name, line, "the file is not UTF-8 text")]) from None
    try:
        return Document(name, tomllib.loads(source), find_lines(source))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_problem(str(error), source, name)]) from None
    except ValueError as error:  # a number of some thousand digits
        line = next((n for n, text in enumerate(source.split("\n"), 1) if len(text) > 4000), 1)
        raise ConfigError([Problem(name, line, f"not valid TOML: {error}")]) from None
    except RecursionError:
        raise ConfigError([Problem(name, 1, "arrays or tables are nested too deeply")]) from None


def _syntax_problem(message: str, source: str, name: str) -> Problem:
    lines = source.split("\n")
    found = _TOML_PLACE.search(message)
    line = int(found[1]) if found and found[1] else len(source.rstrip().split("\n"))
    reason = _TOML_PLACE.sub("", message)
    hint = None
    if _UNQUOTED_NAME.match(lines[line - 1]):
        hint = 'a name with / * : @ or + stands in quotes: [route."owner/name"]'
    elif twice := _TWICE.fullmatch(reason):
        reason = f"the section [{spell(tuple(re.findall(_QUOTED, twice[1])))}] stands twice"
    elif reason == "Cannot overwrite a value":
        hint = "the same key stands twice in its section"
    elif "=" in lines[line - 1] and reason.startswith(("Invalid value", "Expected newline")):
        hint = "a string stands in quotes; true and false are in lower case"
    return Problem(name, line, f"not valid TOML: {reason[:1].lower()}{reason[1:]}", hint)
