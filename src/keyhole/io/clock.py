"""The Clock port over this machine's clocks and random source."""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """Real time and real randomness."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def random_bits(self, count: int) -> int:
        """That many bits from the operating system."""
        return secrets.randbits(count)
