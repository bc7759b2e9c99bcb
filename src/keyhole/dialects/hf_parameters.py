"""The `parameters` object under the Hugging Face names, checked; what no name covers is refused.

Shared by the dialects that use those names, with what else they have in common: the prompt in
front of its text, and which calls can be streamed. What the TGI and the hosted API's formats
say beyond these names is in `hf_body`.

Ranges, which stand at `Parameters`, are those that the hosted Inference API documented and
enforced in 2022 (hub-docs 99e4e05a, api-inference-community 2fd0029), less the ones that no
upstream could honour: top_p and repetition_penalty of 0 are refused, and max_new_tokens has no
upper bound of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from keyhole.dialects.base import as_unreadable
from keyhole.errors import ClientError, Code
from keyhole.wire.call import Call, Parameters, Unreadable

NAMES: tuple[str, ...] = Parameters.__struct_fields__


def read_parameters(raw: object) -> Parameters:
    """The parameters of a client's `parameters` value; null is none. Raises ClientError."""
    if raw is None:
        return Parameters()
    if not isinstance(raw, dict):
        raise ClientError(
            Code.INVALID_PARAMETER,
            f"'parameters' must be an object, not {_kind(raw)}.",
            hint='For example {"max_new_tokens": 50}.',
        )
    _refuse_unknown(raw)
    try:
        return _convert(raw)
    except msgspec.ValidationError as error:
        raise _invalid(raw, str(error)) from None


def read_what_can_be(raw: Mapping[str, Any]) -> tuple[Parameters, tuple[Unreadable, ...]]:
    """The parameters without those that cannot be read, and these; raises ClientError.

    Raised is what says where the prompt stands, for answers are read by it.
    """
    left = dict(raw)
    unreadable: list[Unreadable] = []
    while True:
        try:
            return _convert(left), tuple(unreadable)
        except msgspec.ValidationError as error:
            fault = _invalid(left, str(error))
            if fault.param is None or fault.param == "return_full_text":
                raise fault from None
            unreadable.append(as_unreadable(fault))
            del left[fault.param]


def _convert(raw: Mapping[str, Any]) -> Parameters:
    if isinstance(raw.get("stop"), str):
        raw = {**raw, "stop": [raw["stop"]]}
    return msgspec.convert(raw, Parameters)


def full_text(call: Call, prompt: str, text: str, *, is_chat: bool) -> str:
    """The text with its prompt in front, which the hosted API did unless told otherwise.

    A chat model answers a prompt instead of continuing it, so there the prompt is left out
    unless it was asked for, as the hosted API did for models that answer.
    """
    wanted = call.parameters.return_full_text
    return prompt + text if (wanted is None and not is_chat) or wanted else text


def read_stream(raw: object, wanted: object, parameters: Parameters) -> bool:
    """Whether a `stream` value asks for a stream; raises ClientError, too if there can be none."""
    if not isinstance(raw, bool | None):
        raise ClientError(
            Code.INVALID_PARAMETER, f"'stream' must be true or false, not {_kind(raw)}."
        )
    if raw and not isinstance(wanted, str):
        raise ClientError(
            Code.INVALID_INPUT,
            "A stream answers one text, and the input is a list.",
            hint="Send the texts one by one.",
        )
    if raw and (parameters.num_return_sequences or 1) > 1:
        raise ClientError(
            Code.INVALID_PARAMETER,
            f"A stream is of one text: 'num_return_sequences' in 'parameters' is"
            f" {parameters.num_return_sequences}.",
        )
    return bool(raw)


def _refuse_unknown(raw: Mapping[str, Any]) -> None:
    unknown = sorted(name for name in raw if name not in NAMES)
    if not unknown:
        return
    shown = ", ".join(f"'{_shorten(name)}'" for name in unknown[:8])
    close = difflib.get_close_matches(unknown[0], NAMES, n=1)
    guess = f"Did you mean '{close[0]}'? " if close else ""
    raise ClientError(
        Code.UNKNOWN_PARAMETER,
        f"Unknown in 'parameters': {shown}.",
        hint=f"{guess}Known are {', '.join(NAMES)}.",
    )


def _invalid(raw: Mapping[str, Any], problem: str) -> ClientError:
    # msgspec ends its message with the place: "Expected `int` >= 1 - at `$.top_k`"
    what, _, place = problem.partition(" - at ")
    name = place.strip("`").removeprefix("$.").partition("[")[0]
    value = raw.get(name)
    is_number = isinstance(value, (int, float)) and abs(value) < 1e15
    shown = f" is {value!r}" if is_number else ""
    expected = what[:1].lower() + what[1:]
    return ClientError(
        Code.INVALID_PARAMETER,
        f"'{name}' in 'parameters'{shown}: {expected.replace('`', '')}.",
        param=name if name in raw else None,
    )


def _shorten(name: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= 40 else printable[:40] + "..."


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {dict: "an object", type(None): "null"}
    return names.get(type(value), "a list")
