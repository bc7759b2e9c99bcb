"""The clerk's real process: what it does, how it ends, and the admin interface in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from keyhole.bookkeeping import KEYS_WITHIN_S
from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.ledger.database import PATIENCE_S
from keyhole.supervisor import CANNOT_START
from processes.driving import (
    KEYHOLE,
    PYTHON,
    Server,
    environment,
    free_port,
    keyhole,
    serving,
    started,
    wait_for,
)
from standins.attempts import intent, receipt

NO_ROUTES = """
[server]
builtin_routes = false
[upstream.x]
kind = "tgi"
url = "http://127.0.0.1:9"
[route.default]
targets = ["x/m"]
"""
ADMIN = {"Authorization": "Bearer an-admin-key-for-tests"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A home with a state directory, and a configuration that needs no engine."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "keyhole.toml").write_text(NO_ROUTES)
    return tmp_path


@contextmanager
def clerk(place: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A clerk as a keeper starts it: locked, its life on a pipe."""
    process = subprocess.Popen(
        [PYTHON, "-P", "-m", "keyhole.clerk", "--locked", f"--data={place / 'data'}", *more],
        cwd=place,
        env=environment(place),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_ready(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == b"ready\n"


def mirrored(place: Path) -> int:
    """How many keys the mirror has."""
    with sqlite3.connect(f"file:{place}/data/keys.mirror?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM keys WHERE value NOT NULL").fetchone()
    database.close()
    return int(count)


def attempts(place: Path) -> int:
    with sqlite3.connect(f"file:{place}/data/ledger.sqlite?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT count(*) FROM attempts").fetchone()
    database.close()
    return int(count)


def write_journal(place: Path, count: int) -> None:
    """So many attempts, by a writer that is done."""

    async def write() -> None:
        journal = FileJournal(
            place / "data" / "journal",
            JournalSettings(fsync="never"),
            node="n",
            clock=SystemClock(),
            say=print,
        )
        for number in range(count):
            begun = structs.replace(intent(number), started_at_ms=time.time_ns() // 1_000_000)
            journal.intend(begun)
            journal.settle(structs.replace(receipt(number), intent=begun))
        journal.close()

    asyncio.run(write())


def test_a_new_key_is_in_the_mirror_within_a_second(place: Path):
    with clerk(place) as process:
        assert is_ready(process)
        made = keyhole("key", "create", "ann", "--json", "--data", place / "data", home=place)
        began_s = time.monotonic()
        wait_for(lambda: mirrored(place), "the key is mirrored")
        assert time.monotonic() - began_s < 1
        assert made.status == 0, made


def test_sigterm_books_what_the_journal_holds(place: Path):
    with clerk(place) as process:
        assert is_ready(process)
        write_journal(place, 500)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert attempts(place) == 500


def test_an_orphan_ends_by_itself(place: Path):
    with clerk(place) as process:
        assert is_ready(process)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(20) == 0
    assert not (place / "data" / "clerk.sock").exists()


def test_tables_of_a_newer_keyhole_end_it_for_good(place: Path):
    keyhole("key", "list", "--data", place / "data", home=place)
    with sqlite3.connect(place / "data" / "ledger.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with clerk(place) as process:
        _, said = process.communicate(timeout=20)
        assert process.returncode == CANNOT_START
    assert b"newer Keyhole" in said
    assert b"Traceback" not in said


def test_a_failed_migration_stops_the_start_of_the_server(place: Path):
    keyhole("key", "list", "--data", place / "data", home=place)
    with sqlite3.connect(place / "data" / "ledger.sqlite") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    ran = keyhole("serve", "--listen", "127.0.0.1:0", "--data", place / "data", home=place)
    assert ran.status == 1
    assert "newer Keyhole" in ran.err
    assert "The clerk cannot start" in ran.err


def test_a_database_that_is_away_does_not_stop_it(place: Path):
    """It is ready all the same, says so once, and goes on when the database is there."""
    blocked = place / "data" / "ledger.sqlite"
    blocked.mkdir()
    with clerk(place) as process:
        assert is_ready(process)
        write_journal(place, 10)
        blocked.rmdir()
        wait_for(lambda: blocked.exists() and attempts_or_none(place) == 10, "booked", 30)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    lines = [line for line in said.decode().splitlines() if line]
    assert len(lines) == 2, lines
    assert "goes on trying" in lines[0]
    assert "database is back" in lines[1]


def attempts_or_none(place: Path) -> int | None:
    try:
        return attempts(place)
    except sqlite3.Error:
        return None


def test_one_at_a_time(place: Path):
    data = place / "data"
    command = [PYTHON, "-m", "keyhole.clerk", f"--data={data}"]
    env = environment(place)
    first = subprocess.Popen(
        command, cwd=place, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for((data / "clerk.sock").exists, "the first clerk")
        second = subprocess.run(
            command, cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert second.returncode == CANNOT_START
        assert b"Another clerk is at work" in second.stderr
    finally:
        first.terminate()
        first.wait(20)


def test_an_idle_clerk_costs_next_to_nothing(place: Path):
    with clerk(place) as process:
        assert is_ready(process)
        time.sleep(0.5)
        before_s, began_s = _cpu_s(process.pid), time.monotonic()
        time.sleep(3)
        share = (_cpu_s(process.pid) - before_s) / (time.monotonic() - began_s)
    assert share < 0.02, f"{share:.1%} of a core"


def _cpu_s(pid: int) -> float:
    times = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, check=True)
    stat_file = Path(f"/proc/{pid}/stat")
    if not stat_file.exists():  # macOS tells hundredths
        minutes, _, seconds = times.stdout.decode().strip().rpartition(":")
        return float(minutes.replace(":", "") or 0) * 60 + float(seconds)
    fields = stat_file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_server_with_keys_from_before_starts_although_the_ledger_is_locked(place: Path):
    """It does not even wait until the clerk has given up on the ledger for this time."""
    data = place / "data"
    made = keyhole("key", "create", "ann", "--json", "--data", data, home=place)
    bearer = {"Authorization": f"Bearer {json.loads(made.out)['secret']}"}
    with serving(data=data, home=place) as running:
        wait_for(lambda: mirrored(place), "the key is mirrored")
        assert running.ask(method="GET", path="/v1/key", headers=bearer).status == 200
    held = sqlite3.connect(data / "ledger.sqlite", isolation_level=None)
    with contextlib.closing(held):
        held.execute("BEGIN EXCLUSIVE")
        began_s = time.monotonic()
        with serving(data=data, home=place) as running:
            assert running.ask(method="GET", path="/v1/key", headers=bearer).status == 200
            assert time.monotonic() - began_s < PATIENCE_S


def test_a_worker_whose_parent_is_gone_does_not_keep_the_port_until_it_has_started(place: Path):
    """Here it waits for keys that nobody mirrors; the port is wanted by the next server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        worker = subprocess.Popen(
            [PYTHON, "-P", "-m", "keyhole.worker", f"--fd={number}", f"--data={place / 'data'}"],
            cwd=place,
            env=environment(place),
            stdin=subprocess.DEVNULL,
            pass_fds=[number],
        )
        try:
            assert worker.wait(KEYS_WITHIN_S - 2) == 1
        finally:
            worker.kill()
            worker.wait()


# Behind a server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("served")
    (home / "data").mkdir(mode=0o700)
    (home / "keyhole.toml").write_text(NO_ROUTES)
    with serving(
        data=home / "data", home=home, KEYHOLE_ADMIN_KEY="an-admin-key-for-tests"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def secret(server: Server) -> str:
    """A client's key."""
    options = ("--json", "--data", server.data)
    made = keyhole("key", "create", "client", *options, home=server.data.parent)
    return str(json.loads(made.out)["secret"])


def test_with_a_key_others_may_reach_it(tmp_path: Path):
    """On any address, with the key alone; nobody gets in without one."""
    data = tmp_path / "data"
    (tmp_path / "keyhole.toml").write_text(NO_ROUTES)
    made = keyhole("key", "create", "ann", "--json", "--data", data, home=tmp_path)
    headers = {"Authorization": f"Bearer {json.loads(made.out)['secret']}", "Host": "example.org"}
    port = free_port()
    command = [KEYHOLE, "serve", "--listen", f"0.0.0.0:{port}", "--data", data]
    with started(command, data=data, home=tmp_path, port=port) as running:
        assert running.ask(method="GET", path="/v1/key", headers=headers).status == 200
        assert running.get("/v1/key").status == 401


def test_a_worker_that_cannot_start_says_why_once(tmp_path: Path):
    ran = keyhole(
        "serve",
        "--listen",
        "127.0.0.1:0",
        home=tmp_path,
        KEYHOLE_ADMIN_KEY="with some spaces in it",
    )
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert ran.err.count("KEYHOLE_ADMIN_KEY is not printable ASCII without spaces") == 1


def test_keys_are_made_listed_and_revoked_over_http(server: Server):
    made = server.ask({"name": "bob", "budget": "5/month"}, path="/admin/v1/keys", headers=ADMIN)
    assert made.status == 201, made
    (key,) = made.json["keys"]
    assert key["secret"].startswith("kh_")
    shown = server.ask(None, method="GET", path=f"/admin/v1/keys/{key['id']}", headers=ADMIN)
    assert shown.json["limits"]["budget"] == "5/month"
    assert key["secret"] not in shown.body.decode()
    ended = server.ask(None, method="DELETE", path=f"/admin/v1/keys/{key['id']}", headers=ADMIN)
    assert ended.json["state"] == "revoked"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/admin/v1/keys",
        "/admin/v1/keys/x/rotate",
        "/admin/v1/groups/x",
        "/admin/v1/usage",
        "/admin/v1/usage/rows",
        "/admin/v1/exchanges/x",
        "/admin/v1/upstreams/x/clear",
        "/admin/v1/openapi.json",
        "/admin/v1/nothing",
        "/admin",
    ],
)
def test_every_admin_route_is_the_admins_alone(server: Server, secret: str, path: str, method: str):
    for shown in (None, "wrong", secret, "an-admin-key-for-test", "an-admin-key-for-testss"):
        headers = {} if shown is None else {"Authorization": f"Bearer {shown}"}
        assert server.ask(None, method=method, path=path, headers=headers).status == 401, shown
    assert server.ask(None, method=method, path=path, headers=ADMIN).status != 401


def test_the_clerk_is_started_again(server: Server):
    pid = server.pid("keyhole.clerk")
    os.kill(pid, signal.SIGKILL)
    server.pid("keyhole.clerk", other_than=pid)
    path = "/admin/v1/keys"
    wait_for(
        lambda: server.ask(None, method="GET", path=path, headers=ADMIN).status == 200, "answers"
    )


def test_its_socket_is_its_owners_alone(server: Server):
    mode = (server.data / "clerk.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_usage_beside_a_running_server_waits_for_the_clerk(server: Server):
    place = server.data.parent
    write_journal(place, 300)
    rows = keyhole("usage", "--rows", "--json", "--since", "1d", "--data", server.data, home=place)
    assert rows.status == 0, rows
    assert rows.err == ""
    assert len(rows.out.splitlines()) == 300
