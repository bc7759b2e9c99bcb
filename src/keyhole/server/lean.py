"""Parts of uvicorn's connection, made small: ten thousand silent connections have them too.

They do what uvicorn 0.54 needs of its own, and nothing else. A deque takes 760 bytes even when it
is empty (CPython 3.11), and uvicorn gives each connection two: its pipeline, and the one in its
flow's event.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

ATTRIBUTES = (
    *("access_log", "access_logger", "app", "app_state", "asgi_version", "client", "config"),
    *("connections", "cycle", "expect_100_continue", "flow", "headers", "limit_concurrency"),
    *("logger", "loop", "parser", "pipeline", "root_path", "scheme", "scope", "server"),
    *("server_state", "tasks", "timeout_keep_alive", "timeout_keep_alive_task", "transport"),
    *("url", "ws_protocol_class"),
)
"""What `HttpToolsProtocol` sets, for the slots of what is derived from it.

With ours they are more than the thirty names that instances can share a dict's keys for (CPython
3.11, `SHARED_KEYS_MAX_SIZE`); a dict of its own would add a kilobyte to each connection.
"""


class Pipeline(list[tuple[Any, Any]]):
    """The few requests that wait, the next one at the right."""

    __slots__ = ()

    def appendleft(self, waiting: tuple[Any, Any]) -> None:
        """Line up behind the others."""
        self.insert(0, waiting)


class Flow(FlowControl):
    """Whether to read and to write; its event is made when there is something to wait for."""

    __slots__ = ("_is_writable_event", "_transport", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        if not self.write_paused:
            self.write_paused = True
            self._is_writable_event = asyncio.Event()

    async def drain(self) -> None:
        """Wait until it has caught up."""
        if self.write_paused:
            await self._is_writable_event.wait()
