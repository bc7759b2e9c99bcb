"""A request's id is a UUIDv7: its time first, the rest random."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from keyhole.wire.ids import TAIL_DIGITS, uuid7, uuid7_tails


@given(
    st.integers(0, 2**48 - 1),
    st.text("0123456789abcdef", min_size=3 * TAIL_DIGITS, max_size=3 * TAIL_DIGITS),
)
def test_every_id_of_a_stock_is_a_uuid7_of_its_time(unix_ms: int, digits: str) -> None:
    tails = uuid7_tails(digits)
    assert len(tails) == 3
    for at, tail in enumerate(tails):
        made = uuid.UUID(uuid7(unix_ms, tail))
        assert str(made) == uuid7(unix_ms, tail)
        assert (made.version, made.variant) == (7, uuid.RFC_4122)
        assert made.int >> 80 == unix_ms
        own = digits[at * TAIL_DIGITS : (at + 1) * TAIL_DIGITS]
        assert tail[:3] == own[:3]
        assert tail.replace("-", "")[4:] == own[4:], "the random digits are all used"


def test_ids_sort_by_their_time() -> None:
    (tail, other) = uuid7_tails("f" * TAIL_DIGITS + "0" * TAIL_DIGITS)
    assert uuid7(1_700_000_000_000, tail) < uuid7(1_700_000_000_001, other)


def test_digits_that_are_not_enough_for_another_id_make_none() -> None:
    assert uuid7_tails("0" * (2 * TAIL_DIGITS - 1)) == uuid7_tails("0" * TAIL_DIGITS)
