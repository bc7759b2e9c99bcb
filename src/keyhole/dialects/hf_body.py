"""The body that clients of TGI and of the hosted API send: `inputs`, `parameters`, `stream`.

Shared by both dialects. It tells what the Hugging Face parameter names cover from what only
these formats can say (`beyond`), which goes on to upstreams that speak them and is refused for
all others. What says nothing is counted as unsaid: null, and the values in `_SAYING_NOTHING`.
A value that is out of our bounds is no error here: an upstream of the same format may take it,
or refuse it in its own words, and whoever has to translate it refuses it (`unreadable`).

Facts (text-generation-inference db931fcf, langchain_huggingface 1.2.3):
- the values of the table are TGI's defaults; `typical_p` of 1 keeps every token;
- HuggingFaceEndpoint of LangChain sends `typical_p` 0.95 beside `top_p` 0.95 unless told
  otherwise, so that value is nobody's wish: where it cannot be carried it is left out, for
  that client would otherwise work with no other kind of upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from keyhole.dialects.base import decode_json
from keyhole.dialects.hf_parameters import NAMES, read_parameters, read_what_can_be
from keyhole.errors import ClientError, Code
from keyhole.wire.call import Parameters, Unreadable

EXAMPLE = '{"inputs": "Once upon a time"}'

_SAYING_NOTHING: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "decoder_input_details": (False,),
    "details": (True, False),
    "frequency_penalty": (0,),
    "num_return_sequences": (1,),
    "top_n_tokens": (0,),
    "typical_p": (1, 0.95),
    "watermark": (False,),
}


class Asked(Struct, frozen=True, kw_only=True):
    """A body, read."""

    fields: Mapping[str, Raw]
    inputs: Any
    given: Mapping[str, Any] | None
    """The parameters that are not null, under any name; None where there is no such object."""
    parameters: Parameters
    """Those of them that have a Hugging Face name, as far as they can be read."""
    unreadable: tuple[Unreadable, ...]
    """Those of them that cannot."""
    beyond: tuple[str, ...]
    """The parameters and fields that were said and that are none of the known."""
    wants_details: bool
    stream: Any
    model: Any
    options: Any


def read_body(
    body: bytes, *, fields: frozenset[str], names: frozenset[str] = frozenset(NAMES)
) -> Asked:
    """The body of a request; raises ClientError.

    `fields` are the names at the top level that the dialect reads itself, `names` those of the
    parameters.
    """
    value = decode_json(body, example=EXAMPLE)
    if not isinstance(value, dict) or value.get("inputs") is None:
        raise ClientError(
            Code.MISSING_INPUT,
            "The body has no 'inputs'.",
            hint=f"Send an object such as {EXAMPLE}.",
        )
    raw = value.get("parameters")
    given = None
    if isinstance(raw, dict):
        given = {name: item for name, item in raw.items() if item is not None}
    elif raw is not None:
        read_parameters(raw)
    known = {name: item for name, item in (given or {}).items() if name in names}
    others = [(name, item) for name, item in (given or {}).items() if name not in names]
    others += [(name, value[name]) for name in value if name not in fields]
    parameters, unreadable = read_what_can_be(known)
    return Asked(
        fields=msgspec.json.decode(body, type=dict[str, Raw]),
        inputs=value["inputs"],
        given=given,
        parameters=parameters,
        unreadable=unreadable,
        beyond=tuple(sorted({name for name, item in others if _says_something(name, item)})),
        wants_details=_details(given),
        stream=value.get("stream"),
        model=value.get("model"),
        options=value.get("options"),
    )


def _says_something(name: str, value: object) -> bool:
    return value is not None and value not in _SAYING_NOTHING.get(name, ())


def _details(given: Mapping[str, Any] | None) -> bool:
    wanted = (given or {}).get("details", False)
    if not isinstance(wanted, bool):
        raise ClientError(
            Code.INVALID_PARAMETER, "'details' in 'parameters' must be true or false."
        )
    return wanted
