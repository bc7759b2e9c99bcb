"""One Chromium for all tests of the page, and a stand-in for Keyhole for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest_asyncio

from page.chromium import Chromium, Tab
from page.standin import StandIn

Opener = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium() -> AsyncIterator[Chromium]:
    async with Chromium.started() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="package")
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn() as running:
        yield running
        assert running.unknown == []
        assert running.cookies == []


@pytest_asyncio.fixture(loop_scope="package")
async def opened(chromium: Chromium, standin: StandIn) -> Opener:
    """Opens the page in a tab of its own."""
    return partial(open_page, chromium, standin)


@pytest_asyncio.fixture(loop_scope="package")
async def tab(opened: Opener) -> AsyncIterator[Tab]:
    """The page, as wide as a desk."""
    async with opened() as opened_tab:
        yield opened_tab


@asynccontextmanager
async def open_page(chromium: Chromium, standin: StandIn, **options: Any) -> AsyncIterator[Tab]:
    """The page with its models listed; fails if the page complained."""
    async with chromium.tab(f"{standin.url}/", **options) as tab:
        await tab.until("document.querySelector('#model').options.length > 2")
        yield tab
