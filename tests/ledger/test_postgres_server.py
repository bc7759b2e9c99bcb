"""The PostgreSQL of the tests: given, private, or missing with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

import postgres as servers


def test_the_one_of_the_environment_is_used_and_left_alone() -> None:
    with servers.running({servers.ENVIRONMENT: "postgresql://somewhere/else"}) as server:
        assert server.url == "postgresql://somewhere/else"
        assert not server.is_ours
        for act in (server.start, server.stop):
            with pytest.raises(servers.NoPostgresError, match="cannot be stopped"):
                act()


def test_a_private_one_stops_starts_and_leaves_nothing() -> None:
    with servers.running_privately() as server:
        url = server.fresh_url()
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (n INTEGER)")
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.start()
        with psycopg.connect(url) as connection:
            connection.execute("SELECT n FROM kept")
        folder = Path(server.url.partition("host=")[2])
        assert folder.is_dir()
    assert not folder.exists()


def test_without_one_the_tests_fail_and_say_what_to_do(tmp_path: Path) -> None:
    assert servers.find_binaries(path=str(tmp_path), installed=tmp_path) is None
    for apt_get, user_id in ((None, 0), ("/usr/bin/apt-get", 1000)):
        with pytest.raises(
            servers.NoPostgresError, match=r"KEYHOLE_TEST_POSTGRES.*apt-get install"
        ):
            servers.install(apt_get, user_id)


@pytest.mark.parametrize("failing", ["update", "install"])
def test_a_package_that_cannot_be_had_is_told(tmp_path: Path, failing: str) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *{failing}*) echo "E: no network" >&2; exit 1;; esac\n'
    )
    fake.chmod(0o755)
    with pytest.raises(servers.NoPostgresError, match=f"apt-get {failing} failed: E: no network"):
        servers.install(str(fake), 0)


def test_the_newest_installed_one_is_taken(tmp_path: Path) -> None:
    for version in ("9", "15", "17"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        if version != "17":
            (folder / "initdb").touch()
    assert servers.find_binaries(os.devnull, tmp_path) == tmp_path / "15" / "bin"
