"""The deadline wheel: who is told, when, and how rarely it is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.io.deadlines import NEVER_S, TICK_S, DeadlineWheel


class FakeLoop:
    """A clock that moves when it is told to, and its timers."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        loop: Any = self
        handle = asyncio.TimerHandle(when, callback, (), loop)
        self.timers.append(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def run_until(self, until_s: float) -> None:
        while due := [timer for timer in self.timers if timer.when() <= until_s]:
            timer = min(due, key=lambda timer: timer.when())
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer.when())
            timer._run()
        self.now_s = until_s


class Entry:
    """Notes when it is told."""

    def __init__(self, due_s: float) -> None:
        self.due_s = due_s
        self.watched_s = NEVER_S
        self.told_s: list[float] = []

    def expire(self, now_s: float) -> None:
        self.told_s.append(now_s)
        self.due_s = NEVER_S


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def wheel(loop: FakeLoop) -> DeadlineWheel:
    fake: Any = loop
    return DeadlineWheel(fake)


@given(st.lists(st.floats(min_value=0.001, max_value=700), max_size=30))
def test_everyone_is_told_once_never_early_and_at_most_a_tick_late(delays_s: list[float]) -> None:
    loop: Any = FakeLoop()
    wheel = DeadlineWheel(loop)
    entries = [Entry(loop.now_s + delay_s) for delay_s in delays_s]
    dues_s = [entry.due_s for entry in entries]
    for entry in entries:
        wheel.watch(entry)
    loop.run_until(loop.now_s + 1000)

    for entry, due_s in zip(entries, dues_s, strict=True):
        (told_s,) = entry.told_s
        assert due_s <= told_s <= due_s + TICK_S + 1e-6
    assert (len(wheel), loop.timers) == (0, [])


def test_a_deadline_that_moved_away_needs_no_call(loop: FakeLoop, wheel: DeadlineWheel) -> None:
    entry = Entry(loop.now_s + 1)
    wheel.watch(entry)
    entry.due_s = loop.now_s + 5
    loop.run_until(loop.now_s + 4.9)
    assert entry.told_s == []
    loop.run_until(loop.now_s + 0.2)
    assert len(entry.told_s) == 1


def test_a_deadline_that_came_nearer_is_watched_anew(loop: FakeLoop, wheel: DeadlineWheel) -> None:
    entry, other = Entry(loop.now_s + 50), Entry(loop.now_s + 60)
    wheel.watch(entry)
    wheel.watch(other)
    entry.due_s = loop.now_s + 1
    wheel.watch(entry)
    loop.run_until(loop.now_s + 1.1)

    assert len(entry.told_s) == 1
    assert other.told_s == []
    assert len(loop.timers) == 1


def test_a_deadline_that_was_taken_back_tells_nobody(loop: FakeLoop, wheel: DeadlineWheel) -> None:
    entry = Entry(loop.now_s + 1)
    wheel.watch(entry)
    entry.due_s = NEVER_S
    loop.run_until(loop.now_s + 100)

    assert entry.told_s == []
    assert (len(wheel), loop.timers) == (0, [])


def test_who_is_forgotten_is_not_told(loop: FakeLoop, wheel: DeadlineWheel) -> None:
    entry, other = Entry(loop.now_s + 1), Entry(loop.now_s + 1)
    for each in (entry, other):
        wheel.watch(each)
    wheel.forget(entry)
    wheel.forget(entry)
    loop.run_until(loop.now_s + 2)

    assert (entry.told_s, len(other.told_s)) == ([], 1)


def test_an_entry_may_forget_or_move_others_while_it_is_told(
    loop: FakeLoop, wheel: DeadlineWheel
) -> None:
    entries = [Entry(loop.now_s + 1) for _ in range(10)]

    class Greedy(Entry):
        def expire(self, now_s: float) -> None:
            super().expire(now_s)
            for other in entries:
                if not other.told_s:
                    other.due_s = now_s + 5
                    wheel.watch(other)

    greedy = Greedy(loop.now_s + 1)
    for entry in (*entries[:5], greedy, *entries[5:]):
        wheel.watch(entry)
    loop.run_until(loop.now_s + 1.1)
    told_first = sum(bool(entry.told_s) for entry in entries)
    loop.run_until(loop.now_s + 10)

    assert len(greedy.told_s) == 1
    assert told_first <= 10
    assert [len(entry.told_s) for entry in entries] == [1] * 10


def test_an_entry_may_set_a_new_deadline_when_it_is_told(
    loop: FakeLoop, wheel: DeadlineWheel
) -> None:
    class Again(Entry):
        def expire(self, now_s: float) -> None:
            super().expire(now_s)
            if len(self.told_s) < 3:
                self.due_s = now_s + 1

    entry = Again(loop.now_s + 1)
    wheel.watch(entry)
    loop.run_until(loop.now_s + 10)

    assert len(entry.told_s) == 3


def test_a_wheel_without_entries_wakes_nobody(loop: FakeLoop, wheel: DeadlineWheel) -> None:
    wheel.watch(Entry(NEVER_S))
    assert loop.timers == []
    wheel.watch(Entry(loop.now_s + 1))
    assert len(loop.timers) == 1
    wheel.close()
    assert (len(wheel), loop.timers) == (0, [])


async def test_it_keeps_real_time() -> None:
    """A deadline comes by itself on a real loop; how late is not measured."""
    loop = asyncio.get_running_loop()
    wheel = DeadlineWheel(loop)
    entry = Entry(loop.time() + 0.01)
    wheel.watch(entry)
    while not entry.told_s:  # noqa: ASYNC110  # the wheel has no event
        await asyncio.sleep(0.01)
    wheel.close()


def test_who_is_late_may_have_others_forgotten_and_none_stops_the_rest(
    loop: FakeLoop, wheel: DeadlineWheel
) -> None:
    told: list[Any] = []
    loop.call_exception_handler = told.append  # type: ignore[attr-defined]
    entries = [Entry(loop.now_s + 1) for _ in range(4)]
    others = set(entries)

    def forget_another(now_s: float) -> None:
        others.discard(entries[0])
        wheel.forget(others.pop())
        entries[0].due_s = NEVER_S
        raise RuntimeError

    entries[0].expire = forget_another  # type: ignore[method-assign]
    for entry in entries:
        wheel.watch(entry)
    loop.run_until(loop.now_s + 2)
    assert len(wheel) == 0
    assert not loop.timers
    assert sum(len(entry.told_s) for entry in entries) in (2, 3)
    assert [type(each["exception"]) for each in told] == [RuntimeError]
