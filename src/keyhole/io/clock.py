"""The Clock port over this machine's clocks and random source."""

from __future__ import annotations

import asyncio
import os
import time


class SystemClock:
    """Real time and real randomness; one for each process, made after it was forked."""

    monotonic = staticmethod(time.monotonic)
    """Seconds from an arbitrary start, never going back; without a call of ours around it."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def random_hex(self, count: int) -> str:
        """That many digits from the operating system."""
        return os.urandom((count + 1) // 2).hex()[:count]

    async def sleep(self, seconds: float) -> None:
        """Wait for that long, on the running loop."""
        await asyncio.sleep(seconds)
