"""The original script's format: POST /generate with {"input": ...}, answered with a list.

Its promises are kept to the letter but for the table in docs/from-the-flask-script.md: two
texts that clients match on (`MISSING_INPUT`, `UPSTREAM_FAILED`), 400 for a request without
`input`, 502 for whatever goes wrong upstream, 20 seconds of patience.

What the script had not is a stream: with "stream": true the answer comes as server-sent events,
{"text": PIECE} for each piece, then {"done": true, "generated_text": TEXT, "usage": COUNTS or
null}. A stream that breaks ends with the error in place of the last of them.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

import msgspec
from msgspec import Struct

from keyhole.catalog import is_model_name
from keyhole.dialects.base import decode_json, limit_headers
from keyhole.dialects.hf_parameters import full_text, read_parameters, read_stream
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer, Stamp, Usage
from keyhole.wire.call import Call, Parameters
from keyhole.wire.events import Delta, Event, Finish
from keyhole.wire.http import JSON, Head, Reply
from keyhole.wire.sse import frame

MISSING_INPUT = "Invalid request. 'input' key is required."
VERBATIM = "huggingface"
"""The format of answers that are handed on as they came: the one that the script passed on."""
UPSTREAM_FAILED = "Could not connect to the text generation service."


_NO_PARAMETERS = Parameters()


class _Usual(Struct, frozen=True, forbid_unknown_fields=True):
    """The body that nearly all clients send: read in one pass, 3 us sooner than step by step.

    What is not quite so is left to `_read`, which takes more and tells what is wrong. So are
    names that nobody knows: msgspec does not look whether a value that it skips is UTF-8.
    """

    input: str | list[Any]
    parameters: Parameters | None = None
    model: str | None = None
    stream: bool | None = None


_USUAL = msgspec.json.Decoder(_Usual)


class GenerateDialect:
    """POST /generate, as clients of the original script speak it."""

    name = "generate"
    paths = frozenset({"/generate"})
    prefixes: tuple[str, ...] = ()
    first_byte_timeout_s = 20.0

    def decode(self, head: Head, body: bytes) -> Call:  # noqa: ARG002  # the path says nothing
        """Read `input`, `model`, `parameters` and `stream`; other names are ignored, as ever."""
        try:
            asked = _USUAL.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _read(body)
        parameters = asked.parameters or _NO_PARAMETERS
        wants_stream = bool(asked.stream) and read_stream(asked.stream, asked.input, parameters)
        return Call(
            model=None if asked.model is None else _model_name(asked.model),
            input=asked.input,
            parameters=parameters,
            wants_stream=wants_stream,
            wants_usage=wants_stream,
        )

    def encode(self, call: Call, answer: Answer, stamp: Stamp) -> bytes:  # noqa: ARG002
        """The upstream's JSON as it came, or [{"generated_text": ...}] made from its texts.

        A list of prompts gives a list for each prompt, as the transformers pipeline does.
        """
        if answer.verbatim is not None and answer.format == VERBATIM:
            return answer.verbatim
        prompts = call.input if isinstance(call.input, list) else [call.input]
        rows = [
            [
                {"generated_text": full_text(call, prompt, text, is_chat=answer.is_chat)}
                for text in texts
            ]
            for prompt, texts in zip(prompts, answer.texts, strict=True)
        ]
        return msgspec.json.encode(rows if isinstance(call.input, list) else rows[0])

    def stream(self, call: Call, stamp: Stamp, *, is_chat: bool) -> GenerateWriter:
        """The texts as they come, then the whole of them."""
        return GenerateWriter(call, stamp.request_id, is_chat=is_chat)

    def refuse(self, error: KeyholeError, request_id: str) -> Reply:
        """{"error": TEXT, "code": SLUG, "request_id": ID}, with `detail` for an upstream's."""
        headers = [("content-type", JSON)]
        match error:
            case UpstreamError():
                status = 502
                if error.retry_after is not None:
                    headers.append(("retry-after", error.retry_after))
            case ClientError():
                status = error.status
                if error.allow:
                    headers.append(("allow", ", ".join(error.allow)))
                headers += limit_headers(error)
            case GatewayError():
                status = error.status
            case _:
                status = 500
        return Reply(status=status, headers=headers, body=_error(error, request_id))


class GenerateWriter:
    """Writes one stream of this dialect."""

    __slots__ = ("_call", "_full_text", "_is_chat", "_request_id", "_texts", "_usage")

    heartbeat = b":\n\n"

    def __init__(self, call: Call, request_id: str, *, is_chat: bool) -> None:
        self._call = call
        self._request_id = request_id
        self._is_chat = is_chat
        self._texts = StringIO()  # a list of pieces takes ten times their bytes
        self._full_text: str | None = None
        self._usage: Usage | None = None

    def write(self, event: Event) -> bytes:
        """A frame for each piece that is not empty."""
        if isinstance(event, Delta):
            if event.text and event.choice == 0:
                self._texts.write(event.text)
                return frame(msgspec.json.encode({"text": event.text}))
        elif isinstance(event, Finish):
            if event.choice == 0:
                self._full_text = event.full_text
        else:
            self._usage = event.usage
        return b""

    def end(self) -> bytes:
        """The whole text, with its prompt in front where an answer that is whole has it."""
        text = self._texts.getvalue() if self._full_text is None else self._full_text
        whole = full_text(self._call, str(self._call.input), text, is_chat=self._is_chat)
        done = {"done": True, "generated_text": whole, "usage": self._usage}
        return frame(msgspec.json.encode(done))

    def fail(self, error: KeyholeError) -> bytes:
        """What a refusal has for its body."""
        return frame(_error(error, self._request_id))


def _read(body: bytes) -> Call:
    """What the client asks for, step by step; raises ClientError."""
    value = decode_json(body)
    if not isinstance(value, dict) or "input" not in value:
        raise ClientError(Code.MISSING_INPUT, MISSING_INPUT)
    wanted = value["input"]
    if not isinstance(wanted, (str, list)):
        raise ClientError(Code.INVALID_INPUT, "'input' must be a string or a list.", hint=None)
    parameters = read_parameters(value.get("parameters"))
    wants_stream = read_stream(value.get("stream"), wanted, parameters)
    return Call(
        model=_model_name(value.get("model")),
        input=wanted,
        parameters=parameters,
        wants_stream=wants_stream,
        wants_usage=wants_stream,
    )


def _error(error: KeyholeError, request_id: str) -> bytes:
    body: dict[str, Any] = {"error": error.explained}
    if isinstance(error, UpstreamError):
        body = {"error": UPSTREAM_FAILED, "detail": error.explained}
    return msgspec.json.encode(body | {"code": error.code, "request_id": request_id})


def _model_name(raw: object) -> str | None:
    if raw is None:
        return None
    if not isinstance(raw, str) or not is_model_name(raw):
        raise ClientError(
            Code.INVALID_PARAMETER,
            "'model' is not a model name.",
            hint="A name looks like 'gpt2', 'owner/name' or 'owner/name:provider'.",
        )
    return raw
