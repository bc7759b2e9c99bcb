"""The one timer for all connections of a worker: closes what is silent or slow for too long.

What that means for a connection is the connection's to say (`strict.StrictProtocol.sweep`).
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from uvicorn.server import ServerState

from keyhole.server.strict import StrictProtocol

SWEEP_EVERY_S, SWEPT_AT_ONCE = 1.0, 100


async def sweep_connections(server_state: ServerState, *, every_s: float = SWEEP_EVERY_S) -> None:
    """Sweep all connections of a server, once a second, until cancelled.

    Ten thousand of them take some milliseconds, so they are swept a few at a time, all through
    the second: no request waits for more than a few.
    """
    loop = asyncio.get_running_loop()
    while True:
        unswept = list(server_state.connections)
        pause_s = every_s / max(1, math.ceil(len(unswept) / SWEPT_AT_ONCE))
        await asyncio.sleep(pause_s)
        while unswept:
            _sweep(unswept[-SWEPT_AT_ONCE:], loop.time())
            del unswept[-SWEPT_AT_ONCE:]
            if unswept:
                await asyncio.sleep(pause_s)


def _sweep(connections: list[Any], now_s: float) -> None:
    for connection in connections:
        if isinstance(connection, StrictProtocol):
            connection.sweep(now_s)
