"""Counters in memory: nothing is raced, nothing is forgotten that still counts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import pytest

from keyhole.errors import ClientError, Code, GatewayError, UpstreamError
from keyhole.io.counters import MemoryCounters, Name
from keyhole.policy.limits import MINUTE_MS, Bound, Spent
from keyhole.ports import Counters
from keyhole.wire.keys import NO_LIMITS, Budget, Group, Key, Limits

NOW = 1_795_515_320_000  # 24 November 2026, 10:15:20 UTC
FIRST_OF_DECEMBER = 1_796_083_200_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW

    def __call__(self) -> int:
        return self.now_ms


def counters(clock: Clock | None = None, **parts: object) -> MemoryCounters:
    return MemoryCounters(clock or Clock(), **parts)


def key(name: str = "bob", limits: Limits = NO_LIMITS, group: Group | None = None) -> Key:
    return Key(
        id=f"key_{name}", name=name, digest=bytes(32), group=group, limits=limits, created_at_ms=0
    )


async def race(made: Counters, holder: Key, bound: Bound, *, uses: int, ends: bool) -> int:
    """500 requests at once, each held, awaiting a little, settled; how many came through."""
    passed = 0
    dice = random.Random(5)

    async def one() -> None:
        nonlocal passed
        await asyncio.sleep(0)
        try:
            hold = made.hold(made.scopes(holder), bound, NOW)
        except ClientError:
            return
        passed += 1
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
        if ends:
            made.settle(hold, 0, uses, uses)

    await asyncio.gather(*(one() for _ in range(500)))
    return passed


@pytest.mark.parametrize(
    ("limits", "ends"),
    [
        (Limits(rpm=10), True),
        (Limits(concurrency=10), False),
        (Limits(budget=Budget(amount=100)), True),
        (Limits(tpm=100), True),
        (Limits(budget=Budget(amount=100, unit="tokens", per="day")), True),
    ],
)
@pytest.mark.parametrize("place", ["key", "group"])
async def test_of_500_at_once_exactly_10_pass(limits: Limits, ends: bool, place: str) -> None:
    """Each uses as much as it holds, a tenth of the limit."""
    own = key(limits=limits) if place == "key" else key(group=Group(name="class", limits=limits))
    assert await race(counters(), own, Bound(0, 10, 10), uses=10, ends=ends) == 10


@pytest.mark.parametrize("uses", [0, 1, 3, 9])
async def test_usage_below_the_hold_never_comes_to_more_than_the_limit(uses: int) -> None:
    for limits in (Limits(tpm=100), Limits(budget=Budget(amount=100))):
        passed = await race(counters(), key(limits=limits), Bound(0, 10, 10), uses=uses, ends=True)
        assert passed >= 10
        assert passed * uses <= 100


def test_a_group_is_shared_by_its_keys() -> None:
    made, group = counters(), Group(name="class", limits=Limits(rpm=2))
    for name in ("ann", "bob"):
        made.hold(made.scopes(key(name, group=group)), Bound(0, 0, 0), NOW)
    with pytest.raises(ClientError) as caught:
        made.hold(made.scopes(key("cy", group=group)), Bound(0, 0, 0), NOW)
    assert "group 'class'" in caught.value.message


def test_who_has_no_limits_is_not_counted() -> None:
    made = counters()
    assert made.scopes(None) == ()
    assert made.scopes(key()) == ()
    assert made.upstream_scopes("hf", NO_LIMITS) == ()
    hold = made.hold((), Bound(10**9, 10**9, 10**9), NOW)
    made.settle(hold, 5, 5, 5)
    made.release(hold)
    assert made.tally_count == 0


def test_an_upstream_has_limits_of_its_own() -> None:
    made, limits = counters(), Limits(rpm=1)
    made.hold(made.upstream_scopes("hf", limits), Bound(1, 1, 1), NOW)
    made.hold(made.upstream_scopes("gpu", limits), Bound(1, 1, 1), NOW)
    with pytest.raises(ClientError) as caught:
        made.hold(made.upstream_scopes("hf", limits), Bound(1, 1, 1), NOW)
    assert "upstream 'hf'" in caught.value.message


def test_a_key_that_was_changed_keeps_what_it_has_used() -> None:
    made = counters()
    made.hold(made.scopes(key(limits=Limits(rpm=2))), Bound(0, 0, 0), NOW)
    changed = key(limits=Limits(rpm=1))
    with pytest.raises(ClientError):
        made.hold(made.scopes(changed), Bound(0, 0, 0), NOW)
    assert made.scopes(changed) is made.scopes(changed)


def test_what_was_spent_before_the_start_counts() -> None:
    made = counters()
    made.restore(
        [
            (("key", "key_bob"), Spent(at_ms=NOW - 1, tokens=9, cost_microusd=60, requests=1)),
            (("key", "key_bob"), Spent(at_ms=NOW - 2, tokens=9, cost_microusd=30, requests=1)),
            (("group", "class"), Spent(at_ms=NOW - MINUTE_MS, tokens=9, cost_microusd=95)),
        ]
    )
    limits = Limits(rpm=3, budget=Budget(amount=100, per="day"))
    bob = key(limits=limits, group=Group(name="class", limits=limits))
    for cost, is_taken in ((6, False), (5, True), (1, False)):
        if is_taken:
            made.hold(made.scopes(bob), Bound(0, 0, cost), NOW)
        else:
            with pytest.raises(ClientError):
                made.hold(made.scopes(bob), Bound(0, 0, cost), NOW)


def test_a_new_kind_of_budget_begins_with_what_the_books_say() -> None:
    asked: list[Name] = []

    def look_up(name: Name) -> Iterable[Spent]:
        asked.append(name)
        return [Spent(at_ms=NOW, tokens=0, cost_microusd=80)]

    made = counters(look_up=look_up)
    made.scopes(key(limits=Limits(budget=Budget(amount=100, per="day"))))
    scopes = made.scopes(key(limits=Limits(budget=Budget(amount=100, per="month"))))
    assert asked == [("key", "key_bob")] * 2
    assert scopes[0].spent == 80


def test_what_is_restored_is_not_looked_up_as_well() -> None:
    """It holds what the books say already, and the journal's lines that are not in them yet."""
    made = counters(look_up=lambda _: [Spent(at_ms=NOW, tokens=0, cost_microusd=80)])
    made.restore([(("key", "key_bob"), Spent(at_ms=NOW, tokens=0, cost_microusd=5))])
    for per, spent in (("day", 5), ("month", 80)):
        limits = Limits(budget=Budget(amount=100, per=per))
        assert made.scopes(key(limits=limits))[0].spent == spent


def test_what_was_spent_before_is_asked_again_where_nobody_could_say() -> None:
    """A budget must not begin anew because the keys' copy could not be read at that moment."""
    answers: list[list[Spent]] = [[Spent(at_ms=NOW, tokens=0, cost_microusd=80)]]

    def look_up(_: Name) -> Iterable[Spent]:
        if len(answers) == 1:
            answers.append([])
            raise GatewayError(Code.KEYS_UNAVAILABLE, "no")
        return answers[0]

    made = counters(look_up=look_up)
    bob = key(limits=Limits(budget=Budget(amount=100, per="day")))
    with pytest.raises(GatewayError):
        made.scopes(bob)
    assert made.scopes(bob)[0].spent == 80


def test_keys_that_are_not_used_any_more_are_forgotten() -> None:
    """But none that has spent of a budget whose window is open, or has a request under way."""
    clock = Clock()
    made = counters(clock, kept_keys=10)
    minute, day = Limits(rpm=5), Limits(budget=Budget(amount=5, per="day"))

    def use(name: str, limits: Limits, *, ends: bool = True) -> None:
        hold = made.hold(made.scopes(key(name, limits)), Bound(0, 0, 1), clock.now_ms)
        if ends:
            made.settle(hold, 0, 0, 1)

    use("spender", day)
    use("runner", minute, ends=False)
    for number in range(1000):
        clock.now_ms += 10_000
        use(f"k{number}", minute)
    assert made.tally_count < 30
    assert made.scopes(key("spender", day))[0].spent == 1
    assert made.scopes(key("runner", minute))[0].running == 1
    clock.now_ms += 86_400_000
    for number in range(100):
        use(f"n{number}", minute)
    assert made.scopes(key("spender", day))[0].spent == 0


def test_credits_that_are_gone_are_remembered_until_the_month_turns() -> None:
    made = counters()
    made.check_credits("hf", NOW)
    made.out_of_credits("hf", NOW)
    for now_ms in (NOW, NOW - MINUTE_MS, FIRST_OF_DECEMBER - 1):
        with pytest.raises(UpstreamError) as caught:
            made.check_credits("hf", now_ms)
    assert caught.value.code == Code.UPSTREAM_OUT_OF_CREDITS
    assert "2026-12-01" in caught.value.message
    assert made.credits_gone == {"hf": NOW}
    made.check_credits("other", NOW)
    made.check_credits("hf", FIRST_OF_DECEMBER)
    made.check_credits("hf", NOW)


def test_the_operator_can_have_it_asked_again() -> None:
    made = counters()
    made.out_of_credits("hf", NOW)
    made.clear_credits("hf")
    made.clear_credits("never")
    made.check_credits("hf", NOW)


def test_who_may_not_count_reads_nothing_that_will_be_old_when_it_may() -> None:
    """Another process counts still, and goes on spending."""
    is_other_there, spent = True, 0

    def check() -> None:
        if is_other_there:
            raise GatewayError(Code.LIMITS_ELSEWHERE, "Another one counts.", status=503)

    def look_up(_: Name) -> Iterable[Spent]:
        assert not is_other_there
        return [Spent(at_ms=NOW, tokens=0, cost_microusd=spent, of="total")]

    made = counters(look_up=look_up, check_alone=check)
    holder = key(limits=Limits(budget=Budget(amount=100)))
    with pytest.raises(GatewayError):
        made.scopes(holder)
    is_other_there, spent = False, 90
    (tally,) = made.scopes(holder)
    assert tally.spent == 90


def test_a_limit_that_was_taken_away_and_given_again_knows_what_was_spent_between() -> None:
    spent = 0

    def look_up(_: Name) -> Iterable[Spent]:
        return [Spent(at_ms=NOW, tokens=0, cost_microusd=spent, of="total")]

    made = counters(look_up=look_up)
    limited = Limits(budget=Budget(amount=1000))
    made.scopes(key(group=Group(name="g", limits=limited)))
    assert made.hold(made.scopes(key(group=Group(name="g"))), Bound(1, 1, 900), NOW)
    spent = 900
    (tally,) = made.scopes(key(group=Group(name="g", limits=limited)))
    assert tally.spent == 900


def test_requests_of_this_minute_count_after_a_restart() -> None:
    def look_up(_: Name) -> Iterable[Spent]:
        return [Spent(at_ms=NOW, tokens=5, cost_microusd=0, requests=1)] * 10

    made = counters(look_up=look_up)
    with pytest.raises(ClientError) as refused:
        made.hold(made.scopes(key(limits=Limits(rpm=10))), Bound(1, 1, 0), NOW)
    assert refused.value.code is Code.REQUESTS_LIMITED
