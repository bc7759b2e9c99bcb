"""Stands here so that every test can import `standins`: pytest puts this folder on the path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import postgres as servers


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL that runs; started when the first test asks for it."""
    import postgres as servers  # noqa: PLC0415  # the reference environment has no driver

    with servers.running() as server:
        yield server
