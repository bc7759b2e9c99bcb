"""A call is held while nobody can answer it but a model that loads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from books import no_keys
from keyhole.backends.openai import OpenAi
from keyhole.backends.tgi import Tgi
from keyhole.catalog import Access, Catalog, Route, Target, Upstream
from keyhole.dialects.generate import GenerateDialect
from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.exchange import Admission, Gateway, Parts
from keyhole.policy.paths import Paths
from keyhole.wire.http import Head, Reply, Timeouts, UpstreamRequest, UpstreamResponse
from keyhole.wire.records import AccessRecord

Said = tuple[int, Mapping[str, str], Any]
"""What an upstream answers: status, headers, JSON."""

LOADING: Said = (503, {}, {"error": {"code": 503, "message": "Loading model"}})
SOON: Said = (503, {"retry-after": "1"}, {"error": "The model is loading"})
TEXT: Said = (200, {}, {"generated_text": " upon"})
COMPLETION: Said = (
    200,
    {},
    {"choices": [{"message": {"role": "assistant", "content": " upon"}, "finish_reason": "stop"}]},
)
AWAY: Said = (503, {}, {"error": "no healthy upstream"})
REFUSED: Said = (422, {}, {"error": "too long", "error_type": "validation"})


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def unix_ms(self) -> int:
        return 1_700_000_000_000

    def random_hex(self, count: int) -> str:
        return "f" * count

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


class Stuck(Clock):
    """One whose sleeper is never woken."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.get_running_loop().create_future()


class Observer:
    def __init__(self) -> None:
        self.records: list[AccessRecord] = []

    def began(self, record: AccessRecord) -> None: ...
    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None: ...

    def ended(self, record: AccessRecord) -> None:
        self.records.append(record)

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        raise error


class Incoming:
    """A whole answer where a stream might have come."""

    def __init__(self, said: UpstreamResponse) -> None:
        self.status, self.headers, self._body = said.status, said.headers, said.body

    async def read_all(self) -> bytes:
        return self._body

    def close(self) -> None: ...


class Script:
    """A Transport that says, upstream by upstream, one thing after the other."""

    def __init__(self, clock: Clock, lines: Mapping[str, Iterator[Said]]) -> None:
        self._clock, self._lines = clock, lines
        self.asked: list[tuple[str, float]] = []
        """Who, and how many seconds after the beginning."""
        self.left_s: list[float] = []

    async def send(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        self.asked.append((request.upstream.name, self._clock.now_s - 1000))
        self.left_s.append(timeouts.first_byte_s)
        status, headers, body = next(self._lines[request.upstream.name])
        return UpstreamResponse(status=status, headers=headers, body=json.dumps(body).encode())

    async def open(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> Incoming:
        return Incoming(await self.send(request, request_id=request_id, timeouts=timeouts))

    async def aclose(self) -> None: ...


class Alarms:
    def now_s(self) -> float:
        return 0.0

    def watch(self, timed: object) -> None: ...
    def forget(self, timed: object) -> None: ...


class World:
    """A gateway in front of upstreams that each say one thing after the other."""

    def __init__(
        self,
        *said: Sequence[Said],
        patience_s: float = 10,
        first_byte_timeout_s: float | None = None,
        clock: Callable[[], Clock] = Clock,
        kind: str = "tgi",
    ) -> None:
        self.clock, self.observer = clock(), Observer()
        names = [f"u{number}" for number in range(len(said))]
        lines = {name: _and_so_on(row) for name, row in zip(names, said, strict=True)}
        self.transport = Script(self.clock, lines)
        upstreams = {name: Upstream(name=name, kind=kind, url="http://u") for name in names}
        targets = tuple(Target(upstream, "m") for upstream in upstreams.values())
        route = Route(name="default", targets=targets, first_byte_timeout_s=first_byte_timeout_s)
        generate, openai, hosted = GenerateDialect(), OpenAiDialect(), HuggingFaceDialect()
        parts = Parts(
            catalog=Catalog(upstreams=upstreams, exact={"default": route}),
            access=Access(),
            paths=Paths([generate, openai, hosted], {}, generate, words={"/v1/": openai}),
            **no_keys(),
            backends={"tgi": Tgi(), "openai": OpenAi()},
            transport=self.transport,
            clock=self.clock,
            observer=self.observer,
            alarms=Alarms(),
            max_body_bytes=10_000,
            loading_patience_s=patience_s,
        )
        self.gateway = Gateway(parts)

    async def ask(self, path: str = "/generate", *, wants_stream: bool = False) -> Reply:
        head = Head(method="POST", path=path, headers=((b"host", b"localhost"),))
        admission = self.gateway.admit(head)
        assert isinstance(admission, Admission)
        body: dict[str, Any] = {"input": "Once"}
        if path != "/generate":
            body = {"messages": [{"role": "user", "content": "Once"}]}
        if wants_stream:
            body["stream"] = True
        return await self.gateway.run(admission, json.dumps(body).encode())

    @property
    def times(self) -> list[float]:
        return [when for _, when in self.transport.asked]

    @property
    def record(self) -> AccessRecord:
        (record,) = self.observer.records
        return record


def _and_so_on(said: Sequence[Said]) -> Iterator[Said]:
    yield from said
    while True:
        yield said[-1]


def code_of(reply: Reply) -> tuple[int, str]:
    body = json.loads(reply.body)
    return reply.status, body["code"] if "code" in body else body["error"]["code"]


async def test_a_model_that_comes_up_answers_the_call_that_waited() -> None:
    here = World([LOADING, LOADING, TEXT])
    reply = await here.ask()
    assert json.loads(reply.body) == [{"generated_text": "Once upon"}]
    assert here.times == [0, 2, 4]
    assert (here.record.status, here.record.attempts) == (200, 3)


async def test_a_stream_is_held_as_a_whole_answer_is() -> None:
    here = World([LOADING, COMPLETION], kind="openai")
    reply = await here.ask("/v1/chat/completions", wants_stream=True)
    assert reply.status == 200
    assert b" upon" in reply.body
    assert here.times == [0, 2]


async def test_it_is_asked_again_as_soon_as_it_says() -> None:
    here = World([SOON, SOON, TEXT])
    assert (await here.ask()).status == 200
    assert here.times == [0, 1, 2]


@pytest.mark.parametrize(
    ("told", "wait_s"),
    [("0", 0.25), ("20", 2), ("Wed, 21 Oct 2026 07:28:00 GMT", 2), ("9" * 400, 2)],
)
async def test_neither_at_once_nor_late_whatever_it_says(told: str, wait_s: float) -> None:
    here = World([(503, {"retry-after": told}, {"error": "loading"}), TEXT])
    assert (await here.ask()).status == 200
    assert here.clock.slept_s == [wait_s]


async def test_a_model_that_stays_away_is_told_when_patience_is_over() -> None:
    """A client that sends a 503 again at once comes through six times in ten seconds."""
    here = World([LOADING], kind="openai")
    reply = await here.ask("/v1/chat/completions")
    assert code_of(reply) == (503, "upstream_loading")
    assert dict(reply.headers)["retry-after"] == "20"
    assert here.times == [0, 2, 4, 6, 8, 10]
    assert (here.record.attempts, here.record.duration_ms) == (6, 10_000)


async def test_the_last_try_comes_when_patience_ends() -> None:
    here = World([LOADING], patience_s=3)
    assert code_of(await here.ask()) == (502, "upstream_loading")
    assert here.times == [0, 2, 3]


async def test_a_last_try_that_follows_at_once_is_left_out() -> None:
    here = World([LOADING], patience_s=4.2)
    assert code_of(await here.ask()) == (502, "upstream_loading")
    assert here.times == [0, 2, 4]


async def test_without_patience_it_is_told_at_once() -> None:
    here = World([LOADING], patience_s=0)
    assert code_of(await here.ask()) == (502, "upstream_loading")
    assert here.clock.slept_s == []


@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_of_the_hosted_api_may_ask_not_to_be_held(waits: bool) -> None:
    here = World([LOADING, TEXT])
    head = Head(method="POST", path="/models/default", headers=((b"host", b"localhost"),))
    admission = here.gateway.admit(head)
    assert isinstance(admission, Admission)
    body = json.dumps({"inputs": "Once", "options": {"wait_for_model": waits}}).encode()
    reply = await here.gateway.run(admission, body)
    assert (reply.status, here.clock.slept_s) == ((200, [2]) if waits else (503, []))


async def test_no_call_is_held_up_to_its_deadline() -> None:
    """The original script's clients wait for 20 seconds; they hear why before that."""
    here = World([LOADING], patience_s=60)
    assert code_of(await here.ask()) == (502, "upstream_loading")
    assert here.times[-1] == 18
    assert here.transport.left_s[-1] == 2


async def test_a_call_with_hardly_any_time_is_not_held() -> None:
    here = World([LOADING], first_byte_timeout_s=2)
    assert code_of(await here.ask()) == (502, "upstream_loading")
    assert here.times == [0]


async def test_another_target_is_asked_before_anything_is_waited_for() -> None:
    here = World([LOADING], [TEXT])
    assert (await here.ask()).status == 200
    assert here.transport.asked == [("u0", 0), ("u1", 0)]


async def test_only_those_that_load_are_asked_again() -> None:
    here = World([LOADING, TEXT], [AWAY])
    assert (await here.ask()).status == 200
    assert here.transport.asked == [("u0", 0), ("u1", 0), ("u0", 2)]


async def test_who_no_longer_loads_is_not_asked_again() -> None:
    here = World([LOADING, AWAY])
    assert code_of(await here.ask()) == (502, "upstream_unavailable")
    assert here.times == [0, 2]


async def test_a_refused_request_is_told_at_once_whoever_loads() -> None:
    here = World([LOADING], [REFUSED])
    assert code_of(await here.ask()) == (502, "upstream_refused_request")
    assert here.clock.slept_s == []


async def test_an_upstream_that_is_not_there_is_not_waited_for() -> None:
    """And it is 502: clients take a 503 for a model that loads."""
    here = World([AWAY], kind="openai")
    assert code_of(await here.ask("/v1/chat/completions")) == (502, "upstream_unavailable")
    assert here.clock.slept_s == []


async def test_a_client_that_leaves_is_not_waited_for() -> None:
    here = World([LOADING], clock=Stuck)
    held = asyncio.ensure_future(here.ask())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert here.times == [0]
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert here.record.status == 499
