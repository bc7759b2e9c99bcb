"""The database is away while requests are served: none fails, and the books are complete later."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import postgres as servers
from keyhole.ledger.database import LedgerUnavailable
from keyhole.ledger.usage import Attempt
from postgres import PrivatePostgres
from processes import spending
from processes.driving import Server, serving, wait_for
from processes.spending import CHAT, Spent, are_booked, ask_for, configure, make_key, showing

REQUESTS = 400
OUTAGE_S = 8.0
"""Long enough for the clerk to look as rarely as it ever does."""
COMPLETE_WITHIN_S = 15.0
"""A few seconds: the clerk looks again after at most five, and then has some hundred lines."""


@pytest.fixture(scope="module")
def database() -> Iterator[PrivatePostgres]:
    """A PostgreSQL that may be stopped."""
    with servers.running_privately() as server:
        yield server


@contextlib.contextmanager
def stopped(database: PrivatePostgres) -> Iterator[None]:
    database.stop()
    try:
        yield
    finally:
        database.start()


def until_booked(look: Callable[[], Sequence[Attempt]], spent: Sequence[Spent]) -> float:
    """How long it takes until all of it is booked, exactly once."""

    def is_complete() -> bool:
        with contextlib.suppress(LedgerUnavailable):
            return are_booked(look(), spent)
        return False

    began_s = time.monotonic()
    wait_for(is_complete, "the ledger is complete", COMPLETE_WITHIN_S)
    return time.monotonic() - began_s


def all_served(spent: Sequence[Spent]) -> bool:
    return {one.status for one in spent} == {200}


def uses_key(server: Server, secret: str | None) -> int:
    return server.ask(ask_for(3), path=CHAT, headers=showing(secret)).status


def test_postgres_is_away_for_a_whole_load(database: PrivatePostgres, tmp_path: Path):
    url = database.fresh_url()
    with spending.upstream() as up:
        data = configure(tmp_path, up.url, f'[ledger]\nurl = "{url}"\n')
        secret = make_key(tmp_path, "ann", "--budget", "5/day")
        with serving(data=data, home=tmp_path) as server:
            with stopped(database):
                spent = []
                ends_s = time.monotonic() + OUTAGE_S
                while time.monotonic() < ends_s or len(spent) < REQUESTS:
                    spent += spending.load(server, secret, 20)
                    time.sleep(0.05)
                assert all_served(spent)
                assert uses_key(server, "kh_wrong") == 401
            took_s = until_booked(lambda: spending.ledger(data, url), spent)
            print(f"complete {took_s:.2f} s after it was back")
            assert len(spending.ledger(data, url)) == len(spent)
            assert server.log.count("goes on trying") == 1
            assert server.log.count("database is back") == 1


def test_a_server_starts_without_its_database(database: PrivatePostgres, tmp_path: Path):
    """Keys come from the mirror, and what they use is booked when the database is there."""
    url = database.fresh_url()
    with spending.upstream() as up:
        data = configure(tmp_path, up.url, f'[ledger]\nurl = "{url}"\n')
        secret = make_key(tmp_path, "ann", "--budget", "5/day")
        with serving(data=data, home=tmp_path) as server:
            before = spending.load(server, secret, 20)
            until_booked(lambda: spending.ledger(data, url), before)
            server.process.terminate()
            assert server.wait() == 0
        with stopped(database):
            began_s = time.monotonic()
            server_there = serving(data=data, home=tmp_path)
            server = server_there.__enter__()
            started_s = time.monotonic() - began_s
            try:
                assert uses_key(server, "kh_wrong") == 401
                spent = spending.load(server, secret, 40)
                assert all_served(spent)
            except BaseException:
                server_there.__exit__(None, None, None)
                raise
        try:
            took_s = until_booked(lambda: spending.ledger(data, url), [*before, *spent])
            print(f"started in {started_s:.2f} s; complete {took_s:.2f} s after it was back")
            assert len(spending.ledger(data, url)) == 60
            assert "cannot start" not in server.log
            second = make_key(tmp_path, "bob")
            wait_for(lambda: uses_key(server, second) == 200, "a new key works")
        finally:
            server_there.__exit__(None, None, None)


def test_a_locked_sqlite_file(tmp_path: Path):
    with spending.upstream() as up:
        data = configure(tmp_path, up.url)
        secret = make_key(tmp_path, "ann", "--budget", "5/day")
        with serving(data=data, home=tmp_path) as server:
            locking = sqlite3.connect(data / "ledger.sqlite", isolation_level=None, timeout=10)
            with contextlib.closing(locking):
                locking.execute("BEGIN EXCLUSIVE")
                spent = spending.load(server, secret, REQUESTS)
                assert all_served(spent)
                wait_for(lambda: "goes on trying" in server.log, "said", 20)
                assert spending.ledger(data) == []
                locking.execute("ROLLBACK")
            took_s = until_booked(lambda: spending.ledger(data), spent)
            print(f"complete {took_s:.2f} s after it was free")
            assert len(spending.ledger(data)) == REQUESTS
