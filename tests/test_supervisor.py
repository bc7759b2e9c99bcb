"""Keeping children running, with small real ones."""

from __future__ import annotations

import asyncio
import os
import sys
from ast import literal_eval
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from keyhole.errors import SetupError
from keyhole.supervisor import (
    CANNOT_START,
    GIVE_UP_AFTER,
    MAX_PAUSE_OF_KILLED_S,
    MAX_PAUSE_S,
    Child,
    Command,
    keep_after,
    keep_alone,
    keep_running,
    locked,
    pause_s,
    python_module,
)

PATIENCE_S = 30

# Tells its id in a file, and lives until its input ends.
LIVES = "import os,sys; open(sys.argv[1],'a').write(f'{os.getpid()}\\n'); os.read(0, 1)"
DIES = "import os,sys; open(sys.argv[1],'a').write(f'{os.getpid()}\\n'); sys.exit(3)"
KILLED = f"{LIVES[: LIVES.rindex(';')]}; os.kill(os.getpid(), 9)"
STUBBORN = (
    "import os,signal,sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "open(sys.argv[1],'a').write(f'{os.getpid()}\\n'); os.read(0, 1)"
)


class Children:
    """Children that write their ids into a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pids"
        self.said: list[str] = []

    def command(self, code: str, **options: object) -> Command:
        arguments = [sys.executable, "-c", code, str(self.file)]
        return Command(name="child", arguments=arguments, environ={}, **options)

    def pids(self) -> list[int]:
        return [int(line) for line in self.file.read_text().split()] if self.file.exists() else []

    async def started(self, count: int) -> int:
        """The id of the last one, once so many were started."""
        await until(lambda: len(self.pids()) >= count)
        return self.pids()[-1]


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not look():  # noqa: ASYNC110  # another process has no event to wait for
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def end(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


async def test_a_child_that_is_killed_is_started_again(children: Children):
    keeper = asyncio.ensure_future(keep_running(children.command(LIVES), children.said.append))
    first = await children.started(1)
    os.kill(first, 9)
    second = await children.started(2)
    await end(keeper)
    assert first != second
    assert children.said == ["The child ended (SIGKILL); starting it again."]
    assert not is_alive(second)


async def test_it_gives_up_on_a_child_that_dies_at_once_again_and_again(children: Children):
    with pytest.raises(SetupError, match=r"child ended 5 times in a row \(exit status 3\)"):
        await asyncio.wait_for(
            keep_running(children.command(DIES), children.said.append), PATIENCE_S
        )
    assert len(children.pids()) == GIVE_UP_AFTER
    assert len(children.said) == GIVE_UP_AFTER - 1


def test_the_first_restart_is_at_once_and_the_later_ones_are_not():
    pauses = [pause_s(deaths) for deaths in range(12)]
    assert pauses[:2] == [0, 0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_S


async def test_it_does_not_give_up_on_a_child_that_others_kill(children: Children):
    """Whoever kills a worker seven times in a row gets it back soon, each time."""
    keeper = asyncio.ensure_future(keep_running(children.command(KILLED), children.said.append))
    await children.started(GIVE_UP_AFTER + 2)
    await end(keeper)
    assert max(pause_s(deaths, was_killed=True) for deaths in range(12)) == MAX_PAUSE_OF_KILLED_S


async def test_a_child_that_does_not_stop_is_ended(children: Children):
    command = children.command(STUBBORN, stop_within_s=0.2)
    keeper = asyncio.ensure_future(keep_running(command, children.said.append))
    pid = await children.started(1)
    await end(keeper)
    assert not is_alive(pid)


async def test_a_child_gets_its_own_environment_and_descriptors_and_no_others(
    children: Children, tmp_path: Path
):
    """A child that held its neighbour's lifeline would keep it from ever ending."""
    reading, writing = os.pipe()
    kept, _ = os.pipe(), os.set_inheritable(writing, True)
    code = (
        "import os,sys; fds = sorted(int(f) for f in os.listdir('/dev/fd'));"
        "os.write(int(sys.argv[2]), repr((fds, sorted(os.environ))).encode()); os.read(0, 1)"
    )
    arguments = [sys.executable, "-c", code, "", str(writing)]
    command = Command(
        name="child", arguments=arguments, environ={"ONLY": "1"}, inherited=(writing,)
    )
    keeper = asyncio.ensure_future(keep_running(command, children.said.append))
    told = await asyncio.to_thread(os.read, reading, 4096)
    await end(keeper)
    for descriptor in (reading, writing, *kept):
        os.close(descriptor)
    descriptors, variables = literal_eval(told.decode())
    assert {0, 1, 2, writing} <= set(descriptors)
    assert len(descriptors) <= 5, "one more is the listing's own"
    assert "ONLY" in variables
    assert not {"PATH", "HOME"} & set(variables)


async def test_of_two_keepers_one_runs_the_engine_and_the_other_takes_over(
    children: Children, tmp_path: Path
):
    lock = tmp_path / "engine.lock"
    keepers = [
        asyncio.ensure_future(keep_alone(children.command(LIVES), lock, children.said.append))
        for _ in range(2)
    ]
    first = await children.started(1)
    await asyncio.sleep(0.6)
    assert children.pids() == [first], "the second one waits"
    await end(keepers[0])
    assert not is_alive(first)
    second = await children.started(2)
    assert is_alive(second)
    await end(keepers[1])
    assert not is_alive(second)
    assert lock.stat().st_mode & 0o777 == 0o600


async def test_a_lock_that_cannot_be_used(children: Children, tmp_path: Path):
    with pytest.raises(SetupError, match=r"The lock .* cannot be used"):
        await keep_alone(children.command(LIVES), tmp_path, children.said.append)
    assert children.pids() == []


def test_a_module_is_run_without_the_working_directory_in_its_path():
    """A file named json.py beside keyhole.toml is not what `import json` means."""
    assert python_module("keyhole.worker", "--fd=3") == [
        sys.executable,
        "-P",
        "-m",
        "keyhole.worker",
        "--fd=3",
    ]


async def test_a_child_that_cannot_start_is_not_started_again(children: Children):
    code = f"import sys; sys.exit({CANNOT_START})"
    with pytest.raises(SetupError, match="cannot start"):
        await keep_running(children.command(code), children.said.append)
    assert children.said == []


async def test_a_child_says_that_it_is_ready(children: Children):
    """And whoever waits for that begins only then."""
    ready, begun = asyncio.Event(), asyncio.Event()

    async def begin() -> None:
        begun.set()

    command = children.command(f"print('ready', flush=True); {LIVES}", on_ready=ready.set)
    after = asyncio.ensure_future(keep_after(ready, begin()))
    await asyncio.sleep(0)
    assert not begun.is_set()
    keeping = asyncio.ensure_future(keep_running(command, children.said.append))
    async with asyncio.timeout(PATIENCE_S):
        await begun.wait()
    await end(keeping)
    await after


async def test_the_lock_is_held_as_long_as_the_child_lives(children: Children, tmp_path: Path):
    """A parent that is killed leaves it to the child, which may still be at work."""
    lock = tmp_path / "lock"
    with locked(lock) as descriptor:
        assert descriptor is not None
        command = children.command(LIVES, inherited=(descriptor,))
        child = Child(command)
    with locked(lock) as taken:
        assert taken is None
    await child.stop()
    with locked(lock) as taken:
        assert taken is not None
