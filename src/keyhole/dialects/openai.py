"""The OpenAI format: chat completions, and the older text completions.

Only the half that asks an upstream; clients cannot speak it to Keyhole yet. Nothing is sent
that was not asked for: transformers serve refuses names that it does not know, and servers
differ in what they default to. `n` is never used, because most servers ignore it.

Facts (openai-python 3.54.0; vLLM 0.28; transformers 5.23 cli/serving; November 2026):
- `max_tokens` is understood everywhere but by OpenAI's own chat of reasoning models, which
  wants `max_completion_tokens`; text completions know only `max_tokens`;
- `temperature: 0` is greedy decoding; there is no do_sample;
- `content` is null in a refusal or a tool call, and a list of parts from some servers.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from keyhole.dialects.base import NotThisFormatError, decode_upstream_json, read_usage
from keyhole.wire.answer import Usage
from keyhole.wire.call import Parameters


class _Message(Struct, frozen=True):
    content: str | list[Any] | None = None


class _ChatChoice(Struct, frozen=True):
    message: _Message


class _Chat(Struct, frozen=True):
    choices: Annotated[list[_ChatChoice], Meta(min_length=1)]
    usage: Any = None


class _TextChoice(Struct, frozen=True):
    text: str


class _Completion(Struct, frozen=True):
    choices: Annotated[list[_TextChoice], Meta(min_length=1)]
    usage: Any = None


def encode_chat(
    model: str, prompt: str, wanted: Parameters, *, maximum: str = "max_tokens"
) -> bytes:
    """The body of `POST /chat/completions` with one user message.

    `maximum` is the server's name for the most tokens it may generate.
    """
    messages = [{"role": "user", "content": prompt}]
    return msgspec.json.encode(
        {"model": model, "messages": messages, **_options(wanted, maximum)},
    )


def encode_completion(model: str, prompt: str, wanted: Parameters) -> bytes:
    """The body of `POST /completions` for one prompt."""
    return msgspec.json.encode(
        {"model": model, "prompt": prompt, **_options(wanted, "max_tokens")},
    )


def decode_chat(body: bytes) -> tuple[str, Usage | None]:
    """The text of the first choice, and the usage; raises NotThisFormatError."""
    chat = decode_upstream_json(body, _Chat)
    return _content(chat.choices[0].message.content), _usage(chat.usage)


def decode_completion(body: bytes) -> tuple[str, Usage | None]:
    """The text of the first choice, and the usage; raises NotThisFormatError."""
    completion = decode_upstream_json(body, _Completion)
    return completion.choices[0].text, _usage(completion.usage)


def _options(wanted: Parameters, maximum: str) -> dict[str, Any]:
    """The parameters under this format's names; top_k and repetition_penalty are vLLM's."""
    options = {
        maximum: wanted.max_new_tokens,
        "temperature": 0 if wanted.is_greedy else wanted.temperature,
        "top_p": wanted.top_p,
        "top_k": wanted.top_k,
        "repetition_penalty": wanted.repetition_penalty,
        "seed": wanted.seed,
        "stop": wanted.stop or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _content(content: str | list[Any] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    parts = [part["text"] for part in content if isinstance(part, dict) and "text" in part]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise NotThisFormatError("no text in the parts")
    return "".join(parts)


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    return read_usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))
