"""A Secret gives its value to `reveal` alone, whatever is done with it by accident."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pprint import pformat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from keyhole.catalog import Upstream
from keyhole.secret import MASK, Secret

VALUE = "hf_OnlyRevealMaySayThis"


class InStruct(Struct):
    secret: Secret


@dataclass(frozen=True)
class InDataclass:
    secret: Secret


WAYS_TO_PRINT: list[Callable[[Secret], str]] = [
    str,
    repr,
    ascii,
    format,
    "{}".format,
    "{!r:>40}".format,
    "{:s}".format,
    lambda secret: f"{secret}",
    lambda secret: f"{secret:>40}",
    lambda secret: f"{secret=}",
    lambda secret: "%s" % secret,  # noqa: UP031  # one of the ways
    lambda secret: "%r %a" % (secret, secret),  # noqa: UP031
    lambda secret: repr([secret, {"key": secret}, (secret,)]),
    lambda secret: repr(InStruct(secret)),
    lambda secret: repr(InDataclass(secret)),
    lambda secret: repr(Upstream(name="hf", kind="huggingface", url="https://a", secret=secret)),
    lambda secret: repr(ValueError("refused", secret)),
    lambda secret: str(ValueError(secret)),
    lambda secret: "".join(traceback.format_exception_only(ValueError(secret))),
    lambda secret: pformat({"secret": [secret]}),
    lambda secret: json.dumps([secret], default=str),
    lambda secret: msgspec.json.encode(InStruct(secret), enc_hook=str).decode(),
    lambda secret: logging.makeLogRecord({"msg": "%s", "args": (secret,)}).getMessage(),
]


@pytest.mark.parametrize("show", WAYS_TO_PRINT)
def test_printing_it_shows_the_mask(show: Callable[[Secret], str]) -> None:
    shown = show(Secret(VALUE))
    assert VALUE not in shown
    assert MASK in shown


WAYS_TO_TAKE_IT_ALONG: list[Callable[[Secret], object]] = [
    pickle.dumps,
    copy.copy,
    copy.deepcopy,
    hash,
    vars,
    json.dumps,
    msgspec.json.encode,
    msgspec.msgpack.encode,
    msgspec.to_builtins,
    lambda secret: [pickle.dumps(secret, protocol) for protocol in range(6)],
    lambda secret: pickle.dumps(InDataclass(secret)),
    lambda secret: copy.deepcopy([secret]),
    lambda secret: asdict(InDataclass(secret)),
    lambda secret: msgspec.json.encode(InStruct(secret)),
    lambda secret: {secret: 1},
    lambda secret: secret + "",
    lambda secret: "".join([secret]),
    lambda secret: secret.encode(),
    list,
    lambda secret: secret[0],
    lambda secret: VALUE[:3] in secret,
    len,
    lambda secret: sorted([secret, secret]),
]


@pytest.mark.parametrize("take", WAYS_TO_TAKE_IT_ALONG)
def test_taking_it_along_fails_and_does_not_say_it(take: Callable[[Secret], object]) -> None:
    with pytest.raises((TypeError, AttributeError)) as raised:
        take(Secret(VALUE))
    assert VALUE not in str(raised.value)


def test_reveal_gives_it() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_it_equals_the_same_secret_and_no_string() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE + "x")
    assert Secret(VALUE) != VALUE
    assert Secret(VALUE) != None  # noqa: E711  # the operator is what is tested


def test_it_is_compared_in_constant_time() -> None:
    """By the one function of the library that is made for it: time cannot be asserted."""
    names = Secret.__eq__.__code__.co_names
    assert "compare_digest" in names


def test_an_echo_of_it_is_recognised() -> None:
    assert Secret(VALUE).is_in(f"invalid token {VALUE}!".encode())
    assert not Secret(VALUE).is_in(f"invalid token {VALUE[:-1]}!".encode())


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "\na", "a\r\nX-Injected: 1", "a\x00", "a\x7f", "é", "a\u2028b"]
)
def test_what_cannot_travel_in_a_header_is_refused_and_not_said(value: str) -> None:
    with pytest.raises(ValueError, match="a secret must") as raised:
        Secret(value)
    assert not value.strip() or value not in str(raised.value)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_any_printable_ascii_is_a_secret(value: str) -> None:
    secret = Secret(value)
    assert secret.reveal() == value
    assert repr(secret) == str(secret) == f"{secret}" == MASK


def test_it_has_no_attributes_to_be_found_in() -> None:
    with pytest.raises(AttributeError):
        Secret(VALUE).note = "x"  # type: ignore[attr-defined]
