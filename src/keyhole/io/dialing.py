"""Opens connections: by host and port, with TLS or without, or by the path of a Unix socket.

It keeps none of them and knows no pool. The deadline comes from the wheel.

Facts (CPython 3.11 asyncio and uvloop 0.23, November 2026):
- `asyncio.timeout(None)` sets no timer and does all the bookkeeping of a cancellation that is a
  timeout; `reschedule` to a time that has come makes it fire. So the wheel can be its timer.
- With several addresses both loops raise one error for all of them, of which only the text
  tells them apart; so each address is tried by itself here, in the order of getaddrinfo.
- A connect to a Unix socket fails with ENOENT before the server has bound it, with ECONNREFUSED
  when it is a dead server's, and on Linux with EAGAIN when its backlog is full (unix(7)); asyncio
  takes that last one for a connection under way, uvloop does not.
- `ssl.create_default_context` loads the system's trust store: 20 to 40 ms, once for a transport.
- Cancelling `create_connection` closes its socket; a lookup in getaddrinfo's thread goes on.
  Cancelled in the very turn in which the connection was made, uvloop closes without telling the
  protocol by `connection_lost`, though it had told `connection_made`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from msgspec import Struct

from keyhole.io.deadlines import NEVER_S, DeadlineWheel
from keyhole.io.failures import (
    no_head_in_time,
    not_connected_in_time,
    shutting_down,
    unreachable,
)
from keyhole.io.http1 import Connection
from keyhole.wire.http import Timeouts

SOCKET_POLL_S = 0.05
"""How often a Unix socket is tried that is not there yet: the engine restarts beside us."""

_NOT_THERE_YET = (FileNotFoundError, ConnectionRefusedError, BlockingIOError)


class Address(Struct, frozen=True, kw_only=True):
    """Where an upstream is: a socket's path, or a host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0
    is_tls: bool = False


def find_address(url: str) -> Address:
    """The address in a URL of the catalog, which is known to be a good one."""
    if url.startswith("unix:"):
        return Address(path=url.removeprefix("unix:"))
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    return Address(host=parts.hostname or "", port=port, is_tls=is_tls)


def make_tls() -> ssl.SSLContext:
    """TLS 1.2 or newer, the system's trust store, the host's name checked, HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Alarm:
    """An entry of the wheel that ends an asyncio.timeout."""

    def __init__(self, due_s: float, timeout: asyncio.Timeout) -> None:
        self.due_s = due_s
        self.watched_s = NEVER_S
        self._timeout = timeout

    def expire(self, now_s: float) -> None:  # noqa: ARG002  # it fires, whatever the time
        self.due_s = NEVER_S
        self._timeout.reschedule(0.0)


class Dialer:
    """Opens connections to one address."""

    def __init__(
        self,
        name: str,
        address: Address,
        tls: ssl.SSLContext | None,
        wheel: DeadlineWheel,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`name` is the upstream's, for errors; `tls` is used where the address wants it."""
        self._name = name
        self._address = address
        self._tls = tls if address.is_tls else None
        self._wheel = wheel
        self._loop = loop
        self._alarms: set[_Alarm] = set()
        self._is_closed = False

    def close(self) -> None:
        """Give up what is being opened, and open nothing more."""
        self._is_closed = True
        for alarm in self._alarms:
            alarm.expire(self._loop.time())

    async def dial(
        self, make: Callable[[], Connection], *, began_s: float, timeouts: Timeouts
    ) -> Connection:
        """A connection that is open, TLS and all; raises UpstreamError, or GatewayError
        once it is closed.

        The connect timeout counts from now, the others from `began_s`, on the loop's clock.
        """
        if self._is_closed:
            raise shutting_down()
        connect_by_s = self._loop.time() + timeouts.connect_s
        answer_by_s = began_s + min(timeouts.first_byte_s, timeouts.total_s)
        connection = make()
        try:
            async with asyncio.timeout(None) as timeout:
                alarm = _Alarm(min(connect_by_s, answer_by_s), timeout)
                self._wheel.watch(alarm)
                self._alarms.add(alarm)
                try:
                    await self._open(connection, connect_by_s)
                finally:
                    self._alarms.discard(alarm)
                    self._wheel.forget(alarm)
        except TimeoutError:
            connection.give_up()
            if self._is_closed:
                raise shutting_down() from None
            if answer_by_s < connect_by_s:
                raise no_head_in_time(self._name, timeouts.first_byte_s) from None
            raise not_connected_in_time(self._name, timeouts.connect_s) from None
        except OSError as error:
            connection.give_up()
            raise unreachable(self._name, error) from None
        except BaseException:
            connection.give_up()
            raise
        return connection

    async def _open(self, connection: Connection, connect_by_s: float) -> None:
        if self._address.path is None:
            await self._open_tcp(connection)
            return
        while True:
            try:
                await self._loop.create_unix_connection(lambda: connection, self._address.path)
            except _NOT_THERE_YET:
                if self._loop.time() + SOCKET_POLL_S >= connect_by_s:
                    raise
            else:
                return
            await asyncio.sleep(SOCKET_POLL_S)

    async def _open_tcp(self, connection: Connection) -> None:
        host, port = self._address.host, self._address.port
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        first_error: OSError | None = None
        for family, _, proto, _, (ip, *_) in found:
            try:
                await self._loop.create_connection(
                    lambda: connection,
                    str(ip),
                    port,
                    family=family,
                    proto=proto,
                    ssl=self._tls,
                    server_hostname=host if self._tls else None,
                )
            except ssl.SSLError:
                raise  # it is there; what it says would not differ at its other addresses
            except OSError as error:
                first_error = first_error or error
            else:
                return
        raise first_error or OSError("no address")
