"""The comparison of `make prove`: each kind of difference is found, and nothing else is one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "tools" / "prove"))

from asking import Asked, read_frame
from comparing import Comparison, compare


def served(**told: Any) -> dict[str, Any]:
    """What the upstream saw: a stream of nine tokens, sent to its end."""
    return {
        "exchange_id": "a",
        "kind": "chat",
        "is_stream": True,
        "reports": True,
        "prompt": 5,
        "completion": 9,
        "sent": 9,
        "is_done": True,
    } | told


def row(**told: Any) -> dict[str, Any]:
    """What the ledger holds of it."""
    return {
        "exchange_id": "a",
        "attempt": 1,
        "upstream": "chat",
        "outcome": "ok",
        "basis": "reported",
        "prompt_tokens": 5,
        "completion_tokens": 9,
    } | told


def asked(**told: Any) -> Asked:
    """What its client saw."""
    seen = {"status": 200, "is_stream": True, "read": 9, "is_complete": True}
    return Asked("chat stream", "a", **(seen | told))


def left(**told: Any) -> Asked:
    return asked(read=4, is_complete=False, has_left=True, **told)


GONE = {"outcome": "client_gone", "basis": "counted"}
INTERRUPTED = {"outcome": "interrupted", "basis": "estimated", "completion_tokens": 0}


def test_what_agrees_is_no_difference() -> None:
    found = compare([served()], [row()], [asked()])
    assert found == Comparison(matched=1, answered=1)


@pytest.mark.parametrize("tokens", [4, 6])
def test_a_stream_that_was_left_lies_between_what_was_read_and_sent(tokens: int) -> None:
    gone = row(**GONE, completion_tokens=tokens)
    found = compare([served(sent=6, is_done=False)], [gone], [left()])
    assert found == Comparison(matched=1, left=1)


def test_an_interrupted_attempt_may_not_have_been_sent() -> None:
    assert compare([], [row(**INTERRUPTED)], []) == Comparison(unsent=1)
    killed = asked(is_complete=False, read=2)
    found = compare([served(sent=3, is_done=False)], [row(**INTERRUPTED)], [killed])
    assert found == Comparison(matched=1, interrupted=1)


def test_a_fallback_is_two_attempts_of_one_exchange() -> None:
    broken = served(kind="broken", is_stream=False, reports=False, prompt=0, completion=0, sent=0)
    failed = row(
        upstream="broken",
        outcome="upstream_error",
        basis="counted",
        prompt_tokens=0,
        completion_tokens=0,
    )
    found = compare([broken, served()], [failed, row(attempt=2)], [asked()])
    assert found == Comparison(matched=2, answered=1)


@pytest.mark.parametrize(
    ("seen", "rows", "client", "words"),
    [
        ([served()], [], [], "is not in the books"),
        ([served()], [row(), row()], [], "2 times"),
        ([served(), served()], [row()], [], "twice"),
        ([], [row()], [], "never reached"),
        ([], [row(**GONE)], [], "never reached"),
        ([served()], [row(prompt_tokens=6)], [], "did not report"),
        ([served(sent=3)], [row(**GONE, completion_tokens=4)], [], "3 were sent"),
        ([served()], [row(**GONE)], [asked()], "booked as client_gone"),
        ([served()], [row(basis="estimated")], [asked()], "booked as estimated"),
        ([served()], [row()], [asked(read=8)], "8 pieces of 9"),
        ([], [], [asked()], "not in the books"),
        ([served()], [row(**GONE, completion_tokens=3)], [left()], "left after 4"),
        ([served()], [row(outcome="cut", basis="counted")], [left()], "left and is booked as cut"),
        ([], [], [Asked("chat", "a", 401, error="no")], "refused with 401"),
        ([served()], [row()], [Asked("chat", "a", 429)], "refused with 429 and booked as ok"),
        ([served()], [row()], [asked(error="no end within its patience")], "no end"),
    ],
)
def test_each_kind_of_difference_is_found(
    seen: list[Any], rows: list[Any], client: list[Asked], words: str
) -> None:
    found = compare(seen, rows, client)
    assert any(words in difference for difference in found.differences), found


@pytest.mark.parametrize(
    ("frame", "read"),
    [
        (b'data: {"choices": [{"delta": {"content": "a"}}]}', (1, False, "")),
        (b"data: [DONE]", (0, True, "")),
        (b'data: {"token": {"text": "a", "special": false}}', (1, False, "")),
        (b'data: {"token": {"text": "", "special": true}, "generated_text": "a"}', (0, True, "")),
        (b'data: {"error": "a"}', (0, False, '{"error": "a"}')),
        (b":", (0, False, "")),
    ],
)
def test_a_client_reads_both_formats(frame: bytes, read: tuple[int, bool, str]) -> None:
    assert read_frame(frame) == read
