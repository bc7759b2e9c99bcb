"""The lines of a batch, sorted by what they say, and mended so that each database takes them; pure.

What a database refused would stop the journal for good: so a text that PostgreSQL does not take
is changed, and an amount that would overflow the sums is bounded, rather than refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from keyhole.wire.books import Intent, Progress, Receipt

Line = Intent | Progress | Receipt
"""What stands in a line of the journal."""

Place = tuple[str, int]
"""Which attempt: the exchange's id and the number."""

MAX_TEXT_CHARS = 300
"""Longer texts are cut: PostgreSQL's indexes take no entry of more than 2,704 bytes."""
MAX_AMOUNT = 10**15
"""A billion dollars, in micro-dollars: what is more is no amount, and would overflow the sums."""


def place_of(intent: Intent | Progress) -> Place:
    """Which attempt a line is about."""
    return intent.exchange_id, intent.attempt


def sort_lines(
    lines: Iterable[Line],
) -> tuple[dict[Place, Receipt], dict[Place, Intent], dict[Place, int]]:
    """The receipts, the intents without one, and how far those are."""
    receipts: dict[Place, Receipt] = {}
    intents: dict[Place, Intent] = {}
    progress: dict[Place, int] = {}
    for line in lines:
        if isinstance(line, Receipt):
            receipt = _storable(line)
            receipts.setdefault(place_of(receipt.intent), receipt)
        elif isinstance(line, Intent):
            intent = _storable_intent(line)
            intents.setdefault(place_of(intent), intent)
        else:
            place = (clean(line.exchange_id), line.attempt)
            progress[place] = max(progress.get(place, 0), _bounded(line.completion_tokens))
    for place in receipts:
        intents.pop(place, None)
        progress.pop(place, None)
    return receipts, intents, progress


def _storable(receipt: Receipt) -> Receipt:
    intent = _storable_intent(receipt.intent)
    amounts = (receipt.prompt_tokens, receipt.completion_tokens, receipt.cost_microusd)
    if intent is receipt.intent and min(amounts) >= 0 and max(amounts) <= MAX_AMOUNT:
        return receipt
    return msgspec.structs.replace(
        receipt,
        intent=intent,
        prompt_tokens=_bounded(receipt.prompt_tokens),
        completion_tokens=_bounded(receipt.completion_tokens),
        cost_microusd=_bounded(receipt.cost_microusd),
    )


def _storable_intent(intent: Intent) -> Intent:
    """The same where both databases can hold its texts, as nearly always."""
    texts = (
        intent.exchange_id,
        intent.key_id or "",
        intent.key or "",
        intent.group or "",
        intent.dialect,
        intent.model,
        intent.upstream,
        intent.target,
    )
    joined = "".join(texts)
    if len(joined) <= MAX_TEXT_CHARS and joined.isprintable():
        return intent
    fields = msgspec.structs.asdict(intent)
    cleaned = {n: clean(value) for n, value in fields.items() if isinstance(value, str)}
    return Intent(**(fields | cleaned))


def clean(value: str) -> str:
    """A text without NUL and halves of surrogate pairs, and not too long."""
    sound = value.replace("\0", "\ufffd").encode(errors="replace").decode()
    return sound[:MAX_TEXT_CHARS]


def _bounded(amount: int) -> int:
    return min(max(amount, 0), MAX_AMOUNT)
