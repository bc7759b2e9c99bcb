"""Tiny models, written once, and the folders that the processes of a test live in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.random_gpt2 import write_model

STORY = "tiny/story"
SLOW = "tiny/slow"
"""Takes a second or more for each thousand tokens, and never ends by itself."""


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory to copy."""
    directory = tmp_path_factory.mktemp("models")
    write_model(directory / STORY)
    write_model(directory / SLOW, layers=32, context=16384, config={"eos_token_id": None})
    return directory


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working and home directory of a module's processes, with a configuration."""
    directory = tmp_path_factory.mktemp("home")
    (directory / "keyhole.toml").write_text(
        f'[route.default]\ntargets = ["engine/{STORY}"]\n[engine]\nthreads = 1\n'
    )
    return directory


@pytest.fixture(scope="module")
def data(home: Path, tiny_models: Path) -> Path:
    """A state directory in which the engine has the tiny models."""
    directory = home / "data"
    directory.mkdir(mode=0o700)
    shutil.copytree(tiny_models, directory / "models")
    return directory
