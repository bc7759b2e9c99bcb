"""A client's POST /generate, through the gateway and a real connection, to a stand-in and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from upstreams import BACKENDS, KINDS, PROMPT, TOKEN, Golden, make_target, read_goldens

from books import no_keys
from keyhole.catalog import Access, Catalog, Route, Target
from keyhole.dialects.generate import GenerateDialect
from keyhole.errors import UpstreamError
from keyhole.exchange import Admission, Gateway, Parts
from keyhole.io.clock import SystemClock
from keyhole.io.transport import PooledTransport
from keyhole.policy.paths import Paths
from keyhole.wire.http import Head
from keyhole.wire.http import Reply as GatewayReply
from keyhole.wire.records import AccessRecord
from standins import Answer, Raw, Reply, StandIn

FAILED = "Could not connect to the text generation service."
GOOD: dict[str, Any] = {
    "hf-inference": [{"generated_text": f"{PROMPT}, there was."}],
    "huggingface": {"choices": [{"message": {"content": "Then what?"}}]},
    "tgi": {"generated_text": ", there was."},
    "engine": {"generated_text": ", there was."},
    "openai": {"choices": [{"message": {"content": "Then what?"}}]},
}


class Silent:
    """An Observer that keeps the records alone."""

    def __init__(self) -> None:
        self.records: list[AccessRecord] = []

    def began(self, record: AccessRecord) -> None:
        self.records.append(record)

    def ended(self, record: AccessRecord) -> None:
        pass

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        raise error


class Client:
    """Asks a gateway whose default route leads to the targets."""

    def __init__(self, gateway: Gateway, silent: Silent) -> None:
        self._gateway = gateway
        self.records = silent.records

    async def post(self, value: Any) -> GatewayReply:
        headers = (
            (b"host", b"127.0.0.1:5000"),
            (b"authorization", b"Bearer the-clients-own"),
            (b"cookie", b"session=the-clients-own"),
            (b"x-hf-bill-to", b"the-clients-own"),
            (b"x-request-id", b"the-clients-own"),
            (b"user-agent", b"the-clients-own"),
            (b"content-type", b"application/json; charset=the-clients-own"),
        )
        head = Head(method="POST", path="/generate", headers=headers, peer="127.0.0.1")
        admission = self._gateway.admit(head)
        assert isinstance(admission, Admission)
        return await self._gateway.run(admission, json.dumps(value).encode())


@asynccontextmanager
async def client_of(*targets: Target) -> AsyncIterator[Client]:
    dialect, silent, transport = GenerateDialect(), Silent(), PooledTransport()
    route = Route(name="default", targets=targets, first_byte_timeout_s=5)
    parts = Parts(
        catalog=Catalog(
            upstreams={target.upstream.name: target.upstream for target in targets},
            exact={"default": route},
        ),
        access=Access(),
        paths=Paths([dialect], {}, dialect),
        **no_keys(),
        backends=BACKENDS,
        transport=transport,
        clock=SystemClock(),
        observer=silent,
        alarms=transport.alarms,
        max_body_bytes=1_000_000,
    )
    try:
        yield Client(Gateway(parts), silent)
    finally:
        await transport.aclose()


def at(target: Target, upstream: StandIn) -> Target:
    return Target(replace(target.upstream, url=upstream.url), target.model)


def meant(golden: Golden, target: Target) -> str | None:
    """What the backend says of an answer of an upstream that is where the stand-in is."""
    backend = BACKENDS[golden.kind]
    if golden.status != 200:
        return backend.fault(golden.call, target, golden.response).explained
    try:
        backend.answer(golden.call, target, [golden.response])
    except UpstreamError as error:
        return error.explained
    return None


def header(reply: GatewayReply, name: str) -> str | None:
    return next((value for key, value in reply.headers if key == name), None)


@pytest.mark.parametrize("golden", read_goldens(), ids=str)
async def test_a_client_hears_what_the_upstream_meant(golden: Golden) -> None:
    answer = Reply(golden.status, golden.content, golden.headers)
    async with StandIn(answer) as upstream, client_of(at(golden.target, upstream)) as client:
        detail = meant(golden, at(golden.target, upstream))
        wanted = {"input": golden.call.input, "parameters": golden.call.parameters}
        reply = await client.post(json.loads(msgspec.json.encode(wanted)))

    body = json.loads(reply.body)
    assert header(reply, "content-type") == "application/json"
    if "texts" not in golden.expect:
        assert reply.status == 502
        assert body["error"] == FAILED
        assert body["detail"] == detail
        assert body["code"] == golden.expect["code"]
        assert body["request_id"] == header(reply, "x-request-id")
        assert header(reply, "retry-after") == golden.expect.get("retry_after")
        assert set(body) == {"error", "detail", "code", "request_id"}
        return
    assert reply.status == 200
    if golden.kind == "hf-inference":
        assert reply.body == golden.content
    else:
        prompt = "" if golden.expect["is_chat"] else PROMPT
        assert body == [{"generated_text": prompt + golden.expect["texts"][0][0]}]


@pytest.mark.parametrize("kind", KINDS)
async def test_upstream_hears_its_token_and_nothing_of_the_clients(kind: str) -> None:
    async with (
        StandIn(Reply.json(GOOD[kind])) as upstream,
        client_of(at(make_target(kind), upstream)) as client,
    ):
        reply = await client.post({"input": PROMPT})

    (seen,) = upstream.requests
    assert reply.status == 200
    assert seen.header_names == {
        *("host", "authorization", "accept", "accept-encoding", "content-length"),
        *("content-type", "user-agent", "x-request-id"),
    }
    assert len(seen.headers) == len(seen.header_names)
    assert seen.header("authorization") == f"Bearer {TOKEN}"
    assert seen.header("content-type") == seen.header("accept") == "application/json"
    assert seen.header("x-request-id") == header(reply, "x-request-id")
    assert "the-clients-own" not in str(seen)


async def test_an_upstream_without_a_token_gets_none() -> None:
    async with (
        StandIn(Reply.json(GOOD["tgi"])) as upstream,
        client_of(at(make_target("tgi", secret=None), upstream)) as client,
    ):
        await client.post({"input": PROMPT})

    assert "authorization" not in upstream.requests[0].header_names


async def test_a_list_of_prompts_asks_once_for_each_and_keeps_their_order() -> None:
    def echo(seen: Any) -> Answer:
        prompt = seen.json["inputs"]
        delay_s = 0.1 if prompt == "first" else 0.0
        return Reply(body=msgspec.json.encode({"generated_text": f" {prompt}!"}), delay_s=delay_s)

    async with StandIn(echo) as upstream, client_of(at(make_target("tgi"), upstream)) as client:
        reply = await client.post({"input": ["first", "other"]})

    assert json.loads(reply.body) == [
        [{"generated_text": "first first!"}],
        [{"generated_text": "other other!"}],
    ]
    assert len(upstream.requests) == 2


async def test_one_failure_among_several_is_the_calls_failure() -> None:
    def fail_one(seen: Any) -> Answer:
        if seen.json["inputs"] == "bad":
            return Reply.json({"error": "Model is overloaded", "error_type": "overloaded"}, 429)
        return Reply.json(GOOD["tgi"])

    async with StandIn(fail_one) as upstream, client_of(at(make_target("tgi"), upstream)) as client:
        reply = await client.post({"input": ["good", "bad", "good"]})

    assert (reply.status, json.loads(reply.body)["code"]) == (502, "upstream_rate_limited")


async def test_what_cannot_be_asked_is_the_clients_error_and_nothing_is_sent() -> None:
    async with StandIn() as upstream, client_of(at(make_target("openai"), upstream)) as client:
        reply = await client.post({"input": PROMPT, "parameters": {"top_k": 5}})

    assert (reply.status, json.loads(reply.body)["code"]) == (400, "unsupported_parameter")
    assert upstream.requests == []


async def test_the_next_target_is_tried_where_it_may_do_better() -> None:
    loading = Reply.json({"error": "Model gpt2 is currently loading", "estimated_time": 20.0}, 503)
    async with StandIn(loading) as first, StandIn(Reply.json(GOOD["tgi"])) as second:
        targets = (at(make_target("hf-inference"), first), at(make_target("tgi", "other"), second))
        async with client_of(*targets) as client:
            reply = await client.post({"input": PROMPT})

    assert json.loads(reply.body) == [{"generated_text": f"{PROMPT}, there was."}]
    assert header(reply, "x-keyhole-model") == "other"
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_a_refused_request_is_not_taken_elsewhere() -> None:
    refusal = Reply.json({"error": "Input validation error: x", "error_type": "validation"}, 422)
    async with StandIn(refusal) as first, StandIn(Reply.json(GOOD["tgi"])) as second:
        targets = (at(make_target("engine"), first), at(make_target("tgi", name="b"), second))
        async with client_of(*targets) as client:
            reply = await client.post({"input": PROMPT})

    assert json.loads(reply.body)["code"] == "upstream_refused_request"
    assert second.requests == []


async def test_the_engine_is_reached_on_its_socket(tmp_path: Path) -> None:
    async with StandIn(Reply.json(GOOD["engine"]), socket_path=tmp_path / "e.sock") as upstream:
        target = at(make_target("engine", "openai-community/gpt2"), upstream)
        async with client_of(target) as client:
            reply = await client.post({"input": PROMPT})

    assert reply.status == 200
    assert upstream.requests[0].path == "/openai-community/gpt2/generate"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Raw(), "upstream_unreachable"),
        (Raw((b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n[", 0.05)), "upstream_unreachable"),
        (Raw((b"HTTP/1.1 200 OK\r\n\r\n[{}", b"]")), None),
        (Raw((b"SSH-2.0-x\r\n",)), "upstream_error"),
        (Reply(body=b"[]", delay_s=0.3), None),
        (Reply(body=b"[]", body_delay_s=0.3, is_closing=True), None),
    ],
)
async def test_a_connection_may_end_in_many_ways(answer: Answer, code: str | None) -> None:
    async with (
        StandIn(answer) as upstream,
        client_of(at(make_target("hf-inference"), upstream)) as client,
    ):
        reply = await client.post({"input": PROMPT})

    if code is None:
        assert reply.status == 200
    else:
        assert (reply.status, json.loads(reply.body)["code"]) == (502, code)


async def test_a_stand_in_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    async with (
        StandIn(Reply(delay_s=60)) as upstream,
        client_of(at(make_target("tgi"), upstream)) as client,
    ):
        waiting = asyncio.ensure_future(client.post({"input": PROMPT}))
        await upstream.wait_for_requests()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert asyncio.all_tasks() == before
    assert client.records[0].status == 499
