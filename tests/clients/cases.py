"""Reads the tables of this folder: which calls there are, and what each has to come to.

A rule speaks of the calls that its patterns match, and says what it knows about them; where
several rules speak of one call, the later one is right, field by field. So a table begins with
what is common and ends with the exceptions.
"""

from __future__ import annotations

import fnmatch
import functools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from standins.models import Scene

HERE = Path(__file__).parent
MODES = ("whole", "stream")


@dataclass(frozen=True)
class Client:
    """A package, in one of its generations."""

    name: str
    package: str
    environment: str
    program: str


@dataclass(frozen=True)
class Way:
    """One way to call a client."""

    client: Client
    name: str
    call: str
    format: str
    shows: tuple[str, ...]
    shows_streaming: tuple[str, ...]
    scenes: tuple[Scene, ...] | None = None
    """Those of its own, where what is asked is not for the upstream; None: the kind's."""

    def __str__(self) -> str:
        return f"{self.client.name}.{self.name}"

    @property
    def modes(self) -> tuple[str, ...]:
        return MODES if self.scenes is None else MODES[:1]

    def shown(self, mode: str) -> tuple[str, ...]:
        return self.shows_streaming if mode == "stream" else self.shows


@dataclass(frozen=True)
class Kind:
    """A kind of upstream."""

    name: str
    label: str
    formats: tuple[str, ...]
    scenes: tuple[Scene, ...]
    upstream: Mapping[str, Any] | None = field(compare=False)
    """How a configuration names it; None for what Keyhole has built in."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Case:
    """A call to make."""

    way: Way
    kind: Kind
    mode: str
    scene: Scene

    def __str__(self) -> str:
        return f"{self.way} {self.kind} {self.mode} {self.scene}"


@dataclass(frozen=True)
class Group:
    """The calls that one test judges: one way, at one kind, whole or streaming."""

    way: Way
    kind: Kind
    mode: str

    def __str__(self) -> str:
        return f"{self.way}-{self.kind}-{self.mode}"

    @property
    def cases(self) -> list[Case]:
        return [
            Case(self.way, self.kind, self.mode, scene)
            for scene in self.way.scenes or self.kind.scenes
            if self.mode == "stream" or not scene.is_only_streamed
        ]


@dataclass(frozen=True)
class Tables:
    """ways.toml."""

    ways: tuple[Way, ...]
    kinds: Mapping[str, Kind]

    def groups(self, *, is_direct: bool) -> Iterator[Group]:
        """Every test there is; without a gateway only where client and server agree."""
        for way in self.ways:
            for kind in self.kinds.values():
                if not is_direct or way.format in kind.formats:
                    yield from (Group(way, kind, mode) for mode in way.modes)


def read_tables() -> Tables:
    with (HERE / "ways.toml").open("rb") as file:
        raw = tomllib.load(file)
    ways = []
    for named in raw["client"]:
        client = Client(*(named[key] for key in ("name", "package", "environment", "program")))
        for name, way in named["ways"].items():
            shows = tuple(way.get("shows", ()))
            streaming = tuple(way.get("shows_streaming", shows))
            own = tuple(map(Scene, raw["scenes"][way["scenes"]])) if "scenes" in way else None
            ways.append(Way(client, name, way["call"], way["format"], shows, streaming, own))
    kinds = {
        name: Kind(
            name,
            kind["label"],
            tuple(kind["formats"]),
            tuple(map(Scene, raw["scenes"][kind["scenes"]])),
            kind.get("upstream"),
        )
        for name, kind in raw["kinds"].items()
    }
    return Tables(tuple(ways), kinds)


_PATTERNS = ("way", "format", "kind", "scene", "mode")
_SAYS = {
    "fails": (int, str),
    "type": str,
    "says": str,
    "text": str,
    "finish": (str, bool),
    "usage": (list, bool),
    "requests": (int, list),
    "held": list,
    "gap_s": (int, float),
    "lasts_s": (int, float),
}


@dataclass(frozen=True)
class Rule:
    """What is expected of the calls that the patterns match.

    `requests` is how many come to the upstream; where that asks again by itself it is how many the
    client sends, and `held` how many come of each, from and to. `gap_s` lies between two of them at
    least, `lasts_s` between the first and the last.
    """

    patterns: Mapping[str, Sequence[str]]
    says: Mapping[str, Any]

    def matches(self, case: Case) -> bool:
        named = {
            "way": str(case.way),
            "format": case.way.format,
            "kind": case.kind.name,
            "scene": str(case.scene),
            "mode": case.mode,
        }
        return all(
            any(fnmatch.fnmatchcase(named[key], pattern) for pattern in patterns)
            for key, patterns in self.patterns.items()
        )


@dataclass(eq=False)
class Rules:
    """One of the files in expected/."""

    path: Path

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        with self.path.open("rb") as file:
            raw = tomllib.load(file)
        return tuple(_rule(entry) for entry in raw["rule"])

    def expectation(self, case: Case) -> dict[str, Any]:
        """What the rules say together about a call."""
        found: dict[str, Any] = {}
        for rule in self.rules:
            if rule.matches(case):
                found |= rule.says
        return found

    def unused(self, cases: Sequence[Case]) -> list[Rule]:
        """The rules that speak of none of these calls."""
        return [rule for rule in self.rules if not any(map(rule.matches, cases))]


def read_rules(name: str) -> Rules:
    return Rules(HERE / "expected" / f"{name}.toml")


def _rule(entry: dict[str, Any]) -> Rule:
    patterns = {}
    for key in _PATTERNS:
        if key in entry:
            given = entry.pop(key)
            patterns[key] = [given] if isinstance(given, str) else given
    for key, value in entry.items():
        assert key in _SAYS, f"a rule knows no {key}"
        assert isinstance(value, _SAYS[key]), f"a rule's {key} cannot be {value!r}"
    return Rule(patterns, entry)


@dataclass(frozen=True)
class Failures:
    """What a client makes of each kind of failure."""

    raises: Mapping[str, str]
    tries: Mapping[str, int | list[int]]
    hidden: frozenset[str]
    midway_status: int | None

    def look_up(self, table: Mapping[str, Any], failure: int | str, word: str | None) -> Any:
        """The entry for a failure: under its own word, its status, or its hundred."""
        for key in (word, str(failure), f"{str(failure)[0]}xx"):
            if key in table:
                return table[key]
        return None


@functools.cache
def failures_of(way: Way) -> Failures:
    """What clients.toml says about a way, the later entries over the earlier ones."""
    with (HERE / "expected" / "clients.toml").open("rb") as file:
        raw = tomllib.load(file)
    found: dict[str, Any] = {"raises": {}, "tries": {}, "hidden": [], "midway_status": None}
    for entry in raw["client"]:
        if any(fnmatch.fnmatchcase(str(way), pattern) for pattern in entry["ways"]):
            for key in ("raises", "tries"):
                found[key] |= entry.get(key, {})
            found["hidden"] += entry.get("hidden", [])
            found["midway_status"] = entry.get("midway_status", found["midway_status"])
    return Failures(
        found["raises"], found["tries"], frozenset(found["hidden"]), found["midway_status"]
    )
