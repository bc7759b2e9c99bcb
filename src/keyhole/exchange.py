"""One client request, from its head to its reply; every door goes through here.

A door turns its own world into a Head and a body, and a Reply back. The order is fixed: from
the head alone, which place, may this caller come in; then the body: decode, find the route,
plan the targets, send, translate. A stream's reply begins with its first frame, and `relay` does
the rest. It holds no sockets and knows no concrete class; the parts come as arguments (`main`
names them). What a call may use is held, and each attempt is in the journal before it is sent and
again before the client has the last of it: `accounts` does both.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from keyhole.accounts import Account, Accounts, Attempt, Ending
from keyhole.backends.base import EVENT_STREAM, Backend
from keyhole.backends.faults import echoed_secret
from keyhole.catalog import DEFAULT_ROUTE, Access, Catalog, Route, Target
from keyhole.dialects.base import ClientDialect
from keyhole.eager import be_a_task
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.policy.access import (
    Need,
    check_caller,
    cors_headers,
    is_local_caller,
    need_of,
    preflight_headers,
)
from keyhole.policy.bodies import check_body
from keyhole.policy.credentials import (
    check_admin,
    check_life,
    check_model,
    identify,
    mask_keys,
)
from keyhole.policy.limit_words import headers as limit_headers
from keyhole.policy.limit_words import openai_headers
from keyhole.policy.limits import Scopes
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
from keyhole.ports import Alarms, Clock, Keys, Observer, Refusals, Transport
from keyhole.relay import Relay
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.books import Outcome
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
from keyhole.wire.ids import TAIL_DIGITS, sane_request_id, uuid7, uuid7_tails
from keyhole.wire.keys import LiveKey
from keyhole.wire.records import CLIENT_GONE, AccessRecord, Refusal

MAX_HEADER_VALUE_CHARS = 1024
IDS_IN_STOCK = 256
MIN_PATIENCE_S = 0.001

NOBODY = LiveKey(None, math.inf)
"""What lets in where nothing has to be shown."""

_NOT_EXPLAINED = frozenset({Code.PATH_NOT_FOUND, Code.METHOD_NOT_ALLOWED})

_Got = TypeVar("_Got")
Headers = list[tuple[str, str]]
_Opened = tuple[Relay | None, bytes, Headers, Attempt]
"""What goes on, the first bytes, headers beside ours; and the attempt that it is."""


class Admission(Struct):
    """A request whose head was let in: its body may be read, up to `max_body_bytes`."""

    head: Head
    place: Place
    """Whose words its errors are in; the body may move it to another one that shares the path."""
    place_of_path: Place
    record: AccessRecord
    began_s: float
    max_body_bytes: int
    live: LiveKey
    """What let it in."""
    is_over: bool = False
    """Whether the observers have heard of its end."""
    abort: Callable[[], object] | None = None
    """Cancels `run`, for a key that is gone; the door sets it."""
    stream: Relay | None = None
    """What its reply comes from, once it has begun."""
    is_revoked: bool = False
    scopes: Scopes = ()
    """The limits that it counts in, which its reply tells of."""


class Wish(Struct, frozen=True):
    """What is known of a call before anybody is asked."""

    call: Call
    route: Route
    targets: Sequence[Target]
    dialect: ClientDialect
    admission: Admission
    record: AccessRecord
    account: Account
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
    keys: Keys
    is_admin_key: Callable[[bytes], bool]
    accounts: Accounts
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
    drains_streams: bool = False
    """Whether an upstream's stream is read to its end when its client has left."""
    refusals: Refusals | None = None
    """Where it is remembered why a request was refused that had been let in."""
    tells_texts: bool = False
    """Whether the observer is told prompts and answers: only where the operator wants it."""


class Gateway:
    """The core: `admit` a head, then `run` its body, or say that the client `left`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._id_tails: list[str] = []
        self._running: dict[str, dict[str, Admission]] = {}
        """What runs with a key: by the key's id and the request's."""
        self._waiting: set[asyncio.Future[None]] = set()
        journal = parts.accounts.journal
        self._synced = journal.synced if journal.is_slow else None

    def admit(self, head: Head) -> Admission | Reply:
        """Let a request in by its head alone, or the reply that ends it. Reads no body.

        Whoever gets an Admission must end it with `run`, `refuse` or `left`. The first of them
        counts, so that a door may say `left` whatever happened.
        """
        admission = self._begin(head)
        try:
            admission.live = self._let_in(head, admission.record.began_unix_ms)
            if (key := admission.live.key) is not None:
                admission.record.key = key.name
            check_method(head, admission.place)
            if head.method == "OPTIONS":
                return self._end(admission, _sendable(self._options(admission)))
            if admission.place.page is not None and head.method != "POST":
                page = admission.place.page(head, admission.live.key)
                # a copy: a page may hand out the same reply each time
                return self._end(admission, _sendable(replace(page)))
            check_body(head, self.parts.max_body_bytes)
        except KeyholeError as error:
            return self.refuse(admission, error)
        except Exception as error:  # noqa: BLE001  # the edge: a page of ours failed
            return self._crash(admission, error)
        return admission

    def admit_again(self, earlier: Admission) -> Admission | Reply:
        """Let in a request whose head is, byte for byte, that of one which was let in before.

        It comes from the same caller, and its body is not longer than `max_body_bytes`: what was
        decided from the head alone is still decided, but for its key, which may be gone.
        """
        live, record = earlier.live, earlier.record
        admission = self._admission(
            earlier.head, record.path, earlier.place_of_path, record.client_request_id, live
        )
        if live.good_until_ms <= admission.record.began_unix_ms:
            try:
                admission.live = self._let_in(earlier.head, admission.record.began_unix_ms)
            except KeyholeError as error:
                return self.refuse(admission, error)
        admission.record.key = record.key
        return admission

    async def run(self, admission: Admission, body: bytes) -> Reply:
        """Serve an admitted request. Raises nothing but cancellation."""
        record = admission.record
        record.bytes_in = len(body)
        try:
            if admission.live.good_until_ms <= record.began_unix_ms:  # gone while its body came
                admission.live = self._let_in(admission.head, self.parts.clock.unix_ms())
            if (key := admission.live.key) is not None:
                record.key = key.name
                self._running.setdefault(key.id, {})[record.request_id] = admission
            reply = await self._serve(admission, body)
        except KeyholeError as error:
            return self.refuse(admission, error)
        except asyncio.CancelledError:
            if admission.is_revoked:
                return self.refuse(admission, _gone(admission, self.parts.clock.unix_ms()))
            self.left(admission)
            raise
        except Exception as error:  # noqa: BLE001  # the edge: logged, answered as internal
            return self._crash(admission, error)
        return self._end(admission, reply)

    def refuse(self, admission: Admission, error: KeyholeError) -> Reply:
        """End an admitted request with an error, in its dialect."""
        admission.record.code = error.code
        dialect = admission.place.dialect
        reply = dialect.refuse(error, admission.record.request_id)
        if reply.status == 401:
            reply.headers.append(("www-authenticate", "Bearer"))  # RFC 9110, section 11.6.1
        if self.parts.refusals is not None and _is_explained(admission, error):
            self.parts.refusals.append(_refusal(admission, error, reply.status))
        return self._end(admission, _sendable(reply))

    def turn_away(self, head: Head, error: KeyholeError) -> Reply:
        """Refuse a request that a door could not make sense of, with what it knows of the head."""
        return self.refuse(self._begin(head), error)

    def revoke(self, key_ids: Iterable[str]) -> None:
        """End what runs with keys that let in no more, streams too; their clients are told."""
        for key_id in key_ids:
            for admission in list(self._running.get(key_id, {}).values()):
                admission.is_revoked = True
                if admission.stream is not None:
                    admission.stream.cut(_gone(admission, self.parts.clock.unix_ms()))
                elif admission.abort is not None:
                    admission.abort()

    def is_hot(self, path: str) -> bool:
        """Whether a POST to the path is a call of some dialect."""
        return self.parts.paths.takes_calls(path)

    def left(self, admission: Admission) -> None:
        """End an admitted request whose client went away; nothing if it has ended already."""
        if not admission.is_over:
            admission.record.status = CLIENT_GONE
            self._observe_end(admission)

    def _begin(self, head: Head) -> Admission:
        place = self.parts.paths.find(head.path)
        client_request_id = sane_request_id(head.first(b"x-request-id"))
        return self._admission(head, mask_keys(head.path), place, client_request_id, NOBODY)

    def _admission(
        self,
        head: Head,
        shown_path: str,
        place: Place,
        client_request_id: str | None,
        live: LiveKey,
    ) -> Admission:
        parts = self.parts
        clock = parts.clock
        unix_ms = clock.unix_ms()
        tails = self._id_tails
        if not tails:
            tails += uuid7_tails(clock.random_hex(IDS_IN_STOCK * TAIL_DIGITS))
        request_id = uuid7(unix_ms, tails.pop())
        record = AccessRecord(request_id, unix_ms, head.method, shown_path, client_request_id)
        parts.observer.began(record)
        began_s = clock.monotonic()
        return Admission(head, place, place, record, began_s, parts.max_body_bytes, live)

    def _let_in(self, head: Head, unix_ms: int) -> LiveKey:
        """What lets a request in; raises ClientError (400, 401, 403) or GatewayError (503)."""
        parts, keys, need = self.parts, self.parts.keys, need_of(head)
        if need is Need.ADMIN:
            check_admin(head, parts.is_admin_key)
            return NOBODY
        try:
            have_existed = keys.have_existed
        except GatewayError:
            if need is Need.NOTHING:  # whether this process lives is told all the same
                return NOBODY
            raise
        if not have_existed:
            check_caller(head, parts.access)
            return keys.without_key
        if need is Need.KEY:
            return identify(head, held=keys.held, find=keys.find, unix_ms=unix_ms)
        if need is Need.ADMIN_OR_LOCAL and not is_local_caller(head, parts.access):
            check_admin(head, parts.is_admin_key)
        return NOBODY

    async def _serve(self, admission: Admission, body: bytes) -> Reply:
        dialect, record = self._dialect(admission, body), admission.record
        call = dialect.decode(admission.head, body)
        if call.is_model_optional:
            call = settle_model(self.parts.catalog, call)
        if self.parts.tells_texts:
            self.parts.observer.told(record, {"asked": call.input})
        key = admission.live.key
        if key is not None:
            check_model(key, call.model)
        catalog = self.parts.catalog
        route = catalog.exact.get(call.model or DEFAULT_ROUTE) or find_route(catalog, call.model)
        record.model = route.name
        record.public_model = call.model or route.name
        patience_s = route.first_byte_timeout_s or dialect.first_byte_timeout_s
        began_s = self.parts.clock.monotonic()  # not while a client was sending
        targets = plan(route, call.model) if route.is_as_asked else route.targets
        accounts = self.parts.accounts
        try:
            account = accounts.open(record, key, dialect.name, call, route, targets)
        except ClientError:
            admission.scopes = accounts.counters.scopes(key)
            raise
        if account.hold is not None:
            admission.scopes = account.hold.scopes
        deadline_s = began_s + patience_s
        wish = Wish(call, route, targets, dialect, admission, record, account, began_s, deadline_s)
        if call.wants_stream:
            return await self._stream(wish)
        try:
            target, answer = await self._try_targets(wish, self._attempt)
        finally:
            account.close()
        if answer.usage is not None:
            _note_usage(record, answer.usage)
        encoded = dialect.encode(call, answer, record)
        if self.parts.tells_texts:
            self.parts.observer.told(record, {"answered": answer.texts})
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

    async def _stream(self, wish: Wish) -> Reply:
        """The head of a stream's reply, once its first frame says that it is a good one."""
        account = wish.account
        try:
            target, (relay, first, translated, attempt) = await self._try_targets(wish, self._open)
        except BaseException:
            account.close()
            raise
        if relay is None:
            account.close()
        else:
            wish.admission.stream = relay
            relay.carry(_Carriage(self, wish, attempt))
        headers = [
            ("content-type", EVENT_STREAM),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),  # nginx would collect the stream otherwise
            ("x-keyhole-model", target.model),
            *translated,
        ]
        return Reply(status=200, headers=headers, body=first, stream=relay)

    async def _open(self, wish: Wish, target: Target) -> _Opened:
        """One try to stream from one target: what goes on, the first bytes, headers beside ours."""
        parts, call = self.parts, wish.call
        backend = parts.backends[target.upstream.kind]
        most = wish.account.maximum(target) or wish.route.max_output_tokens
        streaming = backend.stream(call, target, max_output_tokens=most)
        is_rendered = streaming.is_rendered
        translated = _translated(call, is_rendered=is_rendered) if streaming.is_chat else []
        attempt, timeouts = self._begin_attempt(wish, target, 1)
        try:
            if self._synced is not None:
                await self._sync_intent(attempt, self._synced)
            incoming = await parts.transport.open(
                streaming.request, request_id=wish.record.request_id, timeouts=timeouts
            )
        except BaseException as error:
            self._fail_attempt(wish, target, attempt, error)
            raise
        try:
            media_type = incoming.headers.get("content-type", "").lower()
            is_stream = media_type.startswith(EVENT_STREAM)
            if incoming.status != 200 or not is_stream:
                body = await incoming.read_all()
                response = UpstreamResponse(
                    status=incoming.status, headers=incoming.headers, body=body
                )
                answer = self._read_answer(backend, call, target, (response,))
                written = self._write_whole(wish, answer)
                attempt.answered(answer, parts.clock.monotonic())
                return None, written, translated, attempt
            relay = Relay(
                call,
                target,
                streaming,
                incoming,
                writer=wish.dialect.stream(call, wish.record, is_chat=streaming.is_chat),
                alarms=parts.alarms,
                max_frame_bytes=parts.max_frame_bytes,
            )
            left_s = wish.deadline_s - parts.clock.monotonic()
            first = await relay.begin(left_s, most_pieces=wish.account.allowance)
        except BaseException as error:
            incoming.close()
            self._fail_attempt(wish, target, attempt, error)
            raise
        attempt.first_byte_s = parts.clock.monotonic()
        return relay, first, translated, attempt

    def _write_whole(self, wish: Wish, answer: Answer) -> bytes:
        """A stream of one piece, for an upstream that answers at once although asked to stream."""
        writer = wish.dialect.stream(wish.call, wish.record, is_chat=answer.is_chat)
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
        clock, targets = self.parts.clock, wish.targets
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
        until_s = patience_ends_s(wish.began_s, self.parts.loading_patience_s, wish.deadline_s)
        left_s = until_s - self.parts.clock.monotonic()
        if not is_worth_waiting(left_s):
            return 0.0
        return min(left_s, *map(ask_again_after_s, loading))

    async def _attempt(self, wish: Wish, target: Target) -> Answer:
        """One try at one target: every request that its backend makes of the call, at once."""
        call, record, parts = wish.call, wish.record, self.parts
        backend = parts.backends[target.upstream.kind]
        most = wish.account.maximum(target) or wish.route.max_output_tokens
        requests = backend.requests(call, target, max_output_tokens=most)
        attempt, timeouts = self._begin_attempt(wish, target, len(requests))
        responses: Sequence[UpstreamResponse]
        try:
            if self._synced is not None:
                await self._sync_intent(attempt, self._synced)
            if len(requests) == 1:
                send = parts.transport.send
                response = await send(requests[0], request_id=record.request_id, timeouts=timeouts)
                responses = (response,)
            else:
                responses = await self._send_all(requests, record.request_id, timeouts)
            answer = self._read_answer(backend, call, target, responses)
        except BaseException as error:
            self._fail_attempt(wish, target, attempt, error)
            raise
        attempt.answered(answer, parts.clock.monotonic())
        if self._synced is not None:
            await self._synced()
        return answer

    def _begin_attempt(self, wish: Wish, target: Target, requests: int) -> tuple[Attempt, Timeouts]:
        """Write down that a target is asked; and the bounds of asking it."""
        parts, upstream = self.parts, target.upstream
        now_s = parts.clock.monotonic()
        attempt = parts.accounts.begin(wish.account, wish.record, target, requests, now_s)
        left_s = max(wish.deadline_s - now_s, MIN_PATIENCE_S)
        return attempt, Timeouts(upstream.connect_timeout_s, left_s, upstream.total_timeout_s)

    async def _sync_intent(self, attempt: Attempt, synced: Callable[[], Awaitable[None]]) -> None:
        """Wait until the disk has the intent; until then the upstream has heard of nothing."""
        attempt.is_sent = False
        await synced()
        attempt.is_sent = True

    def _fail_attempt(
        self, wish: Wish, target: Target, attempt: Attempt, error: BaseException
    ) -> None:
        if isinstance(error, UpstreamError) and error.code is Code.UPSTREAM_OUT_OF_CREDITS:
            now_ms = self.parts.clock.unix_ms()
            self.parts.accounts.counters.out_of_credits(target.upstream.name, now_ms)
        attempt.failed(error, self.parts.clock.monotonic(), is_cut=wish.admission.is_revoked)

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
        send = self.parts.transport.send
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
        headers += preflight_headers(admission.head, self.parts.access, methods)
        return Reply(status=204, headers=headers)

    def _crash(self, admission: Admission, error: Exception) -> Reply:
        self.parts.observer.crashed(admission.record, error)
        return self.refuse(admission, GatewayError(Code.INTERNAL_ERROR, "Internal error."))

    def _end(self, admission: Admission, reply: Reply) -> Reply:
        record, access = admission.record, self.parts.access
        headers = reply.headers
        headers.append(("x-request-id", record.request_id))
        if access.allowed_origins:
            headers += cors_headers(admission.head, access)
        if admission.scopes:
            self._tell_limits(admission, headers)
        record.status = reply.status
        if reply.stream is None:
            record.bytes_out = 0 if record.method == "HEAD" else len(reply.body)
            self._observe_end(admission)
        return reply

    def _tell_limits(self, admission: Admission, headers: Headers) -> None:
        """Add what is left of the limits that a request counted in; a refusal has said most."""
        now_ms = admission.record.began_unix_ms
        if not any(name == "ratelimit" for name, _ in headers):
            headers += limit_headers(admission.scopes, now_ms)
        if admission.place.dialect.name == "openai":
            headers += openai_headers(admission.scopes, now_ms)

    def end_stream(
        self,
        admission: Admission,
        relay: Relay,
        error: KeyholeError | None,
        *,
        has_left: bool,
        last: Callable[[], None],
    ) -> None:
        """A stream is over, and in the books: what is known of it now goes into the record."""
        record = admission.record
        admission.stream = None
        record.bytes_out = relay.bytes_out
        _note_usage(record, relay.usage)
        if error is not None:
            record.code = error.code
            if error.code is Code.INTERNAL_ERROR and isinstance(error.__cause__, Exception):
                self.parts.observer.crashed(record, error.__cause__)
        if has_left:
            record.status = CLIENT_GONE
        if not admission.is_over:
            self._observe_end(admission)
        if self._synced is None:
            last()
        else:
            waiting = asyncio.ensure_future(self._when_synced(self._synced, last))
            self._waiting.add(waiting)
            waiting.add_done_callback(self._waiting.discard)

    async def _when_synced(
        self, synced: Callable[[], Awaitable[None]], last: Callable[[], None]
    ) -> None:
        """Let a client have the end of its stream when the disk has the receipt."""
        with contextlib.suppress(GatewayError):  # the receipt is written, and the operator told
            await synced()
        last()

    def _observe_end(self, admission: Admission) -> None:
        record, now_s = admission.record, self.parts.clock.monotonic()
        admission.is_over = True
        admission.abort = None  # it knows the door's request, which knows this
        if (key := admission.live.key) is not None and (running := self._running.get(key.id)):
            running.pop(record.request_id, None)
            if not running:
                del self._running[key.id]
        record.duration_ms = (now_s - admission.began_s) * 1000
        self.parts.observer.ended(record)


class _Carriage:
    """A stream's relay.Carrier: what is known at its end goes into the books and the record."""

    __slots__ = ("_attempt", "_gateway", "_wish", "drains", "heartbeat_s")

    def __init__(self, gateway: Gateway, wish: Wish, attempt: Attempt) -> None:
        parts = gateway.parts
        self._gateway, self._wish, self._attempt = gateway, wish, attempt
        self.heartbeat_s, self.drains = parts.heartbeat_s, parts.drains_streams

    def progressed(self, relay: Relay) -> None:
        """As relay.Carrier says."""
        self._attempt.progressed(relay.pieces)

    def ended(
        self, relay: Relay, error: KeyholeError | None, *, has_left: bool, last: Callable[[], None]
    ) -> None:
        """As relay.Carrier says; the books come first."""
        gateway, wish = self._gateway, self._wish
        outcome: Outcome = "ok"
        if relay.is_cut:
            outcome = "cut"
        elif has_left:
            outcome = "client_gone"
        elif error is not None:
            outcome = "interrupted" if error.code is Code.SHUTTING_DOWN else "upstream_error"
        ending = Ending(relay.usage, relay.pieces, outcome, relay.is_whole)
        self._attempt.streamed(ending, gateway.parts.clock.monotonic())
        wish.account.close()
        gateway.end_stream(wish.admission, relay, error, has_left=has_left, last=last)


def _note_usage(record: AccessRecord, usage: Usage | None) -> None:
    if usage is not None:
        record.usage = (usage.prompt_tokens, usage.completion_tokens)


def _translated(call: Call, *, is_rendered: bool) -> Headers:
    """What tells the client of a reply that its upstream was asked in another way than it asked."""
    if is_rendered:
        return [("x-keyhole-translated", "chat-to-text")]
    return [] if call.messages else [("x-keyhole-translated", "text-to-chat")]


def _is_explained(admission: Admission, error: KeyholeError) -> bool:
    """Whether `keyhole explain` tells of it: not of what anybody can send without a key.

    What has reached an upstream is in the books; of that only a limit is told, the operator's own.
    """
    if admission.live is NOBODY or error.code in _NOT_EXPLAINED:
        return False
    is_limit = isinstance(error, ClientError) and error.status == 429
    return not admission.record.attempts or is_limit


def _refusal(admission: Admission, error: KeyholeError, status: int) -> Refusal:
    record, key = admission.record, admission.live.key
    return Refusal(
        exchange_id=record.request_id,
        at_ms=record.began_unix_ms,
        status=status,
        code=error.code,
        message=error.message,
        hint=error.hint,
        path=record.path,
        key_id=None if key is None else key.id,
        key=None if key is None else key.name,
        group=None if key is None or key.group is None else key.group.name,
        dialect=admission.place.dialect.name,
        model=record.public_model or None,
    )


def _sendable(reply: Reply) -> Reply:
    """The reply without headers that would break it apart, such as an upstream's Retry-After.

    Whatever a dialect or a page has put there passes here. The headers of good answers do not:
    they are made above, of constants and of the model's name, which the configuration has judged.
    """
    reply.headers = [
        (name, value)
        for name, value in reply.headers
        if value.isascii() and value.isprintable() and len(value) <= MAX_HEADER_VALUE_CHARS
    ]
    return reply


def _gone(admission: Admission, unix_ms: int) -> KeyholeError:
    """What is told to whoever ran with a key that lets in no more."""
    key = admission.live.key
    try:
        if key is not None:
            check_life(key, unix_ms)
    except KeyholeError as error:
        return error
    return ClientError(Code.KEY_UNKNOWN, "The key was removed.", status=401)
