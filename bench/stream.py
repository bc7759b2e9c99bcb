"""What a stream through Keyhole costs, beside nginx without buffering and no server at all.

    python bench/stream.py [--quick] [--only NAME,...] [--rounds N] [--patience S]

An upstream of our own sends each stream at an exact pace; each contender stands in front of it, on
one core, with load and upstream on the others. Rounds of all contenders take turns, so that a
noisy machine is noisy for each of them; a round that other programs disturbed is repeated, within
--patience. A whole run writes bench/results/DATE-MACHINE-streams.md; a quick or partial one only
prints. Every stream is checked to its last byte, and a single wrong one ends the run.

Not measured: TLS, slow readers, clients that leave, many cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import machine
import stream_load
from contenders import Contender, missing, versions_of
from process_tree import BenchError, Weight, busy_s, own_cpu_s, pinned, weigh
from proxy_report import aligned
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
from stream_contenders import (
    CHAT,
    GENERATE,
    WARM_STREAMS,
    Server,
    Source,
    Status,
    Streamer,
    check,
    serving,
    streamers,
    upstream,
)
from stream_load import percentile
from stream_report import (
    DIRECT,
    HEADINGS,
    LOAD_FULL,
    Setting,
    StreamResult,
    StreamRound,
    limits,
    page,
    table,
    verdicts,
)
from stream_upstream import CHUNKS, LATE_S

SETTINGS = (
    Setting(streams=200, interval_ms=20, rounds=3, seconds=4, has_direct=True),
    Setting(streams=2000, interval_ms=100, rounds=2, seconds=3),
    Setting(streams=2000, interval_ms=20, rounds=1, seconds=3, is_overload=True),
)
QUICK = (
    Setting(streams=200, interval_ms=20, rounds=1, seconds=2, has_direct=True),
    Setting(streams=2000, interval_ms=20, rounds=1, seconds=2, is_overload=True),
)
OTHER_FILES = 500
"""What a process opens beside two connections for each stream."""
OPEN_SHARE = 0.9
"""So many of the streams must be open at the upstream at once, or someone has made them wait."""
VERSIONS_OF = ("nginx", "keyhole", "uvloop", "httptools")


@dataclass(frozen=True)
class Bench:
    """Where things run."""

    core: int
    """The contender's."""
    load_cores: set[int]
    source: Source

    @property
    def cores(self) -> set[int]:
        """All that the run uses."""
        return {self.core} | self.load_cores


@dataclass(frozen=True)
class Snapshot:
    """Everybody at one moment."""

    at_s: float
    contender: Weight
    status: Status
    load_s: float
    """CPU time of load and upstream."""
    all_s: float
    """The same of every program on the run's cores."""


def main() -> int:
    arguments = _arguments()
    known = streamers()
    names = choose([streamer.name for streamer in known], arguments.only)
    chosen = [streamer for streamer in known if streamer.name in names]
    settings = QUICK if arguments.quick else SETTINGS
    if arguments.rounds is not None:
        settings = tuple(replace(setting, rounds=arguments.rounds) for setting in settings)
    files = 2 * max(setting.streams for setting in settings) + OTHER_FILES
    needed = [each for streamer in chosen if (each := streamer.contender) is not None]
    demand(missing(needed, programs=("nginx",), packages=("keyhole",)) + missing_files(files))

    def measure() -> None:
        results, how = _run(settings, chosen, 0 if arguments.quick else arguments.patience)
        for setting, found in results.items():
            print(f"{setting.title}\n{aligned(HEADINGS, table(found))}\n")
        print("\n".join([*verdicts(results), *limits(results)]))
        if arguments.quick or len(chosen) < len(known):
            print(NOT_WRITTEN)
            return
        date = time.strftime("%Y-%m-%d", time.gmtime())
        title = f"Streams, {date}, {machine.processor()}, {machine.cores()} cores"
        commands = [_command(contender) for contender in needed]
        write_page("-streams", page(title=title, setting=how, commands=commands, results=results))

    return attempt(measure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure streams beside nginx.")
    parser.add_argument("--quick", action="store_true", help="a minute, nothing written")
    parser.add_argument("--only", metavar="NAME,...", help="some contenders, nothing written")
    parser.add_argument("--rounds", type=int, help="of each setting, instead of its own number")
    parser.add_argument("--patience", type=int, default=15, help="seconds for a busy machine")
    arguments = parser.parse_args()
    if arguments.rounds is not None and not 1 <= arguments.rounds <= 20:
        parser.error("--rounds must be 1 to 20")
    if not 0 <= arguments.patience <= 3600:
        parser.error("--patience must be 0 to 3600")
    return arguments


def _run(
    settings: Sequence[Setting], chosen: Sequence[Streamer], patience_s: float
) -> tuple[dict[Setting, dict[str, StreamResult]], str]:
    """Measure all of them; the results, and what they rest on."""
    *load_cores, core = sorted(os.sched_getaffinity(0))
    load_before = os.getloadavg()[0]
    results = {
        setting: {
            streamer.name: StreamResult(streamer.title)
            for streamer in chosen
            if streamer.name != DIRECT or setting.has_direct
        }
        for setting in settings
    }
    progress = Progress(sum(setting.rounds * len(found) for setting, found in results.items()))
    patience = Patience(patience_s)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-bench-")))
        stack.callback(progress.end)
        stack.enter_context(pinned(set(load_cores)))
        source = stack.enter_context(upstream(folder / "upstream", cores=set(load_cores)))
        bench = Bench(core, set(load_cores), source)
        servers = {}
        idle_bytes = {}
        for each in chosen:
            context = serving(each, folder / each.name, source=source, cores={core})
            servers[each.name] = server = stack.enter_context(context)
            idle_bytes[each.name] = weigh(server.program.pid).rss_bytes
        for setting, found in results.items():
            source.pace(setting.interval_ms)
            for turn in range(setting.rounds):
                for name, result in found.items():
                    done, whole = _take(bench, servers[name], setting, idle_bytes[name], patience)
                    result.rounds.append(done)
                    result.streams += whole
                    progress.tell(_told(name, setting, turn, done))
    loads = (load_before, os.getloadavg()[0])
    how = _how(settings, core, load_cores, loads=loads, repeated=patience.repeated)
    return results, how


def _take(
    bench: Bench, server: Server, setting: Setting, idle_bytes: int, patience: Patience
) -> tuple[StreamRound, int]:
    """A round that nobody disturbed, while patience lasts; and its number of whole streams."""
    while True:
        patience.await_quiet(bench.cores)
        began_s = time.monotonic()
        done, whole = _round(bench, server, setting, idle_bytes)
        if not patience.is_for_again(done, time.monotonic() - began_s):
            return done, whole


def _round(
    bench: Bench, server: Server, setting: Setting, idle_bytes: int
) -> tuple[StreamRound, int]:
    """Keep the streams open; raises BenchError unless every one went all the way."""
    name, snapshots = server.streamer.name, []

    def look() -> None:
        snapshots.append(_snapshot(bench, server))

    length_s = CHUNKS * setting.interval_ms / 1e3
    load = server.streamer.ask.load(
        server.port, streams=setting.streams, ramp_s=length_s, seconds=setting.seconds
    )
    server.take_log()
    measured = stream_load.run(load, at_open=look, at_close=look)
    check(server, measured)
    time.sleep(0.1)  # the lines about the last streams are written when those have ended
    logged = server.take_log()
    first, last = snapshots
    if last.contender.processes != first.contender.processes:
        raise BenchError(f"a process of {name} ended or was started during a round")
    if logged is not None and logged < measured.streams:
        raise BenchError(f"{name}: {measured.streams} streams, but {logged} lines in its log")
    open_at_once = first.status.open_now
    if open_at_once < OPEN_SHARE * setting.streams and not setting.is_overload:
        raise BenchError(
            f"{name}: of {setting.streams} streams only {open_at_once} reached the upstream at once"
        )
    return _figures(server, setting, idle_bytes, (first, last), measured), measured.streams


def _snapshot(bench: Bench, server: Server) -> Snapshot:
    return Snapshot(
        at_s=time.perf_counter(),
        contender=weigh(server.program.pid),
        status=bench.source.status(),
        load_s=weigh(bench.source.program.pid).cpu_s + own_cpu_s(),
        all_s=busy_s(bench.cores),
    )


def _figures(
    server: Server,
    setting: Setting,
    idle_bytes: int,
    snapshots: tuple[Snapshot, Snapshot],
    measured: stream_load.Measured,
) -> StreamRound:
    first, last = snapshots
    is_direct = server.streamer.contender is None
    took_s = last.at_s - first.at_s
    load_s = last.load_s - first.load_s
    cpu_s = 0.0 if is_direct else last.contender.cpu_s - first.contender.cpu_s
    sent = last.status.chunks - first.status.chunks
    rss_bytes = max(snapshot.contender.rss_bytes for snapshot in snapshots)
    return StreamRound(
        chunks_per_s=measured.chunks / took_s,
        cpu_us=None if is_direct else cpu_s / measured.chunks * 1e6,
        first_p50_ms=percentile(measured.first_byte_s, 0.5) * 1e3,
        first_p99_ms=percentile(measured.first_byte_s, 0.99) * 1e3,
        gap_p99_ms=measured.gap_s(0.99) * 1e3,
        stream_bytes=None if is_direct else (rss_bytes - idle_bytes) / setting.streams,
        chunks_per_read=measured.chunks / measured.reads,
        core_share=None if is_direct else cpu_s / took_s,
        load_share=load_s / took_s,
        late_share=(last.status.late - first.status.late) / sent,
        others_share=max(last.all_s - first.all_s - load_s - cpu_s, 0) / took_s,
    )


def _told(name: str, setting: Setting, turn: int, done: StreamRound) -> str:
    cpu = "" if done.cpu_us is None else f", {done.cpu_us:.1f} us CPU per chunk"
    return (
        f"{name}, {setting.streams:,} at {setting.interval_ms} ms, round {turn + 1}: "
        f"{done.chunks_per_s:,.0f} chunks/s, first byte p99 {done.first_p99_ms:.2f} ms{cpu}"
    )


def _command(contender: Contender) -> str:
    words = shlex.join(word.replace("{port}", "PORT") for word in contender.command)
    return f"{contender.name}: `{words}`"


def _how(
    settings: Sequence[Setting],
    core: int,
    load_cores: Sequence[int],
    *,
    loads: tuple[float, float],
    repeated: int,
) -> str:
    """What the figures rest on, for the page."""
    windows = ", ".join(f"{each.seconds:g} s x {each.rounds} ({each.title})" for each in settings)
    return f"""\
- {machine.sentence()}
- {versions_of(VERSIONS_OF)}
- Run with `python bench/stream.py`. Load average of the machine before {loads[0]:.1f}, after
  {loads[1]:.1f}. A round in which other programs had more than {DISTURBED:.0%} of a core is
  repeated while the patience for it lasts; {repeated} were.
- The contender has core {core}; load and upstream, a process each, share core
  {", ".join(map(str, load_cores))}. Everything is on loopback.
- Upstream: the head and the first chunk at once, then a chunk each interval, {CHUNKS} in all; each
  is one event of a chat completion with a word, one HTTP chunk and one write. The last has the
  finish, usage if it was asked for, and the end.
- The request is `POST {CHAT.path}` with `{CHAT.body}`; where Keyhole translates,
  `POST {GENERATE.path}` with `{GENERATE.body}`.
- Each client asks anew when its stream has ended, so that all are open at any time; the first
  requests are spread over a stream's length. Measured are: {windows}. Every stream, those at the
  beginning and the end included, is checked for all its chunks and its right end, and for a
  line in the contender's log.
- CPU: user and system time of all the contender's processes from /proc, divided by the chunks
  that reached a client meanwhile. The beginnings and ends of streams are in it, one for every
  {CHUNKS} chunks.
- First byte: from the request to the first byte of the first event. Added: the median, or p99,
  less that of the upstream itself without a server between, both medians of their rounds.
- Gap: between two reads of one stream at its client.
- KB/stream: RSS of all the contender's processes with the streams open, less that before all
  rounds but after {WARM_STREAMS} streams, divided by the number of streams.
- 2,000 streams at a chunk every 20 ms are 100,000 chunks a second. That is about what the load's
  core can send and read, and more than a contender can pass on that needs 10 us for a chunk. The
  chunks wait in sockets then and pass several at a time, which costs less for each (the last
  table: chunks per read); times say how long the queues are. So the same number of streams is
  measured at a fifth of the pace as well. Load and upstream count as the limit from {LOAD_FULL:.0%}
  of their core on; late is a chunk that left the upstream more than {LATE_S * 1e3:g} ms after its
  time."""


if __name__ == "__main__":
    sys.exit(main())
