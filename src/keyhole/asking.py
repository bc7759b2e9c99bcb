"""Asks the targets of a call, one after the other, and brings the first good answer.

Every try is in the books before it is sent and after it has ended (`accounts`), whatever comes of
it. Whether a caller may ask, and what becomes of the answer, is for `exchange`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

from msgspec import Struct

from keyhole.accounts import Account, Accounts, Attempt
from keyhole.backends.base import EVENT_STREAM, Backend
from keyhole.backends.faults import echoed_secret
from keyhole.catalog import Route, Target
from keyhole.dialects.base import ClientDialect
from keyhole.eager import be_a_task
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.policy.routing import (
    ask_again_after_s,
    is_worth_another_target,
    is_worth_waiting,
    patience_ends_s,
)
from keyhole.ports import Alarms, Clock, Transport
from keyhole.relay import Relay
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Counted, Delta, Event, Finish, Reason
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse
from keyhole.wire.records import AccessRecord

MIN_PATIENCE_S = 0.001

_Got = TypeVar("_Got")
Headers = list[tuple[str, str]]
Opened = tuple[Relay | None, bytes, Headers, Attempt]
"""What goes on, the first bytes, headers beside ours; and the attempt that it is."""


class Wish(Struct, frozen=True):
    """What is known of a call before anybody is asked."""

    call: Call
    route: Route
    targets: Sequence[Target]
    dialect: ClientDialect
    record: AccessRecord
    account: Account
    began_s: float
    deadline_s: float
    """By when the first byte of an answer must have come, on the clock."""


class Asker:
    """Asks for one gateway."""

    def __init__(
        self,
        *,
        backends: Mapping[str, Backend],
        accounts: Accounts,
        transport: Transport,
        clock: Clock,
        alarms: Alarms,
        max_frame_bytes: int,
        loading_patience_s: float,
    ) -> None:
        self._backends = backends
        self._accounts = accounts
        self._transport = transport
        self._clock = clock
        self._alarms = alarms
        self._max_frame_bytes = max_frame_bytes
        self._loading_patience_s = loading_patience_s
        journal = accounts.journal
        self.synced = journal.synced if journal.is_slow else None
        """What waits for the disk, before a request goes out and before its reply does."""

    def answer(self, wish: Wish) -> Coroutine[Any, Any, tuple[Target, Answer]]:
        """A whole answer, and whose it is. Raises what the last try failed with."""
        return self._try_targets(wish, self._attempt)  # awaited there: a coroutine less

    def open(self, wish: Wish) -> Coroutine[Any, Any, tuple[Target, Opened]]:
        """The beginning of a stream, and whose it is; likewise."""
        return self._try_targets(wish, self._open)

    async def _open(self, wish: Wish, target: Target) -> Opened:
        """One try to stream from one target: what goes on, the first bytes, headers beside ours."""
        call = wish.call
        backend = self._backends[target.upstream.kind]
        most = wish.account.maximum(target) or wish.route.max_output_tokens
        streaming = backend.stream(call, target, max_output_tokens=most)
        is_rendered = streaming.is_rendered
        translated = translated_headers(call, is_rendered=is_rendered) if streaming.is_chat else []
        attempt, timeouts = self._begin_attempt(wish, target, 1)
        try:
            if self.synced is not None:
                await self._sync_intent(attempt, self.synced)
            incoming = await self._transport.open(
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
                attempt.answered(answer, self._clock.monotonic())
                if self.synced is not None:
                    await self.synced()
                return None, written, translated, attempt
            relay = Relay(
                call,
                target,
                streaming,
                incoming,
                writer=wish.dialect.stream(call, wish.record, is_chat=streaming.is_chat),
                alarms=self._alarms,
                max_frame_bytes=self._max_frame_bytes,
            )
            left_s = wish.deadline_s - self._clock.monotonic()
            first = await relay.begin(left_s, most_pieces=attempt.allowance)
        except BaseException as error:
            incoming.close()
            self._fail_attempt(wish, target, attempt, error)
            raise
        attempt.first_byte_s = self._clock.monotonic()
        return relay, first, translated, attempt

    def _write_whole(self, wish: Wish, answer: Answer) -> bytes:
        """A stream of one piece, for an upstream that answers at once although asked to stream."""
        writer = wish.dialect.stream(wish.call, wish.record, is_chat=answer.is_chat)
        text = answer.texts[0][0] if answer.texts and answer.texts[0] else ""
        reason = answer.finishes[0][0] if answer.finishes and answer.finishes[0] else "stop"
        events: list[Event] = [Delta(text), Finish(cast("Reason", reason))]
        note_usage(wish.record, answer.usage)
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
        clock, targets = self._clock, wish.targets
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
        until_s = patience_ends_s(wish.began_s, self._loading_patience_s, wish.deadline_s)
        left_s = until_s - self._clock.monotonic()
        if not is_worth_waiting(left_s):
            return 0.0
        return min(left_s, *map(ask_again_after_s, loading))

    async def _attempt(self, wish: Wish, target: Target) -> Answer:
        """One try at one target: every request that its backend makes of the call, at once."""
        call, record = wish.call, wish.record
        backend = self._backends[target.upstream.kind]
        most = wish.account.maximum(target) or wish.route.max_output_tokens
        requests = backend.requests(call, target, max_output_tokens=most)
        attempt, timeouts = self._begin_attempt(wish, target, len(requests))
        responses: Sequence[UpstreamResponse]
        try:
            if self.synced is not None:
                await self._sync_intent(attempt, self.synced)
            if len(requests) == 1:
                send = self._transport.send
                response = await send(requests[0], request_id=record.request_id, timeouts=timeouts)
                responses = (response,)
            else:
                responses = await self._send_all(requests, record.request_id, timeouts)
            answer = self._read_answer(backend, call, target, responses)
        except BaseException as error:
            self._fail_attempt(wish, target, attempt, error)
            raise
        attempt.answered(answer, self._clock.monotonic())
        if self.synced is not None:
            await self.synced()
        return answer

    def _begin_attempt(self, wish: Wish, target: Target, requests: int) -> tuple[Attempt, Timeouts]:
        """Write down that a target is asked; and the bounds of asking it."""
        upstream = target.upstream
        now_s = self._clock.monotonic()
        attempt = self._accounts.begin(wish.account, wish.record, target, requests, now_s)
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
        now_s, is_cut = self._clock.monotonic(), wish.record.is_revoked
        self._accounts.fail(attempt, target, error, now_s, is_cut=is_cut)

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
        send = self._transport.send
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


def note_usage(record: AccessRecord, usage: Usage | None) -> None:
    """Put what an upstream told into the record."""
    if usage is not None:
        record.usage = (usage.prompt_tokens, usage.completion_tokens)


def translated_headers(call: Call, *, is_rendered: bool) -> Headers:
    """What tells the client of a reply that its upstream was asked in another way than it asked."""
    if is_rendered:
        return [("x-keyhole-translated", "chat-to-text")]
    return [] if call.messages else [("x-keyhole-translated", "text-to-chat")]
