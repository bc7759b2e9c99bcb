"""An upstream that closes idle connections at the moment of reuse.

The server is a thread with plain sockets, so that the moments are real ones: it closes a
connection when nothing has come for a while that is as long as the client's pause, give or take
chance. What it has not read by then it has not been delivered; the kernel answers with a reset.
No caller may see an error, and no request may be delivered twice.

    KEYHOLE_RACES=10000 pytest tests/io/test_reuse_races.py
"""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Self

import pytest
from wires import TIMEOUTS, make_request, make_upstream

from keyhole.errors import KeyholeError
from keyhole.io.transport import PooledTransport

RACES = int(os.environ.get("KEYHOLE_RACES", "1000"))
PAUSE_S = 0.001
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class ImpatientServer:
    """Serves in a thread; `delivered` holds the body of every request that it has read."""

    def __init__(self) -> None:
        self.delivered: list[bytes] = []
        self.closed_idle = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_over = False
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._listener, selectors.EVENT_READ)
        close_at_s: dict[socket.socket, float] = {}
        while not self._is_over:
            for key, _ in selector.select(PAUSE_S / 4):
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ)
                    close_at_s[connection] = time.monotonic() + 1
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if self._answer(connection):
                    close_at_s[connection] = time.monotonic() + random.uniform(0, 2) * PAUSE_S
                else:
                    close_at_s[connection] = 0
            now_s = time.monotonic()
            for connection in [each for each, at_s in close_at_s.items() if at_s < now_s]:
                self.closed_idle += close_at_s.pop(connection) > 0
                selector.unregister(connection)
                connection.close()
        for connection in close_at_s:
            connection.close()
        selector.close()

    def _answer(self, connection: socket.socket) -> bool:
        """Read one request and answer it; false at the end of the connection."""
        try:
            message = connection.recv(65536)
            if message:
                self.delivered.append(message.rpartition(b"\r\n\r\n")[2])
                connection.send(ANSWER)
        except OSError:
            return False
        return bool(message)


@pytest.mark.timeout(60 + RACES / 20)
async def test_no_caller_sees_an_error_and_no_request_is_delivered_twice() -> None:
    failures: list[KeyholeError] = []
    with ImpatientServer() as server:
        transport = PooledTransport()
        upstream = make_upstream(server.url)

        async def client(name: int, count: int) -> None:
            for number in range(count):
                request = make_request(upstream, b"%d-%d" % (name, number))
                try:
                    await transport.send(request, request_id="id", timeouts=TIMEOUTS)
                except KeyholeError as error:
                    failures.append(error)
                await asyncio.sleep(random.uniform(0, 2) * PAUSE_S)

        await asyncio.gather(*(client(name, RACES // 4) for name in range(4)))
        await transport.aclose()

    print(f"{len(server.delivered)} requests, {server.closed_idle} connections closed when idle")
    assert [error.message for error in failures] == []
    assert len(server.delivered) == RACES // 4 * 4
    assert len(set(server.delivered)) == len(server.delivered)
    assert server.closed_idle > RACES // 20


async def test_a_close_that_nobody_has_noticed_yet() -> None:
    """Every request meets a connection that was closed in the same turn of the loop."""
    transports: list[asyncio.BaseTransport] = []
    delivered: list[bytes] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transports.append(transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            delivered.append(data.rpartition(b"\r\n\r\n")[2])
            self.transport.write(ANSWER)  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    transport = PooledTransport()
    upstream = make_upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for number in range(RACES):
        for each in transports:
            each.close() if number % 2 else each.abort()  # type: ignore[attr-defined]
        request = make_request(upstream, b"%d" % number)
        await transport.send(request, request_id="id", timeouts=TIMEOUTS)
        del transports[:-1]
    await transport.aclose()
    server.close()
    await server.wait_closed()

    assert delivered == [b"%d" % number for number in range(RACES)]
