"""The database: migrations, what is refused, what is told of failures; on both."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from keyhole.errors import SetupError
from keyhole.ledger.database import Database, LedgerUnavailable, ledger_url
from keyhole.ledger.keys import KeyStore
from keyhole.ledger.schema import METADATA
from keyhole.wire.keys import Limits
from postgres import Postgres

LIMITS = Limits(rpm=1)


def test_the_migrations_make_the_tables_of_the_schema(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_texts_compare_by_bytes(database: Database) -> None:
    """So that a page ends at the same place on both databases."""
    with database.writing() as connection:
        for name in ("b", "B", "a", "é", "_"):
            connection.execute(text("INSERT INTO changes VALUES (:n, 0)"), {"n": name})
        rows = connection.execute(text("SELECT name FROM changes ORDER BY name"))
        assert [row.name for row in rows] == ["B", "_", "a", "b", "books", "keys", "é"]


def test_migrating_again_changes_nothing(database: Database) -> None:
    KeyStore(database).set_group("class-a", limits=LIMITS)
    database.migrate()
    assert [group.name for group in KeyStore(database).groups()] == ["class-a"]
    database.check_version()


MIGRATE = """
import sys
from keyhole.ledger.database import Database
with Database(sys.argv[1]) as database:
    print("ready", flush=True)
    sys.stdin.readline()
    database.migrate()
    database.check_version()
print("done")
"""


def test_several_can_migrate_at_once(ledger_url: str) -> None:
    """Each process waits for the other, and finds everything there."""
    with contextlib.ExitStack() as stack:
        several = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", MIGRATE, ledger_url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for one in several:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in several:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        for one in several:
            assert one.communicate(timeout=30) == ("done\n", "")


def test_a_newer_ledger_is_refused_and_left_alone(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refused in (database.migrate, database.check_version):
        with pytest.raises(SetupError, match="made by a newer Keyhole: its version is 9999"):
            refused()


def test_a_ledger_without_tables_says_who_makes_them(ledger_url: str) -> None:
    with (
        Database(ledger_url) as database,
        pytest.raises(SetupError, match=r"has no tables yet.*keyhole serve"),
    ):
        database.check_version()


def test_a_failed_migration_says_why_and_leaves_no_trace(ledger_url: str) -> None:
    """A table of somebody else's is in the way."""
    database = Database(ledger_url)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE attempts (theirs INTEGER)"))
    with pytest.raises(SetupError, match=r'brought up to date: .*attempts"? already exists'):
        database.migrate()
    with database.writing() as connection:
        connection.execute(text("DROP TABLE attempts"))
    database.migrate()
    database.close()


def test_an_error_undoes_the_transaction(database: Database) -> None:
    def fail() -> None:
        with database.writing() as connection:
            connection.execute(text("UPDATE changes SET version = 7"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert KeyStore(database).version() == 0


def test_a_reader_sees_one_moment(database: Database) -> None:
    store = KeyStore(database)
    with database.reading() as connection:
        read = text("SELECT version FROM changes WHERE name = 'keys'")
        before = connection.execute(read).scalar()
        store.set_group("class-a", limits=LIMITS)
        assert connection.execute(read).scalar() == before
    assert store.version() == 1


def test_what_a_driver_says_never_holds_the_values(database: Database) -> None:
    def fail() -> None:
        with database.writing() as connection:
            connection.execute(text("INSERT INTO nowhere VALUES (:v)"), {"v": "canary-value"})

    with pytest.raises(LedgerUnavailable, match="nowhere") as caught:
        fail()
    assert "canary-value" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_locked_sqlite_file_is_unavailable_and_then_available(tmp_path: Path) -> None:
    url = ledger_url(None, tmp_path)
    database = Database(url, patience_s=0.05)
    database.migrate()
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        KeyStore(database).set_group("class-a", limits=LIMITS)
    assert KeyStore(database).groups() == ()
    holder.close()
    KeyStore(database).set_group("class-a", limits=LIMITS)
    assert len(KeyStore(database).groups()) == 1
    database.close()


def test_a_locked_sqlite_file_is_not_taken_for_a_failed_migration(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        Database(ledger_url(None, tmp_path), patience_s=0.05).migrate()
    holder.close()


def test_the_sqlite_file_is_private_and_durable(tmp_path: Path) -> None:
    database = Database(ledger_url(None, tmp_path / "new"))
    database.migrate()
    KeyStore(database).set_group("class-a", limits=LIMITS)
    files = sorted((tmp_path / "new").iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert len(files) == 3, "the file, its WAL and the WAL's index"
    with database.reading() as connection:
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
    database.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("something else " * 100)
    with pytest.raises(LedgerUnavailable, match="not a database"):
        Database(ledger_url(None, tmp_path)).migrate()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        Database(ledger_url(None, tmp_path / "file")).migrate()


def test_a_server_that_is_not_there_is_unavailable_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://anna:hunter2-canary@/books?host={tmp_path}"
    database = Database(url, patience_s=2)
    assert "hunter2" not in repr(database)
    with pytest.raises(LedgerUnavailable) as caught:
        database.migrate()
    assert "hunter2" not in caught.value.explained
    assert str(tmp_path) in caught.value.explained


def test_a_refused_password_is_not_told(postgres: Postgres) -> None:
    url = postgres.url.replace("postgres@", "nobody:hunter2-canary@", 1)
    with pytest.raises(LedgerUnavailable, match="nobody") as caught:
        Database(url).migrate()
    assert "hunter2" not in caught.value.explained


def test_a_connection_that_died_meanwhile_is_replaced(postgres: Postgres) -> None:
    url = postgres.fresh_url()
    database = Database(url)
    database.migrate()
    other = Database(url)
    with other.writing() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND application_name = 'keyhole'"
            )
        )
    assert KeyStore(database).version() == 0
    database.close()
    other.close()
    postgres.drop(url)


@pytest.mark.parametrize(
    "setting",
    ["", "hunter2", "sqlite://", "sqlite:///:memory:", "mysql://a:hunter2@b/c", "postgresql+x://"],
)
def test_another_url_is_refused_without_being_repeated(setting: str) -> None:
    with pytest.raises(SetupError, match=r"ledger\.url is no URL of a ledger") as caught:
        Database(setting)
    assert "hunter2" not in str(caught.value)
