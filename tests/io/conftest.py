"""Runs the tests of this folder on both event loops: asyncio's own, and uvloop, which serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop
from certificates import Certificates, make_certificates
from wires import open_sockets, until

from keyhole.io.transport import PooledTransport


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that every test of this folder runs on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def transport() -> AsyncIterator[PooledTransport]:
    """A transport; when the test is over it must leave no socket, task or entry behind."""
    sockets = open_sockets()
    transport = PooledTransport()
    yield transport
    await transport.aclose()
    assert len(transport._wheel) == 0
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await until(lambda: open_sockets() <= sockets)
    for pool in transport._pools:
        assert repr(pool) == "0 active, 0 idle, 0 queued"
        assert not pool._connections
