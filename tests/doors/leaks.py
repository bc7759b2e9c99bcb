"""Fails a test that leaves a thread, a task or an open descriptor behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 30
"""What ends by itself, such as the thread of a connection that was closed, may take this long."""


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what another thread will do; there is no event to wait for from here."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


@contextmanager
def no_leaks(loop: asyncio.AbstractEventLoop | None = None) -> Iterator[None]:
    """Compare before and after; `loop` is one that runs in another thread."""
    before = _Left(loop)
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (after := _Left(loop)).exceeds(before) and time.monotonic() < deadline:
        time.sleep(0.02)
        gc.collect()
    assert not after.exceeds(before), f"left behind: {after.beyond(before)}"


class _Left:
    """What there is at one moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        # A loop thread of a door is begun by the first request and stays until it is closed.
        self.threads = {thread for thread in threading.enumerate() if thread.name != "keyhole"}
        self.tasks = 0 if loop is None else len(asyncio.all_tasks(loop))
        self.descriptors = _sockets()

    def exceeds(self, before: _Left) -> bool:
        return (
            bool(self.threads - before.threads)
            or self.tasks > before.tasks
            or bool(self.descriptors - before.descriptors)
        )

    def beyond(self, before: _Left) -> str:
        threads = sorted(thread.name for thread in self.threads - before.threads)
        sockets = self.descriptors - before.descriptors
        return f"threads {threads}, tasks {self.tasks - before.tasks}, sockets {sorted(sockets)}"


def _sockets() -> set[str]:
    """The open sockets of this process, where the system tells (Linux)."""
    found = set()
    try:
        numbers = os.listdir("/proc/self/fd")  # noqa: PTH208  # names are all that is wanted
    except FileNotFoundError:
        return found
    for number in numbers:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115  # not a path
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found
