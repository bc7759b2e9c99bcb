"""What a request through Keyhole costs, beside nginx and the original script, in one run.

    python bench/proxy.py [--quick] [--only NAME,...] [--rounds N] [--seconds S]
                          [--patience S]

nginx answers at once as the upstream; each contender stands in front of it, on one core, with
load and upstream on the others. Rounds of all contenders take turns, so that a noisy machine is
noisy for each of them; a round that other programs disturbed is repeated, within --patience. A
whole run writes bench/results/DATE-MACHINE.md; a quick or partial one only prints. A round with a
failed request, a request that did not reach the upstream or was not logged, or a process that
died, ends the run: there is no figure that does not hold.

Not measured: TLS, streaming, long texts, many cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import machine
import wrk
from contenders import (
    BODY,
    MODEL,
    THREADS,
    Contender,
    Server,
    Upstream,
    contenders,
    missing,
    serving,
    upstream,
    versions_of,
)
from process_tree import (
    BenchError,
    await_rest,
    busiest_s,
    busy_s,
    own_cpu_s,
    pinned,
    weigh,
)
from proxy_report import HEADINGS, Result, Round, aligned, goals, page, table
from session import DISTURBED, NOT_WRITTEN, Patience, Progress, attempt, choose, demand, write_page

CONNECTIONS = 32
WARM_UP_S = 1
PAUSE_MS = 8.0
"""At half load: about how long a connection pauses. Long beside wrk's steps of a millisecond."""
HALF_CONNECTIONS = (8, 512)
VERSIONS_OF = (
    "nginx", "wrk", "keyhole", "uvicorn", "uvloop", "httptools", "flask", "gunicorn",
    "requests",
)  # fmt: skip
LIMITS = {"rounds": (1, 20), "seconds": (1, 30), "patience": (0, 3600)}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int
    half_rounds: int
    starts: int
    patience_s: float


@dataclass(frozen=True)
class Bench:
    """Where things run."""

    plan: Plan
    folder: Path
    core: int
    """The contender's."""
    load_cores: set[int]
    upstream: Upstream

    @property
    def cores(self) -> set[int]:
        """All that the run uses."""
        return {self.core} | self.load_cores


def main() -> int:
    arguments = _arguments()
    known = contenders()
    chosen = choose([contender.name for contender in known], arguments.only)
    picked = [contender for contender in known if contender.name in chosen]
    demand(missing(picked))
    plan = Plan(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        half_rounds=3,
        starts=3,
        patience_s=arguments.patience,
    )
    if arguments.quick:
        plan = Plan(rounds=1, seconds=2, half_rounds=1, starts=1, patience_s=0)

    def measure() -> None:
        results, setting = _run(plan, picked)
        print(aligned(HEADINGS, table(results)))
        print(*goals(results), sep="\n")
        if arguments.quick or len(picked) < len(known):
            print(NOT_WRITTEN)
        else:
            write_page("", _page(results, setting))

    return attempt(measure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the proxy beside nginx.")
    parser.add_argument("--quick", action="store_true", help="half a minute, nothing written")
    parser.add_argument("--only", metavar="NAME,...", help="some contenders, nothing written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each round")
    parser.add_argument("--patience", type=int, default=60, help="seconds for a busy machine")
    arguments = parser.parse_args()
    for name, (least, most) in LIMITS.items():
        if not least <= getattr(arguments, name) <= most:
            parser.error(f"--{name} must be {least} to {most}")
    return arguments


def _run(plan: Plan, chosen: Sequence[Contender]) -> tuple[dict[str, Result], str]:
    """Measure all of them; the results by name, and what they rest on."""
    *load_cores, core = sorted(os.sched_getaffinity(0))
    load_before = os.getloadavg()[0]
    progress = Progress(len(chosen) * (plan.starts + plan.rounds + plan.half_rounds))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-bench-")))
        stack.callback(progress.end)
        stack.enter_context(pinned(set(load_cores)))
        source = stack.enter_context(upstream(folder / "upstream", cores=set(load_cores)))
        bench = Bench(plan, folder, core, set(load_cores), source)
        patience = Patience(plan.patience_s)
        # The first start of each fills the disk's cache, so it is not the one that is timed.
        servers = [
            stack.enter_context(_served(bench, contender, contender.name)) for contender in chosen
        ]
        results = {server.contender.name: _result(server) for server in servers}
        for attempt in range(plan.starts):
            for contender in chosen:
                with _served(bench, contender, f"{contender.name}-start-{attempt}") as started:
                    results[contender.name].start_s.append(started.start_s)
                progress.tell(f"{contender.name}: answers after {started.start_s:.2f} s")
        _measure(bench, servers, results, (progress, patience))
        for server in servers:
            weight = weigh(server.program.pid)
            results[server.contender.name].rss_bytes = weight.rss_bytes
            results[server.contender.name].worker_rss_bytes = weight.worker_rss_bytes
    loads = (load_before, os.getloadavg()[0])
    return results, _setting(plan, core, load_cores, loads=loads, repeated=patience.repeated)


def _served(bench: Bench, contender: Contender, name: str) -> AbstractContextManager[Server]:
    return serving(contender, bench.folder / name, upstream=bench.upstream, cores={bench.core})


def _result(server: Server) -> Result:
    command = [word.replace("{port}", "PORT") for word in server.contender.command]
    return Result(title=server.contender.title, command=shlex.join(command))


def _measure(
    bench: Bench,
    servers: Sequence[Server],
    results: dict[str, Result],
    run: tuple[Progress, Patience],
) -> None:
    """The rounds: all at full load, then all at half of what each of them could do."""
    progress, patience = run

    def take(server: Server, turn: str, round_of: Callable[[], Round]) -> Round:
        while True:
            patience.await_quiet(bench.cores)
            began_s = time.monotonic()
            done = round_of()
            if not patience.is_for_again(done, time.monotonic() - began_s):
                progress.tell(_told(server, done, turn))
                return done

    for turn in range(bench.plan.rounds):
        for server in servers:
            measure = partial(full_round, bench, server)
            done = take(server, f"round {turn + 1}", measure)
            results[server.contender.name].rounds.append(done)
    for turn in range(bench.plan.half_rounds):
        for server in servers:
            result = results[server.contender.name]
            rates = sorted(each.requests_per_s for each in result.rounds)
            measure = partial(half_round, bench, server, rates[len(rates) // 2] / 2)
            result.half_rounds.append(take(server, f"half load {turn + 1}", measure))


def _told(server: Server, done: Round, turn: str) -> str:
    return (
        f"{server.contender.name}, {turn}: {done.requests_per_s:,.0f} requests/s, "
        f"p99 {done.p99_ms:.2f} ms, {done.cpu_us:.1f} us CPU per request"
    )


def full_round(bench: Bench, server: Server) -> Round:
    load = wrk.Load(server.url, BODY, CONNECTIONS, WARM_UP_S, secrets=server.secrets)
    _load(bench, server, load)
    load = replace(load, duration_s=bench.plan.seconds)
    return _round(bench, server, load)


def half_round(bench: Bench, server: Server, rate: float) -> Round:
    """A round at about `rate`: the warm-up tells how much the answers add to the pauses."""
    fewest, most = HALF_CONNECTIONS
    connections, pause_ms = wrk.spread_over(rate, pause_ms=PAUSE_MS, fewest=fewest, most=most)
    load = wrk.Load(server.url, BODY, connections, WARM_UP_S, pause_ms, server.secrets)
    warm = _load(bench, server, load)
    waited_ms = connections / warm.requests_per_s * 1e3 - pause_ms
    pause_ms = max(pause_ms - waited_ms, 0.5)
    load = replace(load, duration_s=bench.plan.seconds, think_ms=pause_ms)
    return _round(bench, server, load)


def _load(bench: Bench, server: Server, load: wrk.Load) -> wrk.Measured:
    """Run wrk; if it fails because the contender has ended, say so instead."""
    try:
        return wrk.run(load, cores=bench.load_cores, folder=bench.folder)
    except BenchError:
        server.program.check()
        raise


def _round(bench: Bench, server: Server, load: wrk.Load) -> Round:
    """Run a load; raises BenchError unless every request went all the way."""
    root = server.program.pid
    await_rest(root)
    server.take_log()
    served = bench.upstream.requests()
    before, ours_s = weigh(root), _ours_s(bench)
    all_s, began_s = busy_s(bench.cores), time.monotonic()
    measured = _load(bench, server, load)
    time.sleep(0.1)  # what was under way when wrk ended is answered, and counted, as well
    loaded_s = weigh(root).cpu_s - before.cpu_s
    await_rest(root)  # and so is what is put off: Keyhole's clerk writes the books afterwards
    all_s, took_s = busy_s(bench.cores) - all_s, time.monotonic() - began_s
    after, ours_s = weigh(root), _ours_s(bench) - ours_s
    served = bench.upstream.requests() - served - 1
    logged = server.take_log()
    name = server.contender.name
    if after.processes != before.processes:
        raise BenchError(f"a process of {name} ended or was started during a round")
    if served < measured.requests:
        raise BenchError(f"{name}: {measured.requests} answers, but the upstream gave {served}")
    if logged < measured.requests:
        raise BenchError(f"{name}: {measured.requests} answers, but {logged} lines in its log")
    cpu_s = after.cpu_s - before.cpu_s
    return Round(
        requests_per_s=measured.requests_per_s,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        cpu_us=cpu_s / served * 1e6,
        worker_cpu_us=busiest_s(before, after) / served * 1e6,
        core_share=loaded_s / measured.duration_s,
        others_share=max(all_s - ours_s - cpu_s, 0) / took_s,
    )


def _ours_s(bench: Bench) -> float:
    """CPU time of all that belongs to the run but the contenders."""
    return weigh(bench.upstream.pid).cpu_s + own_cpu_s()


def _setting(
    plan: Plan, core: int, load_cores: Sequence[int], *, loads: tuple[float, float], repeated: int
) -> str:
    """What the figures rest on, for the page."""
    return f"""\
- {machine.sentence()}
- {versions_of(VERSIONS_OF)}
- Run with `python bench/proxy.py --rounds {plan.rounds} --seconds {plan.seconds}`. Load average of
  the machine before {loads[0]:.1f}, after {loads[1]:.1f}.
- A round in which other programs had more than {DISTURBED:.0%} of a core is repeated while the
  patience for it lasts ({plan.patience_s} s); {repeated} were. The last table says what was left.
- The contender has core {core}; wrk (one thread) and the upstream share core
  {", ".join(map(str, load_cores))}. Everything is on loopback.
- Upstream: nginx, one worker, answers `POST /models/{MODEL}` at once. The request is
  `POST /generate` with `{BODY}`.
- Every contender attaches a token, asks the upstream over HTTP and writes a line per request to a
  file; the two under gunicorn have one process of {THREADS} threads. In every round it is checked
  that no request failed and that every one reached the upstream and was logged.
- requests/s, p50, p99: wrk, {CONNECTIONS} connections, {plan.rounds} rounds of {plan.seconds} s
  after {WARM_UP_S} s to warm up. Where the contender's core was not busy all the time (the last
  table), load and upstream were the limit, and it could have done more.
- CPU: user and system time of all the contender's processes in a round and until they are at rest
  behind it (Keyhole's clerk writes its books later than the answers), from /proc, divided by the
  requests that the upstream answered; of the worker alone: the process that used the most.
- Everything on: a key in a group; requests and tokens a minute, requests at once and a budget for
  both, none of which is ever reached; the journal (`fsync = "interval"`), the clerk, metrics, log.
- Half load: {plan.half_rounds} rounds at half the contender's own median rate. wrk's connections
  pause at random between requests; the pauses end at whole milliseconds, so requests come in
  bunches, and their waiting for each other is part of the figure.
- RSS: all processes together (shared pages counted in each), and the one that did the most work,
  after all rounds.
- Start: from the command to its first answer from the upstream, median of {plan.starts}, the disk's
  cache warm."""


def _page(results: dict[str, Result], setting: str) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    title = f"The proxy, {date}, {machine.processor()}, {machine.cores()} cores"
    return page(title=title, setting=setting, results=results)


if __name__ == "__main__":
    sys.exit(main())
