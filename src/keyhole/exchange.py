"""One client request, from its head to its reply; every door goes through here.

A door turns its own world into a Head and a body, and a Reply back. The order is fixed: from
the head alone, which place, may this caller come in; then the body: decode, find the route,
plan the targets, send, translate. A stream's reply begins with its first frame, and `relay` does
the rest. It holds no sockets and knows no concrete class; the parts come as arguments (`main`
names them). It keeps no accounts and checks no keys: those steps will stand between these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from keyhole.backends.base import EVENT_STREAM, Backend
from keyhole.backends.faults import echoed_secret
from keyhole.catalog import Access, Catalog, Route, Target
from keyhole.dialects.base import ClientDialect
from keyhole.eager import be_a_task
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.policy.access import check_caller, cors_headers, preflight_headers
from keyhole.policy.credentials import mask_keys
from keyhole.policy.paths import Paths, Place, check_method
from keyhole.policy.routing import (
    ask_again_after_s,
    find_route,
    is_worth_another_target,
    is_worth_waiting,
    patience_ends_s,
    plan,
    settle_model,
)
from keyhole.ports import Alarms, Clock, Observer, Transport
from keyhole.relay import Relay
from keyhole.wire.answer import Answer, Stamp, Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Counted, Delta, Event, Finish, Reason
from keyhole.wire.http import (
    JSON,
    Head,
    Reply,
    Timeouts,
    UpstreamRequest,
    UpstreamResponse,
)
from keyhole.wire.ids import sane_request_id, uuid7
from keyhole.wire.records import CLIENT_GONE, AccessRecord

MAX_HEADER_VALUE_CHARS = 1024

_Got = TypeVar("_Got")
Headers = list[tuple[str, str]]


class Admission(Struct):
    """A request whose head was let in: its body may be read, up to `max_body_bytes`."""

    head: Head
    place: Place
    """Whose words its errors are in; the body may move it to another one that shares the path."""
    place_of_path: Place
    record: AccessRecord
    began_s: float
    max_body_bytes: int
    is_over: bool = False
    """Whether the observers have heard of its end."""


class Wish(Struct, frozen=True):
    """What is known of a call before anybody is asked."""

    call: Call
    route: Route
    dialect: ClientDialect
    record: AccessRecord
    began_s: float
    deadline_s: float
    """By when the first byte of an answer must have come, on the clock."""


class Parts(Struct, frozen=True, kw_only=True):
    """What a Gateway is made of."""

    catalog: Catalog
    access: Access
    paths: Paths
    backends: Mapping[str, Backend]
    """By kind."""
    transport: Transport
    clock: Clock
    observer: Observer
    alarms: Alarms
    max_body_bytes: int
    max_frame_bytes: int = 1024 * 1024
    """Of one frame of a stream."""
    heartbeat_s: float = 15.0
    """How long a stream may be silent before its client gets a comment; 0 for ever."""
    loading_patience_s: float = 0.0
    """How long a call is held while nobody can answer it but a model that loads."""
    tells_texts: bool = False
    """Whether the observer is told prompts and answers: only where the operator wants it."""


class Gateway:
    """The core: `admit` a head, then `run` its body, or say that the client `left`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def admit(self, head: Head) -> Admission | Reply:
        """Let a request in by its head alone, or the reply that ends it. Reads no body.

        Whoever gets an Admission must end it with `run`, `refuse` or `left`. The first of them
        counts, so that a door may say `left` whatever happened.
        """
        admission = self._begin(head)
        try:
            check_caller(head, self._parts.access)
            check_method(head, admission.place)
            if head.method == "OPTIONS":
                return self._end(admission, self._options(admission))
            if admission.place.page is not None and head.method != "POST":
                page = admission.place.page(head)
                # a copy: a page may hand out the same reply each time
                return self._end(admission, replace(page))
            _check_body_headers(head, self._parts.max_body_bytes)
        except KeyholeError as error:
            return self.refuse(admission, error)
        except Exception as error:  # noqa: BLE001  # the edge: a page of ours failed
            return self._crash(admission, error)
        return admission

    def admit_again(self, earlier: Admission) -> Admission:
        """Let in a request whose head is, byte for byte, that of one which was let in before.

        It comes from the same caller, and its body is not longer than `max_body_bytes`: what was
        decided from the head alone is still decided.
        """
        record = earlier.record
        return self._admission(
            earlier.head, record.path, earlier.place_of_path, record.client_request_id
        )

    async def run(self, admission: Admission, body: bytes) -> Reply:
        """Serve an admitted request. Raises nothing but cancellation."""
        admission.record.bytes_in = len(body)
        try:
            reply = await self._serve(admission, body)
        except KeyholeError as error:
            return self.refuse(admission, error)
        except asyncio.CancelledError:
            self.left(admission)
            raise
        except Exception as error:  # noqa: BLE001  # the edge: logged, answered as internal
            return self._crash(admission, error)
        return self._end(admission, reply)

    def refuse(self, admission: Admission, error: KeyholeError) -> Reply:
        """End an admitted request with an error, in its dialect."""
        admission.record.code = error.code
        reply = admission.place.dialect.refuse(error, admission.record.request_id)
        if reply.status == 401:
            reply.headers.append(("www-authenticate", "Bearer"))  # RFC 9110, section 11.6.1
        return self._end(admission, reply)

    def turn_away(self, head: Head, error: KeyholeError) -> Reply:
        """Refuse a request that a door could not make sense of, with what it knows of the head."""
        return self.refuse(self._begin(head), error)

    def is_hot(self, path: str) -> bool:
        """Whether a POST to the path is a call of some dialect."""
        return self._parts.paths.takes_calls(path)

    def left(self, admission: Admission) -> None:
        """End an admitted request whose client went away; nothing if it has ended already."""
        if not admission.is_over:
            admission.record.status = CLIENT_GONE
            self._observe_end(admission)

    def _begin(self, head: Head) -> Admission:
        place = self._parts.paths.find(head.path)
        client_request_id = sane_request_id(head.first(b"x-request-id"))
        return self._admission(head, mask_keys(head.path), place, client_request_id)

    def _admission(
        self, head: Head, shown_path: str, place: Place, client_request_id: str | None
    ) -> Admission:
        parts = self._parts
        clock = parts.clock
        unix_ms = clock.unix_ms()
        request_id = uuid7(unix_ms, clock.random_hex(19))
        record = AccessRecord(request_id, unix_ms, head.method, shown_path, client_request_id)
        parts.observer.began(record)
        return Admission(head, place, place, record, clock.monotonic(), parts.max_body_bytes)

    async def _serve(self, admission: Admission, body: bytes) -> Reply:
        dialect, record = self._dialect(admission, body), admission.record
        call = settle_model(self._parts.catalog, dialect.decode(admission.head, body))
        if self._parts.tells_texts:
            self._parts.observer.told(record, {"asked": call.input})
        route = find_route(self._parts.catalog, call.model)
        record.model = route.name
        patience_s = route.first_byte_timeout_s or dialect.first_byte_timeout_s
        began_s = self._parts.clock.monotonic()  # not while a client was sending
        wish = Wish(call, route, dialect, record, began_s, began_s + patience_s)
        if call.wants_stream:
            return await self._stream(wish)
        target, answer = await self._try_targets(wish, self._attempt)
        _note_usage(record, answer.usage)
        encoded = dialect.encode(call, answer, self._stamp(wish))
        if self._parts.tells_texts:
            self._parts.observer.told(record, {"answered": answer.texts})
        headers = [("content-type", JSON), ("x-keyhole-model", target.model)]
        if answer.is_chat:
            headers += _translated(call, is_rendered=answer.is_rendered)
        return Reply(status=200, headers=headers, body=encoded)

    def _dialect(self, admission: Admission, body: bytes) -> ClientDialect:
        """The dialect of a body, where two share a path; what is refused is refused in it."""
        place = admission.place
        if place.other is not None and place.other.is_meant(body):
            admission.place = place = place.other.place
        return place.dialect

    def _stamp(self, wish: Wish) -> Stamp:
        record = wish.record
        model = wish.call.model or wish.route.name
        return Stamp(record.request_id, record.began_unix_ms // 1000, model)

    async def _stream(self, wish: Wish) -> Reply:
        """The head of a stream's reply, once its first frame says that it is a good one."""
        target, (relay, first, translated) = await self._try_targets(wish, self._open)
        headers = [
            ("content-type", EVENT_STREAM),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),  # nginx would collect the stream otherwise
            ("x-keyhole-model", target.model),
            *translated,
        ]
        return Reply(status=200, headers=headers, body=first, stream=relay)

    async def _open(self, wish: Wish, target: Target) -> tuple[Relay | None, bytes, Headers]:
        """One try to stream from one target: what goes on, the first bytes, headers beside ours."""
        parts, call = self._parts, wish.call
        backend = parts.backends[target.upstream.kind]
        streaming = backend.stream(call, target, max_output_tokens=wish.route.max_output_tokens)
        is_rendered = streaming.is_rendered
        translated = _translated(call, is_rendered=is_rendered) if streaming.is_chat else []
        timeouts = self._count_attempt(wish, target)
        incoming = await parts.transport.open(
            streaming.request, request_id=wish.record.request_id, timeouts=timeouts
        )
        try:
            media_type = incoming.headers.get("content-type", "").lower()
            is_stream = media_type.startswith(EVENT_STREAM)
            if incoming.status != 200 or not is_stream:
                body = await incoming.read_all()
                response = UpstreamResponse(
                    status=incoming.status, headers=incoming.headers, body=body
                )
                answer = self._read_answer(backend, call, target, (response,))
                return None, self._write_whole(wish, answer), translated
            relay = Relay(
                call,
                target,
                streaming,
                incoming,
                writer=wish.dialect.stream(call, self._stamp(wish), is_chat=streaming.is_chat),
                alarms=parts.alarms,
                max_frame_bytes=parts.max_frame_bytes,
            )
            first = await relay.begin(wish.deadline_s - parts.clock.monotonic())
        except BaseException:
            incoming.close()
            raise
        return relay, first, translated

    def _write_whole(self, wish: Wish, answer: Answer) -> bytes:
        """A stream of one piece, for an upstream that answers at once although asked to stream."""
        writer = wish.dialect.stream(wish.call, self._stamp(wish), is_chat=answer.is_chat)
        text = answer.texts[0][0] if answer.texts and answer.texts[0] else ""
        reason = answer.finishes[0][0] if answer.finishes and answer.finishes[0] else "stop"
        events: list[Event] = [Delta(text), Finish(cast("Reason", reason))]
        _note_usage(wish.record, answer.usage)
        if answer.usage is not None:
            events.append(Counted(answer.usage))
        return b"".join([*map(writer.write, events), writer.end()])

    async def _try_targets(
        self, wish: Wish, attempt: Callable[[Wish, Target], Awaitable[_Got]]
    ) -> tuple[Target, _Got]:
        """The first answer among the planned targets, all within one deadline.

        A target that cannot be asked this (it takes no top_k, say) is passed over. If none
        answers, those that load their model are asked again for as long as that is allowed. Then
        the last upstream's failure is told, for it is nearer than what was passed over.
        """
        clock = self._parts.clock
        targets = plan(wish.route, wish.call.model)
        failure: KeyholeError | None = None
        while True:
            loading: list[tuple[Target, UpstreamError]] = []
            for target in targets:
                try:
                    return target, await attempt(wish, target)
                except ClientError as error:
                    failure = failure or error
                except UpstreamError as error:
                    failure = error
                    is_out_of_time = clock.monotonic() >= wish.deadline_s
                    if is_out_of_time or not is_worth_another_target(error):
                        raise
                    if error.code is Code.UPSTREAM_LOADING:
                        loading.append((target, error))
            if failure is None:
                route = wish.route.name
                raise GatewayError(Code.INTERNAL_ERROR, f"The route '{route}' has no targets.")
            wait_s = self._wait_s(wish, [error for _, error in loading])
            if wait_s <= 0:
                raise failure
            await clock.sleep(wait_s)
            targets = [target for target, _ in loading]

    def _wait_s(self, wish: Wish, loading: Sequence[UpstreamError]) -> float:
        """How long to wait before those that load are asked again; 0 where they are not to be."""
        if not loading or not wish.call.waits_for_model:
            return 0.0
        until_s = patience_ends_s(wish.began_s, self._parts.loading_patience_s, wish.deadline_s)
        left_s = until_s - self._parts.clock.monotonic()
        if not is_worth_waiting(left_s):
            return 0.0
        return min(left_s, *map(ask_again_after_s, loading))

    async def _attempt(self, wish: Wish, target: Target) -> Answer:
        """One try at one target: every request that its backend makes of the call, at once."""
        call, record = wish.call, wish.record
        backend = self._parts.backends[target.upstream.kind]
        requests = backend.requests(call, target, max_output_tokens=wish.route.max_output_tokens)
        timeouts = self._count_attempt(wish, target)
        responses: Sequence[UpstreamResponse]
        if len(requests) == 1:
            send = self._parts.transport.send
            response = await send(requests[0], request_id=record.request_id, timeouts=timeouts)
            responses = (response,)
        else:
            responses = await self._send_all(requests, record.request_id, timeouts)
        return self._read_answer(backend, call, target, responses)

    def _count_attempt(self, wish: Wish, target: Target) -> Timeouts:
        """Note that a target is asked; the bounds of asking it."""
        record, upstream = wish.record, target.upstream
        record.attempts += 1
        record.upstream, record.target = upstream.name, target.label
        left_s = max(wish.deadline_s - self._parts.clock.monotonic(), 0.001)
        return Timeouts(upstream.connect_timeout_s, left_s, upstream.total_timeout_s)

    def _read_answer(
        self, backend: Backend, call: Call, target: Target, responses: Sequence[UpstreamResponse]
    ) -> Answer:
        """What good responses say; raises UpstreamError for others."""
        secret = target.upstream.secret
        for response in responses:
            if response.status != 200:
                raise backend.fault(call, target, response)
            if secret is not None and secret.is_in(response.body):
                # An upstream that repeats the headers it was sent would hand it to clients.
                raise echoed_secret(target.upstream, response.status)
        return backend.answer(call, target, responses)

    async def _send_all(
        self, requests: tuple[UpstreamRequest, ...], request_id: str, timeouts: Timeouts
    ) -> list[UpstreamResponse]:
        send = self._parts.transport.send
        await be_a_task()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(send(request, request_id=request_id, timeouts=timeouts))
                    for request in requests
                ]
        except ExceptionGroup as failed:  # the first failure ended its siblings
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    def _options(self, admission: Admission) -> Reply:
        methods = admission.place.methods
        headers = [("allow", ", ".join(methods))]
        headers += preflight_headers(admission.head, self._parts.access, methods)
        return Reply(status=204, headers=headers)

    def _crash(self, admission: Admission, error: Exception) -> Reply:
        self._parts.observer.crashed(admission.record, error)
        return self.refuse(admission, GatewayError(Code.INTERNAL_ERROR, "Internal error."))

    def _end(self, admission: Admission, reply: Reply) -> Reply:
        record, access = admission.record, self._parts.access
        headers = reply.headers = _sendable(reply.headers)
        headers.append(("x-request-id", record.request_id))
        if access.allowed_origins:
            headers += cors_headers(admission.head, access)
        stream = reply.stream
        record.status = reply.status
        if isinstance(stream, Relay):
            ended = partial(self._end_stream, admission)
            stream.carry(ended, self._parts.heartbeat_s)
        else:
            record.bytes_out = 0 if record.method == "HEAD" else len(reply.body)
            self._observe_end(admission)
        return reply

    def _end_stream(
        self, admission: Admission, relay: Relay, error: KeyholeError | None, *, has_left: bool
    ) -> None:
        """A stream is over: what is known of it now goes into the record."""
        record = admission.record
        record.bytes_out = relay.bytes_out
        _note_usage(record, relay.usage)
        if error is not None:
            record.code = error.code
            if error.code is Code.INTERNAL_ERROR and isinstance(error.__cause__, Exception):
                self._parts.observer.crashed(record, error.__cause__)
        if has_left:
            record.status = CLIENT_GONE
        if not admission.is_over:
            self._observe_end(admission)

    def _observe_end(self, admission: Admission) -> None:
        record, now_s = admission.record, self._parts.clock.monotonic()
        admission.is_over = True
        record.duration_ms = (now_s - admission.began_s) * 1000
        self._parts.observer.ended(record)


def _note_usage(record: AccessRecord, usage: Usage | None) -> None:
    if usage is not None:
        record.usage = (usage.prompt_tokens, usage.completion_tokens)


def _translated(call: Call, *, is_rendered: bool) -> Headers:
    """What tells the client of a reply that its upstream was asked in another way than it asked."""
    if is_rendered:
        return [("x-keyhole-translated", "chat-to-text")]
    return [] if call.messages else [("x-keyhole-translated", "text-to-chat")]


def _sendable(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers without those that would break a reply apart, such as an upstream's Retry-After.

    The one place for it: whatever a dialect or page has put there, every reply passes here.
    """
    return [
        (name, value)
        for name, value in headers
        if value.isascii() and value.isprintable() and len(value) <= MAX_HEADER_VALUE_CHARS
    ]


def body_too_large(max_body_bytes: int) -> ClientError:
    """The error of a body that is longer than allowed, announced or not."""
    return ClientError(
        Code.BODY_TOO_LARGE,
        f"The body is longer than {max_body_bytes} bytes.",
        status=413,
        hint="The operator sets the limit with server.max_body_bytes.",
    )


def _check_body_headers(head: Head, max_body_bytes: int) -> None:
    announced = head.first(b"content-length")
    if announced is not None and announced.isdigit():
        is_absurd = len(announced) > 18  # more digits than int() takes at once raise ValueError
        if is_absurd or int(announced) > max_body_bytes:
            raise body_too_large(max_body_bytes)
    encoding = head.first(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"", b"identity"}:
        raise ClientError(
            Code.UNSUPPORTED_ENCODING,
            "Compressed bodies are not taken.",
            status=415,
            hint="Send the body as it is, without Content-Encoding.",
        )
