"""Attempts for tests of the journal, told apart by a number; and a clock that stands still."""

from __future__ import annotations

from keyhole.wire.books import Intent, Progress, Receipt


def intent(number: int, *, model: str = "gpt2") -> Intent:
    """The intent of the attempt with that number."""
    return Intent(
        exchange_id=f"019ac2f0-7c1e-7a51-b3a5-{number:012d}",
        attempt=1,
        started_at_ms=1_763_863_563_123 + number,
        key_id="key_0123456789abcdef",
        key="ann",
        group="class-a",
        dialect="openai",
        model=model,
        upstream="hf",
        target=f"hf/{model}",
        prompt_estimate=number,
        prompt_price=150_000,
        completion_price=600_000,
    )


def progress(number: int, tokens: int) -> Progress:
    """How far its stream is."""
    return Progress(intent(number).exchange_id, 1, tokens)


def receipt(number: int) -> Receipt:
    """How it ended."""
    return Receipt(intent(number), 200, "ok", number, 20, "reported", 27, 12.345678, 98.7654321)


class StillClock:
    """Time goes on where a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def unix_ms(self) -> int:
        return 1_763_863_563_123

    def random_hex(self, count: int) -> str:
        return "0" * count

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
