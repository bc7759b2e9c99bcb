"""A refusal names the limit, whose it is, what is left and when it resets; headers say the same."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import parse_ratelimit_headers

from keyhole.errors import ClientError, Code
from keyhole.policy.limit_words import headers, openai_headers, refusal
from keyhole.policy.limits import Bound, Hold, Scopes, Tally, limit, take
from keyhole.wire.keys import Budget, Limits

NOW = 1_795_515_320_000  # 24 November 2026, 10:15:20 UTC


def tally(*, place: str = "key", name: str = "bob", **limits: object) -> Tally:
    made = Tally(place=place, name=name)
    limit(made, Limits(**limits), 1)
    return made


def use(scopes: Scopes, bound: Bound, now_ms: int = NOW) -> Hold:
    hold = take(scopes, bound, now_ms, 1)
    assert hold is not None
    return hold


def refused(scopes: Scopes, bound: Bound, now_ms: int = NOW) -> ClientError:
    assert take(scopes, bound, now_ms, 2) is None
    return refusal(scopes, bound, now_ms)


def usd(amount: int, per: str | None = None) -> Budget:
    return Budget(amount=amount, per=per)


def test_requests_of_the_minute() -> None:
    scopes = (tally(rpm=1),)
    use(scopes, Bound(0, 0, 0))
    error = refused(scopes, Bound(0, 0, 0))
    assert (error.code, error.status, error.retry_after_s) == (Code.REQUESTS_LIMITED, 429, 40)
    assert error.explained == (
        "The key 'bob' has 0 of 1 request a minute left;"
        " that resets in 40 s, at 2026-11-24T10:16:00Z."
    )


def test_tokens_of_the_minute() -> None:
    scopes = (tally(place="group", name="class-a", tpm=1000),)
    use(scopes, Bound(400, 300, 0))
    error = refused(scopes, Bound(200, 101, 0))
    assert (error.code, error.retry_after_s) == (Code.TOKENS_LIMITED, 40)
    assert error.message == (
        "This request may take up to 301 tokens, and the group 'class-a' has 300 of 1000 tokens"
        " a minute left; that resets in 40 s, at 2026-11-24T10:16:00Z."
    )


def test_requests_at_once() -> None:
    scopes = (tally(concurrency=2),)
    use(scopes, Bound(0, 0, 0))
    use(scopes, Bound(0, 0, 0))
    error = refused(scopes, Bound(0, 0, 0))
    assert (error.code, error.retry_after_s) == (Code.CONCURRENCY_LIMITED, 1)
    assert "The key 'bob' has 2 of 2 requests under way; one has to end first." in error.message


def test_a_budget_of_the_month_has_no_minute_to_wait_for() -> None:
    key = tally(budget=usd(20_000_000, "month"))
    key.window_end_ms, key.spent = 1_796_083_200_000, 19_880_000
    error = refused((key,), Bound(0, 0, 300_000))
    assert (error.code, error.status, error.retry_after_s) == (Code.BUDGET_SPENT, 429, None)
    assert "may cost up to $0.30, and the key 'bob' has $0.12 of $20.00 a month left" in (
        error.message
    )
    assert "at 2026-12-01T00:00:00Z" in error.message


def test_a_budget_that_resets_within_the_minute_is_worth_waiting_for() -> None:
    late = NOW + 44 * 60_000 + 10_000  # half a minute before eleven
    scopes = (tally(budget=usd(100, "hour")),)
    hold = use(scopes, Bound(0, 0, 100), late)
    scopes[0].held = 0
    assert hold
    assert refused(scopes, Bound(0, 0, 1), late).retry_after_s == 30


def test_a_budget_that_is_only_held_is_worth_another_try() -> None:
    scopes = (tally(budget=usd(100)),)
    use(scopes, Bound(0, 0, 100))
    assert refused(scopes, Bound(0, 0, 1)).retry_after_s == 1


def test_a_budget_in_total_does_not_come_back() -> None:
    scopes = (tally(budget=Budget(amount=100, unit="tokens")),)
    use(scopes, Bound(50, 40, 0))
    scopes[0].held = 0
    error = refused(scopes, Bound(10, 1, 0))
    assert error.retry_after_s is None
    assert "has 10 of 100 tokens left; that does not come back by itself." in error.message


@pytest.mark.parametrize(
    ("limits", "bound", "says"),
    [
        ({"tpm": 100}, Bound(60, 41, 0), "take up to 101 tokens, but the key 'bob' may take only"),
        ({"budget": usd(100, "day")}, Bound(0, 0, 101), "may spend only $0.0001 a day"),
    ],
)
def test_what_is_larger_than_the_whole_limit_is_never_worth_another_try(
    limits: dict[str, object], bound: Bound, says: str
) -> None:
    error = refused((tally(**limits),), bound)
    assert (error.code, error.status, error.retry_after_s) == (Code.OVER_LIMIT, 400, None)
    assert says in error.message
    assert "max_tokens" in str(error.hint)


def test_of_several_the_one_that_keeps_out_longest_is_told() -> None:
    scopes = (tally(rpm=1), tally(place="group", name="g", budget=usd(10, "day")))
    use(scopes, Bound(0, 0, 10))
    scopes[1].held = 0
    error = refused(scopes, Bound(0, 0, 1))
    assert error.code == Code.BUDGET_SPENT
    assert error.retry_after_s is None


def test_a_clock_that_steps_back_makes_nobody_wait_for_more_than_a_minute() -> None:
    scopes = (tally(rpm=1),)
    use(scopes, Bound(0, 0, 0))
    error = refused(scopes, Bound(0, 0, 0), NOW - 86_400_000)
    assert error.retry_after_s == 60


def test_of_an_upstreams_limits_no_amounts_are_told() -> None:
    scopes = (tally(place="upstream", name="hf", budget=usd(12_345_678, "month")),)
    use(scopes, Bound(0, 0, 12_000_000))
    scopes[0].held = 0
    error = refused(scopes, Bound(0, 0, 2_000_000))
    never = refusal(scopes, Bound(0, 0, 99_000_000), NOW)
    for told in (error, never):
        assert "the upstream 'hf'" in told.message.lower()
        assert "12" not in told.message.partition(";")[0].replace("$99", "")
        assert told.headers == ()


# Headers


def everything() -> Scopes:
    key = tally(rpm=60, tpm=1000, concurrency=4, budget=usd(5_000_000, "day"))
    group = tally(place="group", name="g", rpm=30, tpm=5000, budget=usd(6_000_000))
    return key, group


def test_headers_say_of_each_limit_the_tighter_one() -> None:
    scopes = everything()
    use(scopes, Bound(100, 200, 1_000_000))
    told = {name: value.split(", ") for name, value in headers(scopes, NOW)}
    assert told == {
        "ratelimit": [
            '"requests";r=29;t=40',
            '"tokens";r=700;t=40',
            '"concurrency";r=3',
            '"budget";r=4000000;t=49480',
        ],
        "ratelimit-policy": [
            '"requests";q=30;w=60',
            '"tokens";q=1000;w=60;qu="tokens"',
            '"concurrency";q=4;qu="concurrent-requests"',
            '"budget";q=5000000;w=86400;qu="microusd"',
        ],
    }
    assert headers((), NOW) == ()


def test_a_new_window_is_told_before_anybody_asked_in_it() -> None:
    scopes = everything()
    use(scopes, Bound(100, 200, 1_000_000))
    told = dict(headers(scopes, NOW + 86_400_000))["ratelimit"]
    assert '"requests";r=30;t=40, "tokens";r=1000;t=40' in told


def test_huggingface_hub_reads_them() -> None:
    scopes = everything()
    use(scopes, Bound(100, 200, 0))
    info = parse_ratelimit_headers(dict(headers(scopes, NOW)))
    assert info is not None
    assert (info.resource_type, info.remaining, info.reset_in_seconds) == ("requests", 29, 40)
    assert (info.limit, info.window_seconds) == (30, 60)


@pytest.mark.parametrize(
    ("limits", "name"), [({"rpm": 1}, "requests"), ({"rpm": 9, "tpm": 10}, "tokens")]
)
def test_huggingface_hub_sees_first_what_was_refused(limits: dict[str, int], name: str) -> None:
    scopes = (tally(**limits),)
    use(scopes, Bound(5, 5, 0))
    info = parse_ratelimit_headers(dict(refused(scopes, Bound(1, 1, 0)).headers))
    assert info is not None
    assert (info.resource_type, info.remaining, info.reset_in_seconds) == (name, 0, 40)
    assert info.window_seconds == 60


def test_openai_hears_requests_and_tokens() -> None:
    scopes = everything()
    use(scopes, Bound(100, 200, 0))
    assert openai_headers(scopes, NOW) == (
        ("x-ratelimit-limit-requests", "30"),
        ("x-ratelimit-remaining-requests", "29"),
        ("x-ratelimit-reset-requests", "40s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "700"),
        ("x-ratelimit-reset-tokens", "40s"),
    )
    assert openai_headers((tally(concurrency=1),), NOW) == ()
