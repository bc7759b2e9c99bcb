"""The listening socket: bound once, by the parent, and handed on to whoever serves."""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from keyhole.config import Listen
from keyhole.errors import SetupError

BACKLOG = 2048
DEFAULT_PORT = AIRPLAY_PORT = 5000
WITHIN_S = 2.0
"""How long a port that is in use is waited for: the worker of a supervisor that was killed may
have it for another moment, and who starts us again would take a refusal for a failure."""
LOOK_EVERY_S = 0.02
MAX_PORT = 65535


@contextmanager
def listen(where: Listen, *, within_s: float = WITHIN_S) -> Iterator[socket.socket]:
    """A listening TCP socket that children can inherit; blocks while the port is in use.

    Raises SetupError.
    """
    try:
        listener = _bound_soon(where, within_s)
    except OSError as error:
        raise SetupError(_reason(where, error), hint=hint(where, error, sys.platform)) from None
    except UnicodeError:
        raise SetupError(f"Cannot listen on {where.host}: it is no host name.") from None
    with listener:
        yield listener


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound_soon(where: Listen, within_s: float) -> socket.socket:
    gives_up_s = time.monotonic() + within_s
    while True:
        try:
            return _bound(where)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= gives_up_s:
                raise
        time.sleep(LOOK_EVERY_S)


def _bound(where: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((where.host, where.port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _reason(where: Listen, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {where.port} on {where.host} is in use."
    return f"Cannot listen on {where.host} port {where.port}: {error.strerror}."


def hint(where: Listen, error: OSError, platform: str) -> str | None:
    """What to do about an address that cannot be had, where there is something."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    port = where.port + 1 if DEFAULT_PORT <= where.port < MAX_PORT else DEFAULT_PORT
    other = f"keyhole serve --listen {host}:{port}"
    if error.errno == errno.EACCES:
        return f"ports below 1024 are for root; try {other}"
    if error.errno != errno.EADDRINUSE:
        return None
    if platform == "darwin" and where.port == AIRPLAY_PORT:
        return (
            "on macOS this is often the AirPlay Receiver: turn it off in System Settings,"
            f" General, AirDrop & Handoff; or try {other}"
        )
    return f"stop what uses it, or try {other}"
