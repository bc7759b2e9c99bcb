"""One client request, from its head to its reply; every door goes through here.

A door turns its own world into a Head and a body, and a Reply back. The order is fixed: from
the head alone, which place, may this caller come in; then the body: decode, find the route,
plan the targets, send, translate. It holds no sockets and knows no concrete class; the parts
come as arguments (`main` names them). It does not stream yet, keeps no accounts and checks no
keys: those steps will stand between these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct

from keyhole.backends.base import Backend
from keyhole.catalog import Access, Catalog, Route, Target
from keyhole.eager import be_a_task
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.policy.access import check_caller, cors_headers, preflight_headers
from keyhole.policy.paths import Paths, Place, check_method
from keyhole.policy.routing import find_route, is_worth_another_target, plan
from keyhole.ports import Clock, Observer, Transport
from keyhole.wire.answer import Answer, Stamp
from keyhole.wire.call import Call
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


class Admission(Struct, kw_only=True):
    """A request whose head was let in: its body may be read, up to `max_body_bytes`."""

    head: Head
    place: Place
    record: AccessRecord
    began_s: float
    max_body_bytes: int
    is_over: bool = False
    """Whether the observers have heard of its end."""


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
    max_body_bytes: int
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
            if admission.place.page is not None:
                return self._end(admission, admission.place.page(head))
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
        return self._admission(earlier.head, earlier.place, earlier.record.client_request_id)

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
        dialect = admission.place.dialect
        return self._end(admission, dialect.refuse(error, admission.record.request_id))

    def turn_away(self, head: Head, error: ClientError) -> Reply:
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
        return self._admission(head, place, sane_request_id(head.first(b"x-request-id")))

    def _admission(self, head: Head, place: Place, client_request_id: str | None) -> Admission:
        parts = self._parts
        clock = parts.clock
        record = AccessRecord(
            request_id=uuid7(clock.unix_ms(), clock.random_hex(19)),
            method=head.method,
            path=head.path,
            client_request_id=client_request_id,
        )
        parts.observer.began(record)
        return Admission(
            head=head,
            place=place,
            record=record,
            began_s=clock.monotonic(),
            max_body_bytes=parts.max_body_bytes,
        )

    async def _serve(self, admission: Admission, body: bytes) -> Reply:
        dialect, record = admission.place.dialect, admission.record
        call = dialect.decode(admission.head, body)
        self._tell(record, {"asked": call.input})
        route = find_route(self._parts.catalog, call.model)
        record.model = route.name
        patience_s = route.first_byte_timeout_s or dialect.first_byte_timeout_s
        deadline_s = admission.began_s + patience_s
        target, answer = await self._try_targets(call, route, deadline_s, record)
        if answer.usage is not None:
            record.usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
        stamp = Stamp(
            request_id=record.request_id,
            unix_s=self._parts.clock.unix_ms() // 1000,
            model=call.model or route.name,
        )
        encoded = dialect.encode(call, answer, stamp)
        self._tell(record, {"answered": answer.texts})
        return Reply(
            status=200,
            headers=[("content-type", JSON), ("x-keyhole-model", target.model)],
            body=encoded,
        )

    async def _try_targets(
        self, call: Call, route: Route, deadline_s: float, record: AccessRecord
    ) -> tuple[Target, Answer]:
        """The first answer among the planned targets, all within one deadline.

        A target that cannot be asked this (it takes no top_k, say) is passed over. If none
        answers, the last upstream's failure is told, for it is nearer than what was passed over.
        """
        failure: KeyholeError | None = None
        for target in plan(route, call.model):
            try:
                return target, await self._attempt(call, route, target, deadline_s, record)
            except ClientError as error:
                failure = failure or error
            except UpstreamError as error:
                failure = error
                is_out_of_time = self._parts.clock.monotonic() >= deadline_s
                if is_out_of_time or not is_worth_another_target(error):
                    break
        if failure is None:
            raise GatewayError(Code.INTERNAL_ERROR, f"The route '{route.name}' has no targets.")
        raise failure

    async def _attempt(
        self, call: Call, route: Route, target: Target, deadline_s: float, record: AccessRecord
    ) -> Answer:
        """One try at one target: every request that its backend makes of the call, at once."""
        backend = self._parts.backends[target.upstream.kind]
        requests = backend.requests(call, target, max_output_tokens=route.max_output_tokens)
        record.attempts += 1
        record.upstream, record.target = target.upstream.name, target.label
        timeouts = Timeouts(
            connect_s=target.upstream.connect_timeout_s,
            first_byte_s=max(deadline_s - self._parts.clock.monotonic(), 0.001),
            total_s=target.upstream.total_timeout_s,
        )
        responses: Sequence[UpstreamResponse]
        if len(requests) == 1:
            send = self._parts.transport.send
            response = await send(requests[0], request_id=record.request_id, timeouts=timeouts)
            responses = (response,)
        else:
            responses = await self._send_all(requests, record.request_id, timeouts)
        for response in responses:
            if response.status != 200:
                raise backend.fault(call, target, response)
            _refuse_echoed_secret(target, response)
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

    def _tell(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        if self._parts.tells_texts:
            self._parts.observer.told(record, texts)

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
        headers = _sendable(reply.headers)
        headers.append(("x-request-id", record.request_id))
        if access.allowed_origins:
            headers += cors_headers(admission.head, access)
        reply = Reply(status=reply.status, headers=headers, body=reply.body)
        record.status = reply.status
        record.bytes_out = 0 if record.method == "HEAD" else len(reply.body)
        self._observe_end(admission)
        return reply

    def _observe_end(self, admission: Admission) -> None:
        record, now_s = admission.record, self._parts.clock.monotonic()
        admission.is_over = True
        record.duration_ms = (now_s - admission.began_s) * 1000
        self._parts.observer.ended(record)


def _sendable(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers without those that would break a reply apart, such as an upstream's Retry-After.

    The one place for it: whatever a dialect or page has put there, every reply passes here.
    """
    return [
        (name, value)
        for name, value in headers
        if value.isascii() and value.isprintable() and len(value) <= MAX_HEADER_VALUE_CHARS
    ]


def _refuse_echoed_secret(target: Target, response: UpstreamResponse) -> None:
    """Raise UpstreamError for an answer that holds the upstream's own secret.

    An upstream that repeats the headers it was sent would otherwise hand the secret to clients.
    """
    secret = target.upstream.secret
    if secret is not None and secret.is_in(response.body):
        raise UpstreamError(
            Code.UPSTREAM_ERROR,
            f"Upstream '{target.upstream.name}' repeated its own secret in the answer.",
            hint="The answer was withheld. Check what stands at its url.",
            upstream_status=response.status,
        )


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
