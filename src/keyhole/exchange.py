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
from collections.abc import Awaitable, Callable, Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from keyhole.accounts import Account, Accounts, Attempt, Ending
from keyhole.asking import Asker, Headers, Wish, note_usage, translated_headers
from keyhole.backends.base import EVENT_STREAM, Backend
from keyhole.catalog import DEFAULT_ROUTE, Access, Catalog
from keyhole.dialects.base import ClientDialect
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError
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
    find_route,
    plan,
    settle_model,
)
from keyhole.ports import Alarms, Clock, Keys, Observer, Refusals, Transport
from keyhole.relay import Relay
from keyhole.wire.books import Outcome
from keyhole.wire.http import (
    JSON,
    Head,
    Reply,
)
from keyhole.wire.ids import TAIL_DIGITS, sane_request_id, uuid7, uuid7_tails
from keyhole.wire.keys import LiveKey
from keyhole.wire.records import CLIENT_GONE, AccessRecord, Refusal

MAX_HEADER_VALUE_CHARS = 1024
IDS_IN_STOCK = 256

NOBODY = LiveKey(None, math.inf)
"""What lets in where nothing has to be shown."""

_NOT_EXPLAINED = frozenset({Code.PATH_NOT_FOUND, Code.METHOD_NOT_ALLOWED})


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
    scopes: Scopes = ()
    """The limits that it counts in, which its reply tells of."""


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
        self._asker = Asker(
            backends=parts.backends,
            accounts=parts.accounts,
            transport=parts.transport,
            clock=parts.clock,
            alarms=parts.alarms,
            max_frame_bytes=parts.max_frame_bytes,
            loading_patience_s=parts.loading_patience_s,
        )

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
            if record.is_revoked:
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
                admission.record.is_revoked = True
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
        if client_request_id is not None and mask_keys(client_request_id) != client_request_id:
            client_request_id = None
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
        wish = Wish(call, route, targets, dialect, record, account, began_s, deadline_s)
        if call.wants_stream:
            return await self._stream(admission, wish)
        try:
            target, answer = await self._asker.answer(wish)
        finally:
            account.close()
        if answer.usage is not None:
            note_usage(record, answer.usage)
        encoded = dialect.encode(call, answer, record)
        if self.parts.tells_texts:
            self.parts.observer.told(record, {"answered": answer.texts})
        headers = [("content-type", JSON), ("x-keyhole-model", target.model)]
        if answer.is_chat:
            headers += translated_headers(call, is_rendered=answer.is_rendered)
        return Reply(status=200, headers=headers, body=encoded)

    def _dialect(self, admission: Admission, body: bytes) -> ClientDialect:
        """The dialect of a body, where two share a path; what is refused is refused in it."""
        place = admission.place
        if place.other is not None and place.other.is_meant(body):
            admission.place = place = place.other.place
        return place.dialect

    async def _stream(self, admission: Admission, wish: Wish) -> Reply:
        """The head of a stream's reply, once its first frame says that it is a good one."""
        account = wish.account
        try:
            target, (relay, first, translated, attempt) = await self._asker.open(wish)
        except BaseException:
            account.close()
            raise
        if relay is None:
            account.close()
        else:
            admission.stream = relay
            relay.carry(_Carriage(self, admission, account, attempt))
        headers = [
            ("content-type", EVENT_STREAM),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),  # nginx would collect the stream otherwise
            ("x-keyhole-model", target.model),
            *translated,
        ]
        return Reply(status=200, headers=headers, body=first, stream=relay)

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
        note_usage(record, relay.usage)
        if error is not None:
            record.code = error.code
            if error.code is Code.INTERNAL_ERROR and isinstance(error.__cause__, Exception):
                self.parts.observer.crashed(record, error.__cause__)
        if has_left:
            record.status = CLIENT_GONE
        if not admission.is_over:
            self._observe_end(admission)
        if self._asker.synced is None:
            last()
        else:
            waiting = asyncio.ensure_future(self._when_synced(self._asker.synced, last))
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

    __slots__ = ("_account", "_admission", "_attempt", "_gateway", "drains", "heartbeat_s")

    def __init__(
        self, gateway: Gateway, admission: Admission, account: Account, attempt: Attempt
    ) -> None:
        parts = gateway.parts
        self._gateway, self._admission = gateway, admission
        self._account, self._attempt = account, attempt
        self.heartbeat_s, self.drains = parts.heartbeat_s, parts.drains_streams

    def progressed(self, relay: Relay) -> None:
        """As relay.Carrier says."""
        self._attempt.progressed(relay.pieces)

    def ended(
        self, relay: Relay, error: KeyholeError | None, *, has_left: bool, last: Callable[[], None]
    ) -> None:
        """As relay.Carrier says; the books come first."""
        gateway = self._gateway
        outcome: Outcome = "ok"
        if relay.is_cut:
            outcome = "cut"
        elif has_left:
            outcome = "client_gone"
        elif error is not None:
            outcome = "interrupted" if error.code is Code.SHUTTING_DOWN else "upstream_error"
        ending = Ending(relay.usage, relay.pieces, outcome, relay.is_whole)
        self._attempt.streamed(ending, gateway.parts.clock.monotonic())
        self._account.close()
        gateway.end_stream(self._admission, relay, error, has_left=has_left, last=last)


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
