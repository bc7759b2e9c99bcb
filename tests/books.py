"""Books for tests: in memory, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyhole.accounts import Accounts
from keyhole.io.clock import SystemClock
from keyhole.io.counters import MemoryCounters
from keyhole.io.journal import NoJournal
from keyhole.io.keys import NoKeys
from keyhole.policy.pricing import Prices
from keyhole.wire.books import Intent, Progress, Receipt
from keyhole.wire.keys import Limits


class MemoryJournal(NoJournal):
    """What was written, in its order."""

    def __init__(self) -> None:
        self.lines: list[Intent | Progress | Receipt] = []

    def intend(self, intent: Intent) -> None:
        self.lines.append(intent)

    def progress(self, progress: Progress) -> None:
        self.lines.append(progress)

    def settle(self, receipt: Receipt) -> None:
        self.lines.append(receipt)

    @property
    def receipts(self) -> list[Receipt]:
        return [line for line in self.lines if isinstance(line, Receipt)]

    @property
    def intents(self) -> list[Intent]:
        return [line for line in self.lines if isinstance(line, Intent)]


def accounts(
    *,
    journal: Any = None,
    clock: Any = None,
    prices: Prices | None = None,
    upstream_limits: Mapping[str, Limits] | None = None,
) -> Accounts:
    clock = clock or SystemClock()
    return Accounts(
        journal=journal or NoJournal(),
        counters=MemoryCounters(clock.unix_ms),
        prices=prices or Prices({}, {}, refuses_unknown=False),
        upstream_limits=upstream_limits or {},
        clock=clock,
    )


class ForgivingCounters(MemoryCounters):
    """Those of an upstream that is asked again, whatever it said before."""

    def out_of_credits(self, upstream: str, now_ms: int) -> None:
        pass


def no_keys() -> dict[str, Any]:
    """The parts of a gateway that asks for none and writes nothing down."""
    kept = accounts()
    kept.counters = ForgivingCounters(SystemClock().unix_ms)
    return {"keys": NoKeys(), "is_admin_key": lambda _: False, "accounts": kept}
