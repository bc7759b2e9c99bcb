"""One prompt being continued: first the prompt itself, then token by token, until it ends.

It knows nothing of threads, HTTP or the others beside it; the scheduler moves it.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from keyhole.dialects.tgi import FinishReason, Token
from keyhole.engine.folder import Architecture
from keyhole.engine.gpt2 import LONGEST_SPAN, Cache, Span
from keyhole.engine.sampling import Sampler, Sampling
from keyhole.engine.text import PieceDecoder, Prompt, StopStrings, Vocabulary
from keyhole.engine.weights import Floats


class Job(Struct, frozen=True, kw_only=True):
    """What is to be generated, every choice made."""

    prompt: Prompt
    sampling: Sampling
    max_new_tokens: int
    stop: tuple[str, ...]
    eos_token_ids: frozenset[int]


class Continuation:
    """A job on its way."""

    def __init__(self, job: Job, shape: Architecture, vocabulary: Vocabulary) -> None:
        self.job = job
        self.finish_reason: FinishReason | None = None
        self.generated = 0
        prompt = job.prompt.tokens
        self._waiting: Sequence[int] = prompt
        self._vocabulary = vocabulary
        self._cache = Cache(shape, len(prompt) + job.max_new_tokens)
        self._sampler = Sampler(job.sampling, prompt, shape.vocabulary)
        self._pieces = PieceDecoder(vocabulary, drop_space=job.prompt.lost_space)
        self._stops = StopStrings(job.stop)

    @property
    def waiting(self) -> int:
        """How many tokens the model has not seen: a prompt's rest, or the last one chosen."""
        return len(self._waiting)

    def take(self, most: int) -> Span:
        """The next tokens for the model, at most so many."""
        count = min(most, LONGEST_SPAN, len(self._waiting))
        span = Span(self._cache, self._waiting[:count])
        self._waiting = self._waiting[count:]
        return span

    def advance(self, logits: Floats) -> Token:
        """Choose the next token; `finish_reason` says afterwards whether it is the last."""
        id_, logprob = self._sampler.choose(logits)
        self.generated += 1
        self._waiting = [id_]
        text = self._pieces.push(id_)
        if id_ in self.job.eos_token_ids:
            self.finish_reason = "eos_token"
        elif self.generated == self.job.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self._pieces.flush()
        stopped = self._stops.cut(text)
        if stopped is not None:
            self.finish_reason, text = "stop_sequence", stopped
        return Token(id_, text, logprob, self._vocabulary.is_special(id_))
