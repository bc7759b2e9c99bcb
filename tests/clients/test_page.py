"""docs/clients.md tells what the clients' run found."""

from __future__ import annotations

import pytest

from clients.cases import read_rules, read_tables
from clients.page import PAGE, render
from clients.running import Run


@pytest.mark.timeout(600)
def test_the_page_tells_what_the_run_found(gateway: Run, pytestconfig: pytest.Config) -> None:
    """Where it does not: make clients-page"""
    tables = read_tables()
    gateway.begin(tables.groups(is_direct=False))
    page = render(tables, read_rules("gateway"), gateway.result)
    if pytestconfig.getoption("--write-page"):
        PAGE.write_text(page)
    assert page == PAGE.read_text()
