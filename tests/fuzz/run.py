"""The long fuzzers, one after another, until one finds something.

    python tests/fuzz/run.py [SECONDS] [SEED]

First the races of an upstream that closes its connections at the moment of their reuse, and two
million mutated inputs of the dialects, which take as long as they take; then half of what is left
for the clients' side and half for the upstreams'. Each tells its figures. What finds something
ends the run with exit status 1, after what it takes to see it again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-s", "--timeout=0")
RACES = 10_000
MUTATIONS = 2_000_000
EXAMPLES = 5_000
"""Of each of the transport's fuzzers in a round."""


class FoundError(Exception):
    """A fuzzer has found something, and said what."""


def run(title: str, *command: str, **environ: str) -> None:
    """Run a fuzzer to its end; raises FoundError."""
    print(f"\n== {title}", flush=True)
    if subprocess.run(command, cwd=ROOT, env=os.environ | environ, check=False).returncode:
        said = " ".join([*(f"{name}={value}" for name, value in environ.items()), *command[1:]])
        raise FoundError(f"{title}: found something. Again: python {said}")


def races() -> None:
    """Upstream connections that are closed when they are used again."""
    test = "tests/io/test_reuse_races.py"
    run(f"reuse races, {RACES} of each kind", *PYTEST, test, KEYHOLE_RACES=str(RACES))


def strict(seconds: float, seed: int) -> None:
    """Clients that send anything."""
    command = (sys.executable, "tests/fuzz/strict.py", f"{seconds:.0f}", str(seed))
    run(f"strict connections, {seconds:.0f} s", *command)


def mutations(seed: int) -> None:
    """Bodies, answers and streams that are nearly good, for every dialect."""
    command = (sys.executable, "tests/fuzz/mutations.py", str(MUTATIONS), str(seed))
    run(f"dialects, {MUTATIONS} mutations", *command)


def transport(seconds: float, seed: int) -> None:
    """Upstreams that answer anything."""
    end_s, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end_s:
        command = (*PYTEST, "tests/io/test_transport_fuzz.py", f"--hypothesis-seed={seed + rounds}")
        run(f"transport, round {rounds + 1}", *command, KEYHOLE_EXAMPLES=str(EXAMPLES))
        rounds += 1
    print(f"{rounds} rounds of {EXAMPLES} examples for each fuzzer, nothing found")


def main() -> int:
    """Run all of them; the exit status."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    end_s = time.monotonic() + seconds
    print(f"seed {seed}")
    try:
        races()
        mutations(seed)
        strict(max(1.0, (end_s - time.monotonic()) / 2), seed)
        transport(end_s - time.monotonic(), seed)
    except FoundError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\nAll of them: nothing found in {seconds:.0f} s (seed {seed}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
