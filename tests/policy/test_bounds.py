"""What a call may use at most is known before it is sent, or it is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.dialects.openai.request import decode_chat_call, decode_completion_call
from keyhole.errors import ClientError
from keyhole.policy.bounds import (
    MESSAGE_TOKENS,
    TEMPLATE_TOKENS,
    USUAL_OUTPUT_TOKENS,
    bound_of,
    estimate_tokens,
    is_credible,
    output_maximum,
    prompt_bound,
)
from keyhole.policy.limits import Bound
from keyhole.policy.pricing import Price
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call, Message, Parameters


def chat(**fields: object) -> Call:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return decode_chat_call(msgspec.json.encode(body))


@given(st.text())
def test_a_prompt_has_at_most_as_many_tokens_as_bytes(text: str) -> None:
    whole = text.encode("utf-8", "surrogatepass")
    assert prompt_bound(Call(model=None, input=text)) == len(whole) + TEMPLATE_TOKENS


def test_each_message_has_its_template() -> None:
    call = Call(model=None, messages=(Message("user", "Hi"), Message("assistant", "Ho")))
    assert prompt_bound(call) == TEMPLATE_TOKENS + 2 * MESSAGE_TOKENS + len("userHiassistantHo")


def test_what_only_the_format_can_say_counts_with_its_bytes() -> None:
    tools = [{"type": "function", "function": {"name": "f" * 5000}}]
    assert prompt_bound(chat(tools=tools)) > 5000
    picture = [{"type": "image_url", "image_url": {"url": "https://h/" + "x" * 3000}}]
    assert prompt_bound(chat(messages=[{"role": "user", "content": picture}])) > 3000


def test_prompts_and_choices_multiply() -> None:
    call = Call(model=None, input=["ab", "abcd"], parameters=Parameters(num_return_sequences=3))
    price = Price(prompt=1_000_000, completion=2_000_000)
    prompt = (6 + TEMPLATE_TOKENS) * 3
    assert bound_of(call, 10, [None, price]) == Bound(prompt, 60, prompt + 120)


def test_the_dearest_target_counts() -> None:
    call = Call(model=None, input="")
    dear, cheap = Price(0, 10**6), Price(0, 10**5)
    assert bound_of(call, 100, [cheap, dear, None]).cost_microusd == 100
    assert bound_of(call, 100, []).cost_microusd == 0


def test_the_maximum_is_the_clients_or_the_routes_or_the_usual_one() -> None:
    assert output_maximum(chat(max_tokens=7), 9) == 7
    assert output_maximum(chat(), 9) == 9
    assert output_maximum(chat(), None) == USUAL_OUTPUT_TOKENS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1000),
        ("n", "5"),
        ("max_tokens", 10**9),
        ("max_tokens", -1),
        ("max_completion_tokens", "7"),
    ],
)
def test_a_size_that_only_an_upstream_can_read_is_not_held(field: str, value: object) -> None:
    """It would be passed on as it is, and more would be made than was held."""
    with pytest.raises(ClientError) as caught:
        bound_of(chat(**{field: value}), 10, [])
    assert caught.value.status == 400


@pytest.mark.parametrize(("best_of", "texts"), [(1, 2), (2, 2), (7, 7)])
def test_texts_that_only_the_best_is_kept_of_count(best_of: int, texts: int) -> None:
    body = {"prompt": "Hi", "n": 2, "best_of": best_of}
    call = decode_completion_call(msgspec.json.encode(body))
    assert bound_of(call, 10, []).completion_tokens == 10 * texts


@pytest.mark.parametrize("best_of", [-1, 10**6, "7", 1.5, True])
def test_a_best_of_that_is_no_number_of_texts_is_not_held(best_of: object) -> None:
    body = {"prompt": "Hi", "best_of": best_of}
    call = decode_completion_call(msgspec.json.encode(body))
    with pytest.raises(ClientError):
        bound_of(call, 10, [])


BOUND = Bound(200, 100, 0)


def test_credible_usage_is_believed_also_above_the_hold() -> None:
    for usage in (Usage(0, 0), Usage(150, 90), Usage(300, 500), Usage(12_000, 11_000)):
        assert is_credible(usage, BOUND, 50)


@pytest.mark.parametrize(
    "usage", [Usage(-1, 5), Usage(5, -1), Usage(10**9, 5), Usage(5, 11_001), Usage(12_001, 5)]
)
def test_usage_that_cannot_be_true_is_not_believed(usage: Usage) -> None:
    assert not is_credible(usage, BOUND, 50)


@pytest.mark.parametrize(
    ("usage", "is_believed"),
    [
        (Usage(5, 10**9), True),
        (Usage(5, 10**9 + 1), False),
        (Usage(12_000, 5), True),
        (Usage(12_001, 5), False),
        (Usage(5, -1), False),
    ],
)
def test_without_limits_only_the_prompt_bounds_what_is_believed(
    usage: Usage, is_believed: bool
) -> None:
    assert is_credible(usage, None, 50) is is_believed


def test_a_text_is_estimated_from_its_bytes() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "four", "fives", "ää")] == [0, 1, 1, 2, 1]
