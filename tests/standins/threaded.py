"""Runs a StandIn on an event loop of its own, in a thread, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from standins.upstream import StandIn


@contextlib.contextmanager
def in_a_thread(standin: StandIn) -> Iterator[StandIn]:
    """The same server, already listening; afterwards it and the thread are gone."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stand-in", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(standin.__aenter__(), loop).result()
        try:
            yield standin
        finally:
            asyncio.run_coroutine_threadsafe(standin.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
