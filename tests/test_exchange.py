"""The pipeline: one client request, from its head to its reply, over fakes that are passed in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import keys
from books import no_keys
from keyhole.catalog import AS_ASKED, Access, Catalog, Route, Target, Upstream
from keyhole.dialects.generate import GenerateDialect
from keyhole.errors import ClientError, Code, UpstreamError
from keyhole.exchange import Admission, Gateway, Parts
from keyhole.policy.paths import Paths
from keyhole.ports import Timed
from keyhole.secret import Secret
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call
from keyhole.wire.http import Head, Reply, Timeouts, UpstreamRequest, UpstreamResponse
from keyhole.wire.keys import Key
from keyhole.wire.records import AccessRecord

MAX_BODY_BYTES = 1000
BODY = b'{"input": "Once"}'
SHARED = Reply(status=200, headers=[("content-type", "text/plain")], body=b"page")

Sent = Callable[[UpstreamRequest], Awaitable[UpstreamResponse]]


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def unix_ms(self) -> int:
        return 1_700_000_000_000

    def random_hex(self, count: int) -> str:
        return "f" * count


class NoAlarms:
    """ports.Alarms that never ring."""

    def now_s(self) -> float:
        return 0.0

    def watch(self, timed: Timed) -> None:
        pass

    def forget(self, timed: Timed) -> None:
        pass


class FakeObserver:
    def __init__(self) -> None:
        self.began_ids: list[str] = []
        self.records: list[AccessRecord] = []
        self.crashes: list[Exception] = []
        self.texts: list[dict[str, object]] = []

    def began(self, record: AccessRecord) -> None:
        self.began_ids.append(record.request_id)

    def ended(self, record: AccessRecord) -> None:
        self.records.append(record)

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        self.texts.append(dict(texts))

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        self.crashes.append(error)


class FakeBackend:
    """One request for each choice; the body names the model and the choice."""

    kind = "fake"
    default_url = None

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        if call.parameters.top_k is not None and target.upstream.name == "two":
            raise ClientError(Code.UNSUPPORTED_PARAMETER, "No top_k here.")
        if call.parameters.top_p is not None:
            raise ClientError(Code.UNSUPPORTED_PARAMETER, "No top_p here.")
        return tuple(
            UpstreamRequest(upstream=target.upstream, path=f"/{target.model}", body=b"%d" % number)
            for number in range(call.choices)
        )

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        texts = tuple(response.body.decode() for response in responses)
        return Answer(texts=(texts,), usage=Usage(3, 4))

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        code = Code.UPSTREAM_REFUSED_REQUEST if response.status == 400 else Code.UPSTREAM_ERROR
        return UpstreamError(code, f"It said {response.status}.", retry_after="7\r\nx: y")

    def probe_path(self, target: Target) -> str:
        return "/"


@dataclass
class FakeTransport:
    send_one: Sent
    sent: list[UpstreamRequest] = field(default_factory=list)
    timeouts: list[Timeouts] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)

    async def send(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        self.sent.append(request)
        self.timeouts.append(timeouts)
        self.request_ids.append(request_id)
        return await self.send_one(request)

    async def aclose(self) -> None:
        pass


@dataclass
class World:
    gateway: Gateway
    clock: FakeClock
    observer: FakeObserver
    transport: FakeTransport

    def admit(self, **head: Any) -> Admission | Reply:
        asked: dict[str, Any] = {
            "method": "POST",
            "path": "/generate",
            "headers": ((b"host", b"localhost"),),
        }
        return self.gateway.admit(Head(**asked | head))

    async def ask(self, body: bytes = BODY) -> Reply:
        admission = self.admit()
        assert isinstance(admission, Admission)
        return await self.gateway.run(admission, body)

    @property
    def record(self) -> AccessRecord:
        """The one request's record: it has begun and ended once."""
        assert len(self.observer.began_ids) == len(self.observer.records) == 1
        return self.observer.records[0]


def response(status: int = 200, body: bytes = b" upon") -> UpstreamResponse:
    return UpstreamResponse(status=status, headers={}, body=body)


async def fine(_: UpstreamRequest) -> UpstreamResponse:
    return response()


def world(
    send_one: Sent = fine, *, patience_s: float | None = None, tells_texts: bool = False
) -> World:
    secret = Secret("hf_of_the_operator")
    one = Upstream(name="one", kind="fake", url="http://one", connect_timeout_s=2, secret=secret)
    two = Upstream(name="two", kind="fake", url="http://two", total_timeout_s=50, secret=secret)
    targets = (Target(one, "a"), Target(two, AS_ASKED))
    default = Route(name="default", targets=targets, first_byte_timeout_s=patience_s)
    either = Route(name="either", targets=targets)
    nothing = Route(name="nothing", targets=())
    picky = Route(name="picky", targets=(targets[1], targets[0], targets[1]))
    routes = {route.name: route for route in (default, either, nothing, picky)}
    clock, observer, transport = FakeClock(), FakeObserver(), FakeTransport(send_one)
    generate = GenerateDialect()
    pages = {"/page": lambda _, __: SHARED, "/broken": _break}
    parts = Parts(
        catalog=Catalog(upstreams={"one": one, "two": two}, exact=routes),
        access=Access(allowed_origins=("https://a.example",)),
        paths=Paths([generate], pages, generate),
        **no_keys(),
        backends={"fake": FakeBackend()},
        transport=transport,
        clock=clock,
        observer=observer,
        alarms=NoAlarms(),
        max_body_bytes=MAX_BODY_BYTES,
        tells_texts=tells_texts,
    )
    return World(Gateway(parts), clock, observer, transport)


def _break(_: Head, __: Key | None) -> Reply:
    raise ValueError("words that nobody may see")


def error_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["code"]


class TestAdmission:
    def test_a_call_is_admitted_and_nothing_has_ended(self) -> None:
        here = world()
        admission = here.admit()
        assert isinstance(admission, Admission)
        assert admission.max_body_bytes == MAX_BODY_BYTES
        assert here.observer.records == []

    @pytest.mark.parametrize(
        ("head", "status", "code"),
        [
            ({"path": "/x"}, 404, "path_not_found"),
            ({"method": "GET"}, 405, "method_not_allowed"),
            ({"headers": ()}, 403, "host_not_allowed"),
            ({"peer": "8.8.8.8"}, 403, "caller_not_local"),
            ({"path": "/x", "peer": "8.8.8.8"}, 403, "caller_not_local"),
        ],
    )
    def test_a_refusal_ends_it(self, head: dict[str, Any], status: int, code: str) -> None:
        here = world()
        reply = here.admit(**head)
        assert isinstance(reply, Reply)
        assert error_of(reply) == (status, code)
        assert (here.record.status, here.record.code) == (status, code)

    @pytest.mark.parametrize(
        ("header", "status"),
        [
            ((b"content-length", b"1001"), 413),
            ((b"content-length", b"9" * 5000), 413),
            ((b"content-encoding", b"gzip"), 415),
            ((b"content-encoding", b"identity, br"), 415),
        ],
    )
    def test_a_body_that_will_not_do_is_refused_by_its_headers(
        self, header: tuple[bytes, bytes], status: int
    ) -> None:
        reply = world().admit(headers=((b"host", b"localhost"), header))
        assert isinstance(reply, Reply)
        assert reply.status == status

    @pytest.mark.parametrize(
        "header",
        [
            (b"content-length", b"1000"), (b"content-length", b"x"), (b"content-length", b""),
            (b"content-encoding", b"Identity"), (b"content-encoding", b""),
        ],
    )  # fmt: skip
    def test_a_body_that_may_do_is_let_in(self, header: tuple[bytes, bytes]) -> None:
        admission = world().admit(headers=((b"host", b"localhost"), header))
        assert isinstance(admission, Admission)

    def test_a_page_that_breaks_is_a_500_without_its_words(self) -> None:
        here = world()
        reply = here.admit(method="GET", path="/broken")
        assert isinstance(reply, Reply)
        assert error_of(reply) == (500, "internal_error")
        assert b"words" not in reply.body
        assert [type(error) for error in here.observer.crashes] == [ValueError]
        assert here.record.status == 500

    def test_a_pages_own_reply_is_left_as_it_is(self) -> None:
        here = world()
        for _ in range(3):
            here.admit(method="GET", path="/page")
        assert SHARED.headers == [("content-type", "text/plain")]

    def test_a_head_request_counts_no_bytes(self) -> None:
        here = world()
        reply = here.admit(method="HEAD", path="/page")
        assert isinstance(reply, Reply)
        assert reply.body == b"page", "the door leaves it out, and tells its length"
        assert here.record.bytes_out == 0


class TestRun:
    async def test_a_call_is_answered_and_recorded(self) -> None:
        here = world()
        reply = await here.ask()
        assert json.loads(reply.body) == [{"generated_text": "Once upon"}]
        headers = dict(reply.headers)
        assert headers["x-keyhole-model"] == "a"
        assert here.transport.request_ids == [headers["x-request-id"]]
        record = here.record
        assert (record.status, record.code, record.model) == (200, None, "default")
        assert (record.upstream, record.target, record.attempts) == ("one", "one/a", 1)
        assert (record.bytes_in, record.bytes_out) == (len(BODY), len(reply.body))
        assert record.usage == (3, 4)

    async def test_a_broken_body_reaches_no_upstream(self) -> None:
        here = world()
        assert error_of(await here.ask(b"{")) == (400, "invalid_json")
        assert here.transport.sent == []
        assert here.record.model is None

    async def test_the_next_target_is_tried_where_that_may_help(self) -> None:
        async def first_fails(request: UpstreamRequest) -> UpstreamResponse:
            return response(500 if request.path == "/a" else 200)

        here = world(first_fails)
        reply = await here.ask(b'{"input": "Once", "model": "either"}')
        assert reply.status == 200
        assert [request.path for request in here.transport.sent] == ["/a", "/either"]
        assert (here.record.attempts, here.record.upstream) == (2, "two")

    async def test_a_refused_request_is_not_taken_elsewhere(self) -> None:
        async def refuse(_: UpstreamRequest) -> UpstreamResponse:
            return response(400)

        here = world(refuse)
        assert error_of(await here.ask()) == (502, "upstream_refused_request")
        assert len(here.transport.sent) == 1

    async def test_the_last_targets_error_is_told_without_a_header_that_breaks_the_reply(
        self,
    ) -> None:
        async def fail(_: UpstreamRequest) -> UpstreamResponse:
            return response(500)

        here = world(fail)
        reply = await here.ask()
        assert error_of(reply) == (502, "upstream_error")
        assert "retry-after" not in dict(reply.headers)
        assert here.record.attempts == 2

    async def test_all_attempts_share_one_patience(self) -> None:
        async def fail_late(_: UpstreamRequest) -> UpstreamResponse:
            here.clock.now_s += 15
            return response(500)

        here = world(fail_late)
        await here.ask()
        assert [timeouts.first_byte_s for timeouts in here.transport.timeouts] == [20, 5]
        assert here.transport.timeouts[0].connect_s == 2
        assert here.transport.timeouts[1].total_s == 50
        assert here.record.duration_ms == 30_000

    async def test_nothing_is_tried_when_patience_has_run_out(self) -> None:
        async def fail_late(_: UpstreamRequest) -> UpstreamResponse:
            here.clock.now_s += 8
            return response(500)

        here = world(fail_late, patience_s=8)
        assert (await here.ask()).status == 502
        assert len(here.transport.sent) == 1

    async def test_what_a_backend_cannot_ask_is_the_clients_error(self) -> None:
        here = world()
        body = b'{"input": "x", "parameters": {"top_p": 0.5}}'
        assert error_of(await here.ask(body)) == (400, "unsupported_parameter")

    async def test_a_target_that_cannot_be_asked_hides_no_failure(self) -> None:
        """It is passed over; what an upstream said counts for more."""

        async def fail(_: UpstreamRequest) -> UpstreamResponse:
            return response(500)

        here = world(fail)
        body = b'{"input": "x", "model": "picky", "parameters": {"top_k": 5}}'
        assert error_of(await here.ask(body)) == (502, "upstream_error")
        assert (here.record.attempts, here.record.upstream) == (1, "one")

    async def test_an_answer_that_repeats_the_upstreams_secret_is_withheld(self) -> None:
        async def echo(_: UpstreamRequest) -> UpstreamResponse:
            return response(body=b"you sent: Bearer hf_of_the_operator")

        reply = await world(echo).ask()
        assert reply.status == 502
        assert b"hf_of_the_operator" not in reply.body

    async def test_texts_are_told_only_where_that_is_wanted(self) -> None:
        silent, talkative = world(), world(tells_texts=True)
        for here in (silent, talkative):
            await here.ask()
        assert silent.observer.texts == []
        assert talkative.observer.texts == [{"asked": "Once"}, {"answered": ((" upon",),)}]

    async def test_a_route_without_targets_is_our_own_error(self) -> None:
        here = world()
        body = b'{"input": "x", "model": "nothing"}'
        assert error_of(await here.ask(body)) == (500, "internal_error")

    async def test_an_unexpected_exception_is_a_500_without_its_words(self) -> None:
        async def crash(_: UpstreamRequest) -> UpstreamResponse:
            raise KeyError("words that nobody may see")

        here = world(crash)
        reply = await here.ask()
        assert error_of(reply) == (500, "internal_error")
        assert b"words" not in reply.body
        assert len(here.observer.crashes) == 1
        assert here.record.status == 500


class TestSeveralTexts:
    BODY = b'{"input": "Once", "parameters": {"num_return_sequences": 3}}'

    async def test_they_are_sent_at_once_and_come_back_in_order(self) -> None:
        gate = asyncio.Event()

        async def last_opens(request: UpstreamRequest) -> UpstreamResponse:
            if request.body == b"2":
                gate.set()
            await gate.wait()
            return response(body=request.body)

        reply = await world(last_opens).ask(self.BODY)
        texts = [row["generated_text"] for row in json.loads(reply.body)]
        assert texts == ["Once0", "Once1", "Once2"]

    async def test_the_first_failure_ends_the_others(self) -> None:
        cancelled = []

        async def one_fails(request: UpstreamRequest) -> UpstreamResponse:
            if request.body == b"1":
                raise UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "No.")
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(request.body)
            raise AssertionError

        reply = await world(one_fails).ask(self.BODY)
        assert error_of(reply) == (502, "upstream_refused_request")
        assert sorted(cancelled) == [b"0", b"2"]

    async def test_the_next_target_gets_them_all_again(self) -> None:
        async def first_fails(request: UpstreamRequest) -> UpstreamResponse:
            if request.path == "/a":
                raise UpstreamError(Code.UPSTREAM_UNREACHABLE, "No.")
            return response(body=request.body)

        here = world(first_fails)
        reply = await here.ask(self.BODY.replace(b"{", b'{"model": "either", ', 1))
        assert reply.status == 200
        assert here.record.attempts == 2


class TestLeaving:
    async def test_cancellation_passes_and_is_recorded_once(self) -> None:
        inside = asyncio.Event()

        async def wait(_: UpstreamRequest) -> UpstreamResponse:
            inside.set()
            await asyncio.Event().wait()
            raise AssertionError

        here = world(wait)
        task = asyncio.ensure_future(here.ask())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (here.record.status, here.record.upstream) == (499, "one")

    def test_only_the_first_end_counts(self) -> None:
        here = world()
        admission = here.admit()
        assert isinstance(admission, Admission)
        here.gateway.refuse(admission, ClientError(Code.BODY_TOO_LARGE, "No.", status=413))
        here.gateway.left(admission)
        here.gateway.left(admission)
        assert here.record.status == 413

    def test_who_left_before_the_body_was_read_is_recorded(self) -> None:
        here = world()
        admission = here.admit()
        assert isinstance(admission, Admission)
        here.gateway.left(admission)
        assert here.record.status == 499


class TestHeaders:
    async def test_a_sane_id_of_the_clients_is_kept_beside_ours(self) -> None:
        here = world()
        host = (b"host", b"localhost")
        here.admit(method="GET", path="/page", headers=(host, (b"x-request-id", b"mine-1")))
        assert here.record.client_request_id == "mine-1"
        assert here.record.request_id != "mine-1"

    @pytest.mark.parametrize("mine", [b"", b"a b", b"a\nb", b"x" * 200, b"\xff", b'"'])
    def test_another_id_of_the_clients_is_dropped(self, mine: bytes) -> None:
        here = world()
        here.admit(method="GET", path="/page", headers=((b"x-request-id", mine),))
        assert here.record.client_request_id is None

    def test_errors_too_may_be_read_by_an_allowed_origin(self) -> None:
        headers = ((b"host", b"localhost"), (b"origin", b"https://a.example"))
        reply = world().admit(path="/x", headers=headers)
        assert isinstance(reply, Reply)
        assert dict(reply.headers)["access-control-allow-origin"] == "https://a.example"


async def test_a_key_in_a_path_is_not_logged() -> None:
    here = world()
    assert isinstance(here.admit(path=f"/models/{keys.secret(1)}"), Reply)
    assert here.record.path == "/models/***"


async def test_a_head_that_is_known_again_is_logged_as_the_first_time() -> None:
    here = world()
    admission = here.admit()
    assert isinstance(admission, Admission)
    admission.record.path = "/models/***"
    again = here.gateway.admit_again(admission)
    assert again.record.path == "/models/***"
    here.gateway.left(admission)
    here.gateway.left(again)


async def test_a_401_says_which_scheme_is_wanted() -> None:
    here = world()
    admission = here.admit()
    assert isinstance(admission, Admission)
    reply = here.gateway.refuse(admission, ClientError(Code.KEY_MISSING, "No.", status=401))
    assert ("www-authenticate", "Bearer") in reply.headers


@pytest.mark.parametrize("shown", [keys.secret(1), "hf_abcdefghijklmnopqrstuvwx"])
async def test_a_key_for_a_request_id_is_not_logged(shown: str) -> None:
    here = world()
    here.admit(path="/x", headers=((b"host", b"localhost"), (b"x-request-id", shown.encode())))
    assert here.record.client_request_id is None
