"""`keyhole key` and `keyhole group`, on a ledger of their own."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keyhole.cli import cli
from keyhole.ledger.database import Database
from keyhole.ledger.keys import KeyStore
from keyhole.wire.keys import digest_of, is_well_typed


class Commands:
    """Runs commands on one state directory."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, [*words, "--data", str(self.data)])

    def out(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def complaint(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 1, result.output
        (line,) = result.stderr.splitlines()
        return line

    def secret(self, *words: str) -> str:
        told = json.loads(self.out("key", "create", *words, "--json"))
        return str(told["secret"])

    def store(self) -> KeyStore:
        return KeyStore(Database(f"sqlite:///{self.data}/ledger.sqlite"))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEYHOLE_CONFIG", raising=False)
    return Commands(tmp_path / "data")


def test_create_prints_the_secret_once_and_ready_to_paste(commands: Commands):
    result = commands.run("key", "create", "ann")
    secret = next(line.strip() for line in result.stdout.splitlines() if line.startswith("  kh_"))
    assert is_well_typed(secret)
    assert f"export OPENAI_API_KEY={secret}" in result.stdout
    assert "export OPENAI_BASE_URL=http://127.0.0.1:5000/v1" in result.stdout
    assert f"export HF_TOKEN={secret}" in result.stdout
    assert f"curl http://127.0.0.1:5000/generate -H 'Authorization: Bearer {secret}'" in (
        result.stdout
    )
    assert "first key" in result.stderr
    assert "first key" not in commands.run("key", "create", "bob").stderr


def test_create_json_has_secret_id_and_name(commands: Commands):
    told = json.loads(commands.out("key", "create", "ann", "--json"))
    assert set(told) == {"secret", "id", "name"}
    assert commands.store().get(told["id"]).digest == digest_of(told["secret"].encode())


def test_every_flag_of_create_reaches_the_key(commands: Commands):
    commands.out(
        *("key", "create", "ann", "--model", "gpt2", "--model", "meta/*", "--group", "a"),
        *("--expires", "30d", "--rpm", "5", "--tpm", "1000", "--concurrency", "2"),
        *("--budget", "2Mtok/day", "--label", "room=12", "--label", "x=a=b"),
    )
    told = json.loads(commands.out("key", "show", "ann", "--json"))
    assert (told["models"], told["group"]) == (["gpt2", "meta/*"], "a")
    assert told["limits"] == {"rpm": 5, "tpm": 1000, "concurrency": 2, "budget": "2Mtok/day"}
    assert told["labels"] == {"room": "12", "x": "a=b"}
    assert told["expires_at"] > told["created_at"]


def test_a_class_is_made_at_once(commands: Commands):
    table = commands.out("key", "create", "--count", "30", "--group", "class-a", "--csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["name"] for row in rows[:2]] == ["class-a-01", "class-a-02"]
    assert len({row["secret"] for row in rows}) == 30
    assert {key.group.name for key in commands.store().list_keys() if key.group} == {"class-a"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("create", "ann", "--budget", "5/year"), "`budget`"),
        (("create", "ann", "--expires", "soon"), "`expires`"),
        (("create", "ann", "--expires", "2001-01-01"), "`expires`"),
        (("create", "ann", "--rpm", "-1"), "`rpm`"),
        (("create", "ann", "--count", "0"), "`count`"),
        (("create",), "`name`"),
        (("create", "--group", "a"), "`name`"),
        (("create", " "), "`name`"),
        (("create", "ann", "--label", "x"), "--label"),
        (("create", "ann", "--json", "--csv"), "--json"),
        (("show", "nobody"), "nobody"),
        (("revoke", "nobody"), "nobody"),
        (("rotate", "nobody"), "nobody"),
        (("rotate", "nobody", "--grace", "x"), "--grace"),
    ],
)
def test_what_is_wrong_is_one_line(commands: Commands, words: tuple[str, ...], told: str):
    assert told in commands.complaint("key", *words)


def test_a_name_is_taken_until_its_key_is_revoked(commands: Commands):
    commands.secret("ann")
    assert "ann" in commands.complaint("key", "create", "ann")
    commands.out("key", "revoke", "ann")
    commands.secret("ann")


def test_no_secret_and_no_digest_is_ever_shown_again(commands: Commands):
    secret = commands.secret("ann", "--group", "a")
    digest = commands.store().get("ann").digest.hex()
    shown = "".join(
        commands.out(*words)
        for words in (
            ("key", "list", "--all"),
            ("key", "list", "--json"),
            ("key", "show", "ann"),
            ("key", "show", "ann", "--json"),
            ("group", "list"),
            ("key", "revoke", "ann"),
        )
    )
    assert "ann" in shown
    assert secret not in shown
    assert digest not in shown


def test_list_leaves_out_what_is_over_unless_asked(commands: Commands):
    for name in ("ann", "bob"):
        commands.secret(name)
    commands.out("key", "revoke", "ann")
    assert "ann" not in commands.out("key", "list")
    assert "ann" in commands.out("key", "list", "--all")
    names = [
        json.loads(line)["name"]
        for line in commands.out("key", "list", "--json").split("\n")
        if line
    ]
    assert names == ["bob"]


def test_list_without_keys_says_how_to_make_one(commands: Commands):
    assert "keyhole key create" in commands.out("key", "list")


def test_rotate_gives_a_successor_and_leaves_the_old_one_its_grace(commands: Commands):
    old_secret = commands.secret("ann", "--budget", "5/month")
    old = commands.store().get("ann")
    told = json.loads(commands.out("key", "rotate", "ann", "--grace", "1h", "--json"))
    assert told["secret"] != old_secret
    assert commands.store().get("ann").id == told["id"] != old.id
    replaced = commands.store().get(old.id)
    assert replaced.rotated_to == told["id"]
    assert replaced.expires_at_ms is not None
    assert commands.store().get("ann").limits == old.limits


def test_a_groups_limits_are_changed_one_by_one(commands: Commands):
    commands.out("group", "set", "class-a", "--budget", "20/month", "--rpm", "60")
    assert "60 rpm, $20/month" in commands.out("group", "set", "class-a")
    commands.out("group", "set", "class-a", "--rpm", "none")
    told = json.loads(commands.out("group", "list", "--json"))
    assert told == {
        "name": "class-a",
        "limits": {"rpm": None, "tpm": None, "concurrency": None, "budget": "20/month"},
    }
    assert "`budget`" in commands.complaint("group", "set", "class-a", "--budget", "x")


def test_a_cell_is_no_formula(commands: Commands):
    told = commands.out("key", "create", "=1+1", "--csv")
    assert "'=1+1," in told
