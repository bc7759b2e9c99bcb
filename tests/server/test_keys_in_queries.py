"""Every door says whether a query held a key, and keeps the query to itself."""

from __future__ import annotations

from typing import Any

import flask
import pytest

from keyhole.exchange import Admission, Gateway
from keyhole.server.app import AsgiDoor
from keyhole.server.flask import _head
from keyhole.wire.http import Head, Reply
from keys import secret
from server.lanes import Lane

QUERIES = [
    ("", False),
    ("stream=true", False),
    (f"key={secret(1)}", True),
    (f"q=%6bh_{secret(1)[3:]}", True),
    ("access_token=x", True),
    ("q=\xff%ff%", False),
]


class Listening:
    """A gateway that keeps the heads that it is shown."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.heads: list[Head] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    def admit(self, head: Head) -> Admission | Reply:
        self.heads.append(head)
        return self._gateway.admit(head)


@pytest.mark.parametrize(("query", "is_shown"), QUERIES[:-1])
async def test_the_fast_lane(query: str, is_shown: bool) -> None:
    listening = Listening(Lane().composed.gateway)
    lane = Lane(gateway=listening)  # type: ignore[arg-type]
    target = b"/generate?" + query.encode() if query else b"/generate"
    await lane.send(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    (head,) = listening.heads
    assert (head.shows_key_in_query, head.path) == (is_shown, "/generate")


@pytest.mark.parametrize(("query", "is_shown"), QUERIES)
async def test_the_asgi_door(query: str, is_shown: bool) -> None:
    listening = Listening(Lane().composed.gateway)
    door = AsgiDoor(listening)  # type: ignore[arg-type]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health/live",
        "query_string": query.encode("latin-1"),
        "headers": [(b"host", b"x")],
    }
    await door(scope, send, send)  # type: ignore[arg-type]
    (head,) = listening.heads
    assert (head.shows_key_in_query, head.path) == (is_shown, "/health/live")


@pytest.mark.parametrize(("query", "is_shown"), QUERIES)
def test_the_flask_door(query: str, is_shown: bool) -> None:
    app = flask.Flask(__name__)
    environ = {"QUERY_STRING": query}
    with app.test_request_context("/generate", method="POST", environ_overrides=environ):
        head = _head(flask.request.environ, "generate")
    assert (head.shows_key_in_query, head.path) == (is_shown, "/generate")
