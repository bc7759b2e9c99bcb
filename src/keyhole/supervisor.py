"""The processes: started by command line, watched, drained, started again when they die.

A child's standard input is its lifeline: the parent holds the other end and never writes, so
end-of-file means that the parent is gone, however it went, and the child stops by itself.
Children have sessions of their own, so that Ctrl-C reaches only the parent, which drains them.

It serves no request and speaks no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from keyhole.errors import SetupError

STABLE_AFTER_S = 10.0
"""A child that lived this long is started again at once when it dies."""
MAX_PAUSE_S = 5.0
MAX_PAUSE_OF_KILLED_S = 0.2
"""A child that ends by SIGKILL was well, and somebody else's victim: it is wanted back soon."""
GIVE_UP_AFTER = 5
"""So many deaths in a row, each within a second of the start, and the reason is not chance."""
LOCK_POLL_S = 0.5
CANNOT_START = 78
"""The exit status (EX_CONFIG of sysexits.h) of a child that another start would not help."""

Say = Callable[[str], None]
"""Tells the operator one line."""


class Command(Struct, frozen=True, kw_only=True):
    """How to start a child, and how long it may take to stop."""

    name: str
    """What the operator knows it as."""
    arguments: Sequence[str]
    environ: Mapping[str, str]
    inherited: tuple[int, ...] = ()
    """File descriptors that it gets, under the same numbers."""
    stop_within_s: float = 5.0
    on_ready: Callable[[], None] | None = None
    """Called when it writes the first line on its standard output, which then is a pipe."""


class Child:
    """One running process."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and modules
            command.arguments,
            env=dict(command.environ),
            stdin=subprocess.PIPE,
            stdout=None if command.on_ready is None else subprocess.PIPE,
            pass_fds=command.inherited,
            start_new_session=True,
        )
        self._ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._wait, args=(loop,), daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ended(self) -> int:
        """Its exit status once it has ended; minus the signal's number if one ended it."""
        await self._ended.wait()
        return self._process.wait()

    async def stop(self) -> None:
        """Ask it to end; end it when it does not within the time that it has."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._command.stop_within_s):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        # A thread, because asyncio's own child watchers differ by Python version, loop and
        # thread, and this has to work in a Flask worker's second thread as well.
        output: IO[bytes] | None = self._process.stdout
        if output is not None:
            with output:
                if output.readline() and self._command.on_ready is not None:
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(self._command.on_ready)
        self._process.wait()
        lifeline: IO[bytes] | None = self._process.stdin
        if lifeline is not None:
            lifeline.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._ended.set)


async def keep_running(command: Command, say: Say) -> None:
    """Run a child and start it again whenever it dies, until cancelled; then stop it.

    Raises SetupError when it dies by itself again and again as soon as it is started, or says by
    its exit status (CANNOT_START) that it would.
    """
    early_deaths = 0
    while True:
        started_s = time.monotonic()
        child = Child(command)
        try:
            status = await child.ended()
        except asyncio.CancelledError:
            await child.stop()
            raise
        if status == CANNOT_START:
            raise SetupError(f"The {command.name} cannot start.", hint="what it said is above")
        lived_s = time.monotonic() - started_s
        early_deaths = early_deaths + 1 if lived_s < STABLE_AFTER_S else 0
        was_killed = status == -signal.SIGKILL
        if early_deaths >= GIVE_UP_AFTER and lived_s < 1 and not was_killed:
            raise SetupError(
                f"The {command.name} ended {early_deaths} times in a row ({_ending(status)}).",
                hint="what it said is above",
            )
        say(f"The {command.name} ended ({_ending(status)}); starting it again.")
        await asyncio.sleep(pause_s(early_deaths, was_killed=was_killed))


def pause_s(early_deaths: int, *, was_killed: bool = False) -> float:
    """How long to wait before the next start: nothing at first, then doubling."""
    most_s = MAX_PAUSE_OF_KILLED_S if was_killed else MAX_PAUSE_S
    return 0.0 if early_deaths <= 1 else min(0.1 * 2 ** (early_deaths - 1), most_s)


async def keep_alone(
    command: Command, lock: Path, say: Say, *, when_held: Callable[[], None] | None = None
) -> None:
    """Run a child whenever no other process of this state directory does, until cancelled.

    Several servers (gunicorn's workers, say) share one engine and one clerk: who holds the lock
    runs it, and when the holder goes, the child goes with it and the next one takes over. The
    child inherits the lock: it is free when both have ended, whichever goes first. `when_held` is
    called whenever the lock is found held by somebody else.
    """
    while True:
        with locked(lock) as descriptor:
            if descriptor is not None:
                inherited = (*command.inherited, descriptor)
                await keep_running(msgspec.structs.replace(command, inherited=inherited), say)
            elif when_held is not None:
                when_held()
        await asyncio.sleep(LOCK_POLL_S)


async def keep_after(event: asyncio.Event, keeper: Coroutine[None, None, None]) -> None:
    """Begin with a keeper only once the event is set."""
    try:
        await event.wait()
        await keeper
    finally:
        keeper.close()


async def supervise(
    keepers: Sequence[Coroutine[None, None, None]], *, before_stop: Callable[[], None] | None = None
) -> None:
    """Run keepers of children until the first SIGTERM, SIGINT or SIGHUP, then stop them in order.

    A second signal ends everything at once. Raises what a keeper gave up with.
    """
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            os._exit(1)  # the children see their lifelines end
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    tasks = [asyncio.ensure_future(keeper) for keeper in keepers]
    told = asyncio.ensure_future(_until(stopping))
    try:
        await asyncio.wait({told, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        failures = [task.exception() for task in tasks if task.done()]
    finally:
        if before_stop is not None:
            before_stop()
        for task in (told, *tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SetupError):
                await task
    for failure in failures:
        if failure is not None:
            raise failure


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours; -P keeps the working directory out of it."""
    return [sys.executable, "-P", "-m", module, *arguments]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The descriptor that holds the lock on a file; None where another one holds it.

    Raises SetupError.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupError(f"The lock {path} cannot be used: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
