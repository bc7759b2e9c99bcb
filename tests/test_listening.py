"""A port that is in use for another moment."""

from __future__ import annotations

import asyncio
import socket

import pytest

from keyhole.config import Listen
from keyhole.errors import SetupError
from keyhole.listening import listen


def port_of(where: Listen, within_s: float) -> int:
    with listen(where, within_s=within_s) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_a_port_that_is_given_up_soon_is_waited_for() -> None:
    """By the worker of a supervisor that was killed, whose successor this is."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = Listen("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(SetupError, match="is in use"):
            port_of(where, 0)
        waiting = asyncio.ensure_future(asyncio.to_thread(port_of, where, 60))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    assert await waiting == where.port
