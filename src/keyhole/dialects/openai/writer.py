"""A stream to a client of the OpenAI format: chunks of a chat, or of a text.

Facts (openai-python 3.54.0 types and recorded streams, November 2026): all chunks of a stream
have one id and one time; a chat's text begins with a delta that holds the role; with
include_usage every chunk has `"usage": null` but an extra one at the end, whose choices are
empty; `[DONE]` ends it. Clients take comments. An object with an `error` raises in them.
A text never holds the stop sequence that ended it, though TGI's does.
"""

from __future__ import annotations

import msgspec

from keyhole.dialects.openai import faults
from keyhole.errors import KeyholeError
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Delta, Event, Finish
from keyhole.wire.records import AccessRecord
from keyhole.wire.sse import frame
from keyhole.wire.stops import StopCutter

DONE = b"data: [DONE]\n\n"
FINISHES = {"eos": "stop"}
"""Why a text ended, where OpenAI's word is another."""

_UNTOLD = Usage(0, 0)

_encode = msgspec.json.encode


def head(call: Call, record: AccessRecord) -> dict[str, str | int]:
    """What stands at the beginning of every object that answers a call, but for its kind."""
    prefix = "chatcmpl" if call.messages else "cmpl"
    return {
        "id": f"{prefix}-{record.request_id}",
        "created": record.began_unix_ms // 1000,
        "model": record.public_model,
    }


def usage_fields(usage: Usage | None) -> dict[str, int]:
    """The usage under this format's names; zeros where the upstream does not say.

    langchain-openai 1.7.3 raises TypeError for a whole text without any (November 2026).
    """
    usage = usage or _UNTOLD
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class StreamWriter:
    """Writes the stream that answers a call; an EventWriter."""

    heartbeat = b": keep-alive\n\n"

    def __init__(self, call: Call, record: AccessRecord) -> None:
        kind = "chat.completion.chunk" if call.messages else "text_completion"
        start = _encode({**head(call, record), "object": kind})[:-1]
        self._call, self._request_id = call, record.request_id
        self._usage: Usage | None = None
        self._cutters: dict[int, StopCutter] = {}
        """By choice, for those that have begun."""
        # A chunk is written as bytes: a tenth of the time that encoding its objects takes.
        self._start = start
        self._first = self._start + b',"choices":[{"index":'
        self._before, self._after = (
            (b',"delta":{"content":', b"}") if call.messages else (b',"text":', b"")
        )
        self._nothing = b',"delta":{}' if call.messages else b',"text":""'
        self._rest = b'}],"usage":null}' if call.wants_usage else b"}]}"
        self._middle = self._after + b',"logprobs":null,"finish_reason":null' + self._rest

    def write(self, event: Event) -> bytes:
        """The chunks for an event; none for special tokens and for what may be a stop sequence."""
        if isinstance(event, Delta):
            written = self._begin(event.choice)
            if event.token is not None and event.token.is_special:
                return written
            return written + self._text(event.choice, self._cutters[event.choice].feed(event.text))
        if isinstance(event, Finish):
            return self._begin(event.choice) + self._finish(event)
        self._usage = event.usage
        return b""

    def end(self) -> bytes:
        """The usage, if it is wanted, and the end."""
        if not self._call.wants_usage:
            return DONE
        usage = _encode(usage_fields(self._usage))
        return frame(b'%b,"choices":[],"usage":%b}' % (self._start, usage)) + DONE

    def fail(self, error: KeyholeError) -> bytes:
        """The error's object in place of a chunk."""
        return frame(faults.encode_fault(error, self._request_id))

    def _begin(self, choice: int) -> bytes:
        """What stands before a choice's first piece: the role, or the prompt if it is wanted."""
        if choice in self._cutters:
            return b""
        self._cutters[choice] = StopCutter(self._call.parameters.stop or ())
        if self._call.messages:
            role = b',"delta":{"role":"assistant","content":""'
            return frame(self._first + b"%d" % choice + role + self._middle)
        prompt = self._call.input
        if not self._call.parameters.return_full_text or not isinstance(prompt, (str, list)):
            return b""
        first = prompt if isinstance(prompt, str) else prompt[0]
        return self._text(choice, first)

    def _text(self, choice: int, text: str) -> bytes:
        if not text:
            return b""
        return frame(self._first + b"%d" % choice + self._before + _encode(text) + self._middle)

    def _finish(self, event: Finish) -> bytes:
        cutter = self._cutters[event.choice]
        reason = "stop" if cutter.is_over else FINISHES.get(event.reason, event.reason)
        ended = b'%b%d%b,"logprobs":null,"finish_reason":%b%b' % (
            self._first,
            event.choice,
            self._nothing,
            _encode(reason),
            self._rest,
        )
        return self._text(event.choice, cutter.end()) + frame(ended)
