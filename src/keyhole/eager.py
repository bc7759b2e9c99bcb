"""Running a coroutine at once, and without a Task for as long as it waits for nothing but Wakeups.

A request's coroutine waits once, for its upstream's answer. As a Task, with a Future to wait
for, that costs three turns through the event loop's queue (start, wake, done) and five objects;
here it runs up to that wait in the call that starts it, and on in the call that brings the
answer. In a Task of its own a Wakeup can be awaited as well, and is what a Future would be.

It is no scheduler: nothing here queues, and a coroutine that awaits anything else becomes a Task
at that point. What needs to be in a Task from its beginning (asyncio.timeout, TaskGroup) awaits
`be_a_task` first.

Facts (CPython 3.11 to 3.13, Modules/_asynciomodule.c, task_step_impl and task_wakeup, 2026-11):
a Task waits for any object with `_asyncio_future_blocking`, `get_loop`, `add_done_callback`,
`cancel` and `result`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Self


class Wakeup:
    """Awaited by one coroutine at a time, as often as there is something to wait for.

    It keeps no state: look whether what is waited for is there already, then await.
    """

    __slots__ = ("_asyncio_future_blocking", "_is_cancelled", "_loop", "resume")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._is_cancelled = False
        self._loop = loop
        self.resume: Callable[[Any], object] | None = None
        """What runs the one who waits; its argument is this object."""

    def wake(self) -> None:
        """Run the one who waits, within this call; a Task in the loop's next turn."""
        resume = self.resume
        if resume is not None:
            self.resume = None
            resume(self)

    def wake_soon(self) -> None:
        """Run the one who waits, in the loop's next turn, if it still waits for this then."""
        if self.resume is not None:
            self._loop.call_soon(self._wake_late, self.resume)

    def _wake_late(self, resume: Callable[[Any], object]) -> None:
        if self.resume is resume:  # each wait has one of its own
            self.wake()

    def __await__(self) -> Generator[Self, None, None]:
        self._asyncio_future_blocking = True
        yield self

    # For asyncio.Task, which takes it for a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of whoever may await it."""
        return self._loop

    def add_done_callback(
        self,
        resume: Callable[..., object],
        *,
        context: contextvars.Context | None = None,
    ) -> None:
        """Be told whom to wake: a Task, which must not be stepped while another one may run."""
        self.resume = partial(self._loop.call_soon, resume, context=context)

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002
        """Wake the one who waits with CancelledError, in the loop's next turn."""
        if self.resume is None:
            return False
        self._is_cancelled = True
        self.wake()
        return True

    def result(self) -> None:
        """Raise CancelledError if that is why it woke."""
        if self._is_cancelled:
            self._is_cancelled = False
            raise asyncio.CancelledError


class Eager:
    """One coroutine, run at once."""

    __slots__ = ("_coroutine", "_loop", "_tasks", "_waits_for", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        """Should the coroutine become a Task, that stands in `tasks` until it ends."""
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._loop = loop
        self._tasks = tasks
        self._waits_for: Wakeup | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run it, when none runs.

        It should not raise but for cancellation: nobody awaits it.
        """
        self._coroutine = coroutine
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            self._coroutine = None
            self.returned(end.value)
        except asyncio.CancelledError:
            self._coroutine = None
            self.was_cancelled()
        except Exception as error:  # noqa: BLE001  # nobody awaits it
            self._coroutine = None
            self.failed(error)
        else:
            self._wait(coroutine, waits_for)

    def returned(self, value: Any) -> None:
        """The coroutine has returned that. For subclasses; must not raise."""

    def was_cancelled(self) -> None:
        """It has ended by cancellation. For subclasses; must not raise."""

    def failed(self, error: Exception) -> None:
        """It has raised, which it should not."""
        told = {"message": "what was run eagerly has failed", "exception": error}
        self._loop.call_exception_handler(told)

    def cancel(self) -> None:
        """Raise CancelledError where it waits; nothing if it has ended. Not from within itself."""
        if self.task is not None and not self.task.done():
            self.task.cancel()
            return
        coroutine, wakeup = self._coroutine, self._waits_for
        if coroutine is None or wakeup is None:
            return
        self._waits_for = None
        wakeup.resume = None
        self._throw(coroutine)

    def _step(self, woken: Wakeup) -> None:
        coroutine = self._coroutine
        if coroutine is None or self._waits_for is not woken:
            return
        self._waits_for = None
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            self._coroutine = None
            self.returned(end.value)
        except asyncio.CancelledError:
            self._coroutine = None
            self.was_cancelled()
        except Exception as error:  # noqa: BLE001  # nobody awaits it
            self._coroutine = None
            self.failed(error)
        else:
            self._wait(coroutine, waits_for)

    def _throw(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            waits_for = coroutine.throw(asyncio.CancelledError())
        except StopIteration as end:
            self._coroutine = None
            self.returned(end.value)
        except asyncio.CancelledError:
            self._coroutine = None
            self.was_cancelled()
        except Exception as error:  # noqa: BLE001  # nobody awaits it
            self._coroutine = None
            self.failed(error)
        else:
            self._wait(coroutine, waits_for)

    def _wait(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        if type(waits_for) is Wakeup:
            self._coroutine, self._waits_for = coroutine, waits_for
            waits_for.resume = self._step
            return
        self._coroutine = None
        rest = _Rest(coroutine, waits_for)
        self.task = task = self._loop.create_task(self._go_on(rest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(self._tell_unbegun, coroutine, rest))

    async def _go_on(self, rest: _Rest) -> None:
        try:
            value = await rest
        except asyncio.CancelledError:
            self.was_cancelled()
            raise
        except Exception as error:  # noqa: BLE001  # as in the steps before
            self.failed(error)
            return
        self.returned(value)

    def _tell_unbegun(
        self,
        coroutine: Coroutine[Any, Any, Any],
        rest: _Rest,
        task: asyncio.Task[None],  # noqa: ARG002
    ) -> None:
        """Tell the coroutine of a Task that was cancelled before its first step."""
        if not rest.has_begun:
            self.task = None
            self._throw(coroutine)


async def be_a_task() -> None:
    """Return within a Task of one's own, whoever runs the coroutine that awaits this.

    It takes a turn of the loop. Whether there is such a Task already cannot be asked: what
    asyncio takes for the current one may be another's, in whose call this one was woken.
    """
    await asyncio.sleep(0)


class _Rest:
    """What is left of a coroutine that has begun to wait for something."""

    __slots__ = ("_coroutine", "_waits_for", "has_begun")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self.has_begun = False
        """Whether its Task has had its first step."""

    def __await__(self) -> Generator[Any, Any, Any]:
        self.has_begun = True
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                try:
                    sent = yield waits_for
                except BaseException as error:  # noqa: BLE001  # it is raised where it belongs
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
            except StopIteration as end:
                return end.value
