"""A connection of the strict protocols without a socket: pieces in, replies out, time by hand."""

from __future__ import annotations

import asyncio
import copy
import io
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from doors.composed import Composed
from doors.raw import told_apart
from doors.servers import STRICT_DOORS, make_edge
from keyhole.exchange import Gateway
from keyhole.server.app import AsgiDoor
from keyhole.server.forwarding import AdminDoor
from keyhole.server.strict import StrictProtocol

HIGH_WATER = 65536
"""Bytes that are not taken, above which a transport asks to write no more; uvloop's default."""


class FakeTransport(asyncio.Transport):
    """Keeps what is written; a client that does not read is played by `is_read`."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: StrictProtocol | None = None
        self.written = bytearray()
        self.untaken = 0
        self.is_read = True
        self.is_paused = self.has_eof = self._is_closing = self.is_lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def write(self, data: Any) -> None:
        assert not self.has_eof, "nothing is written behind the end"
        assert not self._is_closing, "nothing is written on a closing connection"
        self.written += data
        if not self.is_read:
            self.untaken += len(data)
            if self.untaken > HIGH_WATER and not self.flow_is_paused:
                self.protocol.pause_writing()

    @property
    def flow_is_paused(self) -> bool:
        return self.protocol.flow.write_paused

    def take(self) -> None:
        """The client reads after all."""
        self.is_read, self.untaken = True, 0
        if self.flow_is_paused:
            self.protocol.resume_writing()
        if self._is_closing:
            self._lose()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self.untaken:
                self._lose()

    def lose(self) -> None:
        """The client resets the connection, and that is known at once."""
        self._is_closing = self.is_lost = True
        self.protocol.connection_lost(ConnectionResetError())

    def abort(self) -> None:
        self._is_closing = True
        self._lose()

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self.protocol.loop.call_soon(self.protocol.connection_lost, None)


class Lane:
    """One connection, and the gateway behind it."""

    def __init__(
        self,
        name: str = "fastlane",
        composed: Composed | None = None,
        *,
        gateway: Gateway | None = None,
        admin: AdminDoor | None = None,
        **bounds: Any,
    ) -> None:
        self.composed = composed or Composed(io.StringIO())
        gateway = gateway or self.composed.gateway
        self.edge = make_edge(gateway, **bounds)
        self.state = ServerState()
        app = AsgiDoor(gateway, admin=admin)
        self._config = uvicorn.Config(app, ws="none", log_config=None, access_log=False)
        self._name = name
        self._connect()

    def another(self) -> Lane:
        """Another connection of the same worker."""
        lane = copy.copy(self)
        lane._connect()
        return lane

    def _connect(self) -> None:
        self.protocol = STRICT_DOORS[self._name](
            self.edge, config=self._config, server_state=self.state, app_state={}
        )
        self.transport = FakeTransport()
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def send(self, *pieces: bytes) -> None:
        """What arrives, piece by piece, with all that follows from each; paused ones get lost."""
        for piece in pieces:
            if not self.transport.is_closing() and not self.transport.is_paused:
                self.protocol.data_received(piece)
            await self.settle(2)
        await self.settle(40 + min(sum(map(len, pieces)), 8000) // 10)

    async def leave(self) -> None:
        """The client hangs up, as far as one that is read no further can be heard."""
        if not self.transport.is_paused:
            self.transport.close()
        await self.settle()

    async def settle(self, turns: int = 40) -> None:
        """Let the loop go on until nothing is left but what waits for something."""
        for turn in range(turns):
            await asyncio.sleep(0)
            if turn > 3 and not self.state.tasks:
                break

    def sweep_in(self, seconds: float) -> None:
        """What the sweep does when so much time has gone by."""
        self.protocol.sweep(self.protocol.loop.time() + seconds)

    def statuses(self, *, bodiless: tuple[int, ...] = ()) -> list[int]:
        """Of the replies so far, which are whole."""
        statuses, _, rest = told_apart(bytes(self.transport.written), bodiless=bodiless)
        assert not rest
        return statuses

    @property
    def is_open(self) -> bool:
        return not (self.transport.is_closing() or self.transport.has_eof)

    async def end(self) -> None:
        """Hang up, and check that nothing is left behind."""
        self.transport.abort()
        await self.settle()
        assert self.edge.buffered_bytes == 0
        assert not self.state.tasks
        assert self.protocol not in self.state.connections
        memory = self.composed.memory
        assert memory.began_count == len(memory.records), "every request has ended once"
