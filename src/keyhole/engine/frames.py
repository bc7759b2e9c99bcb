"""TGI's stream: what is generated, step by step, as server-sent events.

It neither generates nor sends; it makes the bytes of each step.

Facts (huggingface/text-generation-inference, router/src/{server,lib}.rs at db931fcf, 2026-01-08):
- A stream's status is always 200: what is wrong with a request is told in a frame, if it was a
  request at all. Nothing marks the end but the end; there is no `[DONE]`.
- Every token has its frame. The last one has the whole text too, and, for those who asked for
  details, how it ended.
- What follows `data:` is one space since TGI 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from keyhole.dialects.tgi import (
    FinishReason,
    Parameters,
    RefusedError,
    Token,
    encode_error,
    invalid,
)
from keyhole.engine.continuation import Job
from keyhole.engine.generation import Outcome

EVENT_STREAM = "text/event-stream"
HEARTBEAT = b":\n\n"
"""A comment, which clients skip; axum's KeepAlive, as TGI uses it."""


class Details(Struct, frozen=True, kw_only=True):
    """How a streamed text came to be."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class Frame(Struct, frozen=True):
    """What a frame tells."""

    index: int
    """From 1."""
    token: Token
    generated_text: str | None = None
    details: Details | None = None


class Frames:
    """Writes one stream."""

    def __init__(self, job: Job, *, text: str, wants_details: bool) -> None:
        self._job = job
        self._texts = [text]
        self._wants_details = wants_details
        self._encoder = msgspec.json.Encoder()
        self.count = 0
        """How many frames there have been."""

    def write(self, tokens: Sequence[Token], outcome: Outcome | None) -> bytes:
        """The frames of a step; with an outcome, the last of its tokens is the text's last."""
        bodies: list[bytes] = []
        for token in tokens:
            self.count += 1
            self._texts.append(token.text)
            frame = Frame(self.count, token)
            if outcome is not None and len(bodies) + 1 == len(tokens):
                frame = Frame(self.count, token, "".join(self._texts), self._details(outcome))
            bodies.append(_frame(self._encoder.encode(frame)))
        return b"".join(bodies)

    def _details(self, outcome: Outcome) -> Details | None:
        if not self._wants_details:
            return None
        return Details(
            finish_reason=outcome.finish_reason,
            generated_tokens=outcome.generated_tokens,
            seed=self._job.told_seed,
            input_length=len(self._job.prompt.tokens),
        )


def fail(error: RefusedError) -> bytes:
    """The frame that ends a stream in a refusal."""
    _, body = encode_error(error)
    return _frame(body)


def refuse_what_cannot_stream(given: Parameters) -> None:
    """Raise RefusedError (422) for what TGI gives in whole answers only."""
    if given.best_of not in (None, 1):
        raise invalid("`best_of` != 1 is not supported when streaming tokens")
    if given.decoder_input_details:
        raise invalid("`decoder_input_details` == true is not supported when streaming tokens")


def _frame(body: bytes) -> bytes:
    return b"data: " + body + b"\n\n"
