"""TGI's format as a client speaks it; what is sent for a call is in tests/backends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.dialects import tgi
from keyhole.dialects.base import NotThisFormatError
from keyhole.wire.answer import Usage
from keyhole.wire.call import Parameters

fractions = st.floats(0, 1, exclude_min=True)
wishes = st.builds(
    Parameters,
    max_new_tokens=st.none() | st.integers(1, 400),
    temperature=st.none() | st.floats(0, 100),
    top_k=st.none() | st.integers(1, 1000),
    top_p=st.none() | fractions,
    repetition_penalty=st.none() | st.floats(0.01, 100),
    do_sample=st.none() | st.booleans(),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.none() | st.lists(st.text(min_size=1), max_size=4).map(tuple),
)


@given(wished=wishes)
def test_a_tgi_server_takes_whatever_is_sent_and_samples_when_it_should(wished: Parameters) -> None:
    body = tgi.encode_request("Once", wished)

    request = tgi.decode_request(body)
    tgi.validate(
        request,
        tgi.Limits(max_input_tokens=512, max_total_tokens=1024, max_concurrent_requests=1),
    )
    assert request.parameters.is_sampling is not wished.is_greedy
    assert request.parameters.stop == (wished.stop or ())
    assert request.parameters.max_new_tokens == wished.max_new_tokens
    assert b"return_full_text" not in body


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"generated_text":" the end"}', " the end"),
        (b'{"generated_text":"","details":null,"more":[1]}', ""),
        (b'[{"generated_text":"a list is what / sends"}]', None),
        (b'{"generated_text":null}', None),
        (b'{"error":"x","error_type":"generation"}', None),
        (b"not JSON", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_only_a_generated_text_is_an_answer(body: bytes, text: str | None) -> None:
    if text is not None:
        assert tgi.decode_response(body) == (text, None)
        return
    with pytest.raises(NotThisFormatError):
        tgi.decode_response(body)


@given(text=st.text())
def test_what_a_tgi_server_answers_is_read_back(text: str) -> None:
    body = tgi.encode_response(tgi.GenerateResponse(generated_text=text))

    assert tgi.decode_response(body) == (text, None)


@pytest.mark.parametrize(
    ("prompt_tokens", "generated_tokens", "usage"),
    [
        ("5", "7", Usage(5, 7)),
        ("0", "0", Usage(0, 0)),
        ("5", None, None),
        (None, None, None),
        ("-5", "7", None),
        ("5.0", "7", None),
        ("5", "9999999999", None),
        ("\u0665", "7", None),
        ("", "7", None),
    ],
)
def test_what_was_used_is_read_from_headers_if_credible(
    prompt_tokens: str | None, generated_tokens: str | None, usage: Usage | None
) -> None:
    headers = {"x-prompt-tokens": prompt_tokens, "x-generated-tokens": generated_tokens}

    told: dict[str, Any] = {name: value for name, value in headers.items() if value is not None}
    assert tgi.read_usage_headers(told) == usage


def test_nothing_wanted_is_nothing_sent() -> None:
    assert msgspec.json.decode(tgi.encode_request("Once", Parameters())) == {"inputs": "Once"}
