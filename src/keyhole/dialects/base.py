"""What a dialect is to the core, and the few things that all dialects share.

It knows no format of its own beyond JSON itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard, TypeVar

import msgspec

from keyhole.catalog import is_model_name
from keyhole.errors import ClientError, Code, KeyholeError
from keyhole.wire.answer import Answer, Stamp, Usage
from keyhole.wire.call import Call, Unreadable
from keyhole.wire.events import Event
from keyhole.wire.http import Head, Reply

_Shape = TypeVar("_Shape")

_ABSURD_TOKENS = 10**9
"""More than any model's context holds: a count above it is a mistake, not a bill."""


_WORDS_FOR_NONE = frozenset({"dummy", "tgi"})


class ClientDialect(Protocol):
    """A format that clients speak to Keyhole."""

    name: str
    paths: frozenset[str]
    """The paths that take a POST in this dialect."""
    prefixes: tuple[str, ...]
    """Paths below which every path takes one too, each with its slash; empty for none."""
    first_byte_timeout_s: float
    """How long its clients wait for an upstream when the route does not say."""

    def decode(self, head: Head, body: bytes) -> Call:
        """What the client asks for; the path may name the model. Raises ClientError."""
        ...

    def encode(self, call: Call, answer: Answer, stamp: Stamp) -> bytes:
        """The whole answer, as this dialect's clients expect it."""
        ...

    def stream(self, call: Call, stamp: Stamp, *, is_chat: bool) -> EventWriter:
        """What writes the answer to a call that wants a stream; `is_chat` as in Answer."""
        ...

    def refuse(self, error: KeyholeError, request_id: str) -> Reply:
        """The error, as this dialect's clients expect it."""
        ...


class EventWriter(Protocol):
    """Writes one stream to a client, as server-sent events in its dialect."""

    heartbeat: bytes
    """What keeps a silent stream alive; empty for clients that cannot take a comment."""

    def write(self, event: Event) -> bytes:
        """The frames for an event; may be empty."""
        ...

    def end(self) -> bytes:
        """What stands behind the last event of a stream that is complete."""
        ...

    def fail(self, error: KeyholeError) -> bytes:
        """What tells the client that its stream broke; nothing follows."""
        ...


class EventReader(Protocol):
    """Reads one stream of an upstream, frame by frame."""

    def read(self, data: bytes) -> Sequence[Event]:
        """The events of one frame's data.

        Raises NotThisFormatError, or StreamFailedError where the frame tells an error.
        """
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the final frame has been read: without it the end of a stream is a failure."""
        ...


class StreamFailedError(Exception):
    """An upstream told an error in the middle of a good (200) stream; the message is its own."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """The status that it would have had before the stream began, where the frame says."""


class NotThisFormatError(Exception):
    """An upstream's bytes are not what its dialect says; the message holds none of them."""


def decode_json(body: bytes, *, example: str = '{"input": "Once upon a time"}') -> Any:
    """The value of a client's JSON body; raises ClientError with the place, never the text."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        where = str(error) if isinstance(error, msgspec.DecodeError) else "not UTF-8 or too deep"
        raise ClientError(
            Code.INVALID_JSON,
            f"The body is not valid JSON: {where}.",
            hint=f"Send an object such as {example} in UTF-8.",
        ) from None


def read_model(raw: object) -> tuple[str | None, bool]:
    """The model that a body names, and whether that may be a word for none; raises ClientError.

    Clients that know no name send nothing, the address that they call, or one of `_WORDS_FOR_NONE`.
    """
    if raw is None or raw == "":
        return None, False
    if isinstance(raw, str) and raw.startswith(("http://", "https://")):
        return None, False
    if not isinstance(raw, str) or not is_model_name(raw):
        raise ClientError(
            Code.INVALID_PARAMETER,
            "'model' is not a model name.",
            hint="A name looks like 'gpt2', 'owner/name' or 'owner/name:provider'.",
            param="model",
        )
    return raw, raw in _WORDS_FOR_NONE


def limit_headers(error: ClientError) -> list[tuple[str, str]]:
    """What the head of a refusal says of a limit: what is left, and when to come back."""
    headers = list(error.headers)
    if error.retry_after_s is not None:
        headers.append(("retry-after", str(error.retry_after_s)))
    return headers


def as_unreadable(error: ClientError) -> Unreadable:
    """What is kept of a field that cannot be read, until somebody would have to translate it."""
    return Unreadable(error.param or "", error.code, error.message, error.hint)


def decode_upstream_json(body: bytes, shape: type[_Shape]) -> _Shape:
    """The value of an upstream's JSON body; raises NotThisFormatError if it has another shape."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotThisFormatError(f"not the JSON of {shape!r}") from None


def read_usage(prompt_tokens: object, completion_tokens: object) -> Usage | None:
    """What an upstream says it used, if both counts are credible; otherwise None."""
    if _is_token_count(prompt_tokens) and _is_token_count(completion_tokens):
        return Usage(prompt_tokens, completion_tokens)
    return None


def _is_token_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _ABSURD_TOKENS
