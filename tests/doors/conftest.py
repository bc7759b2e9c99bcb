"""The doors, one after the other, and the leak detector around every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from doors import servers
from doors.client import ask
from doors.composed import STANDIN
from doors.leaks import eventually, no_leaks
from doors.servers import DOORS, Door
from doors.upstream import Upstream, running_upstream


@pytest.fixture(scope="session")
def played() -> Iterator[Upstream]:
    with running_upstream() as upstream, pytest.MonkeyPatch.context() as patch:
        patch.setenv(STANDIN, upstream.url)
        yield upstream


@pytest.fixture
def upstream(played: Upstream) -> Iterator[Upstream]:
    yield played
    played.forget()


@pytest.fixture(scope="session", params=DOORS)
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    played: Upstream,  # its address is what a door begins with
) -> Iterator[Door]:
    name: str = request.param
    match name:
        case "gunicorn":
            opened = servers.gunicorn(tmp_path_factory.mktemp("gunicorn"))
        case "werkzeug" | "blueprint":
            opened = servers.werkzeug(name, "/ai" if name == "blueprint" else "")
        case "fastlane" | "asgi-strict":
            opened = servers.strict(name)
        case _:
            opened = servers.asgi(name.partition("-")[2])
    with opened as door:
        ask(door, "GET", "/health/live")  # whatever begins with the first request has begun
        yield door


@pytest.fixture
def door(running: Door) -> Iterator[Door]:
    with no_leaks(running.loop):
        yield running
    edge = running.edge
    if edge is not None:
        eventually(lambda: edge.buffered_bytes == 0)
