"""The listening socket: bound once, by the parent, and handed on to whoever serves."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from keyhole.config import Listen
from keyhole.errors import SetupError

BACKLOG = 2048
AIRPLAY_PORT = 5000


@contextmanager
def listen(where: Listen) -> Iterator[socket.socket]:
    """A listening TCP socket that children can inherit; raises SetupError."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((where.host, where.port))
        except OSError as error:
            raise SetupError(_reason(where, error), hint=_hint(where, error)) from None
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reason(where: Listen, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {where.port} on {where.host} is in use."
    return f"Cannot listen on {where.host} port {where.port}: {error.strerror}."


def _hint(where: Listen, error: OSError) -> str:
    other = f"keyhole serve --listen {where.host}:{where.port + 1}"
    if error.errno != errno.EADDRINUSE:
        return f"try {other}"
    if sys.platform == "darwin" and where.port == AIRPLAY_PORT:
        return (
            "on macOS this is often the AirPlay Receiver: turn it off in System Settings,"
            f" General, AirDrop & Handoff; or try {other}"
        )
    return f"stop what uses it, or try {other}"
