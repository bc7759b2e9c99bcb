"""What is held, written down and settled of a request, for every way in which it can go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import keys
from books import MemoryJournal, accounts
from keyhole.accounts import Account, Accounts, Attempt, Ending
from keyhole.catalog import Route, Target, Upstream
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.policy.bounds import TEMPLATE_TOKENS
from keyhole.policy.pricing import Price, Prices
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.books import Intent, Receipt
from keyhole.wire.call import Call, Parameters
from keyhole.wire.keys import Budget, Group, Key, Limits
from keyhole.wire.records import AccessRecord
from records import record

NOW_MS = 1_790_000_000_000
ONE, TWO = (
    Target(Upstream(name=name, kind="tgi", url=f"http://{name}"), "m") for name in ("one", "two")
)
ROUTE = Route(name="default", targets=(ONE, TWO))
PROMPT = "x" * 40
BOUND = 40 + TEMPLATE_TOKENS
MOST = 32
CALL = Call(model=None, input=PROMPT, parameters=Parameters(max_new_tokens=MOST))
PRICES = {"one/m": Price(300_000, 700_000), "two/m": Price(1_000_000, 3_000_000)}
LIMITS = Limits(rpm=100, tpm=100_000, concurrency=10, budget=Budget(amount=1_000_000, per="month"))


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def unix_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return 0.0


class World:
    """Accounts over a journal in memory."""

    def __init__(self, limits: Limits = LIMITS, **options: Any) -> None:
        self.journal, self.clock = MemoryJournal(), Clock()
        prices = Prices(PRICES, {}, refuses_unknown=options.pop("refuses_unknown", False))
        self.books: Accounts = accounts(
            journal=self.journal, clock=self.clock, prices=prices, **options
        )
        self.key: Key | None = keys.key(1, limits=limits)
        self.count = 0

    def open(self, call: Call = CALL, **fields: Any) -> Account:
        self.count += 1
        record = AccessRecord(f"id-{self.count}", self.clock.ms, "POST", "/generate", **fields)
        return self.books.open(record, self.key, "generate", call, ROUTE, ROUTE.targets)

    def begin(self, account: Account, target: Target = ONE, *, requests: int = 1) -> Attempt:
        return self.books.begin(account, account.record, target, requests, 10.0)

    @property
    def receipt(self) -> Receipt:
        (receipt,) = self.journal.receipts
        return receipt

    @property
    def spent(self) -> tuple[int, int, int, int]:
        """Of the key: running, requests and tokens of the minute, micro-dollars."""
        (tally,) = self.books.counters.scopes(self.key)
        return tally.running, tally.requests, tally.tokens, tally.spent


def cost(target: Target, prompt: int, completion: int) -> int:
    return PRICES[target.label].cost_microusd(prompt, completion)


class TestHolding:
    def test_the_worst_case_at_the_dearest_target_is_held(self) -> None:
        here = World()
        here.open()
        assert here.spent == (1, 1, BOUND + MOST, cost(TWO, BOUND, MOST))

    def test_what_was_never_sent_comes_back_the_request_too(self) -> None:
        here = World()
        account = here.open()
        account.close()
        account.close()
        assert here.spent == (0, 0, 0, 0)
        assert here.journal.lines == []

    def test_one_that_is_too_large_holds_nothing(self) -> None:
        here = World(Limits(tpm=BOUND + MOST - 1))
        with pytest.raises(ClientError) as caught:
            here.open()
        assert (caught.value.status, caught.value.retry_after_s) == (400, None)
        assert here.spent == (0, 0, 0, 0)

    def test_a_key_and_its_group_are_held_together_or_not_at_all(self) -> None:
        here = World()
        group = Group(name="class-a", limits=Limits(concurrency=1))
        here.key = keys.key(1, limits=LIMITS, group=group)
        here.open()
        with pytest.raises(ClientError, match="group 'class-a'"):
            here.open()
        of_key, of_group = here.books.counters.scopes(here.key)
        assert (of_key.running, of_group.running) == (1, 1)

    def test_without_limits_nothing_is_held_and_all_is_written_down(self) -> None:
        here = World()
        here.key = None
        account = here.open()
        assert (account.hold, account.allowance) == (None, None)
        here.begin(account).answered(Answer(texts=(("y",),), usage=Usage(5, 7)), 11.0)
        account.close()
        intent = here.receipt.intent
        assert (intent.key_id, intent.key, intent.group) == (None, None, None)
        assert here.receipt.cost_microusd == cost(ONE, 5, 7)

    def test_a_full_journal_gives_the_upstreams_hold_back(self) -> None:
        here = World(upstream_limits={"one": Limits(concurrency=1)})
        account = here.open()

        def full(_: Intent) -> None:
            raise GatewayError(Code.JOURNAL_FULL, "Full.", status=503)

        write, here.journal.intend = here.journal.intend, full  # type: ignore[method-assign]
        with pytest.raises(GatewayError):
            here.begin(account)
        here.journal.intend = write  # type: ignore[method-assign]
        here.begin(account)

    def test_an_unknown_price_is_refused_before_anything_is_written(self) -> None:
        here = World(refuses_unknown=True)
        other = Target(Upstream(name="three", kind="tgi", url="http://3"), "m")
        account = here.open()
        with pytest.raises(ClientError) as caught:
            here.begin(account, other)
        assert caught.value.code is Code.PRICE_UNKNOWN
        account.close()
        assert here.journal.lines == []
        assert here.spent == (0, 0, 0, 0)


WHOLE = Answer(texts=(("y" * 20,),))
ABSURD = [Usage(-1, 5), Usage(5, -1), Usage(10**12, 5), Usage(5, 10**12), Usage(2**63, 2**63)]


class TestWholeAnswers:
    def test_what_is_reported_is_booked_and_the_rest_comes_back(self) -> None:
        here = World()
        account = here.open()
        here.begin(account).answered(Answer(texts=(("y",),), usage=Usage(9, 11)), 12.5)
        account.close()
        told = here.receipt
        assert (told.status, told.outcome, told.basis) == (200, "ok", "reported")
        assert (told.prompt_tokens, told.completion_tokens) == (9, 11)
        assert told.cost_microusd == -(-(9 * 300_000 + 11 * 700_000) // 1_000_000) == 11
        assert (told.ttft_ms, told.duration_ms) == (2500, 2500)
        assert here.spent == (0, 1, 20, 11)

    def test_what_is_above_the_hold_is_booked_in_full(self) -> None:
        here = World()
        account = here.open()
        here.begin(account).answered(Answer(texts=(("y",),), usage=Usage(BOUND, 500)), 11.0)
        account.close()
        assert here.spent == (0, 1, BOUND + 500, cost(ONE, BOUND, 500))

    def test_what_is_not_reported_is_estimated(self) -> None:
        here = World()
        account = here.open()
        here.begin(account).answered(WHOLE, 11.0)
        assert here.receipt.basis == "estimated"
        assert (here.receipt.prompt_tokens, here.receipt.completion_tokens) == (10, 5)

    @pytest.mark.parametrize("usage", ABSURD, ids=str)
    @pytest.mark.parametrize("is_limited", [True, False])
    def test_what_cannot_be_true_is_estimated(self, usage: Usage, is_limited: bool) -> None:
        here = World()
        if not is_limited:
            here.key = None
        here.begin(here.open()).answered(Answer(texts=WHOLE.texts, usage=usage), 11.0)
        assert here.receipt.basis == "estimated"
        assert (here.receipt.prompt_tokens, here.receipt.completion_tokens) == (10, 5)
        assert here.receipt.cost_microusd == cost(ONE, 10, 5) > 0

    @pytest.mark.parametrize(("tokens", "microusd"), [((1, 0), 1), ((0, 1), 1), ((0, 0), 0)])
    def test_money_is_rounded_up(self, tokens: tuple[int, int], microusd: int) -> None:
        here = World()
        here.begin(here.open()).answered(Answer(texts=(("",),), usage=Usage(*tokens)), 11.0)
        assert here.receipt.cost_microusd == microusd


class TestStreams:
    @pytest.mark.parametrize(
        ("usage", "pieces", "outcome", "is_whole", "booked", "basis"),
        [
            (Usage(9, 11), 10, "ok", True, (9, 11), "reported"),
            (None, 10, "ok", True, (10, 10), "counted"),
            (Usage(9, 2), 10, "client_gone", False, (9, 10), "counted"),
            (Usage(9, 12), 10, "client_gone", False, (9, 12), "counted"),
            (None, 10, "client_gone", False, (10, 10), "counted"),
            (None, 0, "client_gone", False, (10, 0), "counted"),
            (None, 33, "cut", False, (10, 33), "counted"),
            (None, 4, "upstream_error", False, (10, 4), "counted"),
            (None, 0, "upstream_error", False, (0, 0), "counted"),
            (None, 4, "interrupted", False, (10, 4), "counted"),
            (Usage(-5, 3), 10, "ok", True, (10, 10), "estimated"),
            (Usage(5, 10**12), 10, "ok", True, (10, 10), "estimated"),
        ],
    )
    def test_how_one_is_booked(
        self,
        usage: Usage | None,
        pieces: int,
        outcome: Any,
        is_whole: bool,
        booked: Any,
        basis: str,
    ) -> None:
        here = World()
        account = here.open()
        attempt = here.begin(account)
        attempt.first_byte_s = 10.5
        attempt.streamed(Ending(usage, pieces, outcome, is_whole), 12.0)
        account.close()
        told = here.receipt
        assert (told.outcome, told.basis) == (outcome, basis)
        assert (told.prompt_tokens, told.completion_tokens) == booked
        assert (told.ttft_ms, told.duration_ms) == (500, 2000)
        assert here.spent == (0, 1, sum(booked), cost(ONE, *booked))

    def test_how_far_it_is_is_written_down(self) -> None:
        here = World()
        attempt = here.begin(here.open())
        attempt.progressed(77)
        told = here.journal.lines[-1]
        assert (told.exchange_id, told.attempt, told.completion_tokens) == ("id-1", 1, 77)  # type: ignore[union-attr]

    def test_it_ends_once(self) -> None:
        here = World()
        account = here.open()
        attempt = here.begin(account)
        attempt.streamed(Ending(Usage(9, 11), 11, "ok", True), 12.0)
        attempt.failed(UpstreamError(Code.UPSTREAM_ERROR, "Late."), 13.0)
        account.close()
        assert here.receipt.outcome == "ok"
        assert here.spent[2] == 20

    @pytest.mark.parametrize(
        ("limits", "allowance"),
        [(LIMITS, MOST), (Limits(tpm=1000), MOST), (Limits(rpm=5, concurrency=5), None)],
    )
    def test_only_who_counts_tokens_or_money_cuts(self, limits: Limits, allowance: Any) -> None:
        assert World(limits).open().allowance == allowance


def refused(code: Code, status: int | None = None) -> UpstreamError:
    return UpstreamError(code, "No.", upstream_status=status)


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "status", "outcome"),
        [
            (refused(Code.UPSTREAM_ERROR, 500), 500, "upstream_error"),
            (refused(Code.UPSTREAM_RATE_LIMITED, 429), 429, "upstream_error"),
            (refused(Code.UPSTREAM_REFUSED_REQUEST, 422), 422, "client_error"),
            (refused(Code.UPSTREAM_TIMEOUT), 504, "upstream_error"),
            (refused(Code.UPSTREAM_UNREACHABLE), 502, "upstream_error"),
            (ClientError(Code.INVALID_PARAMETER, "No."), 400, "client_error"),
            (GatewayError(Code.SHUTTING_DOWN, "Bye.", status=503), 0, "interrupted"),
            (RuntimeError("a bug"), 502, "upstream_error"),
        ],
        ids=str,
    )
    def test_what_brought_nothing_costs_nothing_and_is_booked(
        self, error: Exception, status: int, outcome: str
    ) -> None:
        here = World()
        account = here.open()
        here.begin(account).failed(error, 11.0)
        account.close()
        told = here.receipt
        assert (told.status, told.outcome, told.cost_microusd) == (status, outcome, 0)
        assert (told.prompt_tokens, told.completion_tokens, told.ttft_ms) == (0, 0, None)
        assert here.spent == (0, 1, 0, 0), "the request counts: an upstream has seen it"

    @pytest.mark.parametrize(("is_cut", "outcome"), [(False, "client_gone"), (True, "cut")])
    def test_whom_nobody_waits_for_pays_for_the_prompt(self, is_cut: bool, outcome: str) -> None:
        here = World()
        account = here.open()
        here.begin(account).failed(asyncio.CancelledError(), 11.0, is_cut=is_cut)
        account.close()
        told = here.receipt
        assert (told.status, told.outcome, told.basis) == (0, outcome, "estimated")
        assert (told.prompt_tokens, told.completion_tokens) == (10, 0)
        assert here.spent == (0, 1, 10, cost(ONE, 10, 0))


class TestFallback:
    def test_every_attempt_is_a_line_and_the_sum_is_settled_once(self) -> None:
        here = World()
        account = here.open()
        here.begin(account, ONE).failed(refused(Code.UPSTREAM_ERROR, 500), 11.0)
        here.begin(account, TWO).answered(Answer(texts=(("y",),), usage=Usage(9, 11)), 12.0)
        account.close()
        first, second = here.journal.receipts
        assert [it.intent.attempt for it in (first, second)] == [1, 2]
        assert [it.intent.target for it in (first, second)] == ["one/m", "two/m"]
        assert [it.intent for it in here.journal.receipts] == here.journal.intents
        assert second.cost_microusd == cost(TWO, 9, 11)
        assert here.spent == (0, 1, 20, cost(TWO, 9, 11)), "one request, whoever was asked"
        assert (account.record.attempts, account.record.target) == (
            2,
            "two/m",
        )

    def test_a_stream_that_broke_and_its_successor_are_both_paid(self) -> None:
        here = World()
        account = here.open()
        here.begin(account, ONE).failed(asyncio.CancelledError(), 11.0)
        here.begin(account, TWO).answered(Answer(texts=(("y",),), usage=Usage(9, 11)), 12.0)
        account.close()
        assert here.spent == (0, 1, 30, cost(ONE, 10, 0) + cost(TWO, 9, 11))


class TestUpstreams:
    LIMITS = Limits(rpm=3, budget=Budget(amount=1000, per="month"))

    def test_each_request_that_goes_there_counts(self) -> None:
        here = World(upstream_limits={"one": self.LIMITS})
        here.begin(here.open(), requests=3)
        with pytest.raises(ClientError) as caught:
            here.begin(here.open())
        assert caught.value.code is Code.REQUESTS_LIMITED
        here.begin(here.open(), TWO)

    def test_what_was_used_there_is_settled_there(self) -> None:
        here = World(upstream_limits={"one": self.LIMITS})
        account = here.open()
        here.begin(account).answered(Answer(texts=(("y",),), usage=Usage(9, 11)), 11.0)
        (tally,) = here.books.counters.upstream_scopes("one", self.LIMITS)
        assert (tally.running, tally.spent) == (0, cost(ONE, 9, 11))

    @pytest.mark.parametrize("status", [402, 429])
    def test_one_whose_credits_are_gone_is_not_asked_until_the_month_turns(
        self, status: int
    ) -> None:
        here = World()
        account = here.open()
        error = refused(Code.UPSTREAM_OUT_OF_CREDITS, status)
        here.begin(account).failed(error, 11.0)
        assert here.receipt.status == 402, "by which the clerk knows it"
        here.books.counters.out_of_credits("one", here.clock.ms)
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                here.begin(here.open())
            assert caught.value.code is Code.UPSTREAM_OUT_OF_CREDITS
        here.begin(here.open(), TWO)
        here.clock.ms += 31 * 86_400_000
        here.begin(here.open())

    def test_a_client_who_is_refused_there_has_used_nothing(self) -> None:
        here = World(upstream_limits={"one": Limits(concurrency=1)})
        here.begin(here.open())
        account = here.open()
        with pytest.raises(KeyholeError):
            here.begin(account)
        account.close()
        assert here.spent[:2] == (1, 1)


def target(kind: str) -> Target:
    return Target(Upstream(name=kind, kind=kind, url="http://127.0.0.1:9"), "m")


@pytest.mark.parametrize(("kind", "asked_for"), [("tgi", 1024), ("engine", None)])
def test_the_engine_is_not_asked_for_more_than_its_context(
    kind: str, asked_for: int | None
) -> None:
    """It would refuse: a prompt and 1024 tokens are more than GPT-2 takes."""
    limits = Limits(budget=Budget(amount=10**9, per="month"))
    key = Key(id="key_1", name="ann", digest=b"d", limits=limits, created_at_ms=1)
    where = target(kind)
    route = Route(name="default", targets=(where,))
    call = Call(model=None, input="Once upon a time")
    account = accounts().open(
        record("r", 1_763_863_600, "m"), key, "generate", call, route, [where]
    )
    assert account.maximum(where) == asked_for
    assert account.hold is not None
    assert account.hold.completion_tokens == 1024
    account.close()
