"""The ledger's database: opened by its URL, brought up to date, read and written in transactions.

It knows no table but Alembic's; `keys`, `books` and `usage` do. Every error of a driver leaves
here as LedgerUnavailable, whose message holds no value of a statement and no password.

SQLite: Python's sqlite3 begins transactions by itself, and not before reading or DDL
(https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, "serializable isolation", 23 November
2026); so that is turned off, and BEGIN stands here. A transaction that writes begins IMMEDIATE:
one that reads first and writes later would fail with "database is locked" at once, whatever the
timeout. WAL lets others read meanwhile; `synchronous = FULL`, because the journal's segments are
deleted once they are committed here.
PostgreSQL: what is read in one transaction is of one moment (REPEATABLE READ), as it is in SQLite.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from keyhole.errors import Code, GatewayError, SetupError

DEFAULT_FILE = "ledger.sqlite"
PATIENCE_S = 5.0
"""How long a lock or a connection is waited for."""
MIGRATION_LOCK = 0x6B65_7968_6F6C_6531
"""The number of PostgreSQL's advisory lock: "keyhole1" in ASCII."""

PAGE_BYTES = 8192
"""Of a new SQLite file. Rows of 270 bytes that come by the thousand fill twice as many at 4096,
which is what SQLite takes by itself: 0.4 us an attempt."""

_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "cache_size = -16384",  # 16 MiB instead of 2: sums of many keys sort within it
)
_MIGRATIONS = Path(__file__).parent / "migrations"
_SAYS_IN_FULL = 200


class LedgerUnavailable(GatewayError):  # noqa: N818  # named as what is the case
    """The ledger's database cannot be reached, is locked, or failed; what was begun is undone."""

    def __init__(self, message: str) -> None:
        super().__init__(
            Code.LEDGER_UNAVAILABLE,
            message,
            status=503,
            hint="Requests are served meanwhile: the journal keeps their records.",
        )


def ledger_url(setting: str | None, data: Path) -> str:
    """The URL of the ledger: `ledger.url`, else the file DATA/ledger.sqlite."""
    if setting is not None:
        return setting
    return URL.create("sqlite", database=str(data / DEFAULT_FILE)).render_as_string()


class Database:
    """One ledger; may be used by several threads. It opens no connection before it is used."""

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        """Raises SetupError for a URL that is none, or whose driver is not installed."""
        self._url = _parse(url)
        self._patience_s = patience_s
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        # Without its query, where a password may stand too.
        shown = self._url.set(drivername=self._url.get_backend_name(), query={})
        self.shown_url = shown.render_as_string(hide_password=True)
        """For people: without the password."""
        self._engine = self._make_engine()

    def __repr__(self) -> str:
        return f"Database({self.shown_url!r})"

    def __enter__(self) -> Self:
        """To be closed at the end of a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the ledger; raises LedgerUnavailable."""
        with self._errors_mapped(), self._engine.connect() as connection, connection.begin():
            if not self.is_sqlite:
                # Sent as its own statement: it must be the first one of the transaction.
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or undone; raises LedgerUnavailable."""
        with self._errors_mapped(), self._engine.connect() as connected:
            connection = connected.execution_options(keyhole_writes=True)
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the tables up to date, or leave them as they were.

        Whoever else does the same at this moment is waited for. Raises SetupError where a step
        fails or the ledger is newer than this Keyhole, LedgerUnavailable where it is not there.
        """
        script = _migrations()
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": MIGRATION_LOCK})
            self._run_migrations(connection, script)

    def check_version(self) -> None:
        """Raise SetupError unless the tables are those that this Keyhole knows.

        For whoever does not migrate.
        """
        script = _migrations()
        with self.reading() as connection:
            current = MigrationContext.configure(connection).get_current_heads()
        self._refuse_newer(current, script)
        if current != tuple(script.get_heads()):
            made = f"is of version {current[0]}" if current else "has no tables yet"
            raise SetupError(
                f"the ledger {self.shown_url} {made}, this Keyhole's is {script.get_heads()[0]}",
                hint="keyhole serve brings it up to date when it starts",
            )

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()

    def _make_engine(self) -> Engine:
        if not self.is_sqlite:
            return _postgres_engine(self._url, self._patience_s)
        path = Path(self._url.database or "")
        engine = create_engine(
            self._url,
            hide_parameters=True,
            connect_args={"timeout": self._patience_s, "check_same_thread": False},
        )

        @event.listens_for(engine, "do_connect")
        def make_file(*_: Any) -> None:
            if not path.exists():
                _make_private_file(path)

        @event.listens_for(engine, "connect")
        def set_up(connection: Any, _record: object) -> None:
            connection.isolation_level = None
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            writes = connection.get_execution_options().get("keyhole_writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _run_migrations(self, connection: Connection, script: ScriptDirectory) -> None:
        def steps(current: tuple[str, ...], _context: MigrationContext) -> Any:
            return script._upgrade_revs("heads", current or None)  # type: ignore[arg-type]  # noqa: SLF001

        # The steps' `alembic.op` is one for the whole process: no other ledger meanwhile.
        context = MigrationContext.configure(connection, opts={"fn": steps})
        self._refuse_newer(context.get_current_heads(), script)
        try:
            with Operations.context(context):
                context.run_migrations()
        except DBAPIError as error:
            if _is_passing(error):
                raise
            raise SetupError(
                f"the ledger {self.shown_url} could not be brought up to date: {self._told(error)}",
                hint="nothing of it was changed",
            ) from None

    def _refuse_newer(self, current: tuple[str, ...], script: ScriptDirectory) -> None:
        known = {step.revision for step in script.walk_revisions()}
        if unknown := set(current) - known:
            raise SetupError(
                f"the ledger {self.shown_url} was made by a newer Keyhole: its version is"
                f" {min(unknown)}, this one knows {max(known)}",
                hint="start that Keyhole again, or name another ledger in ledger.url",
            )

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # Without its cause: a driver's own words may hold what was sent to it.
            raise LedgerUnavailable(
                f"The ledger {self.shown_url} failed: {self._told(error)}"
            ) from None

    def _told(self, error: SQLAlchemyError) -> str:
        """What a driver said, in one line, without the values that it was given."""
        said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        line = next(iter(said.splitlines()), type(error).__name__)[:_SAYS_IN_FULL]
        if self._url.password:
            line = line.replace(str(self._url.password), "***")
        return line.rstrip(".") + "."


def _make_private_file(path: Path) -> None:
    """Make an empty database that only we may read, unless there is one now.

    Under another name first. To close a file drops every lock that this process has on it, those
    of SQLite's connections too (https://www.sqlite.org/howtocorrupt.html, 2.2, November 2026); and
    where two switch to WAL at once, one is told "locked" without being waited for.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(made)
        with contextlib.closing(sqlite3.connect(name)) as connection:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
        Path(name).unlink()
    except OSError as error:
        raise LedgerUnavailable(f"{path} cannot be opened: {error.strerror}.") from None
    except sqlite3.Error as error:
        raise LedgerUnavailable(f"{path} cannot be made: {error}.") from None


def _is_passing(error: DBAPIError) -> bool:
    """Whether the database was busy or went away, rather than refused what it was told."""
    said = str(error.orig)
    return error.connection_invalidated or "locked" in said or "closed" in said


def _parse(setting: str) -> URL:
    try:
        url = make_url(setting)
    except ArgumentError:
        raise _no_ledger_url() from None
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database not in {None, "", ":memory:"}:
        return url
    if url.drivername == "postgresql+psycopg":
        return url
    raise _no_ledger_url()


def _no_ledger_url() -> SetupError:
    # The URL itself is not repeated: it may hold a password in the wrong place.
    return SetupError(
        "ledger.url is no URL of a ledger",
        hint="write sqlite:////path/to/file, or postgresql://user:password@host/name",
    )


def _postgres_engine(url: URL, patience_s: float) -> Engine:
    wanted = {
        "connect_timeout": max(2, round(patience_s)),
        # A server whose machine has gone is noticed after about twenty seconds.
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        "application_name": "keyhole",
        # The clerk of another node may stand still within a transaction; ours must look at keys.
        "options": f"-c lock_timeout={round(patience_s * 1000)}"
        " -c idle_in_transaction_session_timeout=30000",
    }
    given = {name: value for name, value in wanted.items() if name not in url.query}
    try:
        return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=given)
    except (ImportError, NoSuchModuleError):
        raise SetupError(
            "ledger.url names PostgreSQL, and its driver is not installed",
            hint="pip install 'keyhole[postgres]'",
        ) from None


def _migrations() -> ScriptDirectory:
    return ScriptDirectory(str(_MIGRATIONS), version_locations=[str(_MIGRATIONS)])
