"""A live `keyhole serve` behind the page, in front of the engine and of a stand-in of TGI.

    async with Live.started(home) as live:
        call = live.call(Scene.OK)
        ...                       # the page sends call.prompt
        call.go_on()

Its default model is the stand-in's, which does what a prompt asks for and holds a stream until
the test lets it go on; the engine has its own models. What Keyhole never says to the page is
told by standin.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from page.chromium import PATIENCE_S
from processes.driving import Server, serving
from standins import Answer, Gate, Seen, StandIn, Streamed
from standins.models import PROMPT_TOKENS, ModelServers, Scene, prompt_of
from standins.models.scenes import mark_in

MODEL = "tiny/model"
"""The stand-in's, which is the default too."""
PATTERN = "*/*"
"""What is routed to the stand-in too; no model's name, so the page does not offer it."""
ENGINE_MODEL = "keyhole-demo"


class Call:
    """One call that a test makes of the page, as the upstream sees it."""

    def __init__(self, live: Live, scene: Scene, call_id: int) -> None:
        self._live = live
        self._call_id = call_id
        self.prompt = prompt_of(scene, call_id)

    @property
    def requests(self) -> list[Seen]:
        return self._live.servers.requests(self._call_id)

    def go_on(self) -> None:
        """Let the upstream's stream go on to its end."""
        self._live.servers.gate(self._call_id).open()

    async def arrived(self, count: int = 1) -> Seen:
        """The upstream's first request, or the one of that number, once it is there."""
        async with _patience("no request has come"):
            while len(self.requests) < count:
                await self._live.upstream.wait_for_requests(len(self._live.upstream.requests) + 1)
        return self.requests[count - 1]

    async def left(self, count: int = 1) -> None:
        """Wait until the upstream saw that connection closed in the middle of its stream."""
        seen = await self.arrived(count)
        async with _patience("the upstream's connection is still open"):
            while not self.is_left(seen):  # noqa: ASYNC110  # the stand-in only looks now and then
                await asyncio.sleep(0.005)

    def is_left(self, seen: Seen) -> bool:
        return any(departure.seen is seen for departure in self._live.upstream.departures)


class Live:
    """The server and its upstream."""

    def __init__(self) -> None:
        self.url = ""
        self.servers = ModelServers()
        self.upstream = StandIn(self._answer)
        self._answers: dict[int, Answer] = {}
        self._numbers = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def started(cls, home: Path) -> AsyncIterator[Live]:
        """Start both; they are gone afterwards."""
        live = cls()
        async with live.upstream:
            (home / "keyhole.toml").write_text(_configuration(live.upstream.url))
            server: Server
            with contextlib.ExitStack() as stack:
                serve = serving(data=home / "data", home=home)
                server = await asyncio.to_thread(stack.enter_context, serve)
                live.url = f"http://127.0.0.1:{server.port}"
                yield live

    def call(self, scene: Scene = Scene.OK, answer: Answer | None = None) -> Call:
        """A call of its own, answered as the scene says or with `answer`."""
        call = Call(self, scene, next(self._numbers))
        if answer is not None:
            self._answers[mark_in(call.prompt.encode())[1]] = answer
        return call

    def _answer(self, seen: Seen) -> Answer:
        usual = self.servers(seen)
        return self._answers.get(mark_in(seen.body)[1], usual)


def pieces(*texts: str | float | Gate) -> Streamed:
    """A stream of TGI's with these tokens, and gates and pauses in seconds between them."""
    told = [text for text in texts if isinstance(text, str)]
    counts = {"generated_tokens": len(told), "input_length": PROMPT_TOKENS, "seed": None}
    details = {"finish_reason": "eos_token", **counts}
    last = {"generated_text": "".join(told), "details": details}
    frames: list[bytes | float | Gate] = []
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            frames.append(text)
            continue
        token = {"id": number, "text": text, "logprob": -0.5, "special": False}
        ending = last if number == len(texts) else {"generated_text": None, "details": None}
        frames.append(b"data:" + json.dumps({"token": token, **ending}).encode() + b"\n\n")
    return Streamed(tuple(frames))


def _configuration(upstream_url: str) -> str:
    lines = ["[upstream.tiny]", 'kind = "tgi"', f'url = "{upstream_url}/tgi"']
    for name in ("default", MODEL, PATTERN):
        lines += [f'[route."{name}"]', f'targets = ["tiny/{MODEL}"]']
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def _patience(complaint: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        pytest.fail(f"After {PATIENCE_S} s {complaint}.")
