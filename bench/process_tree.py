"""Processes of the benchmark: started on chosen cores, weighed with all their children, ended.

CPU time and memory are read from /proc, so this is for Linux alone. CPU time of a process that
has already ended is not counted: whoever compares two readings checks that the processes are
the same ones.

Facts: fields of /proc/PID/stat in proc(5), https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
(2026-11); utime and stime together are exact to a clock tick, whatever the split between them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOP_WITHIN_S = 15.0
REST_WITHIN_S = 120.0
REST_S = 0.5
"""Longer than two looks of Keyhole's clerk at its journal."""
REST_SHARE = 0.06
"""Less of a core than this is rest."""


class BenchError(Exception):
    """A run that cannot go on; the message is all that the user needs."""


@dataclass(frozen=True)
class Stat:
    """One process at one moment."""

    pid: int
    parent: int
    cpu_ticks: int
    """User and system time of all its threads."""
    started_ticks: int
    """Since boot; tells a process from a later one with the same pid."""
    rss_bytes: int


@dataclass(frozen=True)
class Weight:
    """A tree of processes at one moment."""

    processes: frozenset[tuple[int, int]]
    """Pid and start of each."""
    cpu_s: float
    rss_bytes: int
    """Of all together; pages that they share are counted in each."""
    worker_rss_bytes: int
    """Of the process that has used the most CPU."""
    cpu_s_of: Mapping[int, float]
    """By process id."""


def parse_stat(text: str) -> Stat:
    """Read /proc/PID/stat. The command's name may hold spaces and brackets."""
    pid, _, rest = text.partition(" (")
    fields = rest.rpartition(") ")[2].split()
    return Stat(
        pid=int(pid),
        parent=int(fields[1]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        started_ticks=int(fields[19]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def descendants(stats: Sequence[Stat], root: int) -> list[Stat]:
    """The process `root` and all that it has started, among `stats`."""
    children: dict[int, list[Stat]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
    found = [stat for stat in stats if stat.pid == root]
    for stat in found:  # grows while it is read
        found += children.get(stat.pid, [])
    return found


def weigh(root: int) -> Weight:
    """The tree under the process `root`, now; raises BenchError if it has ended."""
    tree = descendants(_all_stats(), root)
    if not tree:
        raise BenchError(f"process {root} has ended")
    return Weight(
        processes=frozenset((stat.pid, stat.started_ticks) for stat in tree),
        cpu_s=sum(stat.cpu_ticks for stat in tree) * TICK_S,
        rss_bytes=sum(stat.rss_bytes for stat in tree),
        worker_rss_bytes=max(tree, key=lambda stat: stat.cpu_ticks).rss_bytes,
        cpu_s_of={stat.pid: stat.cpu_ticks * TICK_S for stat in tree},
    )


def busiest_s(before: Weight, after: Weight) -> float:
    """CPU time, between two looks, of the process that used the most: the worker."""
    return max(used_s - before.cpu_s_of.get(pid, 0.0) for pid, used_s in after.cpu_s_of.items())


def await_rest(root: int) -> None:
    """Wait until a tree does next to nothing: what it puts off is part of what it costs.

    Raises BenchError if that takes long.
    """
    deadline_s = time.monotonic() + REST_WITHIN_S
    used_s = weigh(root).cpu_s
    while time.monotonic() < deadline_s:
        time.sleep(REST_S)
        used_s, before_s = weigh(root).cpu_s, used_s
        if used_s - before_s <= REST_SHARE * REST_S:
            return
    raise BenchError(f"process {root} is still at work after {REST_WITHIN_S:g} s without requests")


def _all_stats() -> list[Stat]:
    stats = []
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                stats.append(parse_stat((folder / "stat").read_text(errors="replace")))
    return stats


def busy_s(cores: Collection[int]) -> float:
    """Seconds since boot that programs, or other machines (steal), had these cores."""
    names = {f"cpu{core}" for core in cores}
    lines = [line.split() for line in (PROC / "stat").read_text().splitlines()]
    return sum(busy_ticks(ticks) * TICK_S for name, *ticks in lines if name in names)


def own_cpu_s() -> float:
    """CPU time of this process and of those that it has started and seen ending."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def busy_ticks(ticks: Sequence[str]) -> int:
    """User, nice, system and steal of a core's line in /proc/stat; not idle, not interrupts."""
    return sum(int(ticks[index]) for index in (0, 1, 2, 7))


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Run on these cores alone; what is started meanwhile stays on them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Running:
    """A started program."""

    process: subprocess.Popen[bytes]
    output: Path
    """What it prints, errors included."""

    @property
    def pid(self) -> int:
        """Its process id, the root of its tree."""
        return self.process.pid

    def check(self) -> None:
        """Raise BenchError, with the end of its output, if it has ended."""
        if self.process.poll() is not None:
            end = self.output.read_text(errors="replace")[-2000:]
            name = self.output.parent.name
            raise BenchError(f"{name} ended by itself ({self.process.returncode}):\n{end}")


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    output: Path,
    cores: set[int],
) -> Iterator[Running]:
    """Start a program on some cores; end it and every process that it has started."""
    with output.open("ab") as written, pinned(cores):
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, output)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    tree = descendants(_all_stats(), process.pid)
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for _ in range(100):
        left = _still_there(tree)
        if not left:
            return
        time.sleep(0.01)
    for stat in _still_there(tree):
        with contextlib.suppress(ProcessLookupError):
            os.kill(stat.pid, signal.SIGKILL)


def _still_there(tree: Sequence[Stat]) -> list[Stat]:
    now = {(stat.pid, stat.started_ticks) for stat in _all_stats()}
    return [stat for stat in tree if (stat.pid, stat.started_ticks) in now]
