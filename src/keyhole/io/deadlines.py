"""The one deadline wheel of a worker: it tells whoever is late, instead of a timer for each.

It does not say what a deadline means; that is up to whoever is told. A deadline is met up to
TICK_S late, never early.

Moving a deadline further away costs an assignment: an entry stays in the slot in which it is,
and when that slot comes is looked at and put where it now belongs. Only a deadline that comes
nearer calls `watch`. So a connection that serves request after request is put into a slot once
in a while and not once for each (asyncio.timeout costs 3.2 us a request, `watch` 0.3; Python
3.11, uvloop 0.23, November 2026). A wheel without entries has no timer and wakes nobody.
"""

from __future__ import annotations

import asyncio
import math

from keyhole.ports import Timed

TICK_S = 0.05
NEVER_S = math.inf


class DeadlineWheel:
    """Slots of TICK_S, and a timer for the next slot that holds anything."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot = -1

    def __len__(self) -> int:
        """How many entries are watched."""
        return sum(map(len, self._slots.values()))

    def now_s(self) -> float:
        """The loop's clock."""
        return self.loop.time()

    def watch(self, timed: Timed) -> None:
        """Look at `timed` when its `due_s` has come: call it where that is before `watched_s`."""
        self.forget(timed)
        if timed.due_s == NEVER_S:
            return
        slot = math.ceil(timed.due_s / TICK_S)
        timed.watched_s = slot * TICK_S
        self._slots.setdefault(slot, set()).add(timed)
        if self._timer is None or slot < self._timer_slot:
            self._set_timer(slot)

    def forget(self, timed: Timed) -> None:
        """Never look at it again, unless it is watched anew."""
        if timed.watched_s != NEVER_S:
            slot = round(timed.watched_s / TICK_S)
            timed.watched_s = NEVER_S
            entries = self._slots[slot]
            entries.discard(timed)
            if not entries:
                del self._slots[slot]

    def step(self, now_s: float) -> None:
        """Tell everyone who is late at `now_s`, and put the others where they belong."""
        for slot in sorted(slot for slot in self._slots if slot * TICK_S <= now_s):
            for timed in list(self._slots.get(slot, ())):
                if timed.watched_s == NEVER_S or round(timed.watched_s / TICK_S) != slot:
                    continue  # an entry before it has made it forgotten, or moved it
                self.forget(timed)
                if timed.due_s <= now_s:
                    self._expire(timed, now_s)
                if timed.due_s < timed.watched_s and timed.due_s > now_s:
                    self.watch(timed)

    def _expire(self, timed: Timed, now_s: float) -> None:
        try:
            timed.expire(now_s)
        except Exception as error:  # noqa: BLE001  # the others are late, too
            timed.due_s = NEVER_S
            self.loop.call_exception_handler(
                {"message": "somebody who was late failed", "exception": error}
            )

    def close(self) -> None:
        """Forget everyone."""
        for entries in list(self._slots.values()):
            for timed in list(entries):
                self.forget(timed)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_slot = slot
        self._timer = self.loop.call_at(slot * TICK_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.step(self.loop.time())
        if self._slots:
            self._set_timer(min(self._slots))
