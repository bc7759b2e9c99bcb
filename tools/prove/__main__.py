"""Proves that no spend is forgotten: `make prove`, or

    python tools/prove [--kills N] [--seconds S] [--seed K] [--start-within S]
                        [--postgres] [--keep]

A real `keyhole serve` with keys, limits and budgets stands in front of a fake upstream
(upstream.py) and is asked by several clients at once (asking.py), some of whom leave in the
middle of streams.
Meanwhile its worker, its supervisor, both, its clerk or everything is killed with -9 at random
moments, and its database is taken away for a while. At the end the books are compared with what
the upstream saw and with what the clients had (comparing.py). Exit status 0 where all is equal;
else 1, and each difference is a line.

It listens on this machine only, keeps everything in a temporary folder, and ends what it started.
The random moments come from the seed; what happens in them is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asking import Asked, Client, get
from comparing import Comparison, compare
from databases import Database, Postgres, Sqlite
from gateway import VICTIMS, Gateway, Key, ProveError

HERE = Path(__file__).resolve().parent
KEYS = 6
CLIENTS = 14
ANY_MOMENT = 0.15
"""The share of kills that come at any moment. The others wait until Keyhole is up, so that they
hit requests and not only starts, and then for up to `LOADED_S`."""
LOADED_S = 0.25
SETTLES_WITHIN_S = 30.0
AWAY_FROM, AWAY_FOR = 0.4, 0.08
"""When the database goes, and for how long: shares of the whole run."""


class Run:
    """One run, from the first start to the verdict."""

    def __init__(self, wanted: argparse.Namespace, gateway: Gateway, database: Database) -> None:
        self._wanted = wanted
        self._gateway = gateway
        self._database = database
        self._random = random.Random(wanted.seed)
        self._upstream_port = 0
        self._asked: list[Asked] = []
        self._clients: list[Client] = []
        self._killed: Counter[str] = Counter()
        self._starts_s: list[tuple[float, str]] = []
        self._overtaken = 0
        """Starts in which the next kill came."""
        self._is_up = asyncio.Event()
        self._is_away = False
        self._began_s = time.monotonic()
        self._measuring: asyncio.Task[None] | None = None

    async def go(self, upstream_port: int) -> list[str]:
        """The differences."""
        self._upstream_port = upstream_port
        gateway = self._gateway
        gateway.start()
        self._measure("nothing", time.monotonic())
        await self._is_up.wait()
        keys = gateway.make_keys(KEYS)
        self._say(f"Keyhole answers on port {gateway.port}; {len(keys)} keys are made.")
        for key in keys:
            await self._limits(key)  # it answers once the worker knows the key
        self._began_s = time.monotonic()
        for number in range(CLIENTS):
            key = keys[number % len(keys)]
            seed = self._random.randrange(2**32)
            self._clients.append(Client(gateway.port, key.secret, seed, self._asked))
        tasks = [asyncio.ensure_future(client.run()) for client in self._clients]
        beside = [asyncio.ensure_future(self._show()), asyncio.ensure_future(self._take_away())]
        try:
            await self._kill()
            await self._is_up.wait()
            for client in self._clients:
                client.is_stopping = True
            await asyncio.gather(*tasks)
            await beside[1]
        finally:
            for task in (*tasks, *beside):
                task.cancel()
            await asyncio.gather(*tasks, *beside, return_exceptions=True)
        return await self._judge(keys)

    async def _kill(self) -> None:
        """Kill somebody at each of so many random moments, spread over the time there is."""
        chance, wanted = self._random, self._wanted
        ends_s = self._began_s + wanted.seconds
        for number in range(wanted.kills):
            victim = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            share_s = max(ends_s - time.monotonic(), 0) / (wanted.kills - number)
            due_s = time.monotonic() + chance.uniform(0, 1.3 * share_s)
            if chance.random() >= ANY_MOMENT:
                await self._is_up.wait()
                due_s = max(due_s, time.monotonic() + chance.uniform(0, LOADED_S))
            await asyncio.sleep(due_s - time.monotonic())
            killed_s = time.monotonic()
            while not await self._gateway.kill(victim):
                await asyncio.sleep(0.01)  # it is being started
                killed_s = time.monotonic()
            self._killed[victim] += 1
            if victim != "clerk":
                self._measure(victim, killed_s)

    def _measure(self, victim: str, since_s: float) -> None:
        """Begin to measure how long it takes until Keyhole answers."""
        if self._measuring is not None and not self._measuring.done():
            self._measuring.cancel()
            self._overtaken += 1
        self._is_up.clear()
        self._measuring = asyncio.ensure_future(self._await_start(victim, since_s))

    async def _await_start(self, victim: str, since_s: float) -> None:
        await self._gateway.answered()
        self._starts_s.append((time.monotonic() - since_s, victim))
        self._is_up.set()

    async def _take_away(self) -> None:
        """Take the database away for a while in the middle."""
        seconds = self._wanted.seconds
        await asyncio.sleep(AWAY_FROM * seconds)
        self._is_away = True
        await self._database.take_away(AWAY_FOR * seconds)
        self._is_away = False

    async def _show(self) -> None:
        """Print what the upstream saw beside what the ledger holds."""
        is_terminal = sys.stdout.isatty()
        while True:
            await asyncio.sleep(1 if is_terminal else 5)
            _, (seen, tokens) = await get(self._upstream_port, "/-/count")
            held = await asyncio.to_thread(self._database.count)
            answered = sum(one.is_complete for one in self._asked)
            left = sum(one.has_left for one in self._asked)
            line = (
                f"{time.monotonic() - self._began_s:4.0f} s"
                f"  killed {sum(self._killed.values()):3} of {self._wanted.kills}"
                f"   upstream saw {seen:6,} ({tokens:,} tokens)"
                f"   ledger holds {'     ?' if held is None else f'{held:6,}'}"
                f"   answered {answered:6,}  left {left:4,}"
                f"  {'database away' if self._is_away else ''}"
            )
            print(
                f"\r{line:<120}" if is_terminal else line,
                end="" if is_terminal else "\n",
                flush=True,
            )

    async def _judge(self, keys: Sequence[Key]) -> list[str]:
        """Wait until the books have settled, compare, and tell."""
        self._say("The load has ended; the books settle.")
        began_s = time.monotonic()
        _, seen = await get(self._upstream_port, "/-/seen", within_s=20)
        while True:
            rows = await asyncio.to_thread(self._gateway.rows)
            found = compare(seen, rows, self._asked)
            settled_s = time.monotonic() - began_s
            if not found.differences or settled_s > SETTLES_WITHIN_S:
                break
            await asyncio.sleep(0.2)
        differences = list(found.differences)
        differences += await self._held(keys)
        differences += await self._restored(keys, rows)
        differences += [
            f"a start after killing {victim} took {took:.2f} s"
            for took, victim in self._starts_s
            if took > self._wanted.start_within
        ]
        differences += [f"the supervisor ended by itself: {said}" for said in self._gateway.fell]
        self._tell(found, len(seen), len(rows), settled_s)
        return differences

    async def _held(self, keys: Sequence[Key]) -> list[str]:
        """Whether anything is still held of a key's or its group's requests at once."""
        held: list[str] = []
        for _ in range(20):
            held = []
            for key in keys:
                for limit in await self._limits(key):
                    if limit["limit"] == "concurrency" and limit["used"]:
                        held.append(f"{key.name}: {limit['used']} of {limit['scope']} still held")
            if not held:
                break
            await asyncio.sleep(0.1)
        return held

    async def _restored(self, keys: Sequence[Key], rows: Sequence[Any]) -> list[str]:
        """Whether a server that starts anew says of each budget what the ledger does."""
        wrong = []
        await self._gateway.kill("everything")
        await self._gateway.answered()
        spent: Counter[str] = Counter()
        for row in rows:
            spent[row["key"]] += row["cost_microusd"]
            if row["group"]:
                spent[f"group {row['group']}"] += row["cost_microusd"]
        for key in keys:
            for limit in await self._limits(key):
                name = key.name if limit["scope"] == "key" else "group lab"
                if limit["limit"] == "budget" and limit["used"] != spent[name]:
                    wrong.append(
                        f"{name}: {limit['used']} of its budget are used, {spent[name]} booked"
                    )
        return sorted(set(wrong))

    async def _limits(self, key: Key) -> list[dict[str, Any]]:
        for _ in range(20):
            with contextlib.suppress(OSError, TimeoutError):
                asked, told = await get(self._gateway.port, "/v1/key", key.secret)
                if asked.status == 200:
                    return list(told["limits"])
            await asyncio.sleep(0.1)
        raise ProveError(f"GET /v1/key says nothing of {key.name}")

    def _tell(self, found: Comparison, seen: int, rows: int, settled_s: float) -> None:
        starts_s = [took for took, _ in self._starts_s]
        killed = ", ".join(f"{what} {count}" for what, count in sorted(self._killed.items()))
        refused = Counter(one.status for one in self._asked if one.status >= 400)
        unanswered = sum(
            not (one.is_complete or one.has_left or one.status >= 400) for one in self._asked
        )
        refusals = ", ".join(f"{count} times {status}" for status, count in sorted(refused.items()))
        lines = [
            f"killed -9 at {sum(self._killed.values())} random moments: {killed}",
            (
                f"the upstream saw {seen:,} requests, the ledger holds {rows:,} attempts:"
                f" equal {settled_s:.1f} s after the load"
            ),
            (
                f"  {found.matched:,} in both, each exactly once;"
                f" {found.interrupted:,} of them interrupted"
            ),
            (
                f"  {found.unsent:,} in the books alone: killed, or left by the client, between"
                " writing down the intent and sending the request"
            ),
            f"clients asked {len(self._asked):,} times",
            f"  {found.answered:,} answered to the last byte, each with its true tokens",
            f"  {found.left:,} streams left, each with tokens between what was read and sent",
            f"  {unanswered:,} without a whole answer, because Keyhole was killed",
            f"  refused: {refusals or 'none'}",
            (
                f"{len(starts_s)} starts: median {statistics.median(starts_s):.2f} s, slowest"
                f" {max(starts_s):.2f} s; {self._overtaken} more were killed before they answered"
            ),
        ]
        self._say("\n".join(lines))

    def _say(self, text: str) -> None:
        print(f"\n{text}" if sys.stdout.isatty() else text, flush=True)


@contextlib.contextmanager
def upstream_started(seed: int) -> Iterator[int]:
    """The fake upstream's port, while it runs."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "upstream.py"), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as upstream:
        assert upstream.stdout is not None
        try:
            yield int(upstream.stdout.readline())
        finally:
            upstream.kill()


async def prove(
    wanted: argparse.Namespace, place: Path, upstream_port: int, database: Database
) -> list[str]:
    """A run, and the end of all that it started."""
    gateway = Gateway(place, f"http://127.0.0.1:{upstream_port}", database.url)
    try:
        return await Run(wanted, gateway, database).go(upstream_port)
    finally:
        await gateway.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tools/prove")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--start-within", type=float, default=2, help="seconds, after a kill")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument(
        "--postgres", action="store_true", help="a private one, stopped and started"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder, with logs and books")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is ended
    if wanted.seed is None:
        wanted.seed = random.SystemRandom().randrange(10**6)
    print(f"{wanted.kills} kills in {wanted.seconds:g} s, seed {wanted.seed}", flush=True)
    place = Path(tempfile.mkdtemp(prefix="khprove-"))
    try:
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(upstream_started(wanted.seed))
            database: Database = Sqlite(place / "data")
            if wanted.postgres:
                sys.path.append(str(HERE.parents[1] / "tests"))
                import postgres  # noqa: PLC0415  # the tests' own, with their environment

                database = Postgres(stack.enter_context(postgres.running_privately()))
            differences = asyncio.run(prove(wanted, place, port, database))
    except KeyboardInterrupt:
        return 130
    except ProveError as error:
        differences = [str(error)]
    finally:
        if wanted.keep:
            print(f"kept: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    for difference in differences[:50]:
        print(f"DIFFERENT  {difference}")
    if differences:
        print(f"{len(differences)} differences")
        return 1
    print("Nothing was lost, and nothing was counted twice.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
