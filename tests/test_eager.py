"""A coroutine that runs at once, waits for Wakeups by itself, and becomes a Task for the rest."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from keyhole.eager import Eager, Wakeup, be_a_task


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a test's coroutine; nothing may be told to the loop's exception handler."""

    def run_on(test: Coroutine[Any, Any, None]) -> None:
        failures: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, told: failures.append(told))
            runner.run(test)
            gc.collect()
        assert failures == []

    return run_on


class Here:
    """The steps of a coroutine, in their order, and what it waits for."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self.steps: list[str] = []
        self.wakeup = Wakeup(self.loop)
        self.future: asyncio.Future[None] = self.loop.create_future()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Eager:
        eager = Eager(self.loop, self.tasks)
        eager.start(self._noting(coroutine))
        return eager

    async def _noting(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
            self.steps.append("end")
        except asyncio.CancelledError:
            self.steps.append("cancelled")
            raise

    async def waits(self, *what: str) -> None:
        for each in what:
            self.steps.append(each)
            match each:
                case "wakeup":
                    await self.wakeup
                case "turn":
                    await asyncio.sleep(0)
                case "future":
                    await self.future
                case "task":
                    await be_a_task()
                    assert asyncio.current_task() is not None

    async def settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)

    async def is_over(self) -> None:
        await self.settle()
        assert not self.tasks
        assert self.wakeup.resume is None


Run = Callable[[Coroutine[Any, Any, None]], None]


class TestRunning:
    def test_it_runs_at_once_to_its_first_wait_and_on_in_the_call_that_wakes_it(
        self, run: Run
    ) -> None:
        async def test() -> None:
            here = Here()
            eager = here.start(here.waits("wakeup", "wakeup"))
            assert here.steps == ["wakeup"]
            here.wakeup.wake()
            assert here.steps == ["wakeup", "wakeup"]
            here.wakeup.wake()
            assert here.steps == ["wakeup", "wakeup", "end"]
            here.wakeup.wake()  # nobody waits any more
            eager.cancel()
            assert eager.task is None
            await here.is_over()

        run(test())

    def test_one_that_waits_for_nothing_has_ended(self, run: Run) -> None:
        async def test() -> None:
            here = Here()
            here.start(here.waits())
            assert here.steps == ["end"]
            await here.is_over()

        run(test())

    def test_waking_soon_is_in_the_next_turn(self, run: Run) -> None:
        async def test() -> None:
            here = Here()
            here.start(here.waits("wakeup"))
            here.wakeup.wake_soon()
            here.wakeup.wake_soon()
            assert here.steps == ["wakeup"]
            await here.is_over()
            assert here.steps == ["wakeup", "end"]

        run(test())

    @pytest.mark.parametrize("other", ["turn", "future", "task"])
    def test_another_wait_makes_it_a_task_which_waits_for_wakeups_too(
        self, run: Run, other: str
    ) -> None:
        async def test() -> None:
            here = Here()
            eager = here.start(here.waits("wakeup", other, "wakeup", "task", "wakeup"))
            here.wakeup.wake()
            assert here.tasks == {eager.task}
            here.future.set_result(None)
            await here.settle()
            assert here.steps == ["wakeup", other, "wakeup"]
            here.wakeup.wake()
            assert len(here.steps) == 3, "a Task goes on in the loop's next turn"
            await here.settle()
            here.wakeup.wake_soon()
            await here.is_over()
            assert here.steps == ["wakeup", other, "wakeup", "task", "wakeup", "end"]
            assert eager.task.done()

        run(test())

    def test_a_timeout_works_behind_be_a_task(self, run: Run) -> None:
        async def late(here: Here) -> None:
            await be_a_task()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await here.wakeup
            here.steps.append("too late")

        async def test() -> None:
            here = Here()
            eager = here.start(late(here))
            assert eager.task is not None
            await eager.task
            await here.is_over()
            assert here.steps == ["too late", "end"]

        run(test())

    def test_a_group_behind_be_a_task_is_of_its_own_task(self, run: Run) -> None:
        """Also where it is woken in the call of another one, such as this test's."""

        async def fail() -> None:
            raise ValueError

        async def grouped(here: Here) -> None:
            await here.wakeup
            await be_a_task()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.Event().wait()
            except ExceptionGroup:
                here.steps.append("failed")

        async def test() -> None:
            here = Here()
            here.start(grouped(here))
            here.wakeup.wake()
            await here.settle()
            await here.is_over()
            assert here.steps == ["failed", "end"]

        run(test())

    def test_what_a_future_raises_is_raised_where_it_is_awaited(self, run: Run) -> None:
        async def caught(here: Here) -> None:
            with pytest.raises(ValueError, match="no"):
                await here.future
            await here.wakeup

        async def test() -> None:
            here = Here()
            here.start(caught(here))
            here.future.set_exception(ValueError("no"))
            await here.settle()
            here.wakeup.wake()
            await here.is_over()
            assert here.steps == ["end"]

        run(test())

    def test_a_task_keeps_its_context_behind_a_wakeup(self, run: Run) -> None:
        mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="nobody's")

        async def look(here: Here, *, soon: bool) -> None:
            mine.set("its own")
            await here.wakeup
            here.steps.append(mine.get())

        async def test() -> None:
            for soon in (False, True):
                here = Here()
                task = here.loop.create_task(look(here, soon=soon))
                await here.settle()
                mine.set("the waker's")
                (here.wakeup.wake_soon if soon else here.wakeup.wake)()
                await task
                assert here.steps == ["its own"]

        run(test())


class TestCancelling:
    @pytest.mark.parametrize("turns", range(5))
    @pytest.mark.parametrize(
        "what",
        [
            ("wakeup",), ("turn",), ("future",), ("task",), ("task", "wakeup"),
            ("wakeup", "turn", "wakeup"), ("turn", "future"), ("wakeup", "wakeup"),
        ],
        ids="-".join,
    )  # fmt: skip
    @pytest.mark.parametrize("is_woken", [None, "now", "soon"])
    def test_at_any_time_it_hears_of_it_once_and_nothing_is_left(
        self, run: Run, what: tuple[str, ...], turns: int, is_woken: str | None
    ) -> None:
        async def test() -> None:
            here = Here()
            eager = here.start(here.waits(*what))
            if is_woken == "now":
                here.wakeup.wake()
            for _ in range(turns):
                await asyncio.sleep(0)
            if is_woken == "soon":
                here.wakeup.wake_soon()
            eager.cancel()
            await here.settle()
            eager.cancel()
            here.wakeup.wake()
            await here.is_over()
            assert here.steps[-1] in {"cancelled", "end"}
            assert here.steps.count("cancelled") + here.steps.count("end") == 1

        run(test())

    def test_before_the_first_step_of_its_task(self, run: Run) -> None:
        async def test() -> None:
            here = Here()
            eager = here.start(here.waits("future"))
            eager.cancel()
            await here.is_over()
            assert here.steps == ["future", "cancelled"]

        run(test())

    def test_between_being_woken_soon_and_running(self, run: Run) -> None:
        async def test() -> None:
            here = Here()
            eager = here.start(here.waits("wakeup"))
            here.wakeup.wake_soon()
            eager.cancel()
            assert here.steps == ["wakeup", "cancelled"]
            await here.is_over()
            assert here.steps == ["wakeup", "cancelled"]

        run(test())

    @pytest.mark.parametrize("cleanup", ["wakeup", "turn"])
    @pytest.mark.parametrize("before", ["wakeup", "future", "turn"])
    def test_it_may_wait_for_its_cleaning_up(self, run: Run, before: str, cleanup: str) -> None:
        """Also where its Task never had a first step."""

        async def careful(here: Here) -> None:
            try:
                await here.waits(before)
            finally:
                await here.waits(cleanup)
                here.steps.append("clean")

        async def test() -> None:
            here = Here()
            eager = here.start(careful(here))
            eager.cancel()
            await here.settle()
            here.wakeup.wake()
            await here.is_over()
            assert here.steps == [before, cleanup, "clean", "cancelled"]

        run(test())

    def test_a_wakeup_that_comes_twice_wakes_no_later_wait(self, run: Run) -> None:
        """One that was on its way when it was cancelled is not for what it waits for then."""

        async def careful(here: Here) -> None:
            try:
                await here.waits("wakeup")
            finally:
                await here.waits("wakeup")
                here.steps.append("clean")

        async def test() -> None:
            here = Here()
            eager = here.start(careful(here))
            here.wakeup.wake_soon()
            eager.cancel()
            await here.settle()
            assert here.steps == ["wakeup", "wakeup"]
            here.wakeup.wake()
            await here.is_over()

        run(test())

    def test_a_cancelled_task_does_not_cancel_who_waits_next(self, run: Run) -> None:
        async def test() -> None:
            here = Here()
            first = here.loop.create_task(here.waits("wakeup"))
            await here.settle()
            first.cancel()
            await here.settle()
            assert first.cancelled()
            second = here.loop.create_task(here.waits("wakeup"))
            await here.settle()
            here.wakeup.wake()
            await second

        run(test())

    def test_a_task_that_was_woken_and_then_cancelled_is_cancelled(self, run: Run) -> None:
        async def test() -> None:
            here = Here()
            task = here.loop.create_task(here.waits("wakeup", "wakeup"))
            await here.settle()
            here.wakeup.wake()
            task.cancel()
            await here.settle()
            assert task.cancelled()
            assert here.wakeup.resume is None

        run(test())
