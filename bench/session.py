"""A run of a benchmark on the command line: what is chosen, how it goes on, how it ends.

It measures nothing itself.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import machine
from process_tree import BenchError, busy_s

RESULTS = Path(__file__).parent / "results"
NOT_WRITTEN = "Not written to bench/results: not a whole run."
DISTURBED = 0.1
"""More of a core than this in other programs' hands spoils a round."""


def choose(known: Sequence[str], only: str | None) -> list[str]:
    """The contenders that `--only` names, all of them without; ends the program otherwise."""
    names = list(known) if only is None else only.split(",")
    if unknown := [name for name in names if name not in known]:
        demand([f"No contender {', '.join(unknown)}; there are {', '.join(known)}."])
    return [name for name in known if name in names]


def demand(missing: Sequence[str]) -> None:
    """End the program, with a line for everything that is missing, unless nothing is."""
    if missing:
        print("\n".join(missing), file=sys.stderr)
        sys.exit(2)


def missing_files(needed: int) -> list[str]:
    """Raise the limit of open files, which the servers inherit; a line if it cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        return [f"{needed} open files are needed, and {hard} are allowed (ulimit -Hn)."]
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return []


def attempt(measure: Callable[[], None]) -> int:
    """Measure; the program's exit status. A run that is told to end cleans up behind itself."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        measure()
    except BenchError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def write_page(suffix: str, text: str) -> None:
    """Write the page of today's run on this machine, and say where it is."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    path = RESULTS / f"{date}-{machine.slug()}{suffix}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(f"Written: {path.relative_to(RESULTS.parent.parent)}")


class Shared(Protocol):
    """A round, on cores that other programs may have used too."""

    @property
    def others_share(self) -> float:
        """How much of a core they used, on all the run's cores: the noise."""
        ...


class Patience:
    """Seconds that a run may still spend on waiting for a quiet machine, and on trying again."""

    def __init__(self, left_s: float) -> None:
        self._left_s = left_s
        self.repeated = 0
        """Rounds that were thrown away because other programs were in the way."""

    def await_quiet(self, cores: set[int]) -> None:
        """Wait until other programs leave the cores alone, or patience ends."""
        while self._left_s > 0:
            before_s = busy_s(cores)
            time.sleep(1)
            if busy_s(cores) - before_s <= DISTURBED:
                return
            self._left_s -= 1

    def is_for_again(self, done: Shared, took_s: float) -> bool:
        """Whether a round was disturbed and there is patience for another."""
        if done.others_share <= DISTURBED or self._left_s <= 0:
            return False
        self._left_s -= took_s
        self.repeated += 1
        return True


class Progress:
    """One line that tells how far the run is: rewritten on a terminal, added elsewhere."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._is_terminal = sys.stderr.isatty()

    def tell(self, text: str) -> None:
        """Say what was just done."""
        self._done += 1
        line = f"[{self._done:>{len(str(self._steps))}}/{self._steps}] {text}"
        print(f"\r\x1b[K{line}" if self._is_terminal else line, file=sys.stderr, flush=True,
              end="" if self._is_terminal else "\n")  # fmt: skip

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
