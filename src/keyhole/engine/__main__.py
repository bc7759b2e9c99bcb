"""`python -m keyhole.engine`: the engine's process, from its arguments to its end.

It serves nothing itself; it prepares what must be so before numpy is imported.

Fact: OpenBLAS reads its number of threads once, when numpy is imported.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from keyhole.engine.library import DEMO, Library
from keyhole.engine.listener import bind_tcp, bind_unix
from keyhole.errors import SetupError

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main(argv: list[str] | None = None) -> int:
    """Serve models on a socket until told to stop; the exit status."""
    arguments = _parse(argv)
    logging.basicConfig(
        level=logging.WARNING if arguments.quiet else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s engine %(levelname)s %(message)s",
    )
    # Until the event loop takes it over: nothing is served yet, and an exception in the middle of
    # the loop's making would leave a coroutine that was never awaited, which Python complains of.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if arguments.exit_with_parent:
        watch = threading.Thread(target=_exit_at_end_of, args=(sys.stdin.fileno(),), daemon=True)
        watch.start()
    try:
        if arguments.socket is not None:
            listener = bind_unix(arguments.socket)
        else:
            listener = bind_tcp(arguments.listen)
    except SetupError as error:
        print(f"keyhole.engine: {error}", file=sys.stderr)  # noqa: T201  # the line that says why
        return 1
    set_thread_counts()
    from keyhole.engine.serving import serve  # noqa: PLC0415  # imports numpy

    with listener:
        serve(
            listener,
            Library(arguments.models),
            arguments.default,
            max_waiting=arguments.max_waiting,
        )
    if arguments.socket is not None:
        arguments.socket.unlink(missing_ok=True)
    return 0


def set_thread_counts() -> None:
    """Let the BLAS library use every core of this process, where the operator says no other."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(cores))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m keyhole.engine", description=main.__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--socket", metavar="PATH", type=Path, help="serve on a Unix socket, mode 0600"
    )
    where.add_argument(
        "--listen", metavar="HOST:PORT", help="serve on TCP, to everybody who can reach it"
    )
    parser.add_argument("--models", metavar="DIR", type=Path, help="the folder of pulled models")
    parser.add_argument("--default", metavar="NAME", default=DEMO, help="default: %(default)s")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input does"
    )
    parser.add_argument(
        "--max-waiting", metavar="N", type=int, help="requests that may wait; more get 429"
    )
    parser.add_argument("--quiet", action="store_true", help="log only what is wrong")
    return parser.parse_args(argv)


def _exit_at_end_of(descriptor: int) -> NoReturn:
    """The other end is the parent's: when it closes, nobody wants what is still running.

    The socket's file stays, for it may be a successor's by now; the next engine removes it.
    The descriptor and not `sys.stdin`: a thread that reads that one holds its lock, and an
    interpreter that cannot take the lock at its end aborts (CPython 3.11).
    """
    while os.read(descriptor, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
