"""Budgets, money and durations are read as people write them, and exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.wire.amounts import (
    MAX_AMOUNT,
    NotAnAmountError,
    parse_budget,
    parse_duration_ms,
    parse_usd,
    plain_usd,
    show_budget,
    show_duration,
    show_usd,
)
from keyhole.wire.keys import Budget


@pytest.mark.parametrize(
    ("text", "amount", "unit", "per"),
    [
        ("5/day", 5_000_000, "microusd", "day"),
        ("$5/day", 5_000_000, "microusd", "day"),
        ("20/month", 20_000_000, "microusd", "month"),
        ("100", 100_000_000, "microusd", None),
        ("0.5/hour", 500_000, "microusd", "hour"),
        ("0.000001", 1, "microusd", None),
        ("0.1000000000", 100_000, "microusd", None),
        ("2Mtok/day", 2_000_000, "tokens", "day"),
        ("1.5Mtok/day", 1_500_000, "tokens", "day"),
        ("500ktok", 500_000, "tokens", None),
        ("7tok", 7, "tokens", None),
        (" 5/day ", 5_000_000, "microusd", "day"),
    ],
)
def test_a_budget_is_read(text: str, amount: int, unit: str, per: str | None) -> None:
    assert parse_budget(text) == Budget(amount=amount, unit=unit, per=per)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-5", "5/week", "5 / day", "5k", "5/", "/day", "five", "1e3", "0.0000001"),
        *("$2Mtok", "0.5tok", "5mtok", "inf", "nan", "\u0665", "5/day/day", "1000000001", "9" * 16),
        *(".5", "5.", "5,5"),
    ],
)
def test_what_is_no_budget_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(NotAnAmountError) as caught:
        parse_budget(text)
    assert not text or text not in caught.value.message
    assert caught.value.hint


@given(
    st.builds(
        Budget,
        amount=st.integers(1, MAX_AMOUNT),
        unit=st.sampled_from(["microusd", "tokens"]),
        per=st.sampled_from([None, "hour", "day", "month"]),
    )
)
def test_a_budget_that_is_shown_is_read_as_the_same(budget: Budget) -> None:
    assert parse_budget(show_budget(budget)) == budget


def test_budgets_are_shown_short() -> None:
    texts = ["5/day", "0.5/hour", "100", "2Mtok/day", "500ktok", "1.5Mtok", "1234tok/month"]
    assert [show_budget(parse_budget(text)) for text in texts] == [
        *("5/day", "0.5/hour", "100", "2Mtok/day", "500ktok", "1.5Mtok", "1.234ktok/month")
    ]


@given(st.integers(0, MAX_AMOUNT))
def test_money_is_exact_both_ways(microusd: int) -> None:
    assert parse_usd(plain_usd(microusd)) == microusd


def test_money_is_shown_with_cents() -> None:
    assert [show_usd(n) for n in (0, 5_000_000, 300_000, 123, -1_500_000)] == [
        *("$0.00", "$5.00", "$0.30", "$0.000123", "-$1.50")
    ]


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("30d", 30 * 86_400_000),
        ("12h", 12 * 3_600_000),
        ("90m", 5_400_000),
        ("45s", 45_000),
        ("2w", 14 * 86_400_000),
    ],
)
def test_a_duration_is_read(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms
    assert parse_duration_ms(show_duration(duration_ms)) == duration_ms


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0d", "1.5h", "1y", "1h30m", "99999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(NotAnAmountError):
        parse_duration_ms(text)
