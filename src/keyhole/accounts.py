"""What a request may use is held before it is sent, and what it used is written down after it.

An Account is one client's request, an Attempt one try at one target. Opening an account holds the
worst case in the limits of the key and its group; beginning an attempt holds it in the upstream's,
and writes the intent: only then may a byte of it go out. Ending an attempt writes the receipt, so
before the client has the last byte; closing the account settles what was held. Each of these
happens at once and awaits nothing, so that it also happens on cancellation.

It sends nothing and knows no dialect; `exchange` calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from msgspec import Struct

from keyhole.catalog import Route, Target
from keyhole.errors import ClientError, Code, KeyholeError, UpstreamError
from keyhole.policy.bounds import (
    bound_of,
    estimate_answer,
    estimate_prompt,
    is_credible,
    output_maximum,
)
from keyhole.policy.limits import Bound, Hold, allowance, bounds_tokens
from keyhole.policy.pricing import ENGINE_KIND, FREE, Price, Prices
from keyhole.ports import Clock, Counters, Journal
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.books import OUT_OF_CREDITS, Basis, Intent, Outcome, Progress, Receipt
from keyhole.wire.call import Call
from keyhole.wire.keys import Key, Limits
from keyhole.wire.records import AccessRecord

_NO_BOUND = Bound(0, 0, 0)


class Accounts:
    """The accounts of all requests of one worker."""

    def __init__(
        self,
        *,
        journal: Journal,
        counters: Counters,
        prices: Prices,
        upstream_limits: Mapping[str, Limits],
        clock: Clock,
        keeps_books: bool = True,
    ) -> None:
        """`upstream_limits` are the operator's own, by upstream, of those that have any.

        Without `keeps_books` the journal is never asked to write, and what nothing limits has no
        account.
        """
        self.keeps_books = keeps_books
        self.journal = journal
        self.counters = counters
        self.prices = prices
        self._upstream_limits = upstream_limits
        self._clock = clock

    def open(
        self,
        record: AccessRecord,
        key: Key | None,
        dialect: str,
        call: Call,
        route: Route,
        targets: Sequence[Target],
    ) -> Account:
        """Hold the most that a call may use; raises ClientError (400, 429).

        Whoever gets the account must close it.
        """
        counters = self.counters
        scopes = () if key is None else counters.scopes(key)
        is_limited = scopes or (self._upstream_limits and self._bounds_any(targets))
        if not is_limited and not self.keeps_books:
            return NO_ACCOUNT
        account = Account(self, record, key, dialect, estimate_prompt(call))
        if is_limited:
            most = output_maximum(call, route.max_output_tokens)
            if bounds_tokens(scopes) or self._upstream_limits:
                account.max_output_tokens = most
            prices = [self._price_if_known(target) for target in targets]
            account.bound = bound_of(call, most, prices)
            account.hold = counters.hold(scopes, account.bound, record.began_unix_ms)
        return account

    def begin(
        self, account: Account, record: AccessRecord, target: Target, requests: int, began_s: float
    ) -> Attempt:
        """Write down that a target is asked; its request may go out when this returns.

        `requests` is how many go to the upstream, `began_s` a time of the clock. Raises ClientError
        (an upstream's limit, price_unknown), UpstreamError (out of credits) or GatewayError
        (journal_full); then it must not go out.
        """
        upstream, counters = target.upstream.name, self.counters
        if counters.credits_gone:
            counters.check_credits(upstream, record.began_unix_ms)
        number = record.attempts + 1
        price = self.prices.find(target)
        if account is NO_ACCOUNT:
            record.attempts, record.upstream, record.target = number, upstream, target.label
            return NO_ATTEMPT
        hold = None
        limits = self._upstream_limits.get(upstream)
        if limits is not None:
            bound = account.bound or _NO_BOUND
            of_target = Bound(
                bound.prompt_tokens,
                bound.completion_tokens,
                (price or FREE).cost_microusd(bound.prompt_tokens, bound.completion_tokens),
                requests,
            )
            scopes = counters.upstream_scopes(upstream, limits)
            hold = counters.hold(scopes, of_target, self._clock.unix_ms())
        key = account.key
        intent = Intent(
            record.request_id,
            number,
            record.began_unix_ms if number == 1 else self._clock.unix_ms(),
            None if key is None else key.id,
            None if key is None else key.name,
            None if key is None or key.group is None else key.group.name,
            account.dialect,
            record.public_model,
            upstream,
            target.label,
            account.prompt_estimate,
            None if price is None else price.prompt,
            None if price is None else price.completion,
        )
        try:
            if self.keeps_books:
                self.journal.intend(intent)
        except BaseException:
            if hold is not None:
                counters.release(hold)
            raise
        record.attempts, record.upstream, record.target = number, upstream, target.label
        return Attempt(account, intent, price, hold, began_s)

    def fail(
        self,
        attempt: Attempt,
        target: Target,
        error: BaseException,
        now_s: float,
        *,
        is_cut: bool = False,
    ) -> None:
        """An attempt has brought nothing; remember an upstream whose credits are gone."""
        if isinstance(error, UpstreamError) and error.code is Code.UPSTREAM_OUT_OF_CREDITS:
            self.counters.out_of_credits(target.upstream.name, self._clock.unix_ms())
        attempt.failed(error, now_s, is_cut=is_cut)

    def _bounds_any(self, targets: Sequence[Target]) -> bool:
        return any(target.upstream.name in self._upstream_limits for target in targets)

    def _price_if_known(self, target: Target) -> Price | None:
        try:
            return self.prices.find(target)
        except ClientError:  # it is refused when its turn comes
            return None


class Account(Struct):
    """One client's request: what is held for it, and what its attempts have used."""

    books: Accounts
    record: AccessRecord
    key: Key | None
    dialect: str
    prompt_estimate: int
    """About how many tokens the prompt has, for attempts whose upstream never says."""
    max_output_tokens: int | None = None
    """What a call that names no maximum asks for, so that its hold bounds it; else the route's."""
    bound: Bound | None = None
    """None where nothing is limited."""
    hold: Hold | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_microusd: int = 0

    @property
    def allowance(self) -> int | None:
        """At how many completion tokens a stream has to be cut; None where nothing bounds them."""
        return None if self.hold is None else allowance(self.hold)

    def maximum(self, target: Target) -> int | None:
        """How many tokens a target is asked for where the call names no number; None: the route's.

        The engine stays within its model's context by itself, which may be less than is held, and
        refuses a number that does not fit.
        """
        return None if target.upstream.kind == ENGINE_KIND else self.max_output_tokens

    def close(self) -> None:
        """Settle what is held with what was used; a second time does nothing."""
        hold = self.hold
        if hold is None:
            return
        self.hold = None
        if self.record.attempts:
            used = (self.prompt_tokens, self.completion_tokens, self.cost_microusd)
            self.books.counters.settle(hold, *used)
        else:
            self.books.counters.release(hold)


class Ending(Struct, frozen=True):
    """How a stream went."""

    usage: Usage | None
    """The last that the upstream reported."""
    pieces: int
    """Of text that came; counted as a token each."""
    outcome: Outcome
    is_whole: bool
    """Whether the upstream has said that it is complete."""


class Attempt(Struct):
    """One try at one target, whose intent is written; it must be ended, once."""

    account: Account
    intent: Intent
    price: Price | None
    hold: Hold | None
    began_s: float
    first_byte_s: float | None = None
    is_sent: bool = True
    """Whether the upstream may have heard of it."""
    is_over: bool = False

    @property
    def allowance(self) -> int | None:
        """At how many completion tokens its stream has to be cut; None where nothing bounds them.

        That is the least of what the key, its group and the upstream were held for.
        """
        holds = [hold for hold in (self.account.hold, self.hold) if hold is not None]
        return min((most for hold in holds if (most := allowance(hold)) is not None), default=None)

    def answered(self, answer: Answer, now_s: float) -> None:
        """It brought a whole answer."""
        if self.is_over:
            return
        usage = answer.usage
        basis: Basis = "reported"
        if usage is None or not self._believes(usage):
            usage, basis = Usage(self.account.prompt_estimate, estimate_answer(answer)), "estimated"
        self.first_byte_s = now_s
        self._end(200, "ok", usage, basis, now_s)

    def streamed(self, ending: Ending, now_s: float) -> None:
        """Its stream is over."""
        if self.is_over:
            return
        usage, pieces, outcome = ending.usage, ending.pieces, ending.outcome
        basis: Basis = "reported"
        if usage is not None and not self._believes(usage):
            basis, usage = "estimated", Usage(self.account.prompt_estimate, pieces)
        elif usage is None or not ending.is_whole:
            # What was reported before a stream broke off may be of its beginning.
            basis = "counted"
            told = usage or Usage(self.account.prompt_estimate, 0)
            usage = Usage(told.prompt_tokens, max(pieces, told.completion_tokens))
        if outcome == "upstream_error" and not pieces:
            usage = Usage(0, 0)
        self._end(200, outcome, usage, basis, now_s)

    def failed(self, error: BaseException, now_s: float, *, is_cut: bool = False) -> None:
        """It brought nothing: an error, or nobody waits for it any more."""
        if self.is_over:
            return
        nothing, status = Usage(0, 0), 502
        outcome: Outcome = "upstream_error"
        if isinstance(error, UpstreamError):
            status = error.upstream_status or (504 if error.code is Code.UPSTREAM_TIMEOUT else 502)
            if error.code is Code.UPSTREAM_REFUSED_REQUEST:
                outcome = "client_error"
            if error.code is Code.UPSTREAM_OUT_OF_CREDITS:
                status = OUT_OF_CREDITS  # some say it with 429
        elif isinstance(error, ClientError):
            outcome, status = "client_error", error.status
        elif isinstance(error, asyncio.CancelledError):
            if self.is_sent:  # the upstream had the prompt, and was at work on it
                nothing = Usage(self.account.prompt_estimate, 0)
            outcome, status = ("cut" if is_cut else "client_gone"), 0
        elif isinstance(error, KeyholeError):
            outcome, status = "interrupted", 0
        basis: Basis = "estimated" if nothing.prompt_tokens else "counted"
        self._end(status, outcome, nothing, basis, now_s)

    def progressed(self, pieces: int) -> None:
        """A long stream has come so far."""
        if self.is_over:
            return
        intent = self.intent
        progress = Progress(intent.exchange_id, intent.attempt, pieces)
        self.account.books.journal.progress(progress)

    def _believes(self, usage: Usage) -> bool:
        return is_credible(usage, self.account.bound, self.account.prompt_estimate)

    def _end(self, status: int, outcome: Outcome, usage: Usage, basis: Basis, now_s: float) -> None:
        self.is_over = True
        account, price, first_s = self.account, self.price, self.first_byte_s
        prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
        cost = 0 if price is None else price.cost_microusd(prompt_tokens, completion_tokens)
        if account.books.keeps_books:
            account.books.journal.settle(
                Receipt(
                    self.intent,
                    status,
                    outcome,
                    prompt_tokens,
                    completion_tokens,
                    basis,
                    cost,
                    None if first_s is None else (first_s - self.began_s) * 1000,
                    (now_s - self.began_s) * 1000,
                )
            )
        account.prompt_tokens += prompt_tokens
        account.completion_tokens += completion_tokens
        account.cost_microusd += cost
        if self.hold is not None:
            account.books.counters.settle(self.hold, prompt_tokens, completion_tokens, cost)


NO_ACCOUNT = Account(cast("Accounts", None), cast("AccessRecord", None), None, "", 0)
"""Of a request that nothing limits, where no books are kept."""
NO_ATTEMPT = Attempt(NO_ACCOUNT, cast("Intent", None), None, None, 0.0, is_over=True)
"""One that is written down nowhere."""
