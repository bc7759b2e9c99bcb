"""What a model answered, free of any dialect.

It holds whole answers; a stream's events will stand beside it.
"""

from __future__ import annotations

from msgspec import Struct


class Usage(Struct, frozen=True):
    """The tokens that an upstream says it used."""

    prompt_tokens: int
    completion_tokens: int


class Answer(Struct, frozen=True, kw_only=True):
    """A whole answer to one call."""

    texts: tuple[tuple[str, ...], ...] = ()
    """For each prompt, its texts, without the prompt."""
    is_chat: bool = False
    """A reply to the prompt rather than a continuation of it."""
    usage: Usage | None = None
    """None where the upstream does not say."""
    verbatim: bytes | None = None
    """The upstream's JSON as it came, where its shape is the one that the client expects."""
