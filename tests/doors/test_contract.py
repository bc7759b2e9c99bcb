"""Every door gives every case the same status, headers and bytes."""

from __future__ import annotations

import json

import pytest

from doors.cases import CASES, VARY, Case
from doors.client import Answer, ask, ask_status
from doors.servers import Door


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(door: Door, case: Case) -> None:
    if door.name in case.refused_before:
        assert ask_status(door, case.method, case.path, case.headers, host=case.host) == 400
        return
    answer = ask(door, case.method, case.path, case.headers, case.body, host=case.host)
    assert answer.status == case.status, answer.body
    _check_headers(case, answer)
    if case.reply is not None:
        assert answer.body == case.reply
    else:
        _check_json(case, answer)


def _check_headers(case: Case, answer: Answer) -> None:
    expected = [*case.reply_headers, VARY]
    if case.status != 204:
        expected.append(("content-type", "application/json"))
        length = answer.header("content-length")
        assert length is not None
        if case.method == "HEAD":
            assert int(length) > 0, "HEAD tells the length that GET would have"
        else:
            assert int(length) == answer.length
        expected.append(("content-length", length))
    assert sorted(answer.headers) == sorted(expected)


def _check_json(case: Case, answer: Answer) -> None:
    value = json.loads(answer.body)
    if case.status == 200:
        return
    assert value["request_id"] == "ID"
    assert case.code in {None, value["code"]}
    assert case.error in {None, value["error"]}
    assert ("detail" in value) == (case.status == 502)
