"""TGI's streams: reads an upstream's frames, and writes those that TGI's clients expect.

Shared by every dialect and backend whose streams these are: TGI, the engine, the hosted API.
The frames themselves are cut in `wire.sse`.

Facts (text-generation-inference db931fcf and its recorded streams, huggingface_hub 2.4.0,
@huggingface/inference 4.13.30, langchain_huggingface 1.2.3; November 2026):
- each token has a frame; the last one has `generated_text` too, and `details` where asked for.
  A special token, such as the end of text, is no part of the text;
- huggingface_hub wants a `token` in every frame that is no error, ends at `data: [DONE]`, which
  TGI never sends, and takes the end of the body for an end;
- an error is told in a frame, under status 200: {"error": TEXT, "error_type": WORD}, and by
  what stands in front of TGI or speaks its format in two other shapes (`_failure`);
- huggingface_hub makes exceptions of the types generation, incomplete_generation, overloaded
  and validation, and of every other one the same unknown error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import msgspec
from msgspec import Struct

from keyhole.dialects.base import (
    NotThisFormatError,
    StreamFailedError,
    decode_upstream_json,
    read_usage,
)
from keyhole.dialects.hf_parameters import full_text
from keyhole.dialects.tgi import Details, FinishReason, Token, read_reason
from keyhole.errors import Code, KeyholeError, UpstreamError
from keyhole.wire import events
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Counted, Delta, Event, Finish
from keyhole.wire.sse import frame

HEARTBEAT = b":\n\n"

_STATUS: Mapping[str, int] = {
    "validation": 422,
    "template_error": 422,
    "tool_error": 422,
    "missing_template_variable": 422,
    "generation": 424,
    "overloaded": 429,
    "unhealthy": 503,
    "incomplete_generation": 500,
    "incomplete_generation_stream": 500,
    "stream_serialization_error": 500,
}
"""The status that TGI has for a type of error outside of streams."""

_ERROR_TYPES: Mapping[Code, str] = {
    Code.UPSTREAM_RATE_LIMITED: "overloaded",
    Code.UPSTREAM_REFUSED_REQUEST: "validation",
    Code.UPSTREAM_UNREACHABLE: "incomplete_generation",
}
_DONE = b"[DONE]"


# What an upstream sends


class _Token(Struct, frozen=True):
    text: str
    id: Any = None
    logprob: Any = None
    special: Any = None


class _Frame(Struct, frozen=True):
    token: _Token | None = None
    generated_text: str | None = None
    details: Any = None
    error: Any = None
    error_type: Any = None


_FRAMES = msgspec.json.Decoder(_Frame)


class TgiReader:
    """Reads one stream of a TGI server.

    `prompt` is what stands in front of the whole text, where the upstream was asked for it.
    """

    def __init__(self, *, prompt: str = "") -> None:
        self._prompt = prompt
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether the frame with the whole text has come."""
        return self._is_complete

    def read(self, data: bytes) -> Sequence[Event]:
        """A Delta for each token, and behind the last one Finish and, where told, Counted."""
        if self._is_complete or data == _DONE:
            return ()
        try:
            told = _FRAMES.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _not_a_frame(data) from None
        token = told.token
        if told.error is not None or token is None:
            raise _not_a_frame(data)
        text = "" if token.special is True else token.text
        delta = Delta(text, 0, _token(token))
        if told.generated_text is None:
            return (delta,)
        self._is_complete = True
        finish = Finish(
            read_reason(told.details) or "stop", 0, told.generated_text.removeprefix(self._prompt)
        )
        usage = _usage(told.details)
        return (delta, finish) if usage is None else (delta, finish, Counted(usage))


def withhold_details(raw: bytes) -> bytes:
    """A frame as it goes on to a client that did not ask for the details that we asked for.

    Only the last frame has any; every other one is handed on as it is.
    """
    if b'"generated_text":null' in raw:
        return raw
    start, end = raw.find(b"{"), raw.rfind(b"}") + 1
    try:
        fields: dict[str, Any] = msgspec.json.decode(raw[start:end], type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return raw  # no frame of this format: its reader says so
    if "details" not in fields:
        return raw
    return raw[:start] + msgspec.json.encode(fields | {"details": None}) + raw[end:]


def _token(token: _Token) -> events.Token | None:
    if type(token.id) is not int:
        return None
    logprob = token.logprob if isinstance(token.logprob, int | float) else None
    return events.Token(token.id, logprob, token.special is True)


def _usage(details: object) -> Usage | None:
    if not isinstance(details, dict):
        return None
    return read_usage(details.get("input_length"), details.get("generated_tokens"))


def _not_a_frame(data: bytes) -> Exception:
    """What data is that is no token: an error that it tells, or not this format."""
    value = decode_upstream_json(data, Any)
    if not isinstance(value, dict) or not value.get("error"):
        return NotThisFormatError("neither a token nor an error")
    return _failure(value["error"], value)


def _failure(error: object, value: Mapping[str, object]) -> StreamFailedError:
    """TGI's {"error": TEXT, "error_type"}, or {"error": {"message", "http_status_code"}}."""
    kind = value.get("error_type")
    status: object = _STATUS.get(kind) if isinstance(kind, str) else None
    message = error
    if isinstance(error, dict):
        message = error.get("message")
        status = status or error.get("http_status_code") or error.get("code")
    return StreamFailedError(
        message if isinstance(message, str) else "",
        status=status if type(status) is int and 400 <= status <= 599 else None,
    )


# What a client gets


class _Details(Struct, frozen=True):
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class _Told(Struct, frozen=True):
    index: int
    token: Token
    generated_text: str | None = None
    details: _Details | None = None


class TgiWriter:
    """Writes one stream as TGI does, from the events of an upstream of another kind.

    A piece of text is written as one token, with the number 0 and a logprob of 0 where the
    upstream tells none. The whole text stands in a frame of its own behind them, whose token is
    special and empty: so no piece waits for the next one to tell whether it is the last.
    """

    heartbeat = HEARTBEAT

    def __init__(self, call: Call, *, is_chat: bool) -> None:
        self._call = call
        self._is_chat = is_chat
        self._texts = StringIO()  # a list of pieces takes ten times their bytes
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._index = 0

    def write(self, event: Event) -> bytes:
        """The frame of a piece that is not empty, or that is a token."""
        if isinstance(event, Delta):
            if event.choice == 0 and (event.text or event.token is not None):
                return self._piece(event)
        elif isinstance(event, Finish):
            if event.choice == 0:
                self._finish = event
        else:
            self._usage = event.usage
        return b""

    def end(self) -> bytes:
        """The frame with the whole text."""
        finish, call = self._finish, self._call
        text = finish.full_text if finish is not None else None
        if text is None:
            text = self._texts.getvalue()
        details = None
        if call.wants_usage:
            usage = self._usage or Usage(0, 0)
            reason = finish.reason if finish is not None else None
            details = _Details(
                finish_reason=finish_word(call, reason, self._usage),
                generated_tokens=usage.completion_tokens,
                seed=None,
                input_length=usage.prompt_tokens,
            )
        whole = full_text(call, str(call.input), text, is_chat=self._is_chat)
        return self._frame(Token(0, "", 0.0, special=True), whole, details)

    def fail(self, error: KeyholeError) -> bytes:
        """The error in the shape that it has in streams."""
        told = {"error": error.explained, "error_type": error_type(error)}
        return frame(msgspec.json.encode(told))

    def _piece(self, delta: Delta) -> bytes:
        self._texts.write(delta.text)
        token = delta.token
        if token is None:
            return self._frame(Token(0, delta.text, 0.0, special=False))
        logprob = 0.0 if token.logprob is None else token.logprob
        return self._frame(Token(token.id, delta.text, logprob, token.is_special))

    def _frame(
        self, token: Token, whole: str | None = None, details: _Details | None = None
    ) -> bytes:
        self._index += 1
        return frame(msgspec.json.encode(_Told(self._index, token, whole, details)))


def error_type(error: KeyholeError) -> str:
    """TGI's word for the kind of an error."""
    if isinstance(error, UpstreamError):
        return _ERROR_TYPES.get(error.code, "generation")
    return "generation" if getattr(error, "status", 500) >= 500 else "validation"


def make_details(call: Call, reason: str | None, usage: Usage | None) -> Details:
    """The details of a whole answer, as far as they are known: without tokens."""
    return Details(
        finish_reason=finish_word(call, reason, usage),
        generated_tokens=usage.completion_tokens if usage else 0,
    )


def finish_word(call: Call, reason: str | None, usage: Usage | None) -> FinishReason:
    """TGI's word for why a text ended.

    Most upstreams do not tell a stop sequence from the model's own end: it was the former where
    the call has any, which may be wrong. Where nothing is told, a text of as many tokens as were
    wanted was cut off. A filter's or a tool call's end counts as the model's own.
    """
    most = call.parameters.max_new_tokens
    if reason == "length":
        return "length"
    if reason is None and usage is not None and usage.completion_tokens == most:
        return "length"
    return "stop_sequence" if reason in ("stop", None) and call.parameters.stop else "eos_token"
