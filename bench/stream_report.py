"""What bench/stream.py tells: medians, what a server adds, which goals are met, the page.

Only arithmetic and text: it measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from proxy_report import REFERENCE, markdown, number, spread
from session import DISTURBED

DIRECT = "direct"
"""What the others' times to the first byte are compared with."""
HEADINGS = (
    "", "chunks/s", "CPU us/chunk", "times nginx's", "first byte p50 ms", "p99 ms", "added p50 ms",
    "added p99 ms", "gap p99 ms", "KB/stream",
)  # fmt: skip
LOAD_FULL = 0.95
"""From this share of its core on the load side counts as the limit."""
TIMES_NGINX = {"same": 1.5, "translated": 4.0}
ADDED_P99_MS = 2.0
STREAM_KB = 25.0


@dataclass(frozen=True)
class Setting:
    """How many streams, and at which pace."""

    streams: int
    interval_ms: int
    rounds: int
    seconds: float
    has_direct: bool = False
    """Whether it is measured without a server between as well."""
    is_overload: bool = False
    """Whether it may be more than a contender or the load's side can do."""

    @property
    def title(self) -> str:
        """It, in words."""
        return f"{self.streams:,} streams, a chunk every {self.interval_ms} ms"

    @property
    def offered_per_s(self) -> float:
        """Chunks a second of all streams together."""
        return self.streams * 1e3 / self.interval_ms


@dataclass(frozen=True)
class StreamRound:
    """One contender with all streams open for some seconds."""

    chunks_per_s: float
    cpu_us: float | None
    """Per chunk that reached its client; None for the upstream itself."""
    first_p50_ms: float
    first_p99_ms: float
    gap_p99_ms: float
    stream_bytes: float | None
    """Memory beyond the idle server's, for each stream."""
    chunks_per_read: float
    """How many came together on average: 1 where each came by itself."""
    core_share: float | None
    """How much of its core the contender used, 0 to 1."""
    load_share: float
    """The same of load and upstream together."""
    late_share: float
    """Of the upstream's chunks, those that left too late."""
    others_share: float
    """How much of a core programs outside the run used meanwhile."""


@dataclass
class StreamResult:
    """All that was measured of one contender in one setting."""

    title: str
    rounds: list[StreamRound] = field(default_factory=list)
    streams: int = 0
    """Whole and right ones, all rounds together."""

    def of(self, value: Callable[[StreamRound], float | None]) -> list[float]:
        """A value of all rounds that have it."""
        return [found for each in self.rounds if (found := value(each)) is not None]

    def middle(self, value: Callable[[StreamRound], float | None]) -> float | None:
        """Its median; None where no round has it."""
        found = self.of(value)
        return median(found) if found else None


Results = Mapping[Setting, Mapping[str, StreamResult]]
"""By setting and the contender's name."""


def times_nginx(results: Mapping[str, StreamResult], name: str) -> float | None:
    """CPU per chunk, divided by nginx's."""
    return _compared(results, name, REFERENCE, _cpu, lambda own, other: own / other)


def added_ms(
    results: Mapping[str, StreamResult], name: str, value: Callable[[StreamRound], float | None]
) -> float | None:
    """How much later than straight from the upstream."""
    return _compared(results, name, DIRECT, value, lambda own, other: own - other)


def _compared(
    results: Mapping[str, StreamResult],
    name: str,
    other: str,
    value: Callable[[StreamRound], float | None],
    compare: Callable[[float, float], float],
) -> float | None:
    if name not in results or other not in results or name == other == DIRECT:
        return None
    own, others = results[name].middle(value), results[other].middle(value)
    return compare(own, others) if own is not None and others else None


def table(results: Mapping[str, StreamResult]) -> list[list[str]]:
    """A row of cells for each contender."""
    return [
        [
            result.title,
            number(result.middle(_rate), 0),
            number(result.middle(_cpu), 1),
            number(times_nginx(results, name), 2),
            number(result.middle(_first_p50), 2),
            number(result.middle(_first_p99), 2),
            number(added_ms(results, name, _first_p50), 2),
            number(added_ms(results, name, _first_p99), 2),
            number(result.middle(_gap_p99), 1),
            number(result.middle(_stream_kb), 1),
        ]
        for name, result in results.items()
    ]


def verdicts(results: Results) -> list[str]:
    """A line for each goal that this run can judge."""
    return [
        f"{found[name].title}, {setting.title}: {line}"
        for setting, found in results.items()
        for name in TIMES_NGINX
        if name in found and found[name].rounds
        for line in _judged(setting, found, name)
    ]


def _judged(setting: Setting, found: Mapping[str, StreamResult], name: str) -> Iterator[str]:
    times, most = times_nginx(found, name), TIMES_NGINX[name]
    # A server that is behind passes several chunks on at once, each for less.
    if times is not None and not setting.is_overload:
        line = f"{times:.2f} times nginx's CPU per chunk; goal {most:g}"
        yield f"{line}: {_verdict(times, most)}"
    added = added_ms(found, name, _first_p99)
    if added is not None:
        line = f"first byte p99 {added:.2f} ms later; goal {ADDED_P99_MS:g}"
        yield f"{line}: {_verdict(added, ADDED_P99_MS)}"
    kilobytes = found[name].middle(_stream_kb)
    if kilobytes is not None:
        line = f"{kilobytes:.1f} KB per open stream; goal {STREAM_KB:g}"
        yield f"{line}: {_verdict(kilobytes, STREAM_KB)}"
    # With one there is no result.
    yield f"{found[name].streams:,} streams without an error: met"


def _verdict(value: float, most: float) -> str:
    return "met" if value <= most else "missed"


def limits(results: Results) -> list[str]:
    """A line for each row in which the contender could not, or need not, do its best."""
    lines = []
    for setting, found in results.items():
        for result in found.values():
            core, load = result.middle(_core), result.middle(_load)
            others = result.middle(_others) or 0
            where = f"{result.title}, {setting.title}:"
            rate = result.middle(_rate) or 0
            behind = f"{rate:,.0f} of {setting.offered_per_s:,.0f} chunks/s came through"
            if load is not None and load >= LOAD_FULL:
                lines.append(f"{where} load and upstream filled their core; {behind}.")
            if core is not None and core >= LOAD_FULL:
                lines.append(f"{where} the contender filled its core; {behind}.")
            if others > DISTURBED:
                lines.append(f"{where} programs outside the run had {others:.0%} of a core.")
    return lines


def spreads(results: Results) -> list[list[str]]:
    """A row for each contender and setting: median, least and greatest."""
    return [
        [
            f"{result.title}, {setting.streams:,} at {setting.interval_ms} ms",
            str(len(result.rounds)),
            number(result.streams, 0),
            spread(result.of(_rate), 0),
            spread(result.of(_cpu), 1),
            spread(result.of(_first_p99), 2),
            spread(result.of(_stream_kb), 1),
        ]
        for setting, found in results.items()
        for result in found.values()
    ]


def shares(results: Results) -> list[list[str]]:
    """A row for each contender and setting: who had the cores, and how bunched chunks came."""
    return [
        [
            f"{result.title}, {setting.streams:,} at {setting.interval_ms} ms",
            spread([100 * each for each in result.of(_core)], 0),
            spread([100 * each for each in result.of(_load)], 0),
            spread([100 * each.others_share for each in result.rounds], 0),
            spread([100 * each.late_share for each in result.rounds], 1),
            spread([each.chunks_per_read for each in result.rounds], 2),
        ]
        for setting, found in results.items()
        for result in found.values()
    ]


def page(*, title: str, setting: str, commands: Sequence[str], results: Results) -> str:
    """The results' page."""
    parts = [f"# {title}"]
    for each, found in results.items():
        parts += [f"## {each.title}", markdown(HEADINGS, table(found))]
    parts += ["Medians of interleaved rounds; what the columns mean is under How."]
    if lines := verdicts(results):
        parts += ["## Goals", _listed(lines)]
    if lines := limits(results):
        parts += ["## What was full", _listed(lines)]
    parts += [
        "## How",
        setting,
        "## Commands",
        _listed(commands),
        "## Spread: median (least to greatest)",
        markdown(
            ("", "rounds", "streams", "chunks/s", "CPU us/chunk", "first byte p99 ms",
             "KB/stream"),
            spreads(results),
        ),
        "## Who had the cores, % of one core",
        markdown(
            ("", "the contender", "load and upstream", "programs outside the run",
             "chunks sent late, %", "chunks per read"),
            shares(results),
        ),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rate(each: StreamRound) -> float:
    return each.chunks_per_s


def _cpu(each: StreamRound) -> float | None:
    return each.cpu_us


def _first_p50(each: StreamRound) -> float:
    return each.first_p50_ms


def _first_p99(each: StreamRound) -> float:
    return each.first_p99_ms


def _gap_p99(each: StreamRound) -> float:
    return each.gap_p99_ms


def _stream_kb(each: StreamRound) -> float | None:
    return None if each.stream_bytes is None else each.stream_bytes / 1e3


def _core(each: StreamRound) -> float | None:
    return each.core_share


def _load(each: StreamRound) -> float:
    return each.load_share


def _others(each: StreamRound) -> float:
    return each.others_share
