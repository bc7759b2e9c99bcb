"""The documentation names what the code has: settings, error codes, flags, metrics, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import get_args

import click
import pytest

from keyhole.cli import cli
from keyhole.config import SETTINGS
from keyhole.errors import Code
from keyhole.main import backends
from keyhole.server.metrics import Metrics
from keyhole.wire.books import Outcome
from keyhole.wire.http import Head

ROOT = Path(__file__).parents[1]
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tools").rglob("*.md"))
NAME = re.compile(r"`([^`]+)`").findall
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def commands(group: click.Group, path: str = "keyhole") -> dict[str, click.Command]:
    """Every command by the words that call it."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            found |= commands(command, f"{path} {name}")
        else:
            found[f"{path} {name}"] = command
    return found


@pytest.mark.parametrize("section", SETTINGS)
def test_every_setting_is_in_the_reference(section: str) -> None:
    """docs/configuration.md names each key in the part about its section."""
    text = page("configuration.md")
    assert f"[{section}" in text
    missing = [key for key in SETTINGS[section] if f"`{key}`" not in text]
    assert missing == []


@pytest.mark.parametrize("kind", backends())
def test_every_kind_of_upstream_is_in_the_reference(kind: str) -> None:
    assert f"`{kind}`" in page("configuration.md")


@pytest.mark.parametrize("code", Code)
def test_every_error_code_is_explained(code: Code) -> None:
    """docs/errors.md has a row that begins with the code."""
    assert f"| `{code}` |" in page("errors.md")


@pytest.mark.parametrize(("words", "command"), commands(cli).items())
def test_every_command_and_flag_is_explained(words: str, command: click.Command) -> None:
    """docs/commands.md has a part for each command, and that part names its flags."""
    text = page("commands.md")
    assert f"## {words}" in text
    part = text.partition(f"## {words}")[2].partition("\n## ")[0]
    everywhere = text.partition("\n## ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in part + everywhere


def metrics() -> set[str]:
    reply = Metrics().pages()["/metrics"](Head(method="GET", path="/metrics"), None)
    names = set(re.findall(r"^# TYPE (keyhole_\w+)", reply.body.decode(), re.MULTILINE))
    assert names
    return {name for name in names if not name.endswith("_created")}


def test_every_metric_is_explained() -> None:
    text = page("watching.md")
    assert {name for name in metrics() if name not in text} == set()


def rows(text: str) -> set[str]:
    """The names that the rows of a page's tables begin with."""
    return {
        name for row in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE) for name in NAME(row)
    }


def part_of(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_setting_code_and_metric_of_the_pages_exists() -> None:
    assert rows(page("errors.md")) == {*Code}
    watching = page("watching.md")
    assert rows(part_of(watching, "Metrics")) <= metrics()
    assert rows(part_of(watching, "Usage")) == {*get_args(Outcome)}
    for section in page("configuration.md").split("\n## [")[1:]:
        name, _, text = section.partition("]")
        settings = text.partition("\n| kind |")[0].partition("\n## ")[0]
        assert rows(settings) == set(SETTINGS[name]), name


def test_every_flag_of_the_pages_exists() -> None:
    """Each row of a command's part in docs/commands.md begins with a flag that it takes."""
    known = commands(cli)
    for part in page("commands.md").split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        flags = {row.split()[0] for row in rows(text)}
        if heading == "python -m keyhole.clerk":
            assert flags == set()
        elif heading == "python -m keyhole.engine":
            source = (ROOT / "src" / "keyhole" / "engine" / "__main__.py").read_text()
            assert {flag for flag in flags if f'"{flag}"' not in source} == set()
        else:
            command = next(known[words] for words in known if heading.startswith(words))
            assert flags <= {option for param in command.params for option in param.opts}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link names a file that is there, and a heading that it has."""
    for target, anchor in LINK.findall(path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        linked = (path.parent / target).resolve()
        assert linked.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings
            }


def test_the_readme_has_the_commands_that_there_are() -> None:
    """Each `make TARGET` of the pages exists, and each `keyhole COMMAND` of the README."""
    makefile = (ROOT / "Makefile").read_text()
    for path in PAGES:
        for target in re.findall(r"^make (\w+)", path.read_text(), re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{path.name} names make {target}"
    known = {words.split()[1] for words in commands(cli)}
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"`keyhole (\w+)", readme)) <= known


def test_ci_runs_what_the_pages_say() -> None:
    """.ci/run calls make check and make test, and nothing else."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make check", "make test"]


def test_the_project_speaks_of_itself_alone() -> None:
    """No machine's paths and no package index's hosts are in what is tracked."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    refused = re.compile(r"/root/|/home/\w+/|/tmp/bash|files\.pythonhosted|pypi\.org/simple")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".safetensors", ".json"} or path == Path(__file__):
            continue
        found = refused.search(path.read_text(errors="replace")) if path.is_file() else None
        assert found is None, f"{name} holds {found and found[0]}"
