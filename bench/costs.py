"""Where the time of a request goes: the fast lane under full load, sampled by py-spy.

    python bench/costs.py [--seconds S] [--rate N] [--folder FOLDER]

It starts what bench/proxy.py calls `fastlane`, under the same load, measures a round without the
profiler, then samples one, and prints the share and the microseconds of each part of a request:
the round's CPU time per request, divided by the shares. Which function belongs to which part is
in parts.py. Into bench/results, or the folder, it writes DATE-MACHINE-profile.svg (a flame
graph), .folded (the stacks, for other tools) and .md (the table).

It ends with status 1 where more than a few samples belong to no part: the table would lie.

Facts (py-spy 0.4.3, https://github.com/benfred/py-spy, 2026-11): it reads another process's
memory, which Linux allows to root, or with kernel.yama.ptrace_scope=0; it stops the process for
each sample, so the sampled round is slower than the one that the microseconds come from.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import machine
import parts
import wrk
from contenders import (
    BODY,
    Contender,
    Server,
    contenders,
    find_program,
    missing,
    serving,
    upstream,
    versions_of,
)
from process_tree import PROC, BenchError, parse_stat, pinned, weigh
from proxy import CONNECTIONS, Bench, Plan, full_round
from proxy_report import Round, aligned, markdown, number
from session import RESULTS, Patience, attempt, demand

MAX_OTHER = 0.02
"""Of all samples, may belong to no part."""
HEADINGS = ("", "share %", "us per request")
PATIENCE_S = 60.0


def main() -> int:
    arguments = _arguments()
    contender = next(each for each in contenders() if each.name == "fastlane")
    lines = missing([contender])
    if find_program("py-spy") is None:
        lines.append(f"py-spy not found: {sys.executable} -m pip install py-spy")
    demand(lines)
    others: list[float] = []

    def measure() -> None:
        measured, profile = _measure(contender, arguments)
        others.append(_report(profile, measured, arguments))

    return attempt(measure) or int(others[0] > MAX_OTHER)


def _measure(contender: Contender, arguments: argparse.Namespace) -> tuple[Round, parts.Profile]:
    *load_cores, core = sorted(os.sched_getaffinity(0))
    plan = Plan(1, arguments.seconds, half_rounds=0, starts=0, patience_s=PATIENCE_S)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-bench-")))
        stack.enter_context(pinned(set(load_cores)))
        source = stack.enter_context(upstream(folder / "upstream", cores=set(load_cores)))
        bench = Bench(plan, folder, core, set(load_cores), source)
        server = stack.enter_context(
            serving(contender, folder / contender.name, upstream=source, cores={core})
        )
        return _quiet_round(bench, server), _sampled_round(bench, server, arguments.rate)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Profile the fast lane.")
    parser.add_argument("--seconds", type=int, default=10, help="of each round")
    parser.add_argument("--rate", type=int, default=500, help="samples per second")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not 1 <= arguments.seconds <= 30 or not 10 <= arguments.rate <= 1000:
        parser.error("--seconds must be 1 to 30, --rate 10 to 1000")
    return arguments


def _quiet_round(bench: Bench, server: Server) -> Round:
    patience = Patience(bench.plan.patience_s)
    while True:
        patience.await_quiet(bench.cores)
        began_s = time.monotonic()
        done = full_round(bench, server)
        if not patience.is_for_again(done, time.monotonic() - began_s):
            return done


def _sampled_round(bench: Bench, server: Server, rate: int) -> parts.Profile:
    written = bench.folder / "folded"
    command = [
        *(find_program("py-spy") or "py-spy", "record", "--pid", str(_worker(server))),
        *("--rate", str(rate), "--duration", str(bench.plan.seconds)),
        *("--format", "raw", "--output", str(written)),
    ]
    with (bench.folder / "py-spy").open("w+") as said:
        sampling = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            # A second more, so that there is load for as long as it samples.
            load = wrk.Load(server.url, BODY, CONNECTIONS, bench.plan.seconds + 1)
            wrk.run(load, cores=bench.load_cores, folder=bench.folder)
            status = sampling.wait(60)
        finally:
            sampling.kill()
            sampling.wait()
        said.seek(0)
        if status != 0 or not written.exists():
            raise BenchError(f"py-spy failed ({status}): {said.read()[-2000:]}")
    profile = parts.read_folded(written.read_text().splitlines())
    if not profile.samples:
        raise BenchError("py-spy has taken no samples")
    return profile


def _worker(server: Server) -> int:
    """The process that serves: the one of the tree that has worked the most."""
    pids = [pid for pid, _ in weigh(server.program.pid).processes]
    stats = [parse_stat((PROC / str(pid) / "stat").read_text()) for pid in pids]
    return max(stats, key=lambda stat: stat.cpu_ticks).pid


def _report(profile: parts.Profile, measured: Round, arguments: argparse.Namespace) -> float:
    """Print and write all of it; the share of the samples that belong to no part."""
    rows = table(profile.by_part(), measured.cpu_us)
    print(aligned(HEADINGS, rows))
    stem = f"{time.strftime('%Y-%m-%d', time.gmtime())}-{machine.slug()}-profile"
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    title = f"The fast lane, {profile.samples} samples, {measured.cpu_us:.1f} us CPU per request"
    (folder / f"{stem}.svg").write_text(parts.flame_graph(profile, title))
    (folder / f"{stem}.folded").write_text(parts.folded(profile))
    (folder / f"{stem}.md").write_text(_page(rows, profile, measured, arguments))
    print(f"Written: {stem}.svg, .folded and .md")
    other = profile.by_part()[parts.OTHER] / profile.samples
    if other > MAX_OTHER:
        print(f"{other:.1%} of the samples belong to no part in bench/parts.py:", file=sys.stderr)
        for leaf, count in profile.unattributed()[:10]:
            print(f"  {count / profile.samples:.1%}  {leaf}", file=sys.stderr)
    return other


def table(by_part: dict[str, int], cpu_us: float) -> list[list[str]]:
    """A row for each part, and one for all of them."""
    total = sum(by_part.values())
    counts = {**by_part, "all": total}
    return [
        [part, number(100 * count / total, 1), number(cpu_us * count / total, 1)]
        for part, count in counts.items()
    ]


def _page(
    rows: Sequence[Sequence[str]],
    profile: parts.Profile,
    measured: Round,
    arguments: argparse.Namespace,
) -> str:
    versions = versions_of(("nginx", "wrk", "keyhole", "uvicorn", "uvloop", "httptools", "msgspec"))
    return f"""\
# Where the time of a request goes, {machine.processor()}, {machine.cores()} cores

{markdown(HEADINGS, rows)}

- {machine.sentence()}
- {versions}
- Run with `python bench/costs.py --seconds {arguments.seconds} --rate {arguments.rate}`:
  {profile.samples} samples; the round without the profiler: {measured.requests_per_s:,.0f}
  requests/s, {measured.cpu_us:.1f} us CPU per request; other programs had
  {measured.others_share:.0%} of a core.
- Which function belongs to which part: bench/parts.py.
"""


if __name__ == "__main__":
    sys.exit(main())
