"""The events of a stream, free of any dialect.

A reader makes them of an upstream's frames, a writer makes a client's frames of them.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from keyhole.wire.answer import Usage

Reason = Literal["eos", "stop", "length", "content_filter", "tool_calls"]
"""`eos`: the model ended by itself; `stop`: a stop sequence did, or nobody can tell which."""


class Token(Struct, frozen=True):
    """A token as a TGI server tells it."""

    id: int
    logprob: float | None = None
    is_special: bool = False


class Delta(Struct, frozen=True):
    """A piece of text, possibly empty."""

    text: str
    choice: int = 0
    token: Token | None = None
    """None where the upstream does not say; then a piece may be several tokens, or part of one."""


class Finish(Struct, frozen=True):
    """A text has ended."""

    reason: Reason
    choice: int = 0
    full_text: str | None = None
    """The whole text, from upstreams that repeat it at the end: without special tokens."""


class Counted(Struct, frozen=True):
    """How many tokens it all took; the last one that comes is right."""

    usage: Usage


Event = Delta | Finish | Counted
