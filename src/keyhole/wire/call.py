"""What a client asked for, free of any dialect.

It does not say where the call goes (`policy.routing`) nor how an upstream words it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from keyhole.errors import Code

MAX_STOP_STRINGS = 16

_NonEmpty = Annotated[str, Meta(min_length=1)]


class Parameters(Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """How to generate, under the Hugging Face names; None means that the client said nothing.

    The ranges are those that a client's parameters are held to as they are decoded.
    """

    max_new_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    """0 stands for greedy decoding."""
    top_k: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    do_sample: bool | None = None
    return_full_text: bool | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Annotated[tuple[_NonEmpty, ...], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    num_return_sequences: Annotated[int, Meta(ge=1, le=10)] | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is asked for each time."""
        return self.do_sample is False or self.temperature == 0


class Message(Struct, frozen=True):
    """One turn of a conversation, as text."""

    role: str
    content: str


class Unreadable(Struct, frozen=True):
    """A field that was said and that cannot be translated: what is told where it would have to."""

    name: str
    code: Code
    message: str
    hint: str | None = None


class Original(Struct, frozen=True, kw_only=True):
    """The body as the client sent it, for an upstream that speaks the same format."""

    format: str
    """`openai-chat`, `openai-completion`, `tgi` or `huggingface`; or what asks for no text at all
    but for the tokens of one, `tgi-tokens`, or for what a server says of itself, `tgi-info`."""
    fields: Mapping[str, Raw]
    """The top level of its JSON, each value as it came."""
    beyond: tuple[str, ...] = ()
    """The fields that were said and that only this format can say, such as `tools`."""
    unreadable: tuple[Unreadable, ...] = ()
    """Those whose values only an upstream of this format may judge; nothing else holds them."""

    def has_unreadable(self, *names: str) -> bool:
        """Whether one of the names is that of a field which was said and could not be read."""
        return any(field.name in names for field in self.unreadable)


class Call(Struct, frozen=True, kw_only=True, gc=False):
    """One client's wish: an input for a model, and how to continue it."""

    model: str | None
    """The public name; None asks for the default route."""
    is_model_optional: bool = False
    """Whether the name may be one that clients send for want of any: the default route's, then,
    unless a route of that name is configured."""
    input: str | list[Any] = ""
    """The text, or a list as it came: only a backend knows what its upstream takes."""
    messages: tuple[Message, ...] = ()
    """A conversation to be answered, in place of an input to be continued; empty for none."""
    parameters: Parameters = Parameters()
    wants_stream: bool = False
    wants_usage: bool = False
    """Whether a client that streams asked to be told the usage."""
    waits_for_model: bool = True
    """Whether it may be held while nobody can answer it but a model that loads."""
    original: Original | None = None
    """None where the dialect is one that no upstream speaks."""

    @property
    def choices(self) -> int:
        """How many texts are wanted for each prompt."""
        return self.parameters.num_return_sequences or 1
