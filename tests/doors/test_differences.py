"""Every row of the table in docs/from-the-flask-script.md is tested, and nothing else is a row."""

from __future__ import annotations

import json
import re

import pytest

from doors.cases import CASES
from doors.client import ask, generate
from doors.servers import REPOSITORY, Door
from doors.test_behaviour import told

TABLE = (REPOSITORY / "docs" / "from-the-flask-script.md").read_text()
ROWS = re.findall(r"^\| `([a-z0-9-]+)` \|", TABLE, re.MULTILINE)

# Rows that a test stands for, beside those of the cases.
TESTED_BY = {
    "inputs": "test_a_body_at_generate_is_told_from_the_original_scripts",
    "stream": "test_it_streams_if_told_to",  # tests/dialects/test_generate.py
    "debugger": "test_python_app_py_runs_without_the_debugger",  # tests/server/test_flask_door.py
    "default-model": "test_default_model",
    "local-callers": "test_callers_from_elsewhere_are_refused",  # tests/policy/test_access.py
    "other-paths": "test_other_paths",
    "patience": "test_patience",
    "prints": "test_prints",
    "proxies": "test_proxies_and_netrc_are_not_used",  # tests/test_transport_environment.py
    "reply-headers": "test_reply_headers",
}


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    assert len(ROWS) == len(set(ROWS))
    tested = {case.row for case in CASES if case.row is not None} | set(TESTED_BY)
    assert set(ROWS) == tested


def test_the_tests_that_stand_for_rows_exist() -> None:
    sources = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    missing = [name for name in TESTED_BY.values() if f"def {name}(" not in sources]
    assert missing == []


def test_default_model(door: Door) -> None:
    answer = generate(door, {"input": "Once"})
    assert json.loads(answer.json[0]["generated_text"])["path"] == "/models/gpt2"
    assert answer.header("x-keyhole-model") == "gpt2"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_other_paths(door: Door, path: str) -> None:
    assert ask(door, "GET", path).status == 200
    assert ask(door, "GET", "/static/x").status == 404


def test_patience(door: Door) -> None:
    assert 0 < told(door, {"input": "Once"})["first_byte_s"] <= 20


def test_prints(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    generate(door, {"input": "nobody prints this"})
    printed = "".join(capfd.readouterr()) + door.written()
    assert "nobody prints this" not in printed


def test_reply_headers(door: Door) -> None:
    """read_answer has checked that each reply has one id, and that it is a UUIDv7."""
    ids = {ask(door, "GET", path).request_id for path in ("/health/live", "/nowhere", "/generate")}
    assert len(ids) == 3
