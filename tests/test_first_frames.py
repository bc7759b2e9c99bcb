"""What an error is to the client that comes with, or behind, the first frames of a stream.

Until a frame that says something has come nothing has been sent, so an error is a clean status, or
another target's turn. Behind such a frame it is told in the stream, even where one read brought
both: how the bytes were split makes no difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from keyhole.backends.openai import OpenAi
from keyhole.backends.tgi import Tgi
from keyhole.catalog import Target, Upstream
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.errors import Code, UpstreamError
from keyhole.ports import Timed
from keyhole.relay import Relay
from keyhole.wire.http import Head
from records import record

ERROR = b'data: {"error": {"message": "CUDA", "code": 500}}\n\n'
TGI_ERROR = b'data: {"error": "CUDA", "error_type": "generation"}\n\n'
PING = b": ping\n\n"


class NoAlarms:
    def now_s(self) -> float:
        return 0.0

    def watch(self, timed: Timed) -> None:
        """Nobody is late here."""

    def forget(self, timed: Timed) -> None:
        """Nor ever was."""


class Incoming:
    """A good stream that has been opened, read by read."""

    status = 200

    def __init__(self, reads: Sequence[bytes]) -> None:
        self._reads = list(reads)
        self.headers = {"content-type": "text/event-stream"}
        self.is_closed = False

    async def read(self) -> bytes:
        return self._reads.pop(0) if self._reads else b""

    def relay(self, receiver: Any) -> None:
        while self._reads:
            receiver.piece(self._reads.pop(0))
            if self.is_closed:
                return
        receiver.ended(None)

    def close(self) -> None:
        self.is_closed = True

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Sink:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.has_ended = False

    def send(self, chunk: bytes) -> None:
        self.sent.append(chunk)

    def end(self, chunk: bytes) -> None:
        self.sent.append(chunk)
        self.has_ended = True


async def streamed(*reads: bytes, kind: str = "openai") -> bytes:
    """What a client of the OpenAI format gets; raises what stands in the place of a stream."""
    dialect = OpenAiDialect()
    body = {"messages": [{"role": "user", "content": "Once"}], "stream": True}
    head = Head(method="POST", path="/v1/chat/completions", headers=())
    call = dialect.decode(head, json.dumps(body).encode())
    target = Target(Upstream(name="u", kind=kind, url="http://u"), "m")
    plan = {"openai": OpenAi(), "tgi": Tgi()}[kind].stream(call, target, max_output_tokens=None)
    incoming, sink = Incoming(reads), Sink()
    writer = dialect.stream(call, record("id", 1, "m"), is_chat=True)
    relay = Relay(
        call, target, plan, incoming, writer=writer, alarms=NoAlarms(), max_frame_bytes=10_000
    )
    first = await relay.begin(20)
    relay.start(sink, first)
    assert sink.has_ended
    return b"".join(sink.sent)


def chunk(**delta: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: %b\n\n" % json.dumps({"model": "m", "choices": [choice]}).encode()


def token(text: str) -> bytes:
    said = {"index": 1, "token": {"id": 5, "text": text, "logprob": -1.0, "special": False}}
    return b"data:%b\n\n" % json.dumps({**said, "generated_text": None, "details": None}).encode()


@pytest.mark.parametrize(
    ("reads", "kind"),
    [
        ((ERROR,), "openai"),
        ((PING + ERROR,), "openai"),
        ((PING, ERROR), "openai"),
        ((TGI_ERROR,), "tgi"),
        ((PING, TGI_ERROR), "tgi"),
    ],
)
async def test_an_error_before_any_word_is_a_status(reads: tuple[bytes, ...], kind: str) -> None:
    """So another target may be asked."""
    with pytest.raises(UpstreamError) as caught:
        await streamed(*reads, kind=kind)
    assert caught.value.code is Code.UPSTREAM_ERROR


@pytest.mark.parametrize(
    ("frames", "kind"),
    [
        ((chunk(role="assistant", content=""), ERROR), "openai"),
        ((chunk(role="assistant", content=""), chunk(content=" upon"), ERROR), "openai"),
        ((token(" upon"), TGI_ERROR), "tgi"),
    ],
)
async def test_an_error_behind_a_word_is_told_behind_it_however_they_come(
    frames: tuple[bytes, ...], kind: str
) -> None:
    one_by_one = await streamed(*frames, kind=kind)
    at_once = await streamed(b"".join(frames), kind=kind)
    first_two = await streamed(b"".join(frames[:2]), *frames[2:], kind=kind)
    assert at_once == one_by_one == first_two
    *said, error = at_once.strip().split(b"\n\n")
    assert json.loads(error[6:])["error"]["code"] == "upstream_error"
    assert len(said) >= len(frames) - 1
