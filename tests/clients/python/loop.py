"""Runs calls that a test sends as JSON lines, and prints what the client saw, a line each.

    {"call": 17, "way": "chat", "url": ..., "prompt": ..., ...}     the fields of Call
    {"call": 17, "first": true}                    once a stream's first text is there
    {"call": 17, "outcome": {"text": ..., ...}}    once it is over

It runs in the clients' own environment, so it imports nothing but the standard library. Each call
has a thread of its own: clients sleep before they try again. Garbage is collected between calls and
at no other time: huggingface_hub 1.33 shares one httpx client among its threads, and httpcore 1.0
waits for ever where a forgotten stream is collected while its pool's lock is held (seen here).
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

AT_ONCE = 48
KEY = "client-key"
"""What every client sends as its key; no upstream may ever see it."""
_printing = threading.Lock()
_loop = asyncio.new_event_loop()
"""One for all asynchronous calls: LangChain keeps its connections from call to call."""


@dataclass
class Call:
    """One call to make, and what has been heard so far."""

    call: int
    way: str
    url: str
    model: str
    prompt: str
    wants_stream: bool
    stop: list[str] | None
    max_tokens: int
    leaves: bool
    """Whether to leave after the first text."""
    most_tries: int
    """After how many requests to give up, for a client that never would; there is one in Node."""
    pieces: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: list[int | None] | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]

    def heard(self, text: str | None) -> bool:
        """Take a piece of text; whether to leave now."""
        if not text:
            return False
        self.pieces.append(text)
        if len(self.pieces) == 1 and self.wants_stream:
            _print({"call": self.call, "first": True})
        return self.leaves

    def outcome(self, error: BaseException | None) -> dict[str, Any]:
        return {
            "text": "".join(self.pieces),
            "pieces": len(self.pieces),
            "finish": self.finish,
            "usage": self.usage,
            "error": error and _describe(error),
        }


Way = Callable[[Call], Any]


def run(ways: dict[str, Way]) -> None:
    """Serve the lines of standard input until it ends."""
    gc.disable()
    gc.freeze()
    threading.Thread(target=_loop.run_forever, daemon=True).start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for line in sys.stdin:
            call = Call(**json.loads(line))
            pool.submit(_make, call, ways[call.way])


def _make(call: Call, way: Way) -> None:
    error: BaseException | None = None
    try:
        if inspect.iscoroutinefunction(way):
            asyncio.run_coroutine_threadsafe(way(call), _loop).result()
        else:
            way(call)
    except Exception as raised:  # noqa: BLE001  # whatever a client raises is what it saw
        error = raised
    _print({"call": call.call, "outcome": call.outcome(error)})
    del error
    gc.collect()


def _describe(error: BaseException) -> dict[str, Any]:
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return {
        "kind": type(error).__name__,
        "message": str(error),
        "status": status if isinstance(status, int) else None,
    }


def _print(value: Any) -> None:
    with _printing:
        print(json.dumps(value), flush=True)
