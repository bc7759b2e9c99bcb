"""The clerk's process: the journal into the ledger, the keys into the mirror, the admin interface.

    python -m keyhole.clerk [--config FILE] [--data DIR]

There is one at a time for each state directory (DATA/clerk.lock); it serves no client's request,
and a request never waits for it. Everything that it does with the ledger it does in one thread,
in small steps that can be repeated: what was not finished when it died, or failed because the
database was away, is done by the next step. The admin interface, on DATA/clerk.sock, is on the
event loop and its queries in threads of their own.

Started with --locked, it is the child of whoever holds the lock: it says "ready" on its standard
output once the tables are in order and the mirror is written, or the database is away; and it
ends when its standard input does. Its exit status is 78 where another start would not help.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
import uvloop

from keyhole import main
from keyhole.bookkeeping import journal_dir
from keyhole.config import Settings
from keyhole.engine.listener import bind_unix
from keyhole.errors import SetupError
from keyhole.ledger.books import Books, Kept
from keyhole.ledger.database import Database, LedgerUnavailable
from keyhole.ledger.keys import KeyStore
from keyhole.ledger.mirror import Mirror, MirrorError
from keyhole.ledger.posting import Poster
from keyhole.ledger.reflecting import Reflection, SeenFile
from keyhole.ledger.sums import DAY_MS
from keyhole.server.admin import AdminApp, Ledgers
from keyhole.supervisor import CANNOT_START, Say, locked

POLL_S = 0.2
"""How often it looks for new keys, and for new lines where little happens."""
POST_EVERY_S = 1.0
"""How often it looks for new lines where a look finds more than BUSY_BYTES: what is done for each
look, and for each name in it, is then done for many attempts."""
BUSY_BYTES = 128 * 1024
"""The lines of some 280 attempts."""
MAX_PAUSE_S = 5.0
"""The longest wait before it tries again a database that is away."""
SPENT_EVERY_S = 2.0
"""How often the mirror is told what was spent, at most; and for a tenth of the time at most."""
GARBAGE_AFTER = 20_000
"""How many more objects the garbage collector waits for, instead of 700."""
TIDY_EVERY_S = 3600.0
FINISHES_WITHIN_S = 8.0
"""How long the last pass over the journal may take; what remains is for the next clerk."""


class _OutOfTime(Exception):  # noqa: N818  # an answer, not a failure
    """The last pass has to end."""


class Clerk:
    """The work with the ledger, in one thread."""

    def __init__(self, settings: Settings, database: Database, *, say: Say) -> None:
        self._settings = settings
        self._database = database
        self._say = say
        self._books = Books(database)
        self._keys = KeyStore(database)
        self._poster = Poster(self._books, journal_dir(settings.data), say=say)
        self._reflection: Reflection | None = None
        self._mirror: Mirror | None = None
        self._stopping = threading.Event()
        self._is_migrated = False
        self._away: set[str] = set()
        """The steps that do not work at the moment for reasons of their own, which was said."""
        self._lack_database: set[str] = set()
        """Those that wait for the database, which is said once for all."""
        self._looked_s = self._spent_s = self._tidied_s = self._posts_at_s = -1e9
        self._ends_by_s = float("inf")

    def stop(self) -> None:
        """Finish what is begun, and return from `work`; from any thread."""
        self._stopping.set()

    def work(self, on_ready: Callable[[], None]) -> None:
        """Do all that there is to do, until stopped; raises SetupError at the start only.

        That is for tables that this version cannot work with; where they turn out so later, the
        database having been away at the start, a server is running that must not be stopped.
        """
        try:
            self._migrate()
        except LedgerUnavailable as error:
            self._say_away("ledger", error)
        else:
            self._does("mirror", self._look_at_keys)
        on_ready()
        pause_s = POLL_S
        while not self._stopping.wait(pause_s):
            pause_s = POLL_S if self.turn() else min(pause_s * 2, MAX_PAUSE_S)
        self._ends_by_s = time.monotonic() + FINISHES_WITHIN_S
        self.turn()
        if self._mirror is not None:
            self._mirror.close()

    def turn(self) -> bool:
        """Do once what there is to do; whether all of it worked."""
        if not self._does("ledger", self._migrate):
            return False
        has_mirror = self._does("mirror", self._look_at_keys)
        if not self._does("journal", self._post):
            # Later, then; revocations must not wait for it.
            self._posts_at_s = time.monotonic() + MAX_PAUSE_S
        if time.monotonic() - self._tidied_s >= TIDY_EVERY_S:
            self._does("journal", self._tidy)
        return has_mirror

    def _does(self, what: str, step: Callable[[], None]) -> bool:
        """Do a step; say once that it does not work, and once that it does again."""
        try:
            step()
        except _OutOfTime:
            return False
        except LedgerUnavailable as error:
            self._say_away(what, error)
            return False
        except (MirrorError, OSError, SetupError) as error:
            self._say_away(what, error)
            return False
        except Exception as error:  # noqa: BLE001  # the edge: the other steps must go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            self._say_away(what, SetupError(f"a fault in Keyhole, {fault}"))
            return False
        self._say_back(what)
        return True

    def _say_away(self, what: str, error: Exception) -> None:
        is_database = isinstance(error, LedgerUnavailable)
        if not (self._lack_database if is_database else what in self._away):
            told = error.explained if isinstance(error, LedgerUnavailable) else str(error)
            self._say(f"The clerk goes on trying: {told}")
        (self._lack_database if is_database else self._away).add(what)

    def _say_back(self, what: str) -> None:
        """A step has worked; another may still be kept from it, as reading works on a full disk."""
        if what in self._lack_database:
            self._lack_database.discard(what)
            if not self._lack_database:
                self._say("The clerk's database is back.")
        if what in self._away:
            self._away.discard(what)
            self._say(f"The clerk's {what} is back.")

    def _migrate(self) -> None:
        if not self._is_migrated:
            self._database.migrate()
            self._is_migrated = True

    def _look_at_keys(self) -> None:
        if self._reflection is None:
            self._mirror = Mirror(self._settings.data)
            seen = SeenFile(self._settings.data, self._database.shown_url)
            self._reflection = Reflection(self._keys, self._books, self._mirror, seen=seen)
        self._looked_s = time.monotonic()
        self._reflection.keys(_now_ms())

    def _between(self) -> None:
        """What cannot wait for the end of a long pass over the journal."""
        now_s = time.monotonic()
        if now_s > self._ends_by_s:
            raise _OutOfTime
        if now_s - self._looked_s >= POLL_S:
            self._does("mirror", self._look_at_keys)

    def _post(self) -> None:
        began_s = time.monotonic()
        if began_s < self._posts_at_s and not self._stopping.is_set():
            return
        passed = self._poster.run(self._between)
        is_busy = passed.read_bytes > BUSY_BYTES
        self._posts_at_s = began_s + (POST_EVERY_S if is_busy else 0.0)
        began_s = time.monotonic()
        is_due = bool(passed.done) or self._stopping.is_set() or began_s >= self._spent_s
        if is_due and self._reflection is not None:
            self._reflection.spent(_now_ms())
            ended_s = time.monotonic()
            self._spent_s = ended_s + max(SPENT_EVERY_S, 10 * (ended_s - began_s))
            self._poster.remove(passed.done)

    def _tidy(self) -> None:
        """Once an hour: remove what is left over, and what is older than is to be kept."""
        self._tidied_s = time.monotonic()
        self._poster.tidy()
        kept = self._settings.ledger
        days: tuple[tuple[Kept, int], ...] = (
            ("attempts", kept.rows_days),
            ("hourly", kept.rollups_days),
            ("daily", kept.rollups_days),
        )
        for table, count in days:
            before_ms = _now_ms() - count * DAY_MS
            while self._books.forget(table, before_ms=before_ms) and not self._stopping.is_set():
                self._between()


async def serve(settings: Settings, database: Database, *, is_child: bool) -> int:
    """Work until told to stop; the exit status."""
    clerk = Clerk(settings, database, say=main.say)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, clerk.stop)
    if is_child:
        threading.Thread(target=_await_parent_end, args=(clerk.stop,), daemon=True).start()
    async with _admin_served(settings, database):
        try:
            await asyncio.to_thread(clerk.work, _say_ready if is_child else _nothing)
        except SetupError as error:
            main.say(str(error))
            return CANNOT_START
    return 0


class _Server(uvicorn.Server):
    """A uvicorn whose signals are the clerk's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _admin_served(settings: Settings, database: Database) -> AsyncIterator[None]:
    """Serve the admin interface on the clerk's socket; without one where it cannot be bound."""
    path = main.clerk_socket(settings.data)
    try:
        listener = bind_unix(path)
    except SetupError as error:
        main.say(f"The admin interface is not served: {error}")
        yield
        return
    server = _Server(
        uvicorn.Config(
            AdminApp(Ledgers(database, settings.data)),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        path.unlink(missing_ok=True)


def _nothing() -> None:
    """What is said to nobody."""


def _say_ready() -> None:
    """Tell the parent, who reads one line (supervisor.Command.on_ready)."""
    with contextlib.suppress(OSError):
        sys.stdout.write("ready\n")
        sys.stdout.flush()


def _await_parent_end(stop: Callable[[], None]) -> None:
    """Block until the parent's end of our standard input is closed."""
    while os.read(0, 1024):
        pass
    stop()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def run() -> int:
    """The process's whole life; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m keyhole.clerk")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--locked", action="store_true", help="the parent holds the lock")
    options = parser.parse_args()
    try:
        settings = main.load_settings(config=options.config, data=options.data)
        main.make_data_dir(settings.data)
        database = main.open_database(settings)
        if options.locked:
            return _run(settings, database, is_child=True)
        with locked(main.clerk_lock(settings.data)) as descriptor:
            if descriptor is None:
                raise SetupError(f"Another clerk is at work in {settings.data}.")
            return _run(settings, database, is_child=False)
    except SetupError as error:
        main.say(str(error))
        return CANNOT_START


def _run(settings: Settings, database: Database, *, is_child: bool) -> int:
    # Rows come by the thousand and are no garbage; and what was imported will never be any.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(settings, database, is_child=is_child))
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(run())
