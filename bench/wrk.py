"""Load by wrk: as fast as the server can, or at a rate, and what it measured.

At a rate: wrk has no limit of its own, but lets each connection pause before its next request.
The pauses are drawn from 0 to twice their mean, which is chosen so that the wanted rate comes
out. wrk wakes once a millisecond, so the requests come in small bunches; their waiting for each
other is part of what is measured, alike for every server at the same share of its capacity.

Facts, read in wrk 4.1.0 (https://github.com/wg/wrk, 2026-11): `delay()` returns whole
milliseconds and its pause is not part of the latency; `done()` gets latencies in microseconds;
a status above 399 counts as an error.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from process_tree import BenchError, pinned

TIMEOUT_S = 10
_RESULT = re.compile(r"^result (?P<fields>.*)$", re.MULTILINE)
_DONE = """
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    "result requests=%d duration_us=%d p50_us=%d p99_us=%d max_us=%d "
      .. "connect=%d read=%d write=%d timeout=%d status=%d\\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, failed.connect, failed.read, failed.write, failed.timeout, failed.status))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk sends, and how."""

    url: str
    body: str
    """JSON."""
    connections: int
    duration_s: float
    think_ms: float | None = None
    """The mean pause of a connection between an answer and its next request; None: no pause."""
    secrets: Sequence[str] = ()
    """Keys, sent in turn; without any, requests show none."""


@dataclass(frozen=True)
class Measured:
    """What one run of wrk saw."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: Mapping[str, int]
    """By kind: connect, read, write, timeout, status."""

    @property
    def requests_per_s(self) -> float:
        """The rate."""
        return self.requests / self.duration_s


def run(load: Load, *, cores: set[int], folder: Path) -> Measured:
    """Run wrk on some cores; raises BenchError when a single request failed."""
    script = folder / "load.lua"
    script.write_text(lua(load))
    command = [
        *("wrk", "--threads", "1", "--connections", str(load.connections)),
        *("--duration", f"{max(1, round(load.duration_s))}s", "--timeout", f"{TIMEOUT_S}s"),
        *("--script", str(script), load.url),
    ]
    with pinned(cores):
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=load.duration_s + 2 * TIMEOUT_S,
        )
    if ended.returncode != 0:
        raise BenchError(f"wrk failed ({ended.returncode}): {ended.stderr or ended.stdout}")
    measured = parse(ended.stdout)
    if measured.requests == 0 or any(measured.errors.values()):
        raise BenchError(f"wrk saw failures at {load.url}: {measured}")
    return measured


def lua(load: Load) -> str:
    """The script that has wrk send the load's body, pause, and print its result on a line."""
    lines = [
        'wrk.method = "POST"',
        'wrk.headers["Content-Type"] = "application/json"',
        f"wrk.body = [==[{load.body}]==]",
    ]
    if len(load.secrets) == 1:
        lines.append(f'wrk.headers["Authorization"] = "Bearer {load.secrets[0]}"')
    elif load.secrets:
        lines += [
            f"local secrets = {{{', '.join(json.dumps(secret) for secret in load.secrets)}}}",
            "local requests, next = {}, 0",
            "function init(args)",
            "  for n, secret in ipairs(secrets) do",
            '    wrk.headers["Authorization"] = "Bearer " .. secret',
            "    requests[n] = wrk.format()",
            "  end",
            "end",
            "function request()",
            "  next = next % #requests + 1",
            "  return requests[next]",
            "end",
        ]
    if load.think_ms is not None:
        # wrk cuts the fraction off: with half a millisecond more the mean is as asked.
        pause = f"math.random() * {2 * load.think_ms:.6f} + 0.5"
        lines.append(f"function delay() return {pause} end")
    return "\n".join(lines) + _DONE


def parse(output: str) -> Measured:
    """Read the line that the script has printed; raises BenchError if there is none."""
    line = _RESULT.search(output)
    if line is None:
        raise BenchError(f"wrk printed no result: {output[-500:]}")
    fields = {name: int(value) for name, value in re.findall(r"(\w+)=(-?\d+)", line["fields"])}
    return Measured(
        requests=fields["requests"],
        duration_s=fields["duration_us"] / 1e6,
        p50_ms=fields["p50_us"] / 1e3,
        p99_ms=fields["p99_us"] / 1e3,
        max_ms=fields["max_us"] / 1e3,
        errors={name: fields[name] for name in ("connect", "read", "write", "timeout", "status")},
    )


def spread_over(rate: float, *, pause_ms: float, fewest: int, most: int) -> tuple[int, float]:
    """Connections, and the mean pause in ms, that come to about a rate of requests a second."""
    connections = min(max(round(rate * pause_ms / 1e3), fewest), most)
    return connections, connections / rate * 1e3
