"""A PostgreSQL for tests: one that is there (KEYHOLE_TEST_POSTGRES), else a private one.

A private one is Debian's or whichever is installed (installed by apt-get where that is possible),
with a cluster in a temporary folder, reached through a Unix socket in it, without fsync. It ends
with the process that started it. Where none can be had, tests fail and say so: they are not
skipped.

Every ledger that a test asks for is a schema of its own in one database (`fresh_url`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

import psycopg

ENVIRONMENT = "KEYHOLE_TEST_POSTGRES"
PACKAGE = "postgresql"
INSTALLED = Path("/usr/lib/postgresql")
READY_WITHIN_S = 30.0
PR_SET_PDEATHSIG = 1

_numbers = count()


class NoPostgresError(Exception):
    """There is no PostgreSQL to test with, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the tests need a PostgreSQL: {why}; set {ENVIRONMENT} to the URL of one,"
            f" or install its server (apt-get install {PACKAGE})"
        )


class Postgres:
    """A server; `url` names its database `postgres`."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def is_ours(self) -> bool:
        """Whether it can be stopped and started."""
        return False

    def start(self) -> None:
        """Start it, and return when it answers."""
        raise NoPostgresError(f"the one of {ENVIRONMENT} cannot be stopped and started")

    def stop(self) -> None:
        """End it at once, with every connection that it has."""
        raise NoPostgresError(f"the one of {ENVIRONMENT} cannot be stopped and started")

    def fresh_url(self) -> str:
        """The URL of an empty ledger: of a schema that nobody else uses."""
        schema = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        mark = "&" if "?" in self.url else "?"
        return f"{self.url}{mark}options=-csearch_path%3D{schema}"

    def drop(self, url: str) -> None:
        """Remove a ledger."""
        schema = url.rpartition("%3D")[2]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())


class PrivatePostgres(Postgres):
    """A server of this process alone."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        super().__init__(f"postgresql://postgres@/postgres?host={folder}")
        self._binaries = binaries
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        # It refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._cluster = folder / "cluster"
        self._settings = ["-k", str(folder), "-F", "-c", "listen_addresses="]
        self._run("initdb", "--auth=trust", "-U", "postgres", "-E", "UTF8", "--no-sync")

    @property
    def is_ours(self) -> bool:
        """Whether it can be stopped and started."""
        return True

    def start(self) -> None:
        """Start it, and return when it answers."""
        assert self._server is None, "it runs already"
        log = (self._folder / "log").open("ab")
        with log:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._cluster, *self._settings],
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # one call of prctl
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NoPostgresError(f"it did not start: {self._last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, with every connection that it has."""
        assert self._server is not None, "it does not run"
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.send_signal(signal.SIGQUIT)
                self._server.wait(10)
        self._server = None

    def close(self) -> None:
        """Stop it if it runs, and remove all of it."""
        if self._server is not None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, "-D", self._cluster, *arguments],
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoPostgresError(f"{program} failed: {done.stderr.strip()}")

    def _last_words(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-500:]


@contextlib.contextmanager
def running(environ: Mapping[str, str] = os.environ) -> Iterator[Postgres]:
    """The PostgreSQL to test with: the one that the environment names, else a private one."""
    if url := environ.get(ENVIRONMENT):
        yield Postgres(url)
        return
    with running_privately() as server:
        yield server


@contextlib.contextmanager
def running_privately() -> Iterator[PrivatePostgres]:
    """A private PostgreSQL, whatever the environment says; it may be stopped and started."""
    binaries = find_binaries() or install()
    # A short path: that of a Unix socket holds at most 107 bytes.
    server = PrivatePostgres(binaries, Path(tempfile.mkdtemp(prefix="khpg", dir="/tmp")))
    try:
        server.start()
        yield server
    finally:
        server.close()


def find_binaries(path: str | None = None, installed: Path = INSTALLED) -> Path | None:
    """The folder with `initdb` and `postgres`: the newest of Debian's, else one on the path."""
    versions = [folder for folder in installed.glob("*/bin") if (folder / "initdb").exists()]
    if versions:
        return max(versions, key=lambda folder: [int(n) for n in re.findall(r"\d+", str(folder))])
    found = shutil.which("initdb", path=path)
    return Path(found).resolve().parent if found else None


def install(apt_get: str | None = shutil.which("apt-get"), user_id: int = os.geteuid()) -> Path:
    """Install Debian's package; raises NoPostgresError where that is not possible."""
    if apt_get is None or user_id != 0:
        raise NoPostgresError("none is installed, and only root can install one by apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", PACKAGE]):
        done = subprocess.run(
            [apt_get, "-qq", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["it said nothing"]
            raise NoPostgresError(f"apt-get {arguments[0]} failed: {words[-1]}")
    binaries = find_binaries()
    if binaries is None:
        raise NoPostgresError(f"the package {PACKAGE} holds no initdb")
    return binaries


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
