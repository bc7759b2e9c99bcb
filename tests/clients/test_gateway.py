"""The clients that people have, through `keyhole serve`, to every kind of upstream and back."""

from __future__ import annotations

import pytest

from clients.cases import Group, read_rules, read_tables
from clients.judging import complaints
from clients.keyholes import TOKEN
from clients.running import Run

GROUPS = tuple(read_tables().groups(is_direct=False))
RULES = read_rules("gateway")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_a_client_works_unmodified(gateway: Run, group: Group) -> None:
    found = {
        str(case.scene): wrong
        for case in group.cases
        if (wrong := complaints(gateway.result(case), RULES.expectation(case)))
    }
    assert found == {}
    sent = {
        seen.header("authorization")
        for case in group.cases
        for seen in gateway.result(case).requests
    }
    assert sent <= {f"Bearer {TOKEN}"}


def test_every_rule_speaks_of_a_call() -> None:
    cases = [case for group in GROUPS for case in group.cases]
    assert RULES.unused(cases) == []
