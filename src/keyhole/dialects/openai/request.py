"""What a client's body in the OpenAI format asks for.

Of all fields it checks only those that decide where a call goes and how it is answered. Whatever
else is there goes untouched to an upstream of the same format, in bounds or not. For the others
what they must understand is read; where that fails, the error is kept in `unreadable` for whoever
has to translate. The name of what only this format has is kept in `beyond`, unless its value asks
for nothing, such as a penalty of 0. No error holds a value of the body.

Facts (openai-python 3.54.0 types, vLLM 0.28, TGI at db931fcf; November 2026):
- `max_completion_tokens` is the newer name of `max_tokens` in chats; 0 is asked for by programs
  that score a prompt; `top_k` of 0 or -1 means no bound at vLLM;
- `content` is a string, a list of parts or, beside tool calls, null; vLLM joins the texts of
  several parts with a line break;
- clients that know no model's name send "tgi" (TGI's documentation), "dummy" (huggingface_hub)
  or the address that they call (@huggingface/inference).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from keyhole.dialects.base import as_unreadable, decode_json, read_model
from keyhole.dialects.openai import CHAT, COMPLETION
from keyhole.errors import ClientError, Code
from keyhole.wire.call import Call, Message, Original, Parameters, Unreadable

MAX_CHOICES = 128
_MAX_SEED = 2**63 - 1
_TEXT_ROLES = frozenset({"system", "developer", "user", "assistant"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]{1,40}")

_Tokens = Annotated[int, Meta(ge=0, le=1_000_000)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class _Options(Struct, kw_only=True):
    """What both paths share; null is as good as nothing."""

    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    seed: int | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | list[str] | None = None


class _Chat(_Options, kw_only=True):
    messages: list[Any]
    max_completion_tokens: _Tokens | None = None


class _Completion(_Options, kw_only=True):
    prompt: str | list[Any] | None = None
    echo: bool | None = None


_Shape = TypeVar("_Shape", bound=_Options)

_READ = {
    CHAT: frozenset(_Chat.__struct_fields__),
    COMPLETION: frozenset(_Completion.__struct_fields__),
}

_NEEDED = frozenset({"messages", "model", "stream", "stream_options"})
"""What must be of its kind whoever is asked, for we act on it ourselves."""

_ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (False, True),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "user": ("",),
}
"""Values that ask for what happens anyway; beside null, which does for every field.

What goes with tools is among them, for without `tools` it means nothing.
"""


def decode_chat_call(body: bytes) -> Call:
    """The call of a body of `POST /v1/chat/completions`; raises ClientError."""
    fields = _decode_fields(body)
    unreadable: list[Unreadable] = []
    asked = _decode(body, fields, _Chat, unreadable)
    beyond: list[str] = []
    messages = _messages(asked.messages, beyond, unreadable)
    newer = asked.max_completion_tokens
    if newer is not None:
        if asked.max_tokens not in (None, newer):
            unreadable.append(_DIFFERENT_MAXIMA)
        asked.max_tokens = newer
    parameters = _parameters(asked, beyond, is_echoed=False)
    beyond += _unread(fields, CHAT)
    model, is_model_optional = read_model(asked.model)
    return Call(
        model=model,
        is_model_optional=is_model_optional,
        messages=messages,
        parameters=parameters,
        wants_stream=bool(asked.stream),
        wants_usage=_wants_usage(asked, beyond),
        original=Original(
            format=CHAT, fields=fields, beyond=tuple(beyond), unreadable=tuple(unreadable)
        ),
    )


def decode_completion_call(body: bytes) -> Call:
    """The call of a body of `POST /v1/completions`; raises ClientError."""
    fields = _decode_fields(body)
    unreadable: list[Unreadable] = []
    asked = _decode(body, fields, _Completion, unreadable)
    beyond: list[str] = []
    if asked.prompt is None:
        if not any(field.name == "prompt" for field in unreadable):
            unreadable.append(_NO_PROMPT)
    elif isinstance(asked.prompt, list) and not _is_of(asked.prompt, str):
        if _is_tokens(asked.prompt):
            beyond.append("prompt")
        else:
            problem = _invalid_input("prompt", "must be a string or a list of strings")
            unreadable.append(as_unreadable(problem))
    parameters = _parameters(asked, beyond, is_echoed=bool(asked.echo))
    beyond += _unread(fields, COMPLETION)
    model, is_model_optional = read_model(asked.model)
    return Call(
        model=model,
        is_model_optional=is_model_optional,
        input="" if asked.prompt is None else asked.prompt,
        parameters=parameters,
        wants_stream=bool(asked.stream),
        wants_usage=_wants_usage(asked, beyond),
        original=Original(
            format=COMPLETION, fields=fields, beyond=tuple(beyond), unreadable=tuple(unreadable)
        ),
    )


def _decode_fields(body: bytes) -> dict[str, Raw]:
    try:
        str(body, "utf-8")  # for Raw is not looked into
        return msgspec.json.decode(body, type=dict[str, Raw])
    except msgspec.ValidationError:
        raise ClientError(
            Code.MISSING_INPUT,
            "The body must be a JSON object.",
            hint='For example {"model": "gpt2", "messages": [{"role": "user", "content": "Hi"}]}.',
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decode_json(body)  # says where it goes wrong
        raise


def _decode(
    body: bytes, fields: Mapping[str, Raw], shape: type[_Shape], unreadable: list[Unreadable]
) -> _Shape:
    """The fields that can be read; the others are added to `unreadable`."""
    left = dict(fields)
    while True:
        try:
            return msgspec.json.decode(body, type=shape)
        except msgspec.ValidationError as error:
            fault = _invalid(str(error))
            name = (fault.param or "").partition("[")[0].partition(".")[0]
            if name in _NEEDED or name not in left:
                raise fault from None
            unreadable.append(as_unreadable(fault))
            del left[name]
            body = msgspec.json.encode(left)
        except (msgspec.DecodeError, RecursionError):
            decode_json(body)
            raise


def _invalid(problem: str) -> ClientError:
    # msgspec ends its message with the place: "Expected `int` >= 0 - at `$.max_tokens`"; it
    # repeats no value
    what, _, place = problem.partition(" - at ")
    param = place.strip("`").removeprefix("$.")
    what = what.replace("`", "'")
    if what.startswith("Object missing required field"):
        name = what.split("'")[1]
        return ClientError(Code.MISSING_INPUT, f"'{name}' is missing.", param=name)
    is_input = param.partition("[")[0] in ("messages", "prompt")
    return ClientError(
        Code.INVALID_INPUT if is_input else Code.INVALID_PARAMETER,
        f"'{param}': {what[:1].lower()}{what[1:]}.",
        param=param,
    )


def _messages(
    given: list[Any], beyond: list[str], unreadable: list[Unreadable]
) -> tuple[Message, ...]:
    """The conversation as text, never empty: an empty message stands for what is none."""
    if not given:
        unreadable.append(as_unreadable(_invalid_input("messages", "is empty")))
    messages = []
    for index, raw in enumerate(given):
        try:
            messages.append(_message(f"messages[{index}]", raw, beyond))
        except ClientError as error:
            unreadable.append(as_unreadable(error))
    return tuple(messages) or (Message("user", ""),)


def _message(where: str, raw: object, beyond: list[str]) -> Message:
    """One message as text; what is no text is named in `beyond`."""
    if not isinstance(raw, dict):
        raise _invalid_input(where, "must be an object")
    role, content = raw.get("role"), raw.get("content")
    if not isinstance(role, str) or not role:
        raise _invalid_input(f"{where}.role", "must be a string")
    if role not in _TEXT_ROLES:
        beyond.append(f"{where}.role")
    for name, value in raw.items():
        if name not in ("role", "content") and value not in (None, "", [], {}):
            beyond.append(f"{where}.{_shown(name)}")
    if content is None or isinstance(content, str):
        return Message(role, content or "")
    if not isinstance(content, list):
        raise _invalid_input(f"{where}.content", "must be a string or a list of parts")
    return Message(role, "\n".join(_texts(where, content, beyond)))


def _texts(where: str, parts: list[Any], beyond: list[str]) -> Iterator[str]:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            beyond.append(f"{where}.{_shown(kind)}")
            continue
        if not isinstance(part.get("text"), str):
            raise _invalid_input(f"{where}.content", "has a text part without a text")
        beyond += [
            f"{where}.{_shown(name)}"
            for name, value in part.items()
            if name not in ("type", "text") and value is not None
        ]
        yield part["text"]


def _parameters(asked: _Options, beyond: list[str], *, is_echoed: bool) -> Parameters:
    """The parameters under the Hugging Face names; what those cannot say is added to `beyond`."""
    maximum, top_p, seed = asked.max_tokens, asked.top_p, asked.seed
    if maximum == 0:
        beyond.append("max_tokens")
        maximum = None
    if top_p == 0:
        beyond.append("top_p")
    if seed is not None and not 0 <= seed <= _MAX_SEED:
        beyond.append("seed")
        seed = None
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or ()
    return Parameters(
        max_new_tokens=maximum,
        temperature=asked.temperature,
        top_k=asked.top_k if asked.top_k not in (0, -1) else None,
        top_p=top_p if top_p not in (0, 1) else None,
        repetition_penalty=asked.repetition_penalty if asked.repetition_penalty != 1 else None,
        return_full_text=is_echoed,
        seed=seed,
        stop=tuple(text for text in stop if text) or None,
        num_return_sequences=asked.n if asked.n != 1 else None,
    )


def _unread(fields: Mapping[str, Raw], format_: str) -> Iterator[str]:
    """The names of the fields that are for this format alone, and ask for something."""
    for name, raw in fields.items():
        if name not in _READ[format_] and not _asks_nothing(name, raw):
            yield _shown(name)


def _asks_nothing(name: str, raw: Raw) -> bool:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):  # a number beyond all bounds, say
        return False
    return value is None or any(
        value == nothing and isinstance(value, bool) == isinstance(nothing, bool)
        for nothing in _ASKS_NOTHING.get(name, ())
    )


def _wants_usage(asked: _Options, beyond: list[str]) -> bool:
    options = asked.stream_options or {}
    if asked.stream:
        beyond += [
            f"stream_options.{_shown(name)}"
            for name, value in options.items()
            if name != "include_usage" and value not in (None, False)
        ]
    return options.get("include_usage") is True


def _is_of(items: list[Any], kind: type) -> bool:
    return bool(items) and all(type(item) is kind for item in items)


def _is_tokens(prompt: list[Any]) -> bool:
    """Whether a prompt is token numbers, or several that are."""
    if _is_of(prompt, list):
        return all(_is_of(item, int) for item in prompt)
    return _is_of(prompt, int)


def _shown(name: object) -> str:
    """A field's name, if it is one that may be repeated."""
    return name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else "(unknown)"


def _invalid_input(param: str, problem: str) -> ClientError:
    return ClientError(Code.INVALID_INPUT, f"'{param}' {problem}.", param=param)


_NO_PROMPT = Unreadable("prompt", Code.MISSING_INPUT, "'prompt' is missing.")
_DIFFERENT_MAXIMA = Unreadable(
    "max_completion_tokens",
    Code.INVALID_PARAMETER,
    "'max_tokens' and 'max_completion_tokens' differ.",
    "Name one of them.",
)
