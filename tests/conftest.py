"""Stands here so that every test can import `standins`: pytest puts this folder on the path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import postgres as servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL that runs; started when the first test asks for it."""
    with servers.running() as server:
        yield server
