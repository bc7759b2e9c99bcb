"""What the upstream saw against what the ledger holds, and what clients saw against both.

Nothing is asked and nothing started here: lists in, differences out, so that each kind of
difference can be shown to be found (tests/test_prove.py). A difference is one line of text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asking import Asked

Row = Mapping[str, Any]
"""A line of `keyhole usage --rows --json`."""
Served = Mapping[str, Any]
"""One of what the upstream saw (upstream.Served)."""

FINE_REFUSALS = (429, 502, 503, 504)
"""What a client may hear in a run: limits bite, and servers come and go."""


@dataclass
class Comparison:
    """What was found."""

    differences: list[str] = field(default_factory=list)
    matched: int = 0
    """Attempts that both have."""
    unsent: int = 0
    """Attempts whose intent is in the books and whose request was never seen: Keyhole was killed
    between the two. They are booked as interrupted, for nobody can know."""
    interrupted: int = 0
    """Attempts that both have, whose end nobody saw."""
    answered: int = 0
    """Requests that a client saw answered to the last byte, with the tokens that are true."""
    left: int = 0
    """Streams that their client left, with tokens between what it had and what was sent."""


def compare(seen: Sequence[Served], rows: Sequence[Row], asked: Iterable[Asked]) -> Comparison:
    """Compare a whole run."""
    found = Comparison()
    booked = _booked(rows, found)
    served = _served(seen, booked, found)
    for key, row in booked.items():
        _judge_row(key, row, served.get(key), found)
    by_exchange: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for (exchange_id, attempt), row in booked.items():
        by_exchange[exchange_id].append((attempt, row))
    for one in asked:
        attempts = sorted(by_exchange.get(one.exchange_id, []), key=lambda it: it[0])
        _judge_client(one, attempts, served, found)
    return found


def _booked(rows: Sequence[Row], found: Comparison) -> dict[tuple[str, int], Row]:
    counts = Counter((row["exchange_id"], row["attempt"]) for row in rows)
    found.differences += [
        f"{exchange_id} attempt {attempt} is in the books {count} times"
        for (exchange_id, attempt), count in counts.items()
        if count > 1
    ]
    return {(row["exchange_id"], row["attempt"]): row for row in rows}


def _served(
    seen: Sequence[Served], booked: Mapping[tuple[str, int], Row], found: Comparison
) -> dict[tuple[str, int], Served]:
    """What the upstream saw, by attempt: it knows the request's id and who of it was asked.

    Of an exchange's attempts each was at another target here, so that tells them apart.
    """
    attempt_at = {
        (exchange_id, row["upstream"]): attempt for (exchange_id, attempt), row in booked.items()
    }
    served: dict[tuple[str, int], Served] = {}
    for one in seen:
        attempt = attempt_at.get((one["exchange_id"], one["kind"]))
        if attempt is None:
            found.differences.append(
                f"{one['exchange_id']} reached upstream {one['kind']} and is not in the books"
            )
        elif (one["exchange_id"], attempt) in served:
            found.differences.append(
                f"{one['exchange_id']} attempt {attempt} reached upstream {one['kind']} twice"
            )
        else:
            served[one["exchange_id"], attempt] = one
    return served


def _judge_row(key: tuple[str, int], row: Row, served: Served | None, found: Comparison) -> None:
    told = f"{key[0]} attempt {key[1]} ({row['outcome']}, {row['basis']})"
    if served is None:
        if row["outcome"] == "interrupted":
            found.unsent += 1
        elif row["completion_tokens"] or row["outcome"] == "ok":
            found.differences.append(f"{told} is in the books and never reached the upstream")
        elif row["outcome"] in {"client_gone", "cut", "upstream_error"}:
            found.unsent += 1  # it ended while its connection was made
        else:
            found.differences.append(f"{told} is in the books and never reached the upstream")
        return
    found.matched += 1
    if row["outcome"] == "interrupted":
        found.interrupted += 1
    if row["basis"] == "reported":
        true = (served["prompt"], served["completion"])
        if (row["prompt_tokens"], row["completion_tokens"]) != true:
            found.differences.append(f"{told} has tokens that the upstream did not report")
    elif served["is_stream"] and row["completion_tokens"] > served["sent"]:
        found.differences.append(
            f"{told} has {row['completion_tokens']} tokens, {served['sent']} were sent"
        )


def _judge_client(
    one: Asked,
    attempts: Sequence[tuple[int, Row]],
    served: Mapping[tuple[str, int], Served],
    found: Comparison,
) -> None:
    told = f"{one.exchange_id} ({one.kind})"
    if one.status >= 400:
        if one.status not in FINE_REFUSALS:
            found.differences.append(f"{told} was refused with {one.status}: {one.error}")
        elif any(row["outcome"] == "ok" for _, row in attempts):
            found.differences.append(f"{told} was refused with {one.status} and booked as ok")
        return
    if one.error == "no end within its patience":
        found.differences.append(f"{told} had no end")
        return
    if not (one.is_complete or one.has_left):
        return  # the server was killed under it
    if not attempts:
        found.differences.append(f"{told} was answered and is not in the books")
        return
    number, row = attempts[-1]
    true = served.get((one.exchange_id, number))
    if true is None:
        found.differences.append(f"{told} was answered, and the upstream never saw it")
    elif one.is_complete:
        _judge_answer(told, one, row, true, found)
    else:
        _judge_left(told, one, row, true, found)


def _judge_answer(told: str, one: Asked, row: Row, true: Served, found: Comparison) -> None:
    """Every answered request has its true tokens."""
    if row["outcome"] != "ok":
        found.differences.append(f"{told} was answered and is booked as {row['outcome']}")
    elif true["reports"] and row["basis"] != "reported":
        found.differences.append(f"{told} was answered and is booked as {row['basis']}")
    elif true["is_stream"] and not true["reports"] and row["completion_tokens"] != true["sent"]:
        found.differences.append(
            f"{told} had {true['sent']} pieces and {row['completion_tokens']} in the books"
        )
    elif one.is_stream and one.read != true["completion"]:
        found.differences.append(f"{told} had {one.read} pieces of {true['completion']}")
    else:
        found.answered += 1


def _judge_left(told: str, one: Asked, row: Row, true: Served, found: Comparison) -> None:
    """A stream that was left has tokens between what its client had and what was sent."""
    if row["outcome"] == "interrupted":
        return  # killed in the same moment: booked up to its last progress
    if not one.read <= row["completion_tokens"] <= true["sent"]:
        found.differences.append(
            f"{told} was left after {one.read} pieces of {true['sent']} that were sent,"
            f" and has {row['completion_tokens']} in the books"
        )
    elif row["outcome"] not in {"client_gone", "ok"}:
        found.differences.append(f"{told} was left and is booked as {row['outcome']}")
    else:
        found.left += 1
