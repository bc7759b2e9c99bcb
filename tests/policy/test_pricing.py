"""Money rounds up; a price is the configuration's, a list's, or nobody's."""

from __future__ import annotations

import os
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.catalog import AS_ASKED, Target, Upstream
from keyhole.errors import ClientError, Code
from keyhole.policy.pricing import FREE, Price, Prices, read_router_prices, usd_per_million
from keyhole.prices import Question, answer, look_up, questions


def target(model: str = "gpt2", *, upstream: str = "gpu", kind: str = "openai") -> Target:
    return Target(Upstream(name=upstream, kind=kind, url="https://gpu.example.org/v1"), model)


def prices(
    configured: dict[str, Price] | None = None,
    listed: dict[str, Price] | None = None,
    *,
    refuses_unknown: bool = False,
) -> Prices:
    return Prices(configured or {}, listed or {}, refuses_unknown=refuses_unknown)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_cost_is_rounded_up_and_by_less_than_a_microdollar(
    prompt: int, completion: int, prompt_price: int, completion_price: int
) -> None:
    cost = Price(prompt_price, completion_price).cost_microusd(prompt, completion)
    exact = Fraction(prompt * prompt_price + completion * completion_price, 10**6)
    assert 0 <= cost - exact < 1


def test_a_single_token_is_not_free() -> None:
    assert Price(1, 1).cost_microusd(1, 0) == 1
    assert FREE.cost_microusd(10**9, 10**9) == 0


def test_the_configuration_comes_before_any_list() -> None:
    made = prices(
        {"gpu/gpt2": Price(1, 1), "gpu/*": Price(2, 2)},
        {"gpu/gpt2": Price(3, 3), "hf/a": Price(4, 4)},
    )
    assert made.find(target()) == Price(1, 1)
    assert made.find(target("other")) == Price(2, 2)
    assert made.find(target("a", upstream="hf")) == Price(4, 4)
    assert made.find(target("b", upstream="hf")) is None


def test_the_engine_costs_nothing_unless_it_is_said_to() -> None:
    engine = target("keyhole-demo", upstream="engine", kind="engine")
    assert prices(refuses_unknown=True).find(engine) == FREE
    assert prices({"engine/*": Price(5, 5)}).find(engine) == Price(5, 5)


def test_an_unknown_price_is_refused_where_the_operator_wants_it() -> None:
    made = prices(refuses_unknown=True)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            made.find(target())
    assert (caught.value.code, caught.value.status) == (Code.PRICE_UNKNOWN, 403)
    made.learn({"gpu/gpt2": Price(1, 1)})
    assert made.find(target()) == Price(1, 1)


def test_the_operator_is_told_which_prices_are_unknown() -> None:
    engine = target("x", upstream="engine", kind="engine")
    asked = [target(), target("a"), target("a"), target(AS_ASKED), engine]
    assert prices({"gpu/gpt2": FREE}).unknown(asked) == ["gpu/a"]


ROUTER = {
    "object": "list",
    "data": [
        {
            "id": "owner/name",
            "providers": [
                {"provider": "groq", "status": "live", "pricing": {"input": 0.05, "output": 0.08}},
                {"provider": "nebius", "status": "live", "pricing": {"input": 0.02, "output": 1}},
                {"provider": "down", "status": "error", "pricing": {"input": 9, "output": 9}},
            ],
        },
        {
            "id": "owner/part",
            "providers": [
                {"provider": "a", "status": "live", "pricing": {"input": 1, "output": 1}},
                {"provider": "b", "status": "live"},
            ],
        },
        {"id": "owner/free", "providers": [{"provider": "x", "status": "live", "is_free": True}]},
        {"id": "owner/none", "providers": [{"provider": "x", "status": "live"}]},
        {"id": 5, "providers": "none"},
        {"id": "owner/odd", "providers": ["x", {"pricing": {"input": -1, "output": "1"}}]},
        "nothing",
    ],
}


def test_a_routers_list_gives_the_dearest_live_provider_and_each_by_name() -> None:
    found = read_router_prices(msgspec.json.encode(ROUTER), "hf")
    assert found["hf/owner/name:groq"] == Price(50_000, 80_000)
    assert found["hf/owner/name:down"] == Price(9_000_000, 9_000_000)
    assert found["hf/owner/name"] == found["hf/owner/name:fastest"] == Price(50_000, 1_000_000)
    assert found["hf/owner/name:cheapest"] == Price(50_000, 80_000)
    assert "hf/owner/part:cheapest" not in found
    assert found["hf/owner/part"] == Price(1_000_000, 1_000_000)
    assert found["hf/owner/free"] == FREE
    assert not [label for label in found if "none" in label or "odd" in label]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'{"data": 5}', b"\xff", b"[" * 9999])
def test_a_list_that_cannot_be_read_has_no_prices(body: bytes) -> None:
    assert read_router_prices(body, "hf") == {}


@pytest.mark.parametrize(
    ("value", "microusd"),
    [
        (0.5, 500_000),
        (0.1, 100_000),
        (3, 3_000_000),
        (0, 0),
        (0.0000001, 1),
        (0.1000001, 100_001),
        *((bad, None) for bad in (-1, float("nan"), float("inf"), True, "1", None, 1e9)),
    ],
)
def test_a_price_of_a_list_is_rounded_up_or_none(value: object, microusd: int | None) -> None:
    assert usd_per_million(value) == microusd


def test_genai_prices_is_asked_about_servers_of_others_alone() -> None:
    local = Target(Upstream(name="l", kind="openai", url="http://10.0.0.5/v1"), "gpt2")
    engine = target("x", upstream="engine", kind="engine")
    assert questions([target(), target(), local, engine]) == [
        Question("gpu", "https://gpu.example.org/v1", "gpt2")
    ]


def test_genai_prices_knows_what_models_cost_where_it_knows_the_address() -> None:
    asked = [
        Question("oa", "https://api.openai.com/v1", "gpt-4o-mini"),
        Question("all", "https://api.openai.com/v1", AS_ASKED),
        Question("oa", "https://api.openai.com/v1", "no-such-model-of-theirs"),
        Question("x", "https://example.org/v1", "gpt-4o-mini"),
        Question("y", "https://example.org/v1", AS_ASKED),
    ]
    found = look_up(asked, os.environ)
    assert found["oa/gpt-4o-mini"] == found["all/gpt-4o-mini"]
    assert 0 < found["oa/gpt-4o-mini"].prompt < found["oa/gpt-4o-mini"].completion
    assert len([label for label in found if label.startswith("all/")]) > 20
    assert not [label for label in found if label.startswith(("x/", "y/"))]
    assert "oa/no-such-model-of-theirs" not in found
    assert look_up([], {}) == {}
    assert answer([]) == {}
