"""What a worker asks of its interpreter and of the system."""

from __future__ import annotations

import asyncio
import gc
import resource
import weakref
from collections.abc import Iterator

import pytest

from keyhole.worker import allow_many_files, collect_rarely


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[None]:
    """Leaves the garbage collector as it was."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
async def test_a_cycle_that_has_outlived_the_younger_passes_is_collected_in_the_end() -> None:
    young, middle, full = gc.get_threshold()
    collecting = asyncio.ensure_future(collect_rarely(every_s=0))
    await asyncio.sleep(0)
    assert gc.get_threshold() == (young, middle, 100 * full)
    cycle = Cycle()
    gc.collect(0)
    gc.collect(1)
    is_there = weakref.ref(cycle)
    del cycle
    gc.collect(1)
    assert is_there() is not None
    for _ in range(full):
        gc.collect(1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert is_there() is None
    collecting.cancel()


@pytest.mark.usefixtures("collector")
async def test_what_was_there_at_the_start_is_not_looked_at_again() -> None:
    collecting = asyncio.ensure_future(collect_rarely())
    await asyncio.sleep(0)
    assert gc.get_freeze_count() > 1000
    collecting.cancel()


def test_the_soft_limit_of_open_files_becomes_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
