"""A small random model, written once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_gpt2 import write_model

from keyhole.engine.folder import ModelFolder, read_folder
from keyhole.engine.text import Vocabulary, load_vocabulary


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    write_model(directory / "acme" / "tiny")
    write_model(directory / "llama", config={"model_type": "llama"})
    (directory / "gone").symlink_to(directory / "nowhere")
    return directory


@pytest.fixture(scope="session")
def folder(models_dir: Path) -> ModelFolder:
    return read_folder("acme/tiny", models_dir / "acme" / "tiny")


@pytest.fixture(scope="session")
def vocabulary(folder: ModelFolder) -> Vocabulary:
    return load_vocabulary(folder)
