"""The stand-ins of a session, and its runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients.cases import Case, Group, read_tables
from clients.keyholes import keyholes
from clients.running import Run
from standins import StandIn
from standins.models import ModelServers
from standins.threaded import in_a_thread


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-page", action="store_true", help="write docs/clients.md anew")


@pytest.fixture(scope="session")
def servers() -> ModelServers:
    return ModelServers()


@pytest.fixture(scope="session")
def standin(servers: ModelServers) -> Iterator[StandIn]:
    with in_a_thread(StandIn(servers)) as running:
        yield running


@pytest.fixture(scope="module")
def direct(
    request: pytest.FixtureRequest,
    servers: ModelServers,
    standin: StandIn,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """The calls of the clients that go straight to the stand-ins."""

    def address_of(case: Case) -> str:
        return f"{standin.url}/{case.kind}"

    run = Run(servers, standin, address_of, tmp_path_factory.mktemp("clients"))
    run.begin(chosen(request, "test_direct.py"))
    yield run
    run.end()


def chosen(request: pytest.FixtureRequest, file: str) -> Iterator[Group]:
    """What the tests of a file that were chosen for this session want to be called."""
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        if item.path.name == file and callspec is not None and "group" in callspec.params:
            yield callspec.params["group"]


@pytest.fixture(scope="session")
def gateway(
    request: pytest.FixtureRequest,
    servers: ModelServers,
    standin: StandIn,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """The calls of the clients that go through Keyhole."""
    groups = list(chosen(request, "test_gateway.py"))
    home = tmp_path_factory.mktemp("keyhole")
    with keyholes(read_tables().kinds.values(), standin.url, home) as address_of:
        run = Run(servers, standin, address_of, home)
        run.begin(groups)
        yield run
        run.end()
