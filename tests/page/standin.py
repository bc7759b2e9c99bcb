"""A stand-in for Keyhole behind the page: it sends the real page, and answers as a test says.

Only for what a live Keyhole (live.py) does not say or show.

    async with StandIn() as standin:
        ...                               # the page calls POST /generate
        asked = await standin.asked()
        await asked.say("It ")
        await asked.finish(usage={...})

Nothing in it is timed: an answer goes on when the test says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import uvicorn

from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.errors import ClientError, Code
from keyhole.server.page import pages
from keyhole.wire.http import Head, Reply

REQUEST_ID = "01936f2e-7c1a-7b52-9d0e-3f6a5c8b1e47"
MODELS = ("default", "keyhole-demo", "openai-community/gpt2")


UNKNOWN_KEY = OpenAiDialect().refuse(
    ClientError(Code.KEY_UNKNOWN, "There is no such key.", status=401), REQUEST_ID
)


class Asked:
    """One POST that waits for its answer."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes, send: Any) -> None:
        self.path = path
        self.headers = headers
        self.json = json.loads(body)
        self._send = send
        self._is_begun = False
        self.is_over = asyncio.Event()

    async def begin(self, status: int = 200, **headers: str) -> None:
        """Send the head."""
        self._is_begun = True
        named = {"content-type": "text/event-stream", "x-request-id": REQUEST_ID}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        encoded = [(name.encode(), value.encode()) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Send bytes of the body, with the head before the first."""
        if not self._is_begun:
            await self.begin()
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        if is_last:
            self.is_over.set()

    async def frame(self, value: Any, *, is_last: bool = False) -> None:
        """Send a frame."""
        data = json.dumps(value, ensure_ascii=False).encode()
        await self.write(b"data: " + data + b"\n\n", is_last=is_last)

    async def say(self, *pieces: str) -> None:
        """Send pieces of text, a frame each."""
        for piece in pieces:
            await self.frame({"text": piece})

    async def finish(self, text: str = "", usage: tuple[int, int] | None = None) -> None:
        """Send the last frame; `usage` is how many tokens went in and came out."""
        counted = usage and {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        await self.frame({"done": True, "generated_text": text, "usage": counted}, is_last=True)

    async def reply(self, status: int, value: Any, **headers: str) -> None:
        """Answer with JSON."""
        await self.begin(status, content_type="application/json", **headers)
        await self.write(json.dumps(value).encode(), is_last=True)

    async def hang_up(self) -> None:
        """Cut the connection in the middle of the answer."""
        self.is_over.set()


class StandIn:
    """The server; `async with` starts it."""

    def __init__(self, prefix: str = "") -> None:
        self.url = ""
        """Where it is reached, with the prefix that all of it stands below."""
        self.models: tuple[str, ...] = MODELS
        self.own_key: dict[str, Reply] = {}
        """What GET /v1/key answers, by the key that is shown; others are unknown."""
        self.needs_key: str | None = None
        """A key without which the models are not listed."""
        self.unknown: list[str] = []
        """What was asked for and is not there."""
        self.cookies: list[str] = []
        self._prefix = prefix
        self._pages = pages()
        self._asked: asyncio.Queue[Asked] = asyncio.Queue()
        self._server = _Server(
            uvicorn.Config(
                self._app,
                interface="asgi3",
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="off",
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.url = "http://{}:{}{}".format(*listener.getsockname(), self._prefix)
        self._task = asyncio.get_running_loop().create_task(self._server.serve([listener]))
        await self._server.has_started.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        assert self._task is not None
        await self._task

    async def asked(self) -> Asked:
        """The next POST that came."""
        return await self._asked.get()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.cookies += [headers["cookie"]] if "cookie" in headers else []
        path = scope["path"].removeprefix(self._prefix)
        if scope["method"] == "POST":
            await self._take(path, headers, receive, send)
        elif path == "/v1/key" and scope["query_string"] == b"":
            reply = self.own_key.get(headers.get("authorization", ""), UNKNOWN_KEY)
            encoded = [(name.encode(), value.encode()) for name, value in reply.headers]
            await _answer(send, reply.status, encoded, reply.body)
        elif path == "/v1/models":
            await self._list_models(headers, send)
        elif path in self._pages:
            head = Head(method="GET", path=path, headers=tuple(scope["headers"]))
            reply = self._pages[path](head, None)
            encoded = [(name.encode(), value.encode()) for name, value in reply.headers]
            await _answer(send, reply.status, encoded, reply.body)
        else:
            self.unknown.append(scope["path"])
            await _answer(send, 404, [], b"")

    async def _take(self, path: str, headers: dict[str, str], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = Asked(path, headers, body, send)
        self._asked.put_nowait(asked)

        async def watch() -> None:
            await receive()  # the client has gone
            asked.is_over.set()

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            await asked.is_over.wait()
            watching.cancel()

    async def _list_models(self, headers: dict[str, str], send: Any) -> None:
        if self.needs_key and headers.get("authorization") != f"Bearer {self.needs_key}":
            status = 401
            value: Any = {"error": {"message": "A key is needed.", "code": "key_missing"}}
        else:
            rows = [{"id": name, "object": "model"} for name in self.models]
            status, value = 200, {"object": "list", "data": rows}
        typed = [(b"content-type", b"application/json")]
        await _answer(send, status, typed, json.dumps(value).encode())


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.has_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to pytest."""
        yield


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
