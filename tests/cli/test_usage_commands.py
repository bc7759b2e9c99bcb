"""`keyhole usage` and `keyhole explain`, without a server."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from keyhole.cli import cli
from keyhole.cli.tables import bar, table
from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.io.refusals import RefusalRing
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.records import Refusal
from standins.attempts import intent, receipt

PROMISED = (
    "exchange_id, attempt, key, group, dialect, model, upstream, target, status, outcome,"
    " prompt_tokens, completion_tokens, basis, cost_microusd, ttft_ms, duration_ms, started_at"
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEYHOLE_CONFIG", raising=False)
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--data", str(data)])


def out(data: Path, *words: str) -> str:
    result = run(data, *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def recent(number: int) -> Intent:
    return structs.replace(
        intent(number), key_id=f"key_{number % 2:016x}", started_at_ms=time.time_ns() // 1_000_000
    )


def ended(number: int, **changed: object) -> Receipt:
    return structs.replace(receipt(number), intent=recent(number), **changed)


@pytest.fixture
async def journal(data: Path) -> FileJournal:
    return FileJournal(
        data / "journal",
        JournalSettings(fsync="never"),
        node="n",
        clock=SystemClock(),
        say=print,
    )


async def test_a_row_has_exactly_the_promised_fields(data: Path, journal: FileJournal):
    journal.intend(recent(1))
    journal.settle(ended(1))
    (line,) = out(data, "usage", "--rows", "--json").splitlines()
    assert ", ".join(json.loads(line)) == PROMISED
    names, row = csv.reader(io.StringIO(out(data, "usage", "--rows", "--csv")))
    assert ", ".join(names) == PROMISED
    assert len(row) == len(names)
    journal.close()


async def test_the_command_posts_the_journal_where_no_clerk_is(data: Path, journal: FileJournal):
    """An attempt under way stays so; once its writer is gone it is interrupted."""
    for number in range(4):
        journal.intend(recent(number))
    journal.settle(ended(0))
    assert len(out(data, "usage", "--rows", "--json").splitlines()) == 1
    journal.close()
    rows = [json.loads(line) for line in out(data, "usage", "--rows", "--json").splitlines()]
    assert sorted(row["outcome"] for row in rows) == ["interrupted"] * 3 + ["ok"]


async def test_sums_have_shares_and_a_total(data: Path, journal: FileJournal):
    for number in range(4):
        journal.intend(recent(number))
        journal.settle(ended(number, cost_microusd=250_000))
    text = out(data, "usage", "--by", "key")
    assert "50%" in text
    assert text.splitlines()[-1].split()[:2] == ["total", "4"]
    assert "$1.00" in text.splitlines()[-1]
    for by in ("key", "group", "model", "upstream", "day"):
        told = [json.loads(line) for line in out(data, "usage", "--by", by, "--json").splitlines()]
        assert sum(one["cost_microusd"] for one in told) == 1_000_000, by
        assert by in told[0]
        assert len(out(data, "usage", "--by", by, "--csv").splitlines()) == len(told) + 1
    journal.close()


def test_nothing_used_is_said(data: Path):
    assert "Nothing was used" in out(data, "usage")
    assert out(data, "usage", "--rows", "--json") == ""
    assert "Nothing was used" in out(data, "usage", "--rows")


@pytest.mark.parametrize("words", [("--since", "soon"), ("--json", "--csv")])
def test_what_is_wrong_is_one_line(data: Path, words: tuple[str, ...]):
    result = run(data, "usage", *words)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


async def test_explain_tells_of_an_attempt(data: Path, journal: FileJournal):
    journal.intend(recent(1))
    journal.settle(ended(1))
    journal.intend(recent(2))
    told = out(data, "explain", intent(1).exchange_id)
    assert "answered" in told
    assert "hf/gpt2" in told
    assert "reported" in told
    assert "under way" in out(data, "explain", intent(2).exchange_id)
    journal.close()


def test_explain_tells_of_a_refusal(data: Path):
    ring = RefusalRing(data)
    ring.append(
        Refusal(
            exchange_id="019ac2f0-7c1e-7a51-b3a5-000000000009",
            at_ms=1_763_863_563_123,
            status=429,
            code="budget_spent",
            message="The budget of 'ann' has $0.02 left.",
            key="ann",
        )
    )
    ring.close()
    told = out(data, "explain", "019ac2f0-7c1e-7a51-b3a5-000000000009")
    assert "refused with 429 (budget_spent)" in told
    assert "$0.02 left" in told
    result = run(data, "explain", "no-such-id")
    assert result.exit_code == 1
    assert "no-such-id" in result.stderr


def test_bars_are_of_one_width_and_in_proportion():
    drawn = [bar(share / 100) for share in range(101)]
    assert {len(one) for one in drawn} == {12}
    assert drawn[0].strip() == ""
    assert drawn[100] == "█" * 12
    assert bar(2) == drawn[100]


def test_columns_are_as_wide_as_they_need():
    assert table(("a", "n"), [("xx", "1"), ("y", "22")], right=" r") == [
        "a    n",
        "xx   1",
        "y   22",
    ]
