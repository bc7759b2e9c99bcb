"""The ledger's database, taken away for a while and looked at from outside.

SQLite is taken away by another process that holds the lock of the only writer; PostgreSQL, ours
of the tests (tests/postgres.py), is stopped and started.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path
from typing import Any, Protocol

_HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
time.sleep(float(sys.argv[2]))
"""


class Database(Protocol):
    """What the run needs of one."""

    url: str | None

    def count(self) -> int | None:
        """How many attempts it holds; None where it does not say."""
        ...

    async def take_away(self, seconds: float) -> None:
        """Let nobody write to it for so long."""
        ...


class Sqlite:
    """DATA/ledger.sqlite."""

    url: str | None = None

    def __init__(self, data: Path) -> None:
        self._path = data / "ledger.sqlite"

    def count(self) -> int | None:
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(
                sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=0.1)
            ) as there,
        ):
            return int(there.execute("SELECT count(*) FROM attempts").fetchone()[0])
        return None

    async def take_away(self, seconds: float) -> None:
        holding = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _HOLD, str(self._path), str(seconds))
        )
        try:
            await holding.wait()
        finally:
            if holding.returncode is None:
                holding.kill()
                await holding.wait()


class Postgres:
    """A private server; `psycopg` is in the environment of the tests."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url: str | None = server.fresh_url()

    def count(self) -> int | None:
        import psycopg  # noqa: PLC0415  # only where it is wanted

        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(str(self.url), connect_timeout=1) as there,
        ):
            row = there.execute("SELECT count(*) FROM attempts").fetchone()
            return None if row is None else int(row[0])
        return None

    async def take_away(self, seconds: float) -> None:
        await asyncio.to_thread(self._server.stop)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._server.start()
