"""The OpenAI dialect: chat completions, text completions and the list of models.

It neither routes nor streams (writer.py does), and makes no answer of more than was said: no
log-probabilities, no fingerprint. The one exception is the usage, which clients rely on: it is
zeros where the upstream told none.

Facts (openai-python 3.54.0 types, November 2026): a list of k prompts with n choices each is
answered with k * n choices, prompt by prompt; a model's name may hold a slash, which the SDKs
escape in a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct

from keyhole.catalog import Catalog, is_model_name
from keyhole.dialects.base import EventWriter
from keyhole.dialects.openai import CHAT, faults
from keyhole.dialects.openai.request import decode_chat_call, decode_completion_call
from keyhole.dialects.openai.writer import FINISHES, StreamWriter, head, usage_fields
from keyhole.errors import ClientError, Code, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call
from keyhole.wire.http import JSON, Head, Page, Reply
from keyhole.wire.keys import Key
from keyhole.wire.records import AccessRecord
from keyhole.wire.stops import cut

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
MODELS_PATH = "/v1/models"


class OpenAiDialect:
    """POST /v1/chat/completions and /v1/completions."""

    name = "openai"
    paths = frozenset({CHAT_PATH, COMPLETION_PATH})
    prefixes: tuple[str, ...] = ()
    first_byte_timeout_s = 300.0

    def decode(self, head: Head, body: bytes) -> Call:
        """What is asked; a path that does not end like text completions' is for a chat."""
        if head.path.endswith("/chat/completions"):
            return decode_chat_call(body)
        return decode_completion_call(body)

    def encode(self, call: Call, answer: Answer, record: AccessRecord) -> bytes:
        """The upstream's own object under the public model's name, or one made of the texts.

        Raises UpstreamError for an answer in another format that has no texts.
        """
        asked = call.original.format if call.original else ""
        if answer.verbatim is not None and answer.format == asked:
            return rename_model(answer.verbatim, record.public_model)
        if not answer.texts:
            raise UpstreamError(
                Code.UPSTREAM_NOT_JSON, "The upstream's answer has no text where texts stand."
            )
        body: dict[str, Any] = {
            **head(call, record),
            "object": "chat.completion" if asked == CHAT else "text_completion",
            "choices": _choices(call, answer, is_chat=asked == CHAT),
        }
        body["usage"] = usage_fields(answer.usage)
        return msgspec.json.encode(body)

    def stream(self, call: Call, record: AccessRecord, *, is_chat: bool) -> EventWriter:  # noqa: ARG002
        """What writes the stream that answers the call; the path says whether it is a chat."""
        return StreamWriter(call, record)

    def refuse(self, error: KeyholeError, request_id: str) -> Reply:
        """{"error": {"message", "type", "param", "code", "request_id"}}."""
        return faults.refuse(error, request_id)


class _Named(Struct, frozen=True):
    model: str | None = None


def rename_model(body: bytes, model: str) -> bytes:
    """An answer's JSON with the public name in `model`; as it came where it has that or none."""
    try:
        if msgspec.json.decode(body, type=_Named).model in (None, model):
            return body
        fields = msgspec.json.decode(body, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body  # not an object with a name; whoever made the Answer let it through
    return msgspec.json.encode({**fields, "model": model})


def models_page(
    catalog: Catalog, created_unix_s: int, may_use: Callable[[Key | None, str], bool]
) -> Page:
    """The page of GET /v1/models, and of /v1/models/{name} for each name that a route answers to.

    Routes whose name is a pattern are not in the list, and whoever has a key hears of the models
    that it may use. The page raises ClientError (404).
    """

    def show(head: Head, key: Key | None) -> Reply:
        named = () if key is None else key.models
        may = partial(may_use, key)
        return show_models(head, catalog, created_unix_s, may_use=may, named=named)

    return show


def show_models(
    head: Head,
    catalog: Catalog,
    created_unix_s: int,
    *,
    may_use: Callable[[str], bool] = lambda _: True,
    named: Iterable[str] = (),
) -> Reply:
    """The reply of that page to somebody who may use only some models, and hears of no others.

    `named` are names beside those of routes, such as the ones that a key was given; those that a
    pattern answers for are in the list too. Raises ClientError (404).
    """
    name = unquote(head.path.removeprefix(MODELS_PATH).removeprefix("/"))
    if name:
        return _reply(_model(_known(catalog, name, may_use), created_unix_s))
    names = [route.name for route in catalog.routes if not route.is_pattern]
    names += [n for n in named if "*" not in n and n not in names and catalog.find(n) is not None]
    models = [_model(name, created_unix_s) for name in names if may_use(name)]
    return _reply({"object": "list", "data": models})


def _choices(call: Call, answer: Answer, *, is_chat: bool) -> list[dict[str, Any]]:
    texts = [text for row in answer.texts for text in row]
    finishes = [reason for row in answer.finishes for reason in row]
    if len(finishes) != len(texts):  # nobody said, or not of all
        finishes = ["stop"] * len(texts)
    prompts = _prompts(call, answer)
    choices = []
    for index, (text, prompt, finish) in enumerate(zip(texts, prompts, finishes, strict=True)):
        shown = cut(text, call.parameters.stop or ())
        choice: dict[str, Any] = {"index": index}
        if is_chat:
            choice["message"] = {"role": "assistant", "content": shown, "refusal": None}
        else:
            choice["text"] = prompt + shown
        choice["logprobs"] = None
        choice["finish_reason"] = "stop" if shown != text else FINISHES.get(finish, finish)
        choices.append(choice)
    return choices


def _prompts(call: Call, answer: Answer) -> list[str]:
    """What stands before each text: its prompt, where that is wanted."""
    rows = answer.texts
    if not call.parameters.return_full_text:
        return [""] * sum(map(len, rows))
    prompts = call.input if isinstance(call.input, list) else [call.input]
    return [str(prompt) for prompt, row in zip(prompts, rows, strict=True) for _ in row]


def _known(catalog: Catalog, name: str, may_use: Callable[[str], bool]) -> str:
    if not is_model_name(name) or not may_use(name) or catalog.find(name) is None:
        shown = f" '{name}'" if is_model_name(name) else " of that name"
        raise ClientError(
            Code.MODEL_NOT_FOUND,
            f"There is no model{shown}.",
            status=404,
            hint=f"GET {MODELS_PATH} lists those that there are.",
            param="model",
        )
    return name


def _model(name: str, created_unix_s: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_unix_s, "owned_by": "keyhole"}


def _reply(value: dict[str, Any]) -> Reply:
    headers = [("content-type", JSON)]
    return Reply(status=200, headers=headers, body=msgspec.json.encode(value))
