"""The clients: quick, slow and streamed requests in every dialect, some left in the middle.

What a client saw is an `Asked`: it is judged afterwards (`comparing`), never here. A client whose
server is gone tries again in a moment with another request; nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass
from typing import Any

LEAVES = 0.25
"""The share of streams that are left at a random point."""
RETRY_S = 0.03
THINKS_S = 0.03
"""Between two requests of a client, at most: the load is bounded, two cores are enough."""
PATIENCE_S = 45.0


@dataclass
class Asked:
    """One request, as its client saw it."""

    kind: str
    exchange_id: str = ""
    """What the reply's head said; empty where none came."""
    status: int = 0
    is_stream: bool = False
    is_sent: bool = False
    """Whether there was a server to ask."""
    read: int = 0
    """Pieces of a stream that the client had."""
    is_complete: bool = False
    """Whether it saw the answer to its last byte."""
    has_left: bool = False
    error: str = ""
    """What a refusal said."""


def _chat(model: str, chance: random.Random, *, is_stream: bool) -> dict[str, Any]:
    text = "Say a word. " * chance.randint(1, 5)
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    asked["max_tokens"] = 300
    if is_stream:
        asked["stream"] = True
        if chance.random() < 0.5:
            asked["stream_options"] = {"include_usage": True}
    return asked


def compose(chance: random.Random) -> tuple[str, str, dict[str, Any], bool]:
    """A request: what it is called, its path, its body, and whether it is streamed."""
    kind = chance.choices(
        [
            "chat",
            "chat stream",
            "mute stream",
            "fallback",
            "generate",
            "tgi stream",
            "old",
            "old stream",
        ],
        [4, 5, 1, 1, 3, 4, 1, 1],
    )[0]
    is_stream = kind.endswith("stream")
    short = {"max_new_tokens": 300}
    if kind.startswith(("chat", "mute", "fallback")):
        return (
            kind,
            "/v1/chat/completions",
            _chat(kind.split()[0], chance, is_stream=is_stream),
            is_stream,
        )
    if kind == "generate":
        return kind, "/generate", {"input": "Once upon a time"}, False
    if kind == "tgi stream":
        return kind, "/generate_stream", {"inputs": "Once upon a time", "parameters": short}, True
    body: dict[str, Any] = {"inputs": "Once upon a time", "parameters": short}
    return kind, "/models/old", body | ({"stream": True} if is_stream else {}), is_stream


class Client:
    """One caller with one key, one request after the other, until it is told to stop."""

    def __init__(self, port: int, secret: str, seed: int, told: list[Asked]) -> None:
        self._port = port
        self._secret = secret
        self._random = random.Random(seed)
        self._told = told
        self.is_stopping = False
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Ask and ask."""
        while not self.is_stopping:
            kind, path, body, is_stream = compose(self._random)
            asked = Asked(kind, is_stream=is_stream)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._ask(asked, path, body)
            except TimeoutError:
                asked.error = "no end within its patience"
                self._hang_up()
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                self._hang_up()
                await asyncio.sleep(self._random.uniform(0, 2 * RETRY_S))
            if asked.is_sent:
                self._told.append(asked)
            await asyncio.sleep(self._random.uniform(0, THINKS_S))
        self._hang_up()

    async def _ask(self, asked: Asked, path: str, body: dict[str, Any]) -> None:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._reader, self._writer
        assert reader is not None
        content = json.dumps(body).encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {self._secret}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        asked.is_sent = True
        leaves_after = None
        if asked.is_stream and self._random.random() < LEAVES:
            leaves_after = self._random.randint(0, 30)
        named = await read_head(reader, asked)
        if named.get("transfer-encoding") == "chunked":
            is_whole = await self._read_stream(reader, asked, leaves_after)
        else:
            answer = await reader.readexactly(int(named["content-length"]))
            is_whole = True
            if asked.status >= 400:
                asked.error = answer.decode(errors="replace")[:300]
        if asked.has_left:
            self._hang_up()
            return
        asked.is_complete = is_whole and asked.status == 200
        if named.get("connection") == "close":
            self._hang_up()

    async def _read_stream(
        self, reader: asyncio.StreamReader, asked: Asked, leaves_after: int | None
    ) -> bool:
        """Read to the end, or to where it is left; whether the stream said that it is whole."""
        waiting, is_whole = b"", False
        while True:
            if leaves_after is not None and asked.read >= leaves_after:
                asked.has_left = True
                return False
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionResetError
            size = int(line, 16)
            chunk = await reader.readexactly(size + 2)
            if size == 0:
                return is_whole
            *frames, waiting = (waiting + chunk[:-2]).split(b"\n\n")
            for frame in frames:
                pieces, ends, error = read_frame(frame)
                asked.read += pieces
                is_whole = is_whole or ends
                asked.error = asked.error or error

    def _hang_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()


async def read_head(reader: asyncio.StreamReader, asked: Asked) -> dict[str, str]:
    """A reply's headers; its status and id go into `asked`."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    named = {name.lower(): value.strip() for name, _, value in (it.partition(":") for it in lines)}
    asked.status = int(first.split(" ")[1])
    asked.exchange_id = named.get("x-request-id", "")
    return named


def read_frame(frame: bytes) -> tuple[int, bool, str]:
    """How many pieces of text are in a frame, whether it is an end, and what error it tells."""
    pieces, ends, error = 0, False, ""
    for line in frame.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return 0, True, ""
        told = json.loads(data)
        if told.get("error"):
            error = json.dumps(told)[:300]
        elif "token" in told:
            pieces += bool(told["token"]["text"]) and not told["token"]["special"]
            ends = told.get("generated_text") is not None
        else:
            pieces += sum(bool(one["delta"].get("content")) for one in told["choices"])
    return pieces, ends, error


async def get(port: int, path: str, secret: str = "", within_s: float = 2.0) -> tuple[Asked, Any]:
    """One GET on a connection of its own; raises OSError, also where no answer comes in time."""
    asked = Asked("get")
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            key = f"authorization: Bearer {secret}\r\n" if secret else ""
            writer.write(
                f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{key}connection: close\r\n\r\n".encode()
            )
            named = await read_head(reader, asked)
            body = await reader.readexactly(int(named["content-length"]))
        except asyncio.IncompleteReadError:
            raise ConnectionResetError from None
        finally:
            writer.close()
    return asked, json.loads(body)
