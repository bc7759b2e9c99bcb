"""Which models exist: the one that Keyhole carries, and the folders of the models directory.

It reads names and small files only; it downloads nothing and needs no numpy, so that the
command line can list models at once.

A model is a folder, or a link to one, in the Hub's own layout at MODELS/NAME or
MODELS/OWNER/NAME.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from keyhole.engine.folder import WEIGHTS, ModelFolder, UnsupportedModelError, read_folder
from keyhole.errors import SetupError

DEMO = "keyhole-demo"
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.))*"
NAME = re.compile(f"{PART}(?:/{PART})?", re.ASCII)


class ModelNotPulledError(SetupError):
    """There is no folder of that name."""


class ListedModel(Struct, frozen=True, kw_only=True):
    """One line of a listing: a model, or a folder that cannot be one and why."""

    name: str
    path: Path
    size_bytes: int
    """The size of its weights; 0 if there are none."""
    problem: str | None = None


class Library:
    """The models that can be asked for by name."""

    def __init__(self, models_dir: Path | None = None) -> None:
        self._models_dir = models_dir

    def find(self, name: str) -> ModelFolder:
        """The model's folder; raises ModelNotPulledError or UnsupportedModelError."""
        if not is_model_name(name):
            raise ModelNotPulledError(f"{name!r:.80} is not a model's name.", hint=_how_to_pull())
        path = self._path(name)
        if path is None:
            raise ModelNotPulledError(f"Model {name} is not here.", hint=_how_to_pull(name))
        if not path.exists():
            raise UnsupportedModelError(
                f"Model {name} is a link to a folder that is gone.",
                hint=f"Run keyhole model pull {name} again.",
            )
        return read_folder(name, path)

    def list_models(self) -> list[ListedModel]:
        """Every model by name, the carried one first; folders with a problem included."""
        names = {name for name in self._candidates() if is_model_name(name)} - {DEMO}
        return [
            self._listed(name, path)
            for name in (DEMO, *sorted(names))
            if (path := self._path(name)) is not None
        ]

    def _path(self, name: str) -> Path | None:
        """Where a model of that name is; None if there is nothing, not even a dangling link."""
        if name == DEMO:
            return Path(__file__).parent / DEMO
        path = self._models_dir / name if self._models_dir is not None else None
        return path if path is not None and (path.is_dir() or path.is_symlink()) else None

    def _candidates(self) -> Iterator[str]:
        for entry in _folders(self._models_dir):
            if (entry / "config.json").exists() or not entry.exists():
                yield entry.name
            else:
                for model in _folders(entry):
                    yield f"{entry.name}/{model.name}"

    def _listed(self, name: str, path: Path) -> ListedModel:
        problem = None
        try:
            self.find(name)
        except SetupError as error:
            problem = str(error)
        weights = path / WEIGHTS
        size_bytes = weights.stat().st_size if weights.exists() else 0
        return ListedModel(name=name, path=path, size_bytes=size_bytes, problem=problem)


def list_models(models_dir: Path | None = None) -> list[ListedModel]:
    """Every model that the engine would find with this models directory."""
    return Library(models_dir).list_models()


def is_model_name(name: str) -> bool:
    """Whether it is NAME or OWNER/NAME in the Hub's alphabet, and no way out of a directory."""
    return NAME.fullmatch(name) is not None


def _folders(directory: Path | None) -> list[Path]:
    """The folders in a directory, dangling links included; none if there is no directory."""
    if directory is None or not directory.is_dir():
        return []
    return sorted(entry for entry in directory.iterdir() if entry.is_dir() or entry.is_symlink())


def _how_to_pull(name: str = "OWNER/NAME") -> str:
    return f"run: keyhole model pull {name}"
