"""What thousands of open idle connections cost: memory, and the answers of everybody else.

    python bench/idle.py [--quick] [--only NAME,...] [--connections N] [--rounds N]
                         [--patience S]

Each idle connection has asked once and been answered, and stays open as a client's pool would
keep it. Rounds at half load with and without them take turns; one that other programs disturbed
is repeated, within --patience. It writes bench/results/DATE-MACHINE-idle.md unless quick or
partial.

A contender with a thread for each connection, or a limit below the number, has no place here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import machine
from contenders import (
    BODY,
    Contender,
    Server,
    contenders,
    missing,
    serving,
    upstream,
    versions_of,
)
from process_tree import BenchError, pinned, weigh
from proxy import Bench, Plan, full_round, half_round
from proxy_report import Round, aligned, markdown, number, spread
from session import (
    DISTURBED,
    NOT_WRITTEN,
    Patience,
    Progress,
    attempt,
    choose,
    demand,
    missing_files,
    write_page,
)

NAMES = ("nginx", "fastlane")
OTHER_FILES = 1000
"""What a process opens beside the idle connections."""
PER_ADDRESS = 5000
"""Connections from one source address; the kernel's ports for them may be few."""
ANSWER_WITHIN_S = 10.0
HEADINGS = (
    "", "MB without", "MB more", "bytes per connection", "p99 ms without", "p99 ms with",
    "requests/s", "other programs, % of a core",
)  # fmt: skip


@dataclass
class Idle:
    """What was measured of one contender."""

    title: str
    rss_bytes: int = 0
    """Of all processes, under way but without idle connections."""
    added_bytes: int = 0
    """By the first opening; later ones find the memory still there."""
    p99_without_ms: list[float] = field(default_factory=list)
    p99_with_ms: list[float] = field(default_factory=list)
    requests_per_s: list[float] = field(default_factory=list)
    others_share: list[float] = field(default_factory=list)
    """Of a core that other programs had, in the rounds with and without."""


def main() -> int:
    arguments = _arguments()
    known = {each.name: each for each in contenders() if each.name in NAMES}
    chosen = [known[name] for name in choose(list(known), arguments.only)]
    count = min(arguments.connections, 1000) if arguments.quick else arguments.connections
    demand(missing(chosen) + missing_files(count + OTHER_FILES))
    plan = Plan(arguments.rounds, 5, half_rounds=0, starts=0, patience_s=arguments.patience)
    if arguments.quick:
        plan = Plan(rounds=1, seconds=1, half_rounds=0, starts=0, patience_s=0)

    def measure() -> None:
        rows = [_cells(result, count) for result in _run(plan, chosen, count)]
        print(f"{count:,} idle connections")
        print(aligned(HEADINGS, rows))
        if arguments.quick or len(chosen) < len(known):
            print(NOT_WRITTEN)
        else:
            write_page("-idle", _page(rows, plan, count))

    return attempt(measure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what idle connections cost.")
    parser.add_argument("--quick", action="store_true", help="1,000 connections, nothing written")
    parser.add_argument("--only", metavar="NAME,...", help="some contenders, nothing written")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=int, default=60, help="seconds for a busy machine")
    arguments = parser.parse_args()
    if not 1 <= arguments.connections <= 15_000:
        parser.error("--connections must be 1 to 15000")
    if not 1 <= arguments.rounds <= 10:
        parser.error("--rounds must be 1 to 10")
    if not 0 <= arguments.patience <= 3600:
        parser.error("--patience must be 0 to 3600")
    return arguments


def _run(plan: Plan, chosen: Sequence[Contender], count: int) -> list[Idle]:
    *load_cores, core = sorted(os.sched_getaffinity(0))
    progress = Progress(len(chosen) * (1 + 2 * plan.rounds))
    run = progress, Patience(plan.patience_s)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-bench-")))
        stack.callback(progress.end)
        stack.enter_context(pinned(set(load_cores)))
        source = stack.enter_context(upstream(folder / "upstream", cores=set(load_cores)))
        bench = Bench(plan, folder, core, set(load_cores), source)
        results = []
        for contender in chosen:
            folder_of = folder / contender.name
            with serving(contender, folder_of, upstream=source, cores={core}) as server:
                results.append(_measure(bench, server, count, run))
    return results


def _measure(bench: Bench, server: Server, count: int, run: tuple[Progress, Patience]) -> Idle:
    progress, patience = run
    idle = Idle(server.contender.title)
    rate = full_round(bench, server).requests_per_s / 2
    progress.tell(f"{server.contender.name}: half load is {rate:,.0f} requests/s")

    def take() -> Round:
        while True:
            began_s = time.monotonic()
            done = half_round(bench, server, rate)
            if not patience.is_for_again(done, time.monotonic() - began_s):
                idle.others_share.append(done.others_share)
                return done

    for turn in range(bench.plan.rounds):
        patience.await_quiet(bench.cores)
        without = take()
        idle.p99_without_ms.append(without.p99_ms)
        progress.tell(f"{server.contender.name}, without: p99 {without.p99_ms:.2f} ms")
        before = weigh(server.program.pid).rss_bytes
        with open_connections(server.port, count) as connections:
            if turn == 0:
                idle.rss_bytes = before
                idle.added_bytes = weigh(server.program.pid).rss_bytes - before
            loaded = take()
            closed = sum(not is_open(connection) for connection in connections)
        if closed:
            raise BenchError(f"{server.contender.name} closed {closed} idle connections")
        idle.p99_with_ms.append(loaded.p99_ms)
        idle.requests_per_s.append(loaded.requests_per_s)
        progress.tell(f"{server.contender.name}, with {count:,}: p99 {loaded.p99_ms:.2f} ms")
    return idle


@contextlib.contextmanager
def open_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connections that have been answered once and are open; raises BenchError."""
    request = (
        f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()
    with ExitStack() as stack:
        connections = []
        for number_of in range(count):
            source = f"127.0.0.{2 + number_of // PER_ADDRESS}"
            try:
                connection = socket.create_connection(
                    ("127.0.0.1", port), ANSWER_WITHIN_S, source_address=(source, 0)
                )
                stack.enter_context(connection)
                connection.sendall(request)
                head = connection.recv(65536)
            except OSError as error:
                raise BenchError(f"idle connection {number_of + 1}: {error}") from None
            if not head.startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"idle connection {number_of + 1} was answered: {head[:200]!r}")
            connections.append(connection)
        yield connections


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed it; what it has sent is thrown away."""
    connection.settimeout(0)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _cells(idle: Idle, count: int) -> list[str]:
    return [
        idle.title,
        number(idle.rss_bytes / 1e6, 0),
        number(idle.added_bytes / 1e6, 0),
        number(idle.added_bytes / count, 0),
        spread(idle.p99_without_ms, 2),
        spread(idle.p99_with_ms, 2),
        spread(idle.requests_per_s, 0),
        spread([100 * share for share in idle.others_share], 0),
    ]


def _page(rows: Sequence[Sequence[str]], plan: Plan, count: int) -> str:
    return f"""\
# {count:,} idle connections, {machine.processor()}, {machine.cores()} cores

{markdown(HEADINGS, rows)}

Spreads are median (least to greatest).

- {machine.sentence()}
- {versions_of(("nginx", "wrk", "keyhole", "uvicorn", "uvloop"))}
- Run with `python bench/idle.py --connections {count} --rounds {plan.rounds}`.
- Each idle connection has asked once, was answered and stays open. Memory: RSS of all processes,
  before the first opening and right after it. That all of them are still open after the round is
  checked.
- Rounds of {plan.seconds} s at half of what the contender does at full load, with and without the
  idle connections in turns; the contender has a core of its own. A round in which other programs
  had more than {DISTURBED:.0%} of a core is repeated while the patience for it lasts
  ({plan.patience_s} s).
"""


if __name__ == "__main__":
    sys.exit(main())
