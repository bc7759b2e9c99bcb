"""The most that a call may use, before it is sent; and what it used, where that cannot be true.

Nothing is tokenised: a text has at most as many tokens as bytes of UTF-8, for every vocabulary in
use goes down to bytes. What a chat template adds is allowed for in one sum, a guess on the large
side. What only the client's format can say (tools, a schema, images) counts with the bytes of its
JSON; an image behind an address may be more tokens than that, and is booked in full afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from keyhole.errors import ClientError, Code
from keyhole.policy.limits import Bound
from keyhole.policy.pricing import Price
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call

TEMPLATE_TOKENS = 128
MESSAGE_TOKENS = 16
"""Around each message of a conversation."""
USUAL_OUTPUT_TOKENS = 1024
"""What a limited request that names no maximum is held to, and asks for, on a route without one."""
BYTES_PER_TOKEN = 4
"""Of English, in today's vocabularies; for estimates, never for bounds."""

_ABSURD_TIMES = 10
_ABSURD_BEYOND = 10_000
_ABSURD_TOKENS = 10**9

_QUESTIONS = frozenset({"tgi-tokens", "tgi-info"})
"""Formats that ask for no text."""
_SIZES = ("n", "best_of", "num_return_sequences", "max_tokens")
_MORE_SIZES = ("max_completion_tokens", "max_new_tokens")


def prompt_bound(call: Call) -> int:
    """At least as many tokens as all prompts of a call have, once."""
    original = call.original
    if call.messages:
        tokens = TEMPLATE_TOKENS
        for message in call.messages:
            tokens += bytes_of(message.content) + bytes_of(message.role) + MESSAGE_TOKENS
    elif isinstance(call.input, str):
        tokens = bytes_of(call.input) + TEMPLATE_TOKENS
    else:
        tokens = sum(map(_bound_of_item, call.input)) + TEMPLATE_TOKENS
    if original is not None and (original.beyond or original.unreadable):
        whole = sum(len(bytes(raw)) for raw in original.fields.values())
        return max(tokens, whole + TEMPLATE_TOKENS)
    return tokens


def output_maximum(call: Call, of_route: int | None) -> int:
    """How many tokens a text may have: the client's word, the route's, or the usual one.

    For a request with limits. It is sent upstream, so that the hold is what really bounds it.
    """
    return call.parameters.max_new_tokens or of_route or USUAL_OUTPUT_TOKENS


def bound_of(call: Call, maximum: int, prices: Iterable[Price | None]) -> Bound:
    """The most that a call may use at any of its targets, whose prices these are.

    Raises ClientError where it says how much it wants in a way that only an upstream can read:
    what nobody here can bound cannot be held.
    """
    if call.original is None:
        choices = call.parameters.num_return_sequences or 1
    else:
        _check_sizes(call)
        choices = _choices(call)
    prompts = 1 if type(call.input) is str else _count_prompts(call)
    prompt_tokens = prompt_bound(call) * choices
    completion_tokens = maximum * choices * prompts
    most = 0
    for price in prices:
        if price is not None:
            cost = price.cost_microusd(prompt_tokens, completion_tokens)
            most = cost if cost > most else most
    return Bound(prompt_tokens, completion_tokens, most)


def is_credible(usage: Usage, bound: Bound | None, prompt_estimate: int) -> bool:
    """Whether what an upstream reports can be true, and is booked.

    Not if it is negative, more than ten times what it can be and ten thousand tokens more, or more
    than 10^9. `bound` is None where nothing is limited: then only the prompt's size is known.
    """
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt < 0 or completion < 0:
        return False
    most_prompt = bound.prompt_tokens if bound is not None else prompt_estimate * BYTES_PER_TOKEN
    if prompt > min(_ABSURD_TIMES * most_prompt + _ABSURD_BEYOND, _ABSURD_TOKENS):
        return False
    if bound is None:
        return completion <= _ABSURD_TOKENS
    most = _ABSURD_TIMES * bound.completion_tokens + _ABSURD_BEYOND
    return completion <= min(most, _ABSURD_TOKENS)


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, where the upstream does not say."""
    return -(-bytes_of(text) // BYTES_PER_TOKEN)


def estimate_prompt(call: Call) -> int:
    """About how many tokens the prompts of a call have, for what its upstream never counted."""
    original = call.original
    if original is not None and original.format in _QUESTIONS:
        return 0
    if call.messages:
        return sum(estimate_tokens(message.content) for message in call.messages)
    text = call.input
    if isinstance(text, str):
        return -(-(len(text) if text.isascii() else bytes_of(text)) // BYTES_PER_TOKEN)
    return sum(estimate_tokens(item) for item in call.input if isinstance(item, str))


def estimate_answer(answer: Answer) -> int:
    """About how many tokens the texts of an answer have."""
    tokens = 0
    for texts in answer.texts:  # every answer without a report pays for this: no generators
        for text in texts:
            tokens -= -(len(text) if text.isascii() else bytes_of(text)) // BYTES_PER_TOKEN
    return tokens


def bytes_of(text: str) -> int:
    """How many bytes of UTF-8 a text has."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _bound_of_item(item: Any) -> int:
    return bytes_of(item) if isinstance(item, str) else len(msgspec.json.encode(item))


def _count_prompts(call: Call) -> int:
    if isinstance(call.input, str):
        return 1
    are_prompts = all(isinstance(item, str | list) for item in call.input)
    return max(len(call.input), 1) if are_prompts else 1


def _check_sizes(call: Call) -> None:
    original = call.original
    if original is None:
        return
    for field in original.unreadable:
        if field.name in _SIZES or field.name in _MORE_SIZES:
            raise ClientError(field.code, field.message, hint=field.hint, param=field.name)


def _choices(call: Call) -> int:
    """How many texts are made of each prompt, those that only the best is kept of included."""
    original = call.original
    if original is None or "best_of" not in original.beyond:
        return call.choices
    try:
        raw = original.fields.get("best_of")
        if raw is not None:
            best_of = msgspec.json.decode(raw)
        else:
            best_of = msgspec.json.decode(original.fields["parameters"])["best_of"]
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError):
        best_of = None
    if type(best_of) is not int or not 1 <= best_of <= 1000:
        raise ClientError(
            Code.INVALID_PARAMETER,
            "'best_of' must be a whole number from 1 to 1000.",
            param="best_of",
        )
    return max(call.choices, best_of)
