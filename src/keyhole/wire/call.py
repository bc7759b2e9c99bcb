"""What a client asked for, free of any dialect.

It does not say where the call goes (`policy.routing`) nor how an upstream words it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Parameters(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How to generate, under the Hugging Face names; None means that the client said nothing."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    """0 stands for greedy decoding."""
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    return_full_text: bool | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    num_return_sequences: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is asked for each time."""
        return self.do_sample is False or self.temperature == 0


class Call(Struct, frozen=True, kw_only=True):
    """One client's wish: an input for a model, and how to continue it."""

    model: str | None
    """The public name; None asks for the default route."""
    input: str | list[Any]
    """The text, or a list as it came: only a backend knows what its upstream takes."""
    parameters: Parameters = Parameters()

    @property
    def choices(self) -> int:
        """How many texts are wanted for each prompt."""
        return self.parameters.num_return_sequences or 1
