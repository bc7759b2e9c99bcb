"""One prompt being continued: first the prompt itself, then token by token, until it ends.

It knows nothing of threads, HTTP or the others beside it; the scheduler moves it.

A token is told when its text is certain, which half a character and the beginning of a stop
string are not. Text that was held back belongs to the last token told that is no marker, so the
texts of those, joined, are the generated text, whatever ends it; and a stop string that ends it
stands whole at the end of the last one's.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

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

    @property
    def told_seed(self) -> int | None:
        """The seed that makes this text again; None if nothing is drawn."""
        return self.sampling.seed if self.sampling.do_sample else None


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
        self._untold: list[Token] = []
        """While text is held back: the last token that is no marker, and markers behind it."""

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

    def advance(self, logits: Floats) -> list[Token]:
        """Choose the next token and tell those whose text is certain, often just that one.

        `finish_reason` says afterwards whether it was the last; then nothing is left untold.
        """
        id_, logprob = self._sampler.choose(logits)
        self.generated += 1
        self._waiting = [id_]
        reason: FinishReason | None = None
        text = self._pieces.push(id_)
        if id_ in self.job.eos_token_ids:
            reason = "eos_token"
        elif self.generated == self.job.max_new_tokens:
            reason = "length"
        if reason is not None:
            text += self._pieces.flush()
        text = self._stops.push(text)
        if self._stops.is_found:
            reason = "stop_sequence"
        elif reason is not None:
            text += self._stops.flush()
        self.finish_reason = reason
        return self._tell(id_, text, logprob)

    def _tell(self, id_: int, text: str, logprob: float) -> list[Token]:
        told: list[Token] = []
        if not self._vocabulary.is_special(id_):
            told, self._untold = self._untold, [Token(id_, text, logprob, special=False)]
        else:
            if text:
                holder = self._untold[0]
                self._untold[0] = replace(holder, text=holder.text + text)
            self._untold.append(Token(id_, "", logprob, special=True))
        is_holding = self._pieces.is_holding or self._stops.is_holding
        if self.finish_reason is None and is_holding:
            return told
        told += self._untold
        self._untold = []
        return told
