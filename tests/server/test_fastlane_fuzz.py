"""Any bytes in any splits: no exception, no second reply to a request, all in their order.

tests/fuzz/strict.py does the same for as long as one likes.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doors.hostile import call
from doors.servers import STRICT_DOORS
from fuzz.strict import (
    GOOD,
    NAP,
    SEEDS,
    STALL,
    TAKE,
    WAIT,
    WORDS,
    check_replies,
    play,
    split,
    stream,
)

QUICK = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
PIECES = st.lists(
    st.one_of(
        *(st.binary(max_size=40), st.sampled_from(WORDS), st.sampled_from(GOOD)),
        *(st.sampled_from(SEEDS), st.sampled_from((STALL, TAKE, NAP, WAIT))),
    ),
    max_size=8,
)


@QUICK
@given(name=st.sampled_from(sorted(STRICT_DOORS)), pieces=PIECES)
def test_any_pieces(name: str, pieces: list[bytes]) -> None:
    asyncio.run(play(name, pieces))


@QUICK
@given(
    name=st.sampled_from(sorted(STRICT_DOORS)),
    seed=st.sampled_from(SEEDS),
    ends=st.lists(st.integers(0, 400), max_size=4),
    change=st.tuples(st.integers(0, 400), st.integers(0, 20), st.sampled_from([*WORDS, b"", b"z"])),
)
def test_changed_rows_in_any_splits(
    name: str, seed: bytes, ends: list[int], change: tuple[int, int, bytes]
) -> None:
    at, count, put = change
    content = call("number 1") + seed[:at] + put + seed[at + count :] + call("number 2")
    places = sorted(ends)
    pieces = [content[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
    asyncio.run(play(name, pieces))


@pytest.mark.parametrize("seed", range(200))
def test_the_long_runs_own_dice(seed: int) -> None:
    dice = random.Random(seed)
    name = dice.choice(sorted(STRICT_DOORS))
    asyncio.run(play(name, split(dice, stream(dice))))


REPLY = b"HTTP/1.1 200 OK\r\nx-request-id: %s\r\ncontent-length: 8\r\n\r\nnumber %d"


@pytest.mark.parametrize(
    "received",
    [
        b"x" + REPLY % (b"a", 1),
        REPLY % (b"a", 1) + REPLY % (b"a", 2),
        REPLY % (b"a", 2) + REPLY % (b"b", 1),
        (REPLY % (b"a", 1))[:-1],
        REPLY % (b"a", 1) + b"x",
    ],
    ids=["no reply", "twice", "out of order", "cut", "more"],
)
def test_what_is_wrong_would_be_found(received: bytes) -> None:
    with pytest.raises(AssertionError):
        check_replies(received, {"a": "POST", "b": "POST"})


def test_what_is_right_is_found_right() -> None:
    received = REPLY % (b"a", 1) + b"HTTP/1.1 100 Continue\r\n\r\n" + REPLY % (b"b", 2)
    check_replies(received, {"a": "POST", "b": "POST"})
