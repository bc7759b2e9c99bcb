"""A stream that is pushed, for doors whose world pulls: at most a high-water mark is kept of it.

What comes waits here until it is taken, all of it at once; where more waits than the mark, the
upstream is made to wait. It starts no thread and lives on the core's loop: a caller in another
thread goes through `loop`.
"""

from __future__ import annotations

import asyncio

from keyhole.eager import Wakeup
from keyhole.wire.http import ReplyStream

HIGH_WATER_BYTES = 64 * 1024
"""As uvicorn's and uvloop's own for a client that does not read."""


class Pulled:
    """A wire.http.Sink, and what stands in it; one Task takes it out."""

    def __init__(self, stream: ReplyStream, first: bytes) -> None:
        """`first` is the reply's body, which the stream is started with."""
        self._stream = stream
        self._first: bytes | None = first
        """None once the stream has been started."""
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._is_paused = self._is_over = self._is_cancelled = False
        self._wakeup = Wakeup(asyncio.get_running_loop())

    async def take(self) -> bytes:
        """What has come since, waiting for something; empty at the end.

        The first call starts the stream. Raises ConnectionError once it was cancelled, so that
        what broke off is never taken for whole.
        """
        first, self._first = self._first, None
        if first is not None and not self._is_cancelled:
            self._stream.start(self, first)
        while not (self._pieces or self._is_over or self._is_cancelled):
            await self._wakeup
        if self._is_cancelled:
            raise ConnectionError("the stream was cancelled")
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._stream.resume()
        return taken

    def cancel(self) -> None:
        """Nobody takes any more, nothing where all was taken; whoever waits in `take` is woken."""
        if self._is_cancelled or (self._is_over and not self._pieces):
            return
        self._is_cancelled = True
        self._pieces.clear()
        self._stream.cancel()
        self._wakeup.wake()

    # For the stream

    def send(self, data: bytes) -> None:
        """As wire.http.Sink says."""
        self._add(data)
        if self._waiting_bytes > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._stream.pause()

    def end(self, data: bytes) -> None:
        """As wire.http.Sink says."""
        self._is_over = True
        self._add(data)

    def _add(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._waiting_bytes += len(data)
        self._wakeup.wake()
