"""What an error tells the operator to write is something that the configuration takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyhole.config import SETTINGS

GOLDENS = Path(__file__).parents[1] / "golden" / "upstreams"
HINTED = re.compile(r"([a-z_]+)(?: = [^\s]+)? in \[upstream\.")


def hinted(golden: Path) -> set[str]:
    return set(HINTED.findall(golden.read_text().replace('\\"', "'")))


def test_hints_are_found() -> None:
    assert "completions" in hinted(GOLDENS / "openai.json")
    assert "url" in hinted(GOLDENS / "tgi.json")


@pytest.mark.parametrize("golden", sorted(GOLDENS.glob("*.json")), ids=lambda path: path.stem)
def test_every_setting_in_a_hint_exists(golden: Path) -> None:
    assert hinted(golden) <= set(SETTINGS["upstream.NAME"])
