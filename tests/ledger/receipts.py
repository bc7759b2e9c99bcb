"""Lines of a journal, made short for tests."""

from __future__ import annotations

from typing import Any

import msgspec

from keyhole.ledger.books import Batch, Line
from keyhole.wire.books import Intent, Progress, Receipt
from keyhole.wire.ids import uuid7, uuid7_tails

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOON_MS = 1_763_812_800_000
"""2025-11-22T12:00:00Z."""


def intent(number: int, *, attempt: int = 1, at_ms: int = NOON_MS, **changed: Any) -> Intent:
    """The intent of the exchange with this number."""
    usual = Intent(
        exchange_id=uuid7(NOON_MS, uuid7_tails(f"{number:019x}")[0]),
        attempt=attempt,
        started_at_ms=at_ms,
        key_id="key_anna",
        key="anna",
        group="class-a",
        dialect="openai",
        model="gpt2",
        upstream="hf",
        target="hf/gpt2",
        prompt_estimate=100,
        prompt_price=1_000_000,
        completion_price=2_000_000,
    )
    return msgspec.structs.replace(usual, **changed)


def progress(of: Intent, tokens: int) -> Progress:
    """How far an attempt is."""
    return Progress(of.exchange_id, of.attempt, tokens)


def receipt(of: Intent, **changed: Any) -> Receipt:
    """Its end: 10 tokens of prompt, 20 of answer, 50 micro-dollars."""
    usual = Receipt(
        intent=of,
        status=200,
        outcome="ok",
        prompt_tokens=10,
        completion_tokens=20,
        basis="reported",
        cost_microusd=50,
        ttft_ms=5.5,
        duration_ms=60.25,
    )
    return msgspec.structs.replace(usual, **changed)


def batch(*lines: Line, begins_at: int = 0, ends_at: int | None = None, **changed: Any) -> Batch:
    """Those lines, each ten bytes long."""
    usual = Batch(
        node="node-1",
        segment="segment-1",
        begins_at=begins_at,
        ends_at=begins_at + 10 * len(lines) if ends_at is None else ends_at,
        lines=lines,
    )
    return msgspec.structs.replace(usual, **changed)
