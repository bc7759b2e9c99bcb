"""The Clock port over this machine's clocks and random source."""

from __future__ import annotations

import asyncio
import os
import time

_STOCK_BYTES = 4096


class SystemClock:
    """Real time and real randomness; one for each process, made after it was forked."""

    def __init__(self) -> None:
        self._stock = ""
        self._used = 0

    monotonic = staticmethod(time.monotonic)
    """Seconds from an arbitrary start, never going back; without a call of ours around it."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def random_hex(self, count: int) -> str:
        """That many digits from the operating system, fetched for many callers at once.

        A system call for each request's id would cost more than the id.
        """
        begin = self._used
        end = self._used = begin + count
        if end > len(self._stock):
            self._stock = os.urandom(max(_STOCK_BYTES, count)).hex()
            begin, end = 0, count
            self._used = count
        return self._stock[begin:end]

    async def sleep(self, seconds: float) -> None:
        """Wait for that long, on the running loop."""
        await asyncio.sleep(seconds)
