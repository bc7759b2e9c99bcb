"""What a model answered, whole, free of any dialect; a stream's events are in events.py."""

from __future__ import annotations

from msgspec import Struct


class Usage(Struct, frozen=True, gc=False):
    """The tokens that an upstream says it used."""

    prompt_tokens: int
    completion_tokens: int


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """A whole answer to one call."""

    texts: tuple[tuple[str, ...], ...] = ()
    """For each prompt, its texts, without the prompt."""
    finishes: tuple[tuple[str, ...], ...] = ()
    """Why each text ended, as in `events.Finish.reason`; empty where the upstream does not say."""
    is_chat: bool = False
    """A reply to the prompt rather than a continuation of it."""
    is_rendered: bool = False
    """Whether a conversation was written out as a text, for an upstream that only continues one."""
    usage: Usage | None = None
    """None where the upstream does not say."""
    verbatim: bytes | None = None
    """The upstream's JSON as it came."""
    format: str = ""
    """The format of `verbatim`, as in `call.Original.format`."""
