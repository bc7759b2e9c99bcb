"""The hosted API's format as a client speaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.dialects import huggingface
from keyhole.dialects.base import NotThisFormatError
from keyhole.wire.call import Call, Parameters


def read(value: Any, wanted: Any = "ab", **parameters: Any) -> Any:
    call = Call(model=None, input=wanted, parameters=Parameters(**parameters))
    return huggingface.decode_response(json.dumps(value).encode(), call)


def test_the_input_and_the_parameters_go_on_as_they_are() -> None:
    assert huggingface.encode_request("ab", Parameters()) == b'{"inputs":"ab"}'
    assert huggingface.encode_request(["a", [None]], Parameters(top_p=1.0, stop=())) == (
        b'{"inputs":["a",[null]],"parameters":{"top_p":1.0,"stop":[]}}'
    )


@pytest.mark.parametrize(
    ("value", "wanted", "texts"),
    [
        ([{"generated_text": "abc"}], "ab", (("c",),)),
        ([{"generated_text": "xyz"}], "ab", (("xyz",),)),
        ([{"generated_text": "ab1"}, {"generated_text": "ab2"}], "ab", (("1", "2"),)),
        ([{"generated_text": "abc", "x": 0}], "ab", (("c",),)),
        ([{"generated_text": "abc"}, {"generated_text": None}], "ab", ()),
        ([], "ab", ((),)),
        ({"generated_text": "abc"}, "ab", (("c",),)),
        ([[{"generated_text": "a1"}], [{"generated_text": "b2"}]], ["a", "b"], (("1",), ("2",))),
        ([{"generated_text": "a1"}, {"generated_text": "b2"}], ["a", "b"], (("1",), ("2",))),
        ([{"generated_text": "a1"}], ["a", "b"], ()),
        ([{"generated_text": 1}], "ab", ()),
        ([{"label": "x"}], "ab", ()),
        (["ab"], "ab", ()),
        ({"error": "x"}, "ab", ()),
        ("ab", "ab", ()),
        (None, "ab", ()),
    ],
)
def test_texts_are_read_without_their_prompts_where_they_are_in_place(
    value: Any, wanted: Any, texts: Any
) -> None:
    assert read(value, wanted) == texts


def test_a_text_that_was_asked_for_without_its_prompt_is_left_whole() -> None:
    assert read([{"generated_text": "abab"}], return_full_text=False) == (("abab",),)
    assert read([{"generated_text": "abab"}], return_full_text=True) == (("ab",),)


@given(
    value=st.recursive(
        st.none() | st.text() | st.integers(-(10**30), 10**30),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["generated_text", "x"]), inner)
        ),
    ),
    wanted=st.text() | st.lists(st.text() | st.none()),
)
def test_any_json_is_an_answer(value: Any, wanted: Any) -> None:
    prompts = len(wanted) if isinstance(wanted, list) else 1

    assert len(read(value, wanted)) in {0, prompts}


NOT_UTF8_BESIDE = b'[{"generated_text": "ab", "x": "\xff"}]'


@pytest.mark.parametrize(
    "body", [b"", b"<p>", b"[1", b"NaN", b'"\xff"', NOT_UTF8_BESIDE, b"[" * 100_000]
)
def test_what_is_not_json_is_not_this_format(body: bytes) -> None:
    with pytest.raises(NotThisFormatError):
        huggingface.decode_response(body, Call(model=None, input="ab"))
