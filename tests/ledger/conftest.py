"""A ledger, on each database in turn: `database` is migrated, `ledger_url` names an empty one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyhole.ledger.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.sqlite"
        return
    server = request.getfixturevalue("postgres")
    url = server.fresh_url()
    yield url
    server.drop(url)


@pytest.fixture
def database(ledger_url: str) -> Iterator[Database]:
    opened = Database(ledger_url)
    opened.migrate()
    yield opened
    opened.close()
