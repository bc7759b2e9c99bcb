"""The engine's listening socket: bound before anything slow, private from its first moment.

It does not serve; it hands over a bound socket, or says in one line why there is none.

Facts:
- A Unix socket's path holds at most 107 bytes on Linux, 103 on macOS (unix(7), sys/un.h).
- uvicorn 0.54 makes its own Unix sockets with mode 0666.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

from keyhole.errors import SetupError

LONGEST_PATH_BYTES = 107 if sys.platform == "linux" else 103
BACKLOG = 1024


def bind_unix(path: Path) -> socket.socket:
    """A Unix socket that only this user can ever open; raises SetupError."""
    size = len(os.fsencode(path))
    if size > LONGEST_PATH_BYTES:
        raise SetupError(
            f"The socket's path {path} has {size} bytes, but the system allows "
            f"{LONGEST_PATH_BYTES}",
            hint="choose a shorter directory",
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise SetupError(f"The socket {path} cannot be made: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def bind_tcp(address: str) -> socket.socket:
    """A TCP socket at HOST:PORT; raises SetupError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SetupError(f"{address!r} is not HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SetupError(f"{address} cannot be listened on: {error}") from None


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody answers at; raises SetupError for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SetupError(f"{path} exists and is no socket", hint="remove it, or choose another")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SetupError(f"Another engine is listening on {path}", hint="stop it first")
