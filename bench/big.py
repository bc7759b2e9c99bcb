"""What a million keys and ten million rows change: a request's cost, the start, the questions.

    python bench/big.py [--keys N] [--rows N] [--rounds N] [--seconds S] [--patience S]

The state directory with all of them is made once, in five minutes and 4 GB, and kept in
KEYHOLE_BENCH_CACHE (~/.cache/keyhole-bench); it is made anew when it is older than a week, since
what was used in the last thirty days is asked of it. Requests show a thousand keys in turn, once
before that state and once before one that holds these thousand alone, in rounds that take turns as
in bench/proxy.py. A whole run writes bench/results/DATE-MACHINE-big.md.

Not measured: PostgreSQL, more than one clerk, keys that are made meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ledger
import machine
from contenders import (
    Contender,
    Server,
    contenders,
    find_program,
    free_port,
    missing,
    serving,
    upstream,
)
from keyhole.ledger.database import Database, ledger_url
from process_tree import BenchError, pinned, running, weigh
from proxy import Bench, Plan, full_round
from proxy_report import Round, aligned, markdown
from session import NOT_WRITTEN, Patience, Progress, attempt, demand, write_page

KEYS, ROWS, DAYS = 1_000_000, 10_000_000, 60
SHOWN = 1000
"""How many keys the requests show: as many as a worker keeps in memory, and not one."""
MAX_AGE_S = 7 * 86_400
STARTS = 5
ASKED = 5
START_S, USAGE_S, MORE = 2.0, 1.0, 1.10
ADMIN_KEY = "admin-key-of-the-benchmark"


@dataclass(frozen=True)
class Made:
    """The state directory that is kept."""

    folder: Path

    @property
    def state(self) -> Path:
        """Keyhole's."""
        return self.folder / "state"

    @property
    def secrets(self) -> Path:
        """The first keys', as `keyhole key create --json` prints them."""
        return self.folder / "secrets"

    @property
    def told(self) -> Path:
        """How long it took; written last."""
        return self.folder / "made"


def main() -> int:
    arguments = _arguments()
    demand(missing([]))

    def measure() -> None:
        lines = _run(arguments)
        print(aligned(("", "", ""), lines))
        if (arguments.keys, arguments.rows) == (KEYS, ROWS):
            write_page("-big", _page(lines))
        else:
            print(NOT_WRITTEN)

    return attempt(measure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Keyhole with many keys and rows.")
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each round")
    parser.add_argument("--patience", type=int, default=60, help="seconds for a busy machine")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Make what is to be made, and measure; rows of a table."""
    made = make(arguments.keys, arguments.rows)
    *load_cores, core = sorted(os.sched_getaffinity(0))
    progress = Progress(2 * arguments.rounds + 2)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhole-bench-")))
        stack.callback(progress.end)
        lines = [*_sizes(made), *_starts(made, folder, core), *_questions(made, folder)]
        progress.tell("starts and questions")
        stack.enter_context(pinned(set(load_cores)))
        source = stack.enter_context(upstream(folder / "upstream", cores=set(load_cores)))
        plan = Plan(arguments.rounds, arguments.seconds, 0, 0, arguments.patience)
        bench = Bench(plan, folder, core, set(load_cores), source)
        servers = [
            stack.enter_context(serving(each, folder / each.name, upstream=source, cores={core}))
            for each in _two(made)
        ]
        rounds = _rounds(bench, servers, progress)
        few, many = (statistics.median(one.cpu_us for one in done) for done in rounds)
        lines += [
            (f"CPU per request, us, {SHOWN:,} keys and no rows", f"{few:.1f}", ""),
            ("the same with all of them", f"{many:.1f}", _verdict(many / few, MORE, "times")),
            *_rss(servers),
        ]
        progress.tell("memory")
    return lines


def make(keys: int, rows: int) -> Made:
    """The state directory with so many keys and rows, made unless it is there."""
    cache = Path(os.environ.get("KEYHOLE_BENCH_CACHE") or Path.home() / ".cache/keyhole-bench")
    made = Made(cache / f"big-{keys}-{rows}")
    if made.told.exists() and time.time() - made.told.stat().st_mtime < MAX_AGE_S:
        return made
    shutil.rmtree(made.folder, ignore_errors=True)
    made.state.mkdir(mode=0o700, parents=True)
    began_s, left = time.perf_counter(), SHOWN
    with Database(ledger_url(None, made.state)) as database, made.secrets.open("w") as file:
        os.fchmod(file.fileno(), 0o600)

        def keep(secret: str) -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                file.write(json.dumps({"secret": secret}) + "\n")

        database.migrate()
        wanted = argparse.Namespace(keys=keys, rows=rows, days=DAYS, even=False)
        ledger.fill(database, wanted, keep_secret=keep)
    ledger_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    with _served(made, made.folder, {*os.sched_getaffinity(0)}):
        told = {"ledger_s": ledger_s, "mirror_s": time.perf_counter() - began_s}
    made.told.write_text(json.dumps(told))
    return made


def _two(made: Made) -> list[Contender]:
    """The same server before a thousand keys, and before all of them."""
    with_keys = next(each for each in contenders() if each.name == "keys")
    group, (*create, as_json) = with_keys.before
    many = ("--count", str(SHOWN))
    return [
        replace(with_keys, name="few", before=(group, (*create, *many, as_json))),
        replace(
            with_keys,
            name="many",
            before=(("cat", str(made.secrets)),),
            environ={"KEYHOLE_DATA": str(made.state)},
        ),
    ]


def _rounds(
    bench: Bench, servers: list[Server], progress: Progress
) -> tuple[list[Round], list[Round]]:
    found: tuple[list[Round], list[Round]] = ([], [])
    patience = Patience(bench.plan.patience_s)
    for _ in range(bench.plan.rounds):
        for server, done in zip(servers, found, strict=True):
            while True:
                patience.await_quiet(bench.cores)
                began_s = time.monotonic()
                one = full_round(bench, server)
                if not patience.is_for_again(one, time.monotonic() - began_s):
                    break
            done.append(one)
            progress.tell(f"{server.contender.name}: {one.cpu_us:.1f} us CPU per request")
    return found


def _sizes(made: Made) -> Iterator[tuple[str, str, str]]:
    told = json.loads(made.told.read_text())
    yield ("made in, s", f"{told['ledger_s']:,.0f}", "")
    yield ("first start, which makes the mirror, s", f"{told['mirror_s']:.1f}", "")
    for name in ("ledger.sqlite", "keys.mirror"):
        yield (f"{name}, MB", f"{(made.state / name).stat().st_size / 1e6:,.0f}", "")


def _starts(made: Made, folder: Path, core: int) -> Iterator[tuple[str, str, str]]:
    took_s = []
    for number in range(STARTS):
        began_s = time.perf_counter()
        place = folder / f"start-{number}"
        place.mkdir()
        with _served(made, place, {core}):
            took_s.append(time.perf_counter() - began_s)
    median_s = statistics.median(took_s)
    verdict = _verdict(median_s, START_S, "s")
    yield (f"start to a key's first answer, s, of {STARTS}", f"{median_s:.2f}", verdict)


def _questions(made: Made, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Commands and a page of rows, beside a running server."""
    place = folder / "questions"
    place.mkdir()
    with _served(made, place, {*os.sched_getaffinity(0)}) as port:
        row = _page_of_rows(port)["rows"][0]
        commands = {
            "keyhole usage --since 30d": ("usage", "--since", "30d"),
            "keyhole usage --since 30d --by day": ("usage", "--since", "30d", "--by", "day"),
            "keyhole explain ID": ("explain", row["exchange_id"]),
        }
        for title, command in commands.items():
            took_s = _median_s(lambda command=command: _command(made, *command))  # type: ignore[misc]
            verdict = _verdict(took_s, USAGE_S, "s")
            yield (f"{title}, s", f"{took_s:.2f}", verdict)
        took_s = _median_s(lambda: _page_of_rows(port))
        yield ("a page of 1,000 rows over HTTP, s", f"{took_s:.3f}", "")


def _rss(servers: list[Server]) -> Iterator[tuple[str, str, str]]:
    for server in servers:
        weight = weigh(server.program.pid)
        name = "with all of them" if server.contender.name == "many" else f"with {SHOWN:,} keys"
        told = f"{weight.worker_rss_bytes / 1e6:.0f} of {weight.rss_bytes / 1e6:.0f}"
        yield (f"RSS of the worker, of all processes, MB, {name}", told, "")


@contextmanager
def _served(made: Made, folder: Path, cores: set[int]) -> Iterator[int]:
    """Run a server before the big state until a key has been answered; its port."""
    port = free_port()
    secret = json.loads(made.secrets.read_text().splitlines()[0])["secret"]
    command = [find_program("keyhole") or "keyhole", "serve", "--listen", f"127.0.0.1:{port}"]
    environ = _environ(made)
    with running(
        command, environ=environ, folder=folder, output=folder / "output", cores=cores
    ) as program:
        while _get(port, "/v1/key", secret) is None:
            program.check()
            time.sleep(0.005)
        yield port


def _environ(made: Made) -> dict[str, str]:
    passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    config = made.folder / "keyhole.toml"
    config.touch()
    return passed | {
        "LANG": "C.UTF-8",
        "HOME": str(made.folder),
        "KEYHOLE_CONFIG": str(config),
        "KEYHOLE_DATA": str(made.state),
        "KEYHOLE_ADMIN_KEY": ADMIN_KEY,
    }


def _get(port: int, path: str, secret: str) -> bytes | None:
    """The body of a 200; None where nobody answers yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with closing(connection):
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {secret}"})
            response = connection.getresponse()
            body = response.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            return None
    if response.status == 503:
        return None
    if response.status != 200:
        raise BenchError(f"{path} was answered with {response.status}: {body[:300]!r}")
    return body


def _page_of_rows(port: int) -> dict[str, list[dict[str, str]]]:
    body = _get(port, "/admin/v1/usage/rows?since=30d&limit=1000", ADMIN_KEY)
    found: dict[str, list[dict[str, str]]] = json.loads(body or b"{}")
    return found


def _command(made: Made, *arguments: str) -> None:
    program = find_program("keyhole") or "keyhole"
    ended = subprocess.run(
        [program, *arguments], env=_environ(made), capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise BenchError(f"keyhole {' '.join(arguments)} failed: {ended.stderr}")


def _median_s(act: Callable[[], object]) -> float:
    took_s = []
    for _ in range(ASKED):
        began_s = time.perf_counter()
        act()
        took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s)


def _verdict(value: float, most: float, unit: str) -> str:
    verdict = "met" if value <= most else "MISSED"
    return f"{verdict}: {value:.2f}, at most {most:g} {unit}"


def _page(lines: list[tuple[str, str, str]]) -> str:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    title = f"# A million keys and ten million rows, {date}, {machine.processor()}"
    how = f"""\
{machine.sentence()} Run with `make big`: the state is made by `bench/ledger.py`, {KEYS:,} keys in
{ledger.GROUPS} groups with every limit, {ROWS:,} rows over {DAYS} days, the k-th key about 1/k as
often as the first. CPU as in bench/proxy.py, every process counted; {SHOWN:,} keys in turn."""
    return "\n\n".join([title, markdown(("", "", ""), lines), how]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
