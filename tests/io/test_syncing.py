"""When the disk is asked: once for all who wait, in a thread, and never twice at a time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from keyhole.io.syncing import Syncer


class SlowFlush:
    """A flush that a test lets go on, and that counts."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.count = 0

    def __call__(self) -> OSError | None:
        self.count += 1
        self.began.release()
        assert self.may_end.acquire(timeout=10)
        return OSError(self.count)


async def test_those_who_come_during_a_flush_share_the_next_one() -> None:
    """What they wrote may have come too late for the one under way."""
    flush = SlowFlush()
    syncer = Syncer(flush)
    async with asyncio.timeout(10):
        first = asyncio.ensure_future(syncer.sync())
        await asyncio.to_thread(flush.began.acquire)
        others = [asyncio.ensure_future(syncer.sync()) for _ in range(20)]
        await asyncio.sleep(0)
        flush.may_end.release()
        assert str(await first) == "1"
        assert not any(other.done() for other in others)
        flush.may_end.release()
        assert {str(error) for error in await asyncio.gather(*others)} == {"2"}
    assert flush.count == 2
    syncer.close()


async def test_nobody_waits_for_who_has_left() -> None:
    flush = SlowFlush()
    syncer = Syncer(flush)
    async with asyncio.timeout(10):
        waiting = asyncio.ensure_future(syncer.sync())
        await asyncio.to_thread(flush.began.acquire)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        flush.may_end.release(2)
        assert str(await syncer.sync()) == "2"
    syncer.close()


def test_at_an_interval_it_goes_on_until_it_is_closed() -> None:
    flush = SlowFlush()
    syncer = Syncer(flush)
    syncer.run_every(0.001)
    for _ in range(3):
        assert flush.began.acquire(timeout=10)
        flush.may_end.release()
    flush.may_end.release(10_000)
    syncer.close()
    assert flush.count >= 3
    assert "journal-sync" not in {thread.name for thread in threading.enumerate()}
