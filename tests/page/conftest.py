"""One Chromium and one live Keyhole for all tests of the page, and a stand-in for some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from page.chromium import Chromium, Tab
from page.live import Live
from page.standin import StandIn

Opener = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium() -> AsyncIterator[Chromium]:
    async with Chromium.started() as browser:
        yield browser


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with Live.started(tmp_path_factory.mktemp("keyhole")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn() as running:
        yield running
        assert running.unknown == []
        assert running.cookies == []


@pytest_asyncio.fixture(loop_scope="package")
async def opened(chromium: Chromium, live: Live) -> Opener:
    """Opens the page of the live server in a tab of its own."""
    return partial(open_page, chromium, live.url)


@pytest_asyncio.fixture(loop_scope="package")
async def tab(opened: Opener) -> AsyncIterator[Tab]:
    """The page of the live server, as wide as a desk."""
    async with opened() as opened_tab:
        yield opened_tab


@pytest_asyncio.fixture(loop_scope="package")
async def standin_tab(chromium: Chromium, standin: StandIn) -> AsyncIterator[Tab]:
    """The page at the stand-in, as wide as a desk."""
    async with open_page(chromium, standin.url) as opened_tab:
        yield opened_tab


@asynccontextmanager
async def open_page(chromium: Chromium, url: str, **options: Any) -> AsyncIterator[Tab]:
    """The page with its models listed; fails if the page complained."""
    async with chromium.tab(f"{url}/", **options) as tab:
        await tab.until("document.querySelector('#model').options.length > 2")
        yield tab
