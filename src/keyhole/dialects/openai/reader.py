"""A stream from an upstream of the OpenAI format: its events, and its frames on their way.

Only text is read. Tool calls, thoughts (`reasoning_content`) and log-probabilities are left to
those who get the frames as they are.

Facts (wire of vLLM 0.28, TGI at db931fcf, llama.cpp, Ollama, transformers serve 5.23, and
recorded providers; November 2026):
- `[DONE]` ends a stream, but is missing at transformers serve, Cerebras and TGI 2.0; then the
  last choice's finish_reason does. TGI's text completions say "" until that;
- usage comes in an extra chunk without choices, in the last one, or in every one (Ollama
  repeats zeros; the last is right);
- an error in a good stream is {"error": TEXT} with or without `error_type`, {"error":
  {"message"}} with `code` or `http_status_code` as the status, or {"object": "error",
  "message"}; a `[DONE]` may follow it;
- the first delta may hold a role alone, and `content` may be null.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from keyhole.dialects.base import (
    NotThisFormatError,
    StreamFailedError,
    decode_upstream_json,
)
from keyhole.dialects.openai.upstream import read_content, read_reason, read_usage_object
from keyhole.wire.events import Counted, Delta, Event, Finish

_STATUS_KEYS = ("http_status_code", "status_code", "status", "code")
_STATUS_OF_TYPE = {"validation": 422, "overloaded": 429, "generation": 424}


class _Delta(Struct, frozen=True, gc=False):
    content: str | list[Any] | None = None


class _Choice(Struct, frozen=True, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    index: int = 0
    finish_reason: str | None = None


class _Chunk(Struct, frozen=True, gc=False):
    choices: list[_Choice] | UnsetType | None = UNSET
    usage: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)
_MAX_CHOICES = 1024
"""OpenAI takes an `n` of 128."""


class ChunkReader:
    """Reads the chunks of one stream, of a chat or of a text; an EventReader."""

    __slots__ = ("_ended", "_is_done", "_open")

    def __init__(self) -> None:
        # Of one or two numbers a set is ten times a tuple, and there are thousands of streams.
        self._open: tuple[int, ...] = ()
        """The choices that have begun and not ended."""
        self._ended: tuple[int, ...] = ()
        self._is_done = False

    @property
    def is_complete(self) -> bool:
        """Whether the end was said, or every choice that began has ended."""
        return self._is_done or (bool(self._ended) and not self._open)

    def read(self, data: bytes) -> Sequence[Event]:
        """The events of a chunk: pieces of text that are not empty, ends, and what was used."""
        try:
            chunk = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._read_other(data)
        if chunk.error:
            raise _failure(chunk.error, data)
        if not chunk.choices:
            return self._read_rest(chunk, data)
        events: list[Event] = []
        for choice in chunk.choices:
            self._read_choice(choice, events)
        if chunk.usage is not None:
            events += _counted(chunk.usage)
        return events

    def _read_choice(self, choice: _Choice, events: list[Event]) -> None:
        index = choice.index
        content = choice.text if choice.delta is None else choice.delta.content
        text = content if isinstance(content, str) else _text_of_parts(content)
        if text:
            events.append(Delta(text, index))
        if index in self._ended:
            return
        if choice.finish_reason:
            self._ended += (index,)
            self._open = tuple(other for other in self._open if other != index)
            events.append(Finish(read_reason(choice.finish_reason) or "stop", index))
        elif index not in self._open:
            self._open += (index,)
        if len(self._open) + len(self._ended) > _MAX_CHOICES:
            raise NotThisFormatError(f"more than {_MAX_CHOICES} choices")

    def _read_rest(self, chunk: _Chunk, data: bytes) -> Sequence[Event]:
        """The events of a chunk without choices."""
        if chunk.usage is not None:
            return _counted(chunk.usage)
        if chunk.choices is UNSET:
            failure = _failure_without_error(data)
            if failure is not None:
                raise failure
        return ()

    def _read_other(self, data: bytes) -> Sequence[Event]:
        """Of what is no chunk: the end, or nothing at all."""
        text = data.strip()
        if text.startswith(b"[DONE]"):
            self._is_done = True
        elif text:
            raise NotThisFormatError("not a chunk of the OpenAI format")
        return ()


def _text_of_parts(content: list[Any] | None) -> str:
    try:
        return read_content(content)
    except NotThisFormatError:  # a thought, say
        return ""


def _counted(usage: object) -> list[Event]:
    read = read_usage_object(usage)
    return [] if read is None else [Counted(read)]


def _failure(error: object, data: bytes) -> StreamFailedError:
    said = error if isinstance(error, dict) else {}
    message = error if isinstance(error, str) else said.get("message")
    if not said:
        said = decode_upstream_json(data, dict[str, Any])  # the rest of it was not looked into
    status = next((_status(said[key]) for key in _STATUS_KEYS if _status(said.get(key))), None)
    if status is None:
        kind = said.get("error_type")
        status = _STATUS_OF_TYPE.get(kind) if isinstance(kind, str) else None
    return StreamFailedError(message if isinstance(message, str) else "", status=status)


def _failure_without_error(data: bytes) -> StreamFailedError | None:
    """The failure of an object that has neither choices nor an error, if it tells one."""
    said = decode_upstream_json(data, dict[str, Any])
    for key in ("message", "detail"):
        if isinstance(said.get(key), str):
            return _failure({**said, "message": said[key]}, data)
    return None


def _status(value: object) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 400 <= value < 600 else None


class FrameEditor:
    """What becomes of the frames of a stream that is passed on.

    The model gets its public name, and a client that did not ask is not told the usage in a
    chunk of its own. Only those bytes are touched. They are found as bytes, which is safe: a
    quote within a JSON string is written `\\"`, so `"model":` is a key wherever it stands. It is
    the first of that name in the frame, which is the chunk's own in every server that we know.
    """

    def __init__(self, model: str, *, keeps_usage: bool) -> None:
        self._new = msgspec.json.encode(model)
        self._keeps_usage = keeps_usage
        self._known = b""
        """The upstream's `"model":"..."`, and what is put in its place; the same in all frames."""
        self._replacement = b""

    def __call__(self, frame: bytes) -> bytes:
        """The frame as the client gets it; may be nothing."""
        # rfind is the fastest way to see that most frames have none
        has_usage = not self._keeps_usage and frame.rfind(b'"usage"') >= 0
        if has_usage and _NO_CHOICES(frame) and _USAGE(frame):
            return b""
        at = frame.find(self._known) if self._known else -1
        if at < 0:
            found = _MODEL(frame)
            if found is None:
                return frame
            at, self._known = found.start(), found[0]
            self._replacement = found[1] + self._new
        if self._known == self._replacement:
            return frame
        return frame[:at] + self._replacement + frame[at + len(self._known) :]


_MODEL = re.compile(rb'("model"\s*:\s*)"(?:[^"\\]|\\.)*"').search
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]').search
_USAGE = re.compile(rb'"usage"\s*:\s*\{').search
