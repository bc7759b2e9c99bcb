"""TGI's wire format, read and written as its server does."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.dialects.tgi import (
    Details,
    GenerateRequest,
    GenerateResponse,
    Limits,
    Parameters,
    RefusedError,
    Token,
    decode_request,
    encode_error,
    encode_response,
    validate,
)

LIMITS = Limits(max_input_tokens=63, max_total_tokens=64, max_concurrent_requests=128)


def test_parameters_left_out_sample_and_empty_ones_do_not():
    assert decode_request(b'{"inputs":"a"}').parameters == Parameters(do_sample=True)
    assert decode_request(b'{"inputs":"a","parameters":{}}').parameters == Parameters()


def test_fields_that_are_not_known_are_ignored():
    assert decode_request(b'{"inputs":"a","x":1,"parameters":{"y":2,"top_k":3}}') == (
        GenerateRequest(inputs="a", parameters=Parameters(top_k=3))
    )


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[]",
        '"a"',
        '{"inputs":["a"]}',
        '{"inputs":null}',
        '{"inputs":"a","parameters":null}',
        '{"inputs":"a","parameters":{"stop":null}}',
        '{"inputs":"a","parameters":{"stop":"x"}}',
        '{"inputs":"a","parameters":{"do_sample":null}}',
        '{"inputs":"a","parameters":{"max_new_tokens":-1}}',
        '{"inputs":"a","parameters":{"seed":-1}}',
        '{"inputs":"a","parameters":{"seed":18446744073709551616}}',
        '{"inputs":"a","parameters":{"temperature":"hot"}}',
    ],
)
def test_json_that_is_no_request_is_refused_in_plain_text(body):
    with pytest.raises(RefusedError) as caught:
        decode_request(body.encode())

    content_type, text = encode_error(caught.value)
    assert caught.value.status == 422
    assert content_type.startswith("text/plain")
    assert text.startswith(b"Failed to deserialize the JSON body into the target type: ")


def test_a_missing_input_is_called_by_its_name():
    with pytest.raises(RefusedError, match="missing field `inputs`"):
        decode_request(b"{}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs":"a"',
        b'{"inputs":"\xff"}',
        b'{"inputs":"a","parameters":{"temperature":NaN}}',
        b'{"inputs":"a","parameters":{"temperature":1e999}}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_refused_with_400(body):
    """Numbers that are none, or infinite, are not JSON either."""
    with pytest.raises(RefusedError) as caught:
        decode_request(body)

    assert caught.value.status in (400, 422)
    assert caught.value.error_type is None


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_refusal(body):
    with contextlib.suppress(RefusedError):
        decode_request(b'{"inputs":"a","parameters":{' + body + b"}}")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": -1}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"top_k": -3}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "top_k": 4}, "`best_of` != 1 is not allowed for this endpoint"),
        (
            {"best_of": 2, "do_sample": True, "seed": 1},
            "`seed` must not be set when `best_of` > 1",
        ),
        ({"best_of": 0}, "`best_of` != 1 is not allowed for this endpoint"),
        ({"top_n_tokens": 1}, "`top_n_tokens` must be >= 0 and <= 0. Given: 1"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 63. Given: 0"),
        ({"truncate": 64}, "`truncate` must be strictly positive and less than 63. Given: 64"),
        ({"grammar": {"type": "regex", "value": "a"}}, "grammar is not supported"),
    ],
)
def test_values_out_of_bounds_are_refused_in_tgis_words(parameters, text):
    body = json.dumps({"inputs": "a", "parameters": parameters}).encode()

    with pytest.raises(RefusedError) as caught:
        validate(decode_request(body), LIMITS)

    assert caught.value.status == 422
    assert json.loads(encode_error(caught.value)[1]) == {
        "error": f"Input validation error: {text}",
        "error_type": "validation",
    }


def test_an_empty_input_is_refused():
    with pytest.raises(RefusedError, match="`inputs` cannot be empty"):
        validate(GenerateRequest(inputs=""), LIMITS)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"top_p": 0.5, "top_k": 1, "temperature": 0.1, "stop": ["a"] * 4, "best_of": 1}],
)
def test_values_within_bounds_pass(parameters):
    body = json.dumps({"inputs": "a", "parameters": parameters}).encode()
    validate(decode_request(body), LIMITS)


def test_details_are_there_only_when_they_were_asked_for():
    details = Details(
        finish_reason="length", generated_tokens=1, tokens=(Token(5, " a", -0.5, special=False),)
    )

    assert encode_response(GenerateResponse(generated_text=" a")) == b'{"generated_text":" a"}'
    assert json.loads(encode_response(GenerateResponse(generated_text=" a", details=details))) == {
        "generated_text": " a",
        "details": {
            "finish_reason": "length",
            "generated_tokens": 1,
            "seed": None,
            "prefill": [],
            "tokens": [{"id": 5, "text": " a", "logprob": -0.5, "special": False}],
        },
    }
