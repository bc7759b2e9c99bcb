"""What is written in one turn of the event loop is written together, at its end.

Each write to a socket may wake whoever reads it: on a machine where that costs an interrupt of
another core, a seventh of a request's CPU time went there (perf, two virtual cores, November
2026). Readers that are written to in a row are woken once. A turn is as long as the requests
that came in it take: some hundred microseconds under load, and nothing when one comes alone.

It holds no bytes: who has something to write keeps it, writes it when told, and writes it before
anything else that it sends. Log lines wait here, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Outbox:
    """Who has something to write, in one worker."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def put(self, send: Callable[[], None]) -> None:
        """Call `send` at the end of this turn; raises RuntimeError where no loop runs."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self._send_all)
        waiting.append(send)

    def _send_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for send in waiting:
            try:
                send()
            except Exception as error:  # noqa: BLE001  # the others have something to say, too
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "something could not be written", "exception": error}
                )
