"""The lines of a batch, sorted by what they say, and mended so that each database takes them; pure.

What a database refused would stop the journal for good: so a text that PostgreSQL does not take
is changed, and an amount that would overflow the sums is bounded, rather than refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from keyhole.wire.books import Intent, Progress, Receipt

Line = Intent | Progress | Receipt
"""What stands in a line of the journal."""

Place = tuple[str, int]
"""Which attempt: the exchange's id and the number."""

Row = tuple[Any, ...]
"""A row of the table `attempts`, its columns in the schema's order: what a receipt says of its
intent, without the bound and the prices, and the rest of the receipt."""

MAX_TEXT_CHARS = 300
"""Longer texts are cut: PostgreSQL's indexes take no entry of more than 2,704 bytes."""
MAX_AMOUNT = 10**15
"""A billion dollars, in micro-dollars: what is more is no amount, and would overflow the sums."""


def place_of(intent: Intent | Progress) -> Place:
    """Which attempt a line is about."""
    return intent.exchange_id, intent.attempt


class Sorted(Struct, frozen=True):
    """What lines say."""

    rows: list[Row]
    """The receipts, in the order of the table, which writes the fewest of its pages; one that
    stands there twice is there twice."""
    ended: set[Place]
    """Which attempts these are."""
    intents: dict[Place, Intent]
    """Those without a receipt here."""
    progress: dict[Place, int]
    """How far such attempts are."""


def sort_lines(lines: Iterable[Line], *, is_plain: bool = False) -> Sorted:
    """Sort them; `is_plain` says that there is no text to be mended."""
    rows: list[Row] = []
    intents: dict[Place, Intent] = {}
    progress: dict[Place, int] = {}
    for line in lines:
        if isinstance(line, Receipt):
            rows.append(row_of(line, is_plain=is_plain))
        elif isinstance(line, Intent):
            intent = _storable_intent(line)
            intents.setdefault(place_of(intent), intent)
        else:
            place = (clean(line.exchange_id), line.attempt)
            progress[place] = max(progress.get(place, 0), _bounded(line.completion_tokens))
    rows.sort(key=_FIRST)
    ended = set(map(_PLACE, rows))
    for place in ended.intersection(intents):
        del intents[place]
    for place in ended.intersection(progress):
        del progress[place]
    return Sorted(rows, ended, intents, progress)


def row_of(receipt: Receipt, *, is_plain: bool = False) -> Row:
    """What the table `attempts` takes of it."""
    intent = receipt.intent if is_plain else _storable_intent(receipt.intent)
    row = astuple(intent)[:10] + astuple(receipt)[1:9]
    prompt, completion, cost = row[12], row[13], row[15]
    if 0 <= prompt <= MAX_AMOUNT and 0 <= completion <= MAX_AMOUNT and 0 <= cost <= MAX_AMOUNT:
        return row
    bounded = (_bounded(prompt), _bounded(completion), row[14], _bounded(cost))
    return row[:12] + bounded + row[16:]


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


_FIRST, _PLACE = itemgetter(0), itemgetter(0, 1)
