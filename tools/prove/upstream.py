"""A fake upstream that remembers, of every request, what it was asked and what it really sent.

    python tools/prove/upstream.py SEED

A process of its own, so that killing Keyhole's cannot touch what it saw. It listens on a free port
of this machine, which it prints, and ends when its standard input does. What stands first in a
path says whose format it speaks:

    /chat    OpenAI's, with usage         /mute  OpenAI's, without usage
    /tgi     TGI's, usage in headers      /old   the hosted API's, which tells no usage
    /broken  answers 503 to everything

`GET /-/seen` is the list of what it saw. It judges nothing and knows nothing of Keyhole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from dataclasses import asdict, dataclass
from typing import Any

LONG_SHARE = 0.02
"""Of streams that are longer than the time between two progress lines."""
SLOW_SHARE = 0.3


@dataclass
class Served:
    """One request, and what became of it."""

    exchange_id: str
    kind: str
    is_stream: bool
    reports: bool
    """Whether the answer tells its tokens."""
    prompt: int
    """Tokens of the prompt, as it would tell."""
    completion: int
    """Tokens of the whole answer."""
    sent: int = 0
    """Of these, how many it has written to the connection."""
    is_done: bool = False


class Upstream:
    """All that it saw."""

    def __init__(self, seed: int) -> None:
        self.seen: list[Served] = []
        self._random = random.Random(seed)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        named = {
            name.lower(): value.strip() for name, _, value in (it.partition(":") for it in lines)
        }
        path = first.split(" ")[1]
        if path == "/-/seen":
            _write(writer, json.dumps([asdict(one) for one in self.seen]).encode())
            await writer.drain()
            return True
        if path == "/-/count":
            _write(
                writer, json.dumps([len(self.seen), sum(one.sent for one in self.seen)]).encode()
            )
            await writer.drain()
            return True
        # From here on it counts as seen: the model may be at work on what has come.
        served = self._begin(named.get("x-request-id", ""), path.split("/")[1])
        body = json.loads(await reader.readexactly(int(named.get("content-length", "0"))))
        await self._answer(served, path, body, writer)
        return True

    def _begin(self, exchange_id: str, kind: str) -> Served:
        chance = self._random
        served = Served(
            exchange_id,
            kind,
            is_stream=False,
            reports=kind in {"chat", "tgi"},
            prompt=chance.randint(1, 200),
            completion=chance.randint(1, 30),
        )
        self.seen.append(served)
        return served

    async def _answer(
        self, served: Served, path: str, body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        chance = self._random
        if served.kind == "broken":
            await asyncio.sleep(chance.uniform(0, 0.02))
            served.prompt = served.completion = 0
            _write(writer, b'{"error": {"message": "out of order"}}', status="503 Out Of Order")
            await writer.drain()
            served.is_done = True
            return
        if body.get("stream") or path.endswith("_stream"):
            await self._stream(served, writer)
            return
        is_slow = chance.random() < SLOW_SHARE
        await asyncio.sleep(chance.uniform(0.1, 0.6) if is_slow else chance.uniform(0, 0.005))
        headers = ""
        if served.kind == "tgi":
            headers = (
                f"x-prompt-tokens: {served.prompt}\r\nx-generated-tokens: {served.completion}\r\n"
            )
        served.sent = served.completion
        _write(writer, json.dumps(_whole(served)).encode(), headers=headers)
        await writer.drain()
        served.is_done = True

    async def _stream(self, served: Served, writer: asyncio.StreamWriter) -> None:
        chance = self._random
        served.is_stream = True
        gap_s = chance.choice([0.0, 0.002, 0.01, 0.03])
        if chance.random() < LONG_SHARE:
            served.completion, gap_s = 250, 0.03
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for number in range(1, served.completion + 1):
            if gap_s:
                await asyncio.sleep(chance.uniform(0, 2 * gap_s))
            if writer.is_closing():
                raise ConnectionResetError
            served.sent = number
            for frame in _frames(served, number):
                data = f"data: {frame if frame == '[DONE]' else json.dumps(frame)}\n\n".encode()
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        served.is_done = True


def _whole(served: Served) -> Any:
    text = " word" * served.completion
    if served.kind in {"tgi", "old"}:
        told = {"generated_text": text}
        return [told] if served.kind == "old" else told
    answer = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
    }
    return answer | ({"usage": _usage(served)} if served.reports else {})


def _frames(served: Served, number: int) -> list[Any]:
    """The frames of the n-th piece, and behind the last one those of the end."""
    is_last = number == served.completion
    if served.kind in {"tgi", "old"}:
        token = {"id": number, "text": " word", "logprob": -1.0, "special": False}
        told: dict[str, Any] = {
            "index": number,
            "token": token,
            "generated_text": None,
            "details": None,
        }
        if is_last:
            told["generated_text"] = " word" * served.completion
            if served.reports:
                told["details"] = {
                    "finish_reason": "length",
                    "generated_tokens": served.completion,
                    "seed": None,
                    "input_length": served.prompt,
                }
        return [told]
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    frames: list[Any] = [
        chunk | {"choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}
    ]
    if is_last:
        frames.append(chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if served.reports:
            frames.append(chunk | {"choices": [], "usage": _usage(served)})
        frames.append("[DONE]")
    return frames


def _usage(served: Served) -> dict[str, int]:
    return {
        "prompt_tokens": served.prompt,
        "completion_tokens": served.completion,
        "total_tokens": served.prompt + served.completion,
    }


def _write(
    writer: asyncio.StreamWriter, body: bytes, *, status: str = "200 OK", headers: str = ""
) -> None:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def main() -> None:
    upstream = Upstream(int(sys.argv[1]))
    server = await asyncio.start_server(upstream.accept, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until whoever started it is gone
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
