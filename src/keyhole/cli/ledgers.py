"""The ledger, opened for one command: it needs no server, and works beside one.

While a clerk is at work (its lock is held) the tables are its business. Otherwise the command
takes the lock for as long as it needs to bring them up to date, as the first command ever does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyhole import main
from keyhole.bookkeeping import journal_dir
from keyhole.config import Settings
from keyhole.errors import SetupError
from keyhole.ledger.books import Books
from keyhole.ledger.database import Database, LedgerUnavailable
from keyhole.ledger.keys import KeyStore
from keyhole.ledger.posting import Poster, journal_ends, lag_bytes
from keyhole.supervisor import locked
from keyhole.wire.mirror import MARKER_NAME

PATIENCE_S = 2.0
"""How long a command waits for the clerk."""
POLL_S = 0.05


@contextmanager
def opened_ledger(settings: Settings) -> Iterator[Database]:
    """The ledger, its tables up to date; raises SetupError and LedgerUnavailable."""
    main.make_data_dir(settings.data)
    database = main.open_database(settings)
    try:
        with locked(main.clerk_lock(settings.data)) as descriptor:
            if descriptor is not None:
                database.migrate()
        if descriptor is None:
            database.check_version()
        yield database
    finally:
        database.close()


def check_address(settings: Settings) -> None:
    """Raise SetupError unless keys have existed: for an address that others may reach."""
    if (settings.data / MARKER_NAME).exists():
        return
    try:
        with opened_ledger(settings) as database:
            have_existed = KeyStore(database).have_existed()
    except LedgerUnavailable as error:
        raise SetupError(
            f"{settings.listen.host} is not a loopback address, and whether there are keys cannot"
            f" be known: {error.message}",
            hint="listen on 127.0.0.1 until the database is back",
        ) from None
    if not have_existed:
        raise SetupError(
            f"{settings.listen.host} is not a loopback address, and no keys exist: anyone who"
            " reaches it could use your token.",
            hint="make one first, 'keyhole key create NAME', or listen on 127.0.0.1",
        )


@contextmanager
def caught_up_ledger(settings: Settings) -> Iterator[Database]:
    """The ledger with what the journal holds by now, or with as much as two seconds bring.

    Where no clerk is at work the command posts the journal itself. What is missing is said on
    standard error. Raises as `opened_ledger` does.
    """
    main.make_data_dir(settings.data)
    database, journal = main.open_database(settings), journal_dir(settings.data)
    books = Books(database)
    try:
        with locked(main.clerk_lock(settings.data)) as descriptor:
            if descriptor is not None:
                database.migrate()
                Poster(books, journal, say=main.say).run()
        if descriptor is None:
            database.check_version()
            _await_clerk(books, journal)
        yield database
    finally:
        database.close()


def _await_clerk(books: Books, journal: Path) -> None:
    """Wait until the clerk has passed what the journal holds now, or say how much is missing."""
    deadline_s = time.monotonic() + PATIENCE_S
    ends = journal_ends(books, journal)
    while lag := lag_bytes(books, journal, ends):
        if time.monotonic() >= deadline_s:
            main.say(f"The books are {lag:,} bytes of the journal behind.")
            return
        time.sleep(POLL_S)


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
