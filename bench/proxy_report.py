"""What bench/proxy.py tells: medians, ratios, the table, the results' page.

Only arithmetic and text: it measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

REFERENCE = "nginx"
"""Whose CPU per request the others' is divided by."""
HEADINGS = (
    "", "requests/s", "p50 ms", "p99 ms", "p99 ms at half load", "CPU us/request",
    "times nginx's", "its worker alone", "times nginx's", "RSS MB", "of the worker", "start s",
)  # fmt: skip
GOALS = {"keys": (3.2, 2.6, 2.6)}
"""At most so many times nginx's CPU, with every process counted; what is aimed at; at most so many
of the worker alone."""


@dataclass(frozen=True)
class Round:
    """One contender under load for some seconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Per request, of all its processes, and until they were at rest again."""
    worker_cpu_us: float
    """Per request, of the process that used the most."""
    core_share: float
    """How much of its core the contender used, 0 to 1."""
    others_share: float
    """How much of a core other programs used meanwhile, on all the run's cores: the noise."""


@dataclass
class Result:
    """All that was measured of one contender."""

    title: str
    command: str
    rounds: list[Round] = field(default_factory=list)
    half_rounds: list[Round] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    worker_rss_bytes: int = 0


def middle(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return median(values) if values else None


def table(results: Mapping[str, Result]) -> list[list[str]]:
    """A row of cells for each contender, by name; without the reference there are no ratios."""
    reference = _reference(results)
    return [_cells(result, reference) for result in results.values()]


def goals(results: Mapping[str, Result]) -> list[str]:
    """A line for each goal that this run can judge."""
    reference = _reference(results)
    lines = []
    for name, (most, aim, worker_most) in GOALS.items():
        if reference is None or name not in results:
            continue
        rounds = results[name].rounds
        everything = (middle(_column(rounds, _cpu)) or 0) / reference
        worker = (middle(_column(rounds, _worker_cpu)) or 0) / reference
        told = (
            f"{results[name].title}: {everything:.2f} times nginx's CPU with every process counted"
        )
        told_alone = f"its worker alone: {worker:.2f} times; at most {worker_most:g}"
        lines.append(f"{_verdict(everything, most)}: {told}; at most {most:g}, the goal is {aim:g}")
        lines.append(f"{_verdict(worker, worker_most)}: {told_alone}")
    return lines


def _verdict(times: float, most: float) -> str:
    return "met" if times <= most else "MISSED"


def _reference(results: Mapping[str, Result]) -> float | None:
    first = results.get(REFERENCE)
    return middle(_column(first.rounds, _cpu)) if first else None


def _cells(result: Result, reference: float | None) -> list[str]:
    cpu_us = middle(_column(result.rounds, _cpu))
    worker_us = middle(_column(result.rounds, _worker_cpu))
    return [
        result.title,
        number(middle(_column(result.rounds, _rate)), 0),
        number(middle(_column(result.rounds, _p50)), 2),
        number(middle(_column(result.rounds, _p99)), 2),
        number(middle(_column(result.half_rounds, _p99)), 2),
        number(cpu_us, 1),
        number(cpu_us / reference if cpu_us and reference else None, 2),
        number(worker_us, 1),
        number(worker_us / reference if worker_us and reference else None, 2),
        number(result.rss_bytes / 1e6 or None, 0),
        number(result.worker_rss_bytes / 1e6 or None, 0),
        number(middle(result.start_s), 2),
    ]


def number(value: float | None, decimals: int) -> str:
    """A number with thousands marked, or a dash for none."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def spread(values: Sequence[float], decimals: int) -> str:
    """Median, least and greatest."""
    if not values:
        return "-"
    least, most = number(min(values), decimals), number(max(values), decimals)
    return f"{number(median(values), decimals)} ({least} to {most})"


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, numbers to the right."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a page."""
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, rule, *rows))


def page(*, title: str, setting: str, results: Mapping[str, Result]) -> str:
    """The results' page."""
    spreads = [
        [
            result.title,
            str(len(result.rounds)),
            spread(_column(result.rounds, _rate), 0),
            spread(_column(result.rounds, _cpu), 1),
            spread(_column(result.rounds, _p99), 2),
            spread(_column(result.half_rounds, _rate), 0),
            spread(_column(result.half_rounds, _p99), 2),
            spread(result.start_s, 2),
        ]
        for result in results.values()
    ]
    shares = [
        [
            result.title,
            spread([100 * each.core_share for each in result.rounds], 0),
            spread([100 * each.others_share for each in result.rounds], 0),
        ]
        for result in results.values()
    ]
    parts = [
        f"# {title}",
        markdown(HEADINGS, table(results)),
        "Medians of interleaved rounds; what the columns mean is under How.",
        *(["\n".join(f"- {line}." for line in lines)] if (lines := goals(results)) else []),
        "## How",
        setting,
        "## Commands",
        "\n".join(f"- {result.title}: `{result.command}`" for result in results.values()),
        "## Spread: median (least to greatest)",
        markdown(
            ("", "rounds", "requests/s", "CPU us/request", "p99 ms", "half load, requests/s",
             "half load, p99 ms", "start s"),
            spreads,
        ),
        "## Who had the cores, % of one core",
        markdown(("", "the contender", "programs outside the run"), shares),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _column(rounds: Sequence[Round], value: Callable[[Round], float]) -> list[float]:
    return [value(each) for each in rounds]


def _rate(each: Round) -> float:
    return each.requests_per_s


def _p50(each: Round) -> float:
    return each.p50_ms


def _p99(each: Round) -> float:
    return each.p99_ms


def _cpu(each: Round) -> float:
    return each.cpu_us


def _worker_cpu(each: Round) -> float:
    return each.worker_cpu_us
