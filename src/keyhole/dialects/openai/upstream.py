"""What an upstream of the OpenAI format is asked, and what it answers; streams are in reader.py.

A request in the same format goes on with every field that it came with. One that is translated
holds nothing that was not asked for: transformers serve refuses names that it does not know,
and servers differ in what they default to. `n` is never translated to, because most servers
ignore it.

Facts (openai-python 3.54.0; vLLM 0.28; transformers 5.23 cli/serving; November 2026):
- `max_tokens` is understood everywhere but by OpenAI's own chat of reasoning models, which
  wants `max_completion_tokens`; text completions know only `max_tokens`;
- `temperature: 0` is greedy decoding; there is no do_sample;
- `content` is null in a refusal or a tool call, and a list of parts from some servers;
- a stream tells what it used only when `stream_options` asks for it, but in transformers serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from keyhole.dialects.base import NotThisFormatError, decode_upstream_json, read_usage
from keyhole.wire.answer import Usage
from keyhole.wire.call import Message, Parameters
from keyhole.wire.events import Reason

Told = tuple[str, Usage | None, Reason | None]
"""A text, what it took, and why it ended."""

_NOTHING: Mapping[str, Raw] = {}
_TRUE = Raw(b"true")
_MAXIMA = ("max_tokens", "max_completion_tokens")

_REASONS: Mapping[str, Reason] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "eos": "eos",
    "eos_token": "eos",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class _Message(Struct, frozen=True):
    content: str | list[Any] | None = None


class _ChatChoice(Struct, frozen=True):
    message: _Message
    finish_reason: Any = None


class _Chat(Struct, frozen=True):
    choices: Annotated[list[_ChatChoice], Meta(min_length=1)]
    usage: Any = None


class _TextChoice(Struct, frozen=True):
    text: str
    finish_reason: Any = None


class _Completion(Struct, frozen=True):
    choices: Annotated[list[_TextChoice], Meta(min_length=1)]
    usage: Any = None


class Whole(Struct, frozen=True):
    """What a whole answer says, of all its choices."""

    texts: tuple[str, ...]
    finishes: tuple[Reason, ...]
    """Empty where it does not say."""
    usage: Usage | None


# Requests


def encode_chat(
    model: str,
    messages: str | Sequence[Message],
    wanted: Parameters,
    *,
    maximum: str = "max_tokens",
    is_stream: bool = False,
    more: Mapping[str, Raw] = _NOTHING,
) -> bytes:
    """The body of `POST /chat/completions`; a text is one message of the user.

    `maximum` is the server's name for the most tokens it may generate, `more` what else is asked.
    """
    if isinstance(messages, str):
        messages = (Message("user", messages),)
    options = _options(wanted, maximum) | _stream_options(is_stream=is_stream)
    return msgspec.json.encode({"model": model, "messages": messages, **options, **more})


def encode_completion(
    model: str,
    prompt: str,
    wanted: Parameters,
    *,
    is_stream: bool = False,
    more: Mapping[str, Raw] = _NOTHING,
) -> bytes:
    """The body of `POST /completions` for one prompt."""
    options = _options(wanted, "max_tokens") | _stream_options(is_stream=is_stream)
    return msgspec.json.encode({"model": model, "prompt": prompt, **options, **more})


def encode_again(
    fields: Mapping[str, Raw],
    model: str,
    *,
    maximum: str,
    max_output_tokens: int | None,
    is_stream: bool,
) -> bytes:
    """The body that a client sent, under the upstream's name for the model.

    With `max_output_tokens` if the client named no maximum, and a stream is asked to say at its
    end what it used; every other field goes on as it came.
    """
    changed = {**fields, "model": _raw(model)}
    if max_output_tokens is not None and not any(_is_said(fields, name) for name in _MAXIMA):
        changed[maximum] = _raw(max_output_tokens)
    if is_stream:
        changed["stream"] = _TRUE
        options = {}
        if _is_said(fields, "stream_options"):
            options = msgspec.json.decode(fields["stream_options"], type=dict[str, Raw])
        changed["stream_options"] = _raw({**options, "include_usage": _TRUE})
    return msgspec.json.encode(changed)


def _options(wanted: Parameters, maximum: str) -> dict[str, Any]:
    """The parameters under this format's names; top_k and repetition_penalty are vLLM's.

    A top_p and a repetition_penalty of 1 ask for nothing.
    """
    penalty = wanted.repetition_penalty
    options = {
        maximum: wanted.max_new_tokens,
        "temperature": 0 if wanted.is_greedy else wanted.temperature,
        "top_p": None if wanted.top_p == 1 else wanted.top_p,
        "top_k": wanted.top_k,
        "repetition_penalty": None if penalty == 1 else penalty,
        "seed": wanted.seed,
        "stop": wanted.stop or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _stream_options(*, is_stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}


def _is_said(fields: Mapping[str, Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) != b"null"


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


# Answers


def decode_chat(body: bytes) -> Told:
    """The first choice of a chat completion; raises NotThisFormatError."""
    chat = decode_upstream_json(body, _Chat)
    choice = chat.choices[0]
    text = read_content(choice.message.content)
    return text, read_usage_object(chat.usage), read_reason(choice.finish_reason)


def decode_completion(body: bytes) -> Told:
    """The first choice of a text completion; raises NotThisFormatError."""
    completion = decode_upstream_json(body, _Completion)
    choice = completion.choices[0]
    return choice.text, read_usage_object(completion.usage), read_reason(choice.finish_reason)


def decode_whole_chat(body: bytes) -> Whole:
    """Every choice of a chat completion, for one that is handed on; raises NotThisFormatError.

    Whatever is no text, such as a tool call or a thought, is an empty one here.
    """
    chat = decode_upstream_json(body, _Chat)
    texts = []
    for choice in chat.choices:
        try:
            texts.append(read_content(choice.message.content))
        except NotThisFormatError:
            texts.append("")
    return _whole(texts, chat.choices, chat.usage)


def decode_whole_completion(body: bytes) -> Whole:
    """Every choice of a text completion, for one that is handed on; raises NotThisFormatError."""
    completion = decode_upstream_json(body, _Completion)
    texts = [choice.text for choice in completion.choices]
    return _whole(texts, completion.choices, completion.usage)


def _whole(texts: list[str], choices: Sequence[_ChatChoice | _TextChoice], usage: object) -> Whole:
    reasons = [read_reason(choice.finish_reason) for choice in choices]
    finishes = tuple(reason for reason in reasons if reason is not None)
    return Whole(
        tuple(texts),
        finishes if len(finishes) == len(texts) else (),
        read_usage_object(usage),
    )


def read_content(content: str | list[Any] | None) -> str:
    """The text of a message or a delta; raises NotThisFormatError for parts without any."""
    if not isinstance(content, list):
        return content or ""
    parts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise NotThisFormatError("no text in the parts")
    return "".join(parts)


def read_reason(reason: object) -> Reason | None:
    """Why a text ended; None while it has not. A word that nobody knows is a stop."""
    if not isinstance(reason, str) or not reason:  # TGI says "" until the end
        return None
    return _REASONS.get(reason, "stop")


def read_usage_object(usage: object) -> Usage | None:
    """What was used, if the object says so credibly."""
    if not isinstance(usage, dict):
        return None
    return read_usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))
