"""The frames of upstreams, and what a client gets that one waits for."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, Self

from doors.client import TIMEOUT_S, request_bytes
from doors.servers import Door

WORDS = (" upon", " a", " t\u00efme")
DONE = b"data: [DONE]\n\n"
_CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")


def frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def token(text: str, whole: str | None = None) -> bytes:
    """A frame of TGI's."""
    told: dict[str, Any] = {"index": 1, "generated_text": whole}
    told["token"] = {"id": 7, "text": text, "logprob": -0.5, "special": False}
    if whole is not None:
        counts = {"finish_reason": "length", "generated_tokens": 3, "input_length": 2, "seed": None}
        told["details"] = counts
    return frame(told)


def tgi_frames() -> list[bytes]:
    *first, last = WORDS
    return [*map(token, first), token(last, "".join(WORDS))]


def chunk(text: str | None, finish: str | None = None, **delta: Any) -> bytes:
    """A chunk of OpenAI's, for the model `live-openai`, with a member that nobody knows."""
    content = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": content | delta, "finish_reason": finish}
    return frame(
        {"id": "x", "model": "live-openai", "choices": [choice], "odd": {"z": 1, "a": None}}
    )


def openai_frames() -> list[bytes]:
    chunks = [chunk("", role="assistant"), *map(chunk, WORDS), chunk(None, "stop")]
    return [*chunks, DONE]


def generate(model: str, prompt: str = "Once", **more: Any) -> tuple[str, dict[str, Any]]:
    return "/generate", {"input": prompt, "model": model, "stream": True} | more


def tgi(model: str) -> tuple[str, dict[str, Any]]:
    """Through the Hugging Face format, whose streams are TGI's: TGI itself has but one model."""
    return f"/models/{model}", {"inputs": "Once", "stream": True}


def openai(model: str) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "Once"}]
    return "/v1/chat/completions", {"messages": messages, "model": model, "stream": True}


def values(body: bytes) -> list[Any]:
    """The data of a body's frames, without comments."""
    frames = [piece for piece in body.split(b"\n\n") if piece.startswith(b"data: ")]
    return [
        "[DONE]" if piece == b"data: [DONE]" else json.loads(piece.removeprefix(b"data: "))
        for piece in frames
    ]


def without_comments(body: bytes) -> bytes:
    return re.sub(rb"(?m)^:[^\n]*\n\n", b"", body)


class Raw:
    """One stream's bytes as they come, on a connection of its own."""

    def __init__(
        self, door: Door, asked: tuple[str, dict[str, Any]], *, http: bytes = b"1.1"
    ) -> None:
        path, value = asked
        self.connection = socket.socket()
        self.connection.settimeout(TIMEOUT_S)
        # Little waits in the kernel, so that a reader who stops is felt.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        self.connection.connect(door.address)
        sent = request_bytes(door, "POST", path, (), json.dumps(value).encode())
        self.connection.sendall(sent.replace(b"HTTP/1.1", b"HTTP/" + http, 1))
        self.received = b""

    def until(self, wanted: bytes) -> bytes:
        """All that has come, once that is among it."""
        while wanted not in self.received:
            part = self.connection.recv(65536)
            assert part, f"it ended with {self.received[-200:]!r}"
            self.received += part
        return self.received

    def to_the_end(self) -> bytes:
        """All that comes before the connection is closed."""
        while part := self.connection.recv(65536):
            self.received += part
        return self.received

    def leave(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


def parted(received: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """A reply's headers and what is behind them."""
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = [line.lower().partition(b":") for line in head.split(b"\r\n")[1:]]
    return {name: value.strip() for name, _, value in lines}, rest
