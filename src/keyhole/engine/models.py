"""Loads each model once, at the first request for it, and keeps it.

It does not know HTTP; what is wrong with a folder comes out as the library's errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from keyhole.dialects.tgi import Limits
from keyhole.engine.folder import ModelFolder
from keyhole.engine.gpt2 import GPT2
from keyhole.engine.library import Library
from keyhole.engine.scheduler import MAX_RUNNING, MAX_WAITING, Scheduler
from keyhole.engine.text import Vocabulary, load_vocabulary
from keyhole.engine.weights import load_weights


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model that answers."""

    folder: ModelFolder
    vocabulary: Vocabulary
    scheduler: Scheduler
    limits: Limits


Load = Callable[[ModelFolder, asyncio.AbstractEventLoop], LoadedModel]


class Models:
    """The models in use; for one event loop."""

    def __init__(
        self, library: Library, *, load: Load | None = None, max_waiting: int = MAX_WAITING
    ) -> None:
        self.library = library
        self._load = load or partial(load_model, max_waiting=max_waiting)
        self._loaded: dict[str, LoadedModel] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, name: str) -> LoadedModel:
        """The model, loaded if need be, anew after a crash; raises SetupError as the library."""
        loaded = self._loaded.get(name)
        if loaded is not None and loaded.scheduler.is_open:
            return loaded
        folder = self.library.find(name)
        # One load at a time for each folder that exists, so the locks cannot grow without bound.
        async with self._locks.setdefault(name, asyncio.Lock()):
            loaded = self._loaded.get(name)
            if loaded is None or not loaded.scheduler.is_open:
                loop = asyncio.get_running_loop()
                loaded = await asyncio.to_thread(self._load, folder, loop)
                self._loaded[name] = loaded
            return loaded

    async def close(self) -> None:
        """Fail what is running and end every model's thread."""
        for loaded in self._loaded.values():
            await asyncio.to_thread(loaded.scheduler.close)
        self._loaded.clear()


def load_model(
    folder: ModelFolder, loop: asyncio.AbstractEventLoop, *, max_waiting: int = MAX_WAITING
) -> LoadedModel:
    """Open the folder's tokenizer and weights and start its thread; raises SetupError."""
    shape = folder.architecture
    vocabulary = load_vocabulary(folder)
    model = GPT2(shape, load_weights(folder))
    return LoadedModel(
        folder=folder,
        vocabulary=vocabulary,
        scheduler=Scheduler(model, vocabulary, loop, max_waiting=max_waiting),
        limits=Limits(
            max_input_tokens=max(shape.context - 1, 1),
            max_total_tokens=shape.context,
            max_concurrent_requests=MAX_RUNNING + max_waiting,
        ),
    )
