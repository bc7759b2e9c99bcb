"""The hosted Inference API's format: {"inputs": ..., "parameters": ...}, answered with a list.

Both directions. Towards an upstream it normalises nothing: what the client named goes on under
the same name, and the answer is kept as it came; the texts are read beside that, where they
stand where they usually do. Towards clients it is that API as it was before it was retired: the
model's name in the path, the prompt in front of the text, `details` and streams as TGI has them.

Of the `options`, `use_cache` and `wait_for_model` and the headers of the same meaning are taken
whatever the upstream. They say how that API went about its work: whether it might answer from a
cache (there is none here) and whether it should wait for a model to load, which we do unless told
otherwise. Other options are refused where they cannot be passed on, but for the `use_gpu: false`
that InferenceApi of old huggingface_hub always sent.

Facts (hub-docs 99e4e05a of 2022 and 11595829 of 2024, api-inference-community 2fd0029,
huggingface.js recordings to April 2025):
- one prompt is answered with [{"generated_text": PROMPT + TEXT}], one object for each of
  num_return_sequences; a list of prompts with a list of such lists, or (so the documentation
  says, and nobody has seen it lately) with one object for each prompt;
- models that answer a prompt instead of continuing it leave the prompt out;
- an error is {"error": TEXT}, while a model loads with `estimated_time` in seconds, and with
  `warnings` where the model failed; a parameter out of its range is 400;
- a body that is a string, a number or a list is the inputs themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from keyhole.catalog import is_model_name
from keyhole.dialects.base import decode_json, decode_upstream_json
from keyhole.dialects.hf_body import EXAMPLE, read_body
from keyhole.dialects.hf_parameters import full_text, read_stream
from keyhole.dialects.hf_replies import LOADING_S, headers_of, reason_of, status_of
from keyhole.dialects.tgi import read_reason
from keyhole.dialects.tgi_stream import TgiWriter, make_details
from keyhole.errors import ClientError, Code, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call, Original, Parameters
from keyhole.wire.events import Reason
from keyhole.wire.http import Head, Reply
from keyhole.wire.records import AccessRecord

FORMAT = "huggingface"

Texts = tuple[tuple[str, ...], ...]

_NO_PARAMETERS = Parameters()
_PREFIXES = ("/models/", "/hf-inference/models/")
_FIELDS = frozenset({"inputs", "parameters", "options", "stream", "model"})
_JSON_SPACE = b" \t\r\n"
_RAW_INPUTS = tuple(bytes([byte]) for byte in b'"[-0123456789')
_OPTION_HEADERS = (("use_cache", b"x-use-cache"), ("wait_for_model", b"x-wait-for-model"))


class _Row(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What one text usually comes in: read into this, a whole answer takes 2 us less.

    Nothing may stand beside it, for msgspec does not look whether a value that it skips is UTF-8.
    """

    generated_text: str


_USUAL = msgspec.json.Decoder(list[_Row])
_ENCODE = msgspec.json.Encoder().encode


# The client's half


def encode_request(
    inputs: str | list[Any], parameters: Parameters, *, stream: bool = False
) -> bytes:
    """The body of `POST /models/{model}`; without parameters it is the original script's own."""
    body: dict[str, Any] = {"inputs": inputs}
    if parameters != _NO_PARAMETERS:
        body["parameters"] = parameters
    if stream:
        body["stream"] = True
    return _ENCODE(body)


def encode_original(original: Original, more: dict[str, Any], *, stream: bool = False) -> bytes:
    """The body of a request in this format, or TGI's, as its client sent it.

    Parameters are added to it, or replaced; `stream` is there only where it is true.
    """
    fields: dict[str, Any] = {
        name: value for name, value in original.fields.items() if name != "stream"
    }
    if more:
        raw = original.fields.get("parameters", b"null")
        given: dict[str, Any] | None = msgspec.json.decode(raw, type=dict[str, Raw] | None)
        fields["parameters"] = (given or {}) | more
    if stream:
        fields["stream"] = True
    return msgspec.json.encode(fields)


def decode_response(body: bytes, call: Call) -> Texts:
    """The texts without their prompts, for each prompt; raises NotThisFormatError if not JSON.

    Empty where the JSON is valid but no list of generated texts.
    """
    prompt = call.input
    is_whole = call.parameters.return_full_text is not False
    if isinstance(prompt, str):
        try:
            usual = _USUAL.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # it is something else, or it is no JSON: looked at more closely below
        else:
            texts = [row.generated_text for row in usual]
            return (tuple([text.removeprefix(prompt) for text in texts] if is_whole else texts),)
    value = decode_upstream_json(body, Any)
    prompts = call.input if isinstance(call.input, list) else [call.input]
    rows = _rows(value, is_batch=isinstance(call.input, list))
    if rows is None or len(rows) != len(prompts):
        return ()
    return tuple(
        tuple(_continuation(text, prompt) if is_whole else text for text in row)
        for row, prompt in zip(rows, prompts, strict=True)
    )


def decode_reason(body: bytes) -> Reason | None:
    """Why the only text of a good answer ended, if it has TGI's details."""
    value = msgspec.json.decode(body)
    only = value[0] if isinstance(value, list) and len(value) == 1 else value
    return read_reason(only.get("details")) if isinstance(only, dict) else None


def tells_error(body: bytes) -> bool:
    """Whether a good answer's JSON is an object that tells an error."""
    value = msgspec.json.decode(body)
    return isinstance(value, dict) and bool(value.get("error"))


def _rows(value: object, *, is_batch: bool) -> list[list[str]] | None:
    """The generated texts for each prompt; None where they are not in their usual place."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    groups = [item if isinstance(item, list) else [item] for item in value] if is_batch else [value]
    rows = []
    for group in groups:
        texts = [item.get("generated_text") for item in group if isinstance(item, dict)]
        row = [text for text in texts if isinstance(text, str)]
        if len(row) != len(group):
            return None
        rows.append(row)
    return rows


def _continuation(text: str, prompt: object) -> str:
    return text.removeprefix(prompt) if isinstance(prompt, str) else text


# The server's half


class HuggingFaceDialect:
    """POST /models/{model}, as clients of the hosted API speak it; also below /hf-inference."""

    name = "huggingface"
    paths: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = _PREFIXES
    first_byte_timeout_s = 300.0

    def decode(self, head: Head, body: bytes) -> Call:
        """Read the model from the path, and `inputs`, `parameters`, `options` and `stream`."""
        model = _model(head.path)
        asked = read_body(_whole(body), fields=_FIELDS)
        if not isinstance(asked.inputs, str | list):
            raise ClientError(Code.INVALID_INPUT, "'inputs' must be a string or a list.")
        options = _options(asked.options, head)
        others = sorted(f"options.{name}" for name in options if _is_other(name, options[name]))
        fields = {**asked.fields, "options": Raw(msgspec.json.encode(options))}
        return Call(
            model=model,
            input=asked.inputs,
            parameters=asked.parameters,
            wants_stream=read_stream(asked.stream, asked.inputs, asked.parameters),
            wants_usage=asked.wants_details,
            waits_for_model=options.get("wait_for_model") is not False,
            original=Original(
                format=FORMAT,
                fields=fields if options else asked.fields,
                beyond=(*asked.beyond, *others),
                unreadable=asked.unreadable,
            ),
        )

    def encode(self, call: Call, answer: Answer, record: AccessRecord) -> bytes:  # noqa: ARG002
        """The upstream's JSON as it came, or a list made of the texts.

        A list of prompts gives a list for each prompt, as the transformers pipeline does.
        """
        if answer.verbatim is not None:
            return answer.verbatim if answer.format == FORMAT else b"[%b]" % answer.verbatim
        prompts = call.input if isinstance(call.input, list) else [call.input]
        rows = [
            [_row(call, answer, at, choice) for choice in range(len(answer.texts[at]))]
            for at in range(len(prompts))
        ]
        return msgspec.json.encode(rows if isinstance(call.input, list) else rows[0])

    def stream(self, call: Call, record: AccessRecord, *, is_chat: bool) -> TgiWriter:  # noqa: ARG002
        """TGI's frames."""
        return TgiWriter(call, is_chat=is_chat)

    def refuse(self, error: KeyholeError, request_id: str) -> Reply:  # noqa: ARG002
        """{"error": TEXT}, with `estimated_time` or `warnings` where that API had them."""
        body: dict[str, Any] = {"error": _words(error)}
        if error.code == Code.UPSTREAM_LOADING and isinstance(error, UpstreamError):
            estimate, told = error.estimated_time_s, error.retry_after or ""
            if estimate is None:
                estimate = float(told if told.isdigit() else LOADING_S)
            body["estimated_time"] = estimate
        elif error.code == Code.UPSTREAM_ERROR:
            body["warnings"] = [f"There was an inference error: {error.message}"]
        status = status_of(error, invalid=400)
        return Reply(status=status, headers=headers_of(error), body=msgspec.json.encode(body))


def _model(path: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if path.startswith(prefix)), "")
    model = path.removeprefix(prefix)
    if not prefix or not is_model_name(model):
        raise ClientError(
            Code.MODEL_NOT_FOUND,
            "What follows /models/ in the path is not a model name.",
            status=404,
            hint="A name looks like 'gpt2', 'owner/name' or 'owner/name:provider'.",
        )
    return model


def _whole(body: bytes) -> bytes:
    """The body, or an object made of one that is only the inputs; raises ClientError."""
    raw = body.strip(_JSON_SPACE)
    if not raw.startswith(_RAW_INPUTS):
        return body
    value = decode_json(raw, example=EXAMPLE)
    is_number = isinstance(value, int | float)
    return b'{"inputs":"%b"}' % raw if is_number else b'{"inputs":%b}' % raw


def _is_other(name: str, value: object) -> bool:
    """Whether an option asks for something that an upstream of another format cannot be asked."""
    is_known = name in ("use_cache", "wait_for_model")
    return not is_known and value is not None and (name, value) != ("use_gpu", False)


def _options(given: object, head: Head) -> Mapping[str, Any]:
    """The options of the body, and those that the headers add; raises ClientError."""
    if given is not None and not isinstance(given, dict):
        raise ClientError(Code.INVALID_PARAMETER, "'options' must be an object.")
    options: dict[str, Any] = dict(given or {})
    for name, header in _OPTION_HEADERS:
        if not isinstance(options.get(name), bool | None):
            raise ClientError(
                Code.INVALID_PARAMETER, f"'{name}' in 'options' must be true or false."
            )
        said = (head.first(header) or b"").strip().lower()
        if options.get(name) is None and said in (b"true", b"1", b"false", b"0"):
            options[name] = said in (b"true", b"1")
    return options


def _row(call: Call, answer: Answer, at: int, choice: int) -> dict[str, Any]:
    prompt = call.input[at] if isinstance(call.input, list) else call.input
    text = answer.texts[at][choice]
    row: dict[str, Any] = {"generated_text": full_text(call, prompt, text, is_chat=answer.is_chat)}
    if call.wants_usage:
        is_only = len(answer.texts) == len(answer.texts[at]) == 1
        usage = answer.usage if is_only else None
        row["details"] = make_details(call, reason_of(answer, at, choice), usage)
    return row


def _words(error: KeyholeError) -> str:
    """The error in that API's words where it had some, for clients that know it by them."""
    if error.model is None:
        return error.explained
    if error.code == Code.UPSTREAM_LOADING:
        return f"Model {error.model} is currently loading"
    if error.code in (Code.MODEL_NOT_FOUND, Code.UPSTREAM_MODEL_NOT_FOUND):
        does_not_exist = f"Model {error.model} does not exist"
        return f"{does_not_exist}. {error.hint}" if error.hint else does_not_exist
    return error.explained
