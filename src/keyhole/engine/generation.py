"""The event loop's side of one running job: an iterator of tokens, then an outcome.

It is fed by the scheduler's thread, through the loop, and can be cancelled from the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
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

    def __init__(self, generated_tokens: int) -> None:
        super().__init__("The client is gone")
        self.generated_tokens = generated_tokens
        """How many there were by then, told or not."""


class OverloadedError(Exception):
    """As many requests are waiting as may wait."""


class StoppedError(GenerationError):
    """The model takes no requests any more: it is being closed, or has crashed."""


End: TypeAlias = Outcome | GenerationError


class Generation:
    """One job's tokens as they come, to be taken in batches or iterated once.

    What nobody takes waits here: a job's tokens at most, which its model's context bounds.
    """

    def __init__(self, cancel: Callable[[Generation], None]) -> None:
        self._cancel = cancel
        self._tokens: deque[Token] = deque()
        self._end: End | None = None
        self._has_news = asyncio.Event()

    def deliver(self, tokens: Iterable[Token], end: End | None = None) -> None:
        """Take what the scheduler made in a step; only from the event loop."""
        self._tokens.extend(tokens)
        self._end = end
        self._has_news.set()

    def cancel(self) -> None:
        """Free the generation's place; taking then ends with CancelledGenerationError."""
        if self._end is None:
            self._cancel(self)

    def wake(self) -> None:
        """Let `take` return, though there may be nothing."""
        self._has_news.set()

    async def take(self) -> list[Token]:
        """The tokens since the last time, once there are some; with the last, `is_over` is true.

        None of them after a `wake`; raises GenerationError if they ended before their time.
        """
        await self._has_news.wait()
        if self._end is None:
            self._has_news.clear()
        tokens = list(self._tokens)
        self._tokens.clear()
        if not tokens and isinstance(self._end, GenerationError):
            raise self._end
        return tokens

    def __aiter__(self) -> Self:
        """The tokens; raises GenerationError if they end before their time."""
        return self

    async def __anext__(self) -> Token:
        """The next token, as soon as there is one."""
        while not self._tokens and not self.is_over:
            self._tokens.extend(await self.take())
        if not self._tokens:
            raise StopAsyncIteration
        return self._tokens.popleft()

    @property
    def is_over(self) -> bool:
        """Whether it has ended by itself; some tokens may not be taken yet."""
        return isinstance(self._end, Outcome)

    @property
    def outcome(self) -> Outcome:
        """How it ended; only once it is over."""
        if not isinstance(self._end, Outcome):
            raise RuntimeError("the generation has not ended")  # noqa: TRY004  # a wrong order
        return self._end
