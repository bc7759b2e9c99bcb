"""When a disk is asked whether it has what was written: never, every so often, or on request.

It knows no files: `flush` does the work, in a thread of this module's, so that the event loop
never waits for a disk. One thread, so one `flush` at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Syncer:
    """Runs `flush`, which returns why it failed, or None."""

    def __init__(self, flush: Callable[[], OSError | None]) -> None:
        self._flush = flush
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: asyncio.Future[OSError | None] | None = None
        """What those wait for who came while a flush was under way: the next one."""
        self._is_busy = False

    def run_every(self, interval_s: float) -> None:
        """Flush at that interval until `close`; a failure is `flush`'s own to keep."""
        self._thread = threading.Thread(
            target=self._run, args=(interval_s,), name="journal-sync", daemon=True
        )
        self._thread.start()

    async def sync(self) -> OSError | None:
        """What a flush says that begins after this call; those who come together share one."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            self._waiting = loop.create_future()
        waiting = self._waiting
        if not self._is_busy:
            self._begin(loop)
        return await asyncio.shield(waiting)  # who leaves does not take it from the others

    def close(self) -> None:
        """End the threads, when what they are doing is done."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown()

    def _run(self, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            self._flush()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        turn, self._waiting = self._waiting, None
        if turn is None:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="journal-sync")
        self._is_busy = True

        def end(done: asyncio.Future[OSError | None]) -> None:
            self._is_busy = False
            turn.set_result(done.result())
            self._begin(loop)

        loop.run_in_executor(self._pool, self._flush).add_done_callback(end)
