"""Budgets and durations as people write them: "5/day", "2Mtok/day", "100", "30d", and back.

The configuration, the command line and the admin interface read them here, so that a budget is
written the same everywhere. Money is whole micro-dollars from the first digit on, never a float.
"""

from __future__ import annotations

import re
from typing import Literal, cast

from keyhole.wire.keys import Budget, Period

MICROUSD_PER_USD = 1_000_000
MAX_AMOUNT = 10**15
"""Of a budget, in micro-dollars (a billion dollars) or tokens; sums of such stay exact in JSON."""
MAX_DURATION_MS = 100 * 366 * 86_400_000

BUDGET_HINT = 'such as "5/day", "20/month" or "100" in dollars, "2Mtok/day" in tokens'
DURATION_HINT = "such as 30d, 12h or 90m"

_PERIODS: tuple[Period, ...] = ("hour", "day", "month")
_SCALES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_NUMBER = r"([0-9]{1,15})(?:\.([0-9]{1,15}))?"
_BUDGET = re.compile(rf"\$?{_NUMBER}(?:([kMG]?)(tok))?(?:/([a-z]+))?", re.ASCII)
_DOLLARS = re.compile(_NUMBER, re.ASCII)
_DURATION = re.compile(r"([0-9]{1,12})([smhdw])", re.ASCII)


class NotAnAmountError(ValueError):
    """A text is no budget, price or duration; the message does not repeat it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def parse_budget(text: str) -> Budget:
    """The budget that a text says; raises NotAnAmountError."""
    found = _BUDGET.fullmatch(text.strip())
    if found is None or (found[4] and text.strip().startswith("$")):
        raise NotAnAmountError("is not a budget", BUDGET_HINT)
    whole, fraction, scale, is_tokens, per = found.groups()
    if per is not None and per not in _PERIODS:
        raise NotAnAmountError(
            f"is for no period that there is: {', '.join(_PERIODS)}, or none", BUDGET_HINT
        )
    factor = _SCALES[scale] if is_tokens else MICROUSD_PER_USD
    amount = _scaled(whole, fraction, factor)
    if amount is None:
        smallest = "whole tokens" if is_tokens else "six digits behind the point"
        raise NotAnAmountError(f"is finer than {smallest}", BUDGET_HINT)
    if not 0 < amount <= MAX_AMOUNT:
        raise NotAnAmountError("must be more than nothing, and at most a billion", BUDGET_HINT)
    unit: Literal["microusd", "tokens"] = "tokens" if is_tokens else "microusd"
    return Budget(amount=amount, unit=unit, per=cast("Period | None", per))


def show_budget(budget: Budget) -> str:
    """The shortest text that `parse_budget` reads as this budget."""
    if budget.unit == "tokens":
        amount = _show_tokens(budget.amount) + "tok"
    else:
        amount = plain_usd(budget.amount)
    return amount if budget.per is None else f"{amount}/{budget.per}"


def parse_usd(text: str) -> int:
    """Micro-dollars of a text such as "0.5"; raises NotAnAmountError."""
    found = _DOLLARS.fullmatch(text)
    amount = _scaled(found[1], found[2], MICROUSD_PER_USD) if found else None
    if amount is None or amount > MAX_AMOUNT:
        raise NotAnAmountError(
            "must be dollars, at most a billion, with at most six digits behind the point",
            "such as 0.5",
        )
    return amount


def plain_usd(microusd: int) -> str:
    """Dollars without a sign, as short as is exact: 5, 0.5, 0.000001."""
    whole, fraction = divmod(abs(microusd), MICROUSD_PER_USD)
    digits = f"{fraction:06d}".rstrip("0")
    return ("-" if microusd < 0 else "") + (f"{whole}.{digits}" if digits else str(whole))


def show_usd(microusd: int) -> str:
    """Dollars for people: exact, and with cents at least: $5.00, $0.000123."""
    whole, _, digits = plain_usd(microusd).partition(".")
    sign, whole = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}${whole}.{digits:0<2}"


def parse_duration_ms(text: str) -> int:
    """The milliseconds of a duration such as 30d or 12h; raises NotAnAmountError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise NotAnAmountError("is not a duration", DURATION_HINT)
    duration_ms = int(found[1]) * _UNITS_MS[found[2]]
    if not 0 < duration_ms <= MAX_DURATION_MS:
        raise NotAnAmountError("must be more than nothing, and at most a century", DURATION_HINT)
    return duration_ms


def show_duration(duration_ms: int) -> str:
    """A duration for people, in its largest unit that is exact; a fraction of a second is 1s."""
    duration_ms = max(duration_ms, 1000)
    for unit in ("d", "h", "m"):
        if duration_ms % _UNITS_MS[unit] == 0:
            return f"{duration_ms // _UNITS_MS[unit]}{unit}"
    return f"{duration_ms // 1000}s"


def _scaled(whole: str, fraction: str | None, factor: int) -> int | None:
    """The number times the factor, a power of ten; None where that is no whole number."""
    digits = (fraction or "").rstrip("0")
    amount, rest = divmod(int(whole + digits) * factor, 10 ** len(digits))
    return None if rest else amount


def _show_tokens(tokens: int) -> str:
    for scale in ("G", "M", "k"):
        if tokens >= _SCALES[scale] and tokens % (_SCALES[scale] // 1000) == 0:
            whole, fraction = divmod(tokens, _SCALES[scale])
            digits = f"{fraction * 1000 // _SCALES[scale]:03d}".rstrip("0")
            return f"{whole}.{digits}{scale}" if digits else f"{whole}{scale}"
    return str(tokens)
