"""Mutated bodies, answers and streams for every dialect: nothing but its own errors may be raised.

    python tests/fuzz/mutations.py COUNT [SEED]

Each input is one that is good, with a few bytes changed, taken out, doubled or put in, or two of
them spliced; streams are cut anywhere as well. COUNT is for all dialects together.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence

from keyhole.dialects import huggingface, tgi
from keyhole.dialects.base import ClientDialect, EventReader, NotThisFormatError, StreamFailedError
from keyhole.dialects.generate import GenerateDialect
from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.dialects.openai import upstream
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.dialects.openai.reader import ChunkReader
from keyhole.dialects.tgi_client import TgiDialect, TgiRootDialect
from keyhole.dialects.tgi_stream import TgiReader
from keyhole.errors import ClientError
from keyhole.wire.call import Call
from keyhole.wire.http import Head
from keyhole.wire.sse import FrameTooLargeError, SseReader

PARAMETERS = {"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 1}
CHAT = {"role": "user", "content": [{"type": "text", "text": "h\u00e9"}]}
BODIES: dict[str, tuple[ClientDialect, Sequence[object]]] = {
    "/generate": (
        GenerateDialect(),
        [{"input": "a"}, {"input": ["a"], "parameters": PARAMETERS, "model": "m", "stream": True}],
    ),
    "/generate_stream": (
        TgiDialect(),
        [{"inputs": "a", "parameters": {**PARAMETERS, "details": True}}],
    ),
    "/": (TgiRootDialect(), [{"inputs": "a", "stream": True}, {"inputs": "a", "parameters": {}}]),
    "/models/gpt2": (
        HuggingFaceDialect(),
        [{"inputs": ["a", "b"], "parameters": PARAMETERS, "options": {"use_cache": False}}, "raw"],
    ),
    "/v1/chat/completions": (
        OpenAiDialect(),
        [{"model": "m", "messages": [CHAT], "max_tokens": 5, "n": 2, "stop": "x", "stream": True,
          "stream_options": {"include_usage": True}, "tools": [{"type": "function"}]}],
    ),
    "/v1/completions": (
        OpenAiDialect(),
        [{"model": "m", "prompt": ["a"], "echo": True, "top_k": 3}],
    ),
}  # fmt: skip
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
CHOICE = {"index": 0, "message": {"content": "b"}, "text": "b", "finish_reason": "stop"}
ANSWERS: dict[Callable[[bytes], object], object] = {
    upstream.decode_chat: {"choices": [CHOICE], "usage": USAGE},
    upstream.decode_completion: {"choices": [CHOICE], "usage": USAGE},
    upstream.decode_whole_chat: {"choices": [CHOICE, {**CHOICE, "index": 1}], "usage": USAGE},
    tgi.decode_response: {"generated_text": "b", "details": {"finish_reason": "length"}},
    lambda body: huggingface.decode_response(body, Call(model=None, input="a")): [
        {"generated_text": "ab"}
    ],
}
CHUNK = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "b"}}]}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}
TOKEN = {"index": 1, "token": {"id": 1, "text": "b", "logprob": -0.5, "special": False}}
STREAMS: dict[Callable[[], EventReader], Sequence[object]] = {
    ChunkReader: [CHUNK, CHUNK, LAST, {"error": {"message": "x", "http_status_code": 422}}],
    TgiReader: [TOKEN, {**TOKEN, "generated_text": "bb", "details": None}, {"error": "x"}],
}
INTERESTING = (b"\xff", b"\x00", b"null", b"{", b"[", b'"', b"1e999", b"-1", b"\\ud800", b"\r\n")


def mutate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The data with a few changes, never the same for two draws."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        until = min(len(changed), at + chance.randint(0, 8))
        match chance.randrange(5):
            case 0:
                changed[at:until] = bytes(chance.randrange(256) for _ in range(until - at))
            case 1:
                del changed[at:until]
            case 2:
                changed[at:at] = changed[at:until]
            case 3:
                changed[at:at] = chance.choice(INTERESTING)
            case _:
                changed[at:] = other[chance.randrange(len(other)) :]
    return bytes(changed)


def try_bodies(count: int, chance: random.Random) -> None:
    """Mutated requests: a call, or a ClientError."""
    goods = [
        (dialect, Head(method="POST", path=path), json.dumps(body).encode())
        for path, (dialect, bodies) in BODIES.items()
        for body in bodies
    ]
    for _ in range(count):
        dialect, head, good = chance.choice(goods)
        body = mutate(good, chance.choice(goods)[2], chance)
        try:
            dialect.decode(head, body)
        except ClientError:
            pass
        except Exception as error:
            raise AssertionError(f"{head.path} {body!r}") from error


def try_answers(count: int, chance: random.Random) -> None:
    """Mutated answers of upstreams: something, or NotThisFormatError."""
    goods = [(decode, json.dumps(answer).encode()) for decode, answer in ANSWERS.items()]
    for _ in range(count):
        decode, good = chance.choice(goods)
        body = mutate(good, chance.choice(goods)[1], chance)
        try:
            decode(body)
        except NotThisFormatError:
            pass
        except Exception as error:
            raise AssertionError(f"{decode} {body!r}") from error


def try_streams(count: int, chance: random.Random) -> None:
    """Mutated streams, in any pieces: events, or one of the readers' errors."""
    goods = {
        make: b"".join(b"data: %b\n\n" % json.dumps(frame).encode() for frame in frames)
        for make, frames in STREAMS.items()
    }
    for _ in range(count):
        make = chance.choice(list(goods))
        stream = mutate(goods[make], chance.choice(list(goods.values())), chance)
        cutter, reader = SseReader(10_000), make()
        size = chance.randint(1, 200)
        try:
            for start in range(0, len(stream), size):
                for frame in cutter.feed(stream[start : start + size]):
                    if frame.data is not None:
                        reader.read(frame.data)
        except (NotThisFormatError, StreamFailedError, FrameTooLargeError):
            pass
        except Exception as error:
            raise AssertionError(f"{make} {stream!r} by {size}") from error


def run(count: int, seed: int) -> None:
    """Try that many; raises AssertionError with the input that did it."""
    chance = random.Random(seed)  # no secret
    try_bodies(count // 2, chance)
    try_answers(count // 4, chance)
    try_streams(count // 4, chance)


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    drawn = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    run(wanted, drawn)
    print(f"{wanted} mutated inputs, seed {drawn}: nothing found")
