"""The ledger, opened for one command: it needs no server, and works beside one.

While a clerk is at work (its lock is held) the tables are its business. Otherwise the command
takes the lock for as long as it needs to bring them up to date, as the first command ever does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from keyhole import main
from keyhole.config import Settings
from keyhole.ledger.database import Database
from keyhole.supervisor import locked


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


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
