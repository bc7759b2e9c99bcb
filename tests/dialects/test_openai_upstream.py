"""The OpenAI format as upstreams are asked in it; what is sent for a call is in tests/backends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.dialects.base import NotThisFormatError
from keyhole.dialects.openai import upstream as openai
from keyhole.wire.answer import Usage
from keyhole.wire.call import Parameters


def chat(content: Any, usage: Any = None) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()


def test_a_prompt_is_one_message_of_the_user() -> None:
    assert openai.encode_chat("m", "Once", Parameters()) == (
        b'{"model":"m","messages":[{"role":"user","content":"Once"}]}'
    )


def test_a_completion_has_the_prompt_as_it_is() -> None:
    assert openai.encode_completion("m", "Once", Parameters(max_new_tokens=3)) == (
        b'{"model":"m","prompt":"Once","max_tokens":3}'
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hello", "Hello"),
        ("", ""),
        (None, ""),
        ([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}], "Hello"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hello"}], "Hello"),
    ],
)
def test_the_text_is_the_first_choices_content(content: Any, text: str) -> None:
    assert openai.decode_chat(chat(content)) == (text, None, None)
    assert openai.decode_whole_chat(chat(content)) == openai.Whole((text,), (), None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("eos_token", "eos"),
        ("stop_sequence", "stop"),
        ("function_call", "tool_calls"),
        ("some new word", "stop"),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_why_a_text_ended_is_read(said: Any, reason: str | None) -> None:
    choice = {"text": "x", "message": {"content": "x"}, "finish_reason": said}
    body = json.dumps({"choices": [choice]}).encode()

    assert openai.decode_chat(body)[2] == openai.decode_completion(body)[2] == reason


def test_an_answer_that_is_handed_on_may_hold_no_text() -> None:
    """A tool call beside a thought: what the client makes of it is its own affair."""
    body = json.dumps(
        {
            "choices": [
                {"message": {"content": None, "tool_calls": [{}]}, "finish_reason": "tool_calls"},
                {"message": {"content": [{"type": "thinking"}]}, "finish_reason": "stop"},
            ]
        }
    ).encode()

    assert openai.decode_whole_chat(body) == openai.Whole(("", ""), ("tool_calls", "stop"), None)


@pytest.mark.parametrize("content", [5, {"text": "x"}, [], [{"text": 5}], ["x"]])
def test_content_without_a_text_is_not_this_format(content: Any) -> None:
    with pytest.raises(NotThisFormatError):
        openai.decode_chat(chat(content))


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, Usage(1, 2)),
        ({"prompt_tokens": 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": -2}, None),
        ({"prompt_tokens": 1, "completion_tokens": 2.0}, None),
        ({"prompt_tokens": True, "completion_tokens": 2}, None),
        ({"prompt_tokens": 10**12, "completion_tokens": 2}, None),
        ({"prompt_tokens": "1", "completion_tokens": "2"}, None),
        ([1, 2], None),
    ],
)
def test_what_was_used_is_read_if_credible(usage: Any, read: Usage | None) -> None:
    assert openai.decode_chat(chat("x", usage))[1] == read
    completion = json.dumps({"choices": [{"text": "x"}], "usage": usage}).encode()
    assert openai.decode_completion(completion) == ("x", read, None)


@given(body=st.binary() | st.sampled_from([b'{"choices":[]}', b'{"choices":[{}]}', b"[{}]"]))
def test_other_bytes_are_not_this_format(body: bytes) -> None:
    for decode in (
        openai.decode_chat,
        openai.decode_completion,
        openai.decode_whole_chat,
        openai.decode_whole_completion,
    ):
        with pytest.raises(NotThisFormatError):
            decode(body)
