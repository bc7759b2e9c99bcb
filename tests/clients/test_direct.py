"""The clients, straight at the stand-ins: these speak what the clients expect.

It proves the stand-ins rather than Keyhole: without it, what passes through a gateway might pass
only because both sides were written by the same hand. It also pins down what the clients make of
each error when nobody stands in between.
"""

from __future__ import annotations

import pytest

from clients.cases import Group, read_rules, read_tables
from clients.judging import complaints
from clients.running import Run

GROUPS = tuple(read_tables().groups(is_direct=True))
RULES = read_rules("direct")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_a_client_understands_the_stand_in(direct: Run, group: Group) -> None:
    found = {
        str(case.scene): wrong
        for case in group.cases
        if (wrong := complaints(direct.result(case), RULES.expectation(case)))
    }
    assert found == {}


def test_every_rule_speaks_of_a_call() -> None:
    cases = [case for group in GROUPS for case in group.cases]
    assert RULES.unused(cases) == []
