"""Speaks ASGI to the engine's application, without a socket."""

from __future__ import annotations

import asyncio
import json

GENERATE = "/acme/tiny/generate"
STREAM = "/acme/tiny/generate_stream"


class Client:
    """The client of an application; each request is on a connection of its own."""

    def __init__(self, app):
        self._app = app

    async def request(
        self, method, path, body=b"", headers=None, *, gone=None, parts=1, wrote=None
    ):
        """The reply, or None if there was none.

        `gone` is set when the client hangs up; `wrote` is awaited with each message of the
        application, before its `send` returns.
        """
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        pieces = split(body, parts)
        sent, replies = iter(pieces), []
        gone = gone or asyncio.Event()

        async def receive():
            piece = next(sent, None)
            if piece is None:
                await gone.wait()
                return {"type": "http.disconnect"}
            more = piece is not pieces[-1]
            return {"type": "http.request", "body": piece, "more_body": more}

        async def send(message):
            replies.append(message)
            if wrote is not None:
                await wrote(message)

        headers = {"content-type": "application/json"} | (headers or {})
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
        await self._app(scope, receive, send)
        return Reply(*replies) if replies else None

    async def generate(self, inputs, path=GENERATE, **parameters):
        return await self.request("POST", path, {"inputs": inputs, "parameters": parameters})

    async def stream(self, inputs, path=STREAM, **parameters):
        return await self.generate(inputs, path, **parameters)


class Reply:
    def __init__(self, start, *bodies):
        self.status = start["status"]
        self.headers = {k.decode(): v.decode() for k, v in start["headers"]}
        self.parts = [body["body"] for body in bodies]
        self.body = b"".join(self.parts)
        self.is_complete = bool(bodies) and not bodies[-1].get("more_body", False)
        if "content-length" in self.headers:
            assert self.headers["content-length"] == str(len(self.body))

    def json(self):
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    def frames(self):
        """What a whole stream told."""
        assert (self.status, self.headers["content-type"]) == (200, "text/event-stream")
        assert self.is_complete
        return read_frames(self.body)

    def text(self):
        """What a client has that adds up the tokens which are no markers."""
        tokens = [frame["token"] for frame in self.frames()]
        return "".join(token["text"] for token in tokens if not token["special"])


def read_frames(body):
    """The values of the frames; comments are left out, anything else is a failure."""
    *frames, rest = body.decode().split("\n\n")
    assert rest == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames if frame != ":"]


def split(body, parts):
    size = len(body) // parts + 1
    return [body[at : at + size] for at in range(0, len(body), size)]
