"""The event loop's side of one running job: an iterator of tokens, then an outcome.

It is fed by the scheduler's thread, through the loop, and can be cancelled from the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self, TypeAlias

from msgspec import Struct

from keyhole.dialects.tgi import FinishReason, Token


class Outcome(Struct, frozen=True, kw_only=True):
    """How a generation ended by itself."""

    finish_reason: FinishReason
    generated_tokens: int
    queue_s: float
    inference_s: float


class GenerationError(Exception):
    """The generation did not end by itself; the message is for clients."""


class CancelledGenerationError(GenerationError):
    """The client of this generation went away."""


class OverloadedError(Exception):
    """As many requests are waiting as may wait."""


class StoppedError(GenerationError):
    """The model takes no requests any more: it is being closed, or has crashed."""


Event: TypeAlias = Token | Outcome | GenerationError


class Generation:
    """One job's tokens as they come; iterate once."""

    def __init__(self, cancel: Callable[[Generation], None]) -> None:
        self._cancel = cancel
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._end: Outcome | GenerationError | None = None

    def deliver(self, event: Event) -> None:
        """Take what the scheduler made; only from the event loop."""
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """Free the generation's place; its iterator ends with CancelledGenerationError."""
        if self._end is None:
            self._cancel(self)

    def __aiter__(self) -> Self:
        """The tokens; raises GenerationError if they end before their time."""
        return self

    async def __anext__(self) -> Token:
        """The next token, as soon as there is one."""
        if self._end is None:
            event = await self._events.get()
            if isinstance(event, Token):
                return event
            self._end = event
        if isinstance(self._end, GenerationError):
            raise self._end
        raise StopAsyncIteration

    @property
    def outcome(self) -> Outcome:
        """How it ended; only after the iterator has."""
        if not isinstance(self._end, Outcome):
            raise RuntimeError("the generation has not ended")  # noqa: TRY004  # a wrong order
        return self._end
