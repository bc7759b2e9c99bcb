"""The generate dialect: what its clients send, and what they get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.dialects.generate import MISSING_INPUT, UPSTREAM_FAILED, GenerateDialect
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Parameters
from keyhole.wire.events import Counted, Delta, Event, Finish
from keyhole.wire.http import Head
from records import record

GENERATE = GenerateDialect()
HEAD = Head(method="POST", path="/generate")
RECORD = record("r", 0, "gpt2")

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def decode(value: Any) -> Call:
    return GENERATE.decode(HEAD, json.dumps(value).encode())


def refusal(body: bytes) -> ClientError:
    with pytest.raises(ClientError) as caught:
        GENERATE.decode(HEAD, body)
    assert caught.value.status == 400
    return caught.value


def outcome(body: bytes) -> tuple[int, Code] | None:
    """None for a call; nothing but a ClientError may be raised."""
    try:
        GENERATE.decode(HEAD, body)
    except ClientError as error:
        return error.status, error.code
    return None


PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "max_new_tokens": st.integers(-1, 9) | JSON_VALUES,
        "temperature": st.integers(-1, 3) | st.floats(-1, 101) | JSON_VALUES,
        "top_k": st.integers() | st.floats(0, 9) | JSON_VALUES,
        "do_sample": st.booleans() | JSON_VALUES,
        "stop": st.text() | st.lists(st.text(max_size=2), max_size=18) | JSON_VALUES,
        "num_return_sequences": st.integers(0, 11) | JSON_VALUES,
        "of_no_meaning": JSON_VALUES,
    },
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "input": st.text() | st.lists(st.text()) | JSON_VALUES,
        "model": st.sampled_from(["gpt2", "o/n", "../x", ""]) | JSON_VALUES,
        "parameters": PARAMETERS | JSON_VALUES,
        "stream": st.booleans() | JSON_VALUES,
    },
)


def read(body: bytes) -> Call | tuple[str, str]:
    try:
        return GENERATE.decode(HEAD, body)
    except ClientError as error:
        return error.code, error.explained


def refused(error: KeyholeError) -> tuple[int, dict[str, str], dict[str, Any]]:
    reply = GENERATE.refuse(error, "the-id")
    return reply.status, dict(reply.headers), json.loads(reply.body)


class TestDecode:
    @pytest.mark.parametrize("wanted", ["Once", "", "\x00", "e\u0301 \U0001f600", [], ["a"], [1]])
    def test_a_string_or_list_is_taken_as_it_is(self, wanted: Any) -> None:
        assert decode({"input": wanted}) == Call(model=None, input=wanted)

    @given(BODIES)
    def test_a_name_that_is_ignored_changes_nothing(self, body: dict[str, Any]) -> None:
        """The usual body is read in one pass, any other step by step: both find the same."""
        usual, other = json.dumps(body), json.dumps({**body, "ignored": 0})
        assert read(usual.encode()) == read(other.encode())

    def test_a_model_and_parameters_are_read(self) -> None:
        call = decode({"input": "x", "model": "o/n:p", "parameters": {"top_k": 3, "stop": "."}})
        assert call.model == "o/n:p"
        assert call.parameters == Parameters(top_k=3, stop=(".",))

    def test_null_is_the_same_as_leaving_out(self) -> None:
        assert decode({"input": "x", "model": None, "parameters": None}) == decode({"input": "x"})

    @pytest.mark.parametrize(
        "body", [b"{}", b"[]", b"null", b"0", b"5", b'""', b'"input"', b'["input"]', b'{"Input":1}']
    )
    def test_what_has_no_input_is_told_so_in_the_old_words(self, body: bytes) -> None:
        error = refusal(body)
        assert (error.code, error.explained) == (Code.MISSING_INPUT, MISSING_INPUT)

    @pytest.mark.parametrize("wanted", [None, True, 0, 1.5, {}, {"a": 1}])
    def test_an_input_of_another_type_is_refused(self, wanted: Any) -> None:
        assert refusal(json.dumps({"input": wanted}).encode()).code == Code.INVALID_INPUT

    @pytest.mark.parametrize("model", ["", "..", "../x", "/x", "x/", "a b", "x" * 201, 5, [], "\n"])
    def test_what_is_no_model_name_is_refused(self, model: Any) -> None:
        body = json.dumps({"input": "x", "model": model}).encode()
        assert refusal(body).code == Code.INVALID_PARAMETER

    @pytest.mark.parametrize("depth", [200, 500, 900, 1000, 1100, 5000, 200_000])
    def test_depth_is_taken_or_refused_but_never_a_crash(self, depth: int) -> None:
        body = b'{"input": ' + b"[" * depth + b"]" * depth + b"}"
        assert outcome(body) in {None, (400, Code.INVALID_JSON)}

    @given(st.binary())
    def test_any_bytes_are_a_call_or_a_client_error(self, body: bytes) -> None:
        status, _ = outcome(body) or (400, None)
        assert status == 400

    @given(JSON_VALUES, JSON_VALUES, JSON_VALUES)
    def test_any_values_are_a_call_or_a_client_error(
        self, wanted: Any, model: Any, parameters: Any
    ) -> None:
        asked = {"input": wanted, "model": model, "parameters": parameters}
        status, _ = outcome(json.dumps(asked).encode()) or (400, None)
        assert status == 400

    def test_an_error_never_repeats_the_prompt(self) -> None:
        for body in (b'{"input": "a secret thing"', b'{"input": "a secret thing", "model": 5}'):
            assert "secret" not in refusal(body).explained


class TestEncode:
    def test_json_that_came_in_the_right_shape_goes_out_as_it_came(self) -> None:
        odd = b' [{"generated_text":\n"x"}] '
        assert (
            GENERATE.encode(
                decode({"input": "x"}), Answer(verbatim=odd, format="huggingface"), RECORD
            )
            == odd
        )

    @pytest.mark.parametrize(
        ("return_full_text", "is_chat", "expected"),
        [
            (None, False, "Once upon"),
            (True, False, "Once upon"),
            (False, False, " upon"),
            (None, True, " upon"),
            (True, True, "Once upon"),
            (False, True, " upon"),
        ],
    )
    def test_the_prompt_stands_in_front_where_it_did(
        self, return_full_text: bool | None, is_chat: bool, expected: str
    ) -> None:
        call = decode({"input": "Once", "parameters": {"return_full_text": return_full_text}})
        body = GENERATE.encode(call, Answer(texts=((" upon",),), is_chat=is_chat), RECORD)
        assert json.loads(body) == [{"generated_text": expected}]

    def test_several_texts_for_a_prompt_stand_in_one_list(self) -> None:
        body = GENERATE.encode(decode({"input": "a"}), Answer(texts=(("b", "c"),)), RECORD)
        assert json.loads(body) == [{"generated_text": "ab"}, {"generated_text": "ac"}]

    def test_a_list_of_prompts_is_answered_with_a_list_each(self) -> None:
        call = decode({"input": ["a", "b"]})
        body = GENERATE.encode(call, Answer(texts=(("1",), ("2",))), RECORD)
        assert json.loads(body) == [[{"generated_text": "a1"}], [{"generated_text": "b2"}]]
        assert json.loads(GENERATE.encode(decode({"input": []}), Answer(texts=()), RECORD)) == []


def streamed(call: Call, events: list[Event], *, is_chat: bool = False) -> list[Any]:
    writer = GENERATE.stream(call, RECORD, is_chat=is_chat)
    stream = b"".join(map(writer.write, events)) + writer.end()
    return [json.loads(frame.removeprefix(b"data: ")) for frame in stream.split(b"\n\n")[:-1]]


class TestStream:
    @pytest.mark.parametrize(("stream", "streams"), [(True, True), (False, False), (None, False)])
    def test_it_streams_if_told_to(self, stream: bool | None, streams: bool) -> None:
        assert decode({"input": "x", "stream": stream}).wants_stream is streams

    @pytest.mark.parametrize("stream", ["true", 1, 0, [], {}])
    def test_what_is_no_boolean_is_refused(self, stream: Any) -> None:
        body = json.dumps({"input": "x", "stream": stream}).encode()
        assert refusal(body).code == Code.INVALID_PARAMETER

    def test_only_one_text_is_streamed(self) -> None:
        assert refusal(b'{"input":["x"],"stream":true}').code == Code.INVALID_INPUT
        several = b'{"input":"x","stream":true,"parameters":{"num_return_sequences":2}}'
        assert refusal(several).code == Code.INVALID_PARAMETER

    def test_each_piece_is_a_frame_and_the_whole_text_is_the_last(self) -> None:
        events = [Delta(" up"), Delta(""), Delta("on"), Finish("eos"), Counted(Usage(1, 2))]
        assert streamed(decode({"input": "Once", "stream": True}), events) == [
            {"text": " up"},
            {"text": "on"},
            {
                "done": True,
                "generated_text": "Once upon",
                "usage": {"prompt_tokens": 1, "completion_tokens": 2},
            },
        ]

    @pytest.mark.parametrize(
        ("return_full_text", "is_chat", "text"),
        [(None, True, "x"), (False, False, "x"), (True, True, "Oncex")],
    )
    def test_the_prompt_stands_in_front_as_in_an_answer_that_is_whole(
        self, return_full_text: bool | None, is_chat: bool, text: str
    ) -> None:
        call = decode({"input": "Once", "parameters": {"return_full_text": return_full_text}})
        (last,) = streamed(call, [Finish("stop", 0, "x")], is_chat=is_chat)
        assert last == {"done": True, "generated_text": text, "usage": None}

    def test_a_stream_that_breaks_ends_with_the_error(self) -> None:
        writer = GENERATE.stream(decode({"input": "x", "stream": True}), RECORD, is_chat=False)
        broken = writer.fail(UpstreamError(Code.UPSTREAM_ERROR, "It failed."))
        assert json.loads(broken.removeprefix(b"data: ")) == {
            "error": UPSTREAM_FAILED,
            "detail": "It failed.",
            "code": "upstream_error",
            "request_id": "r",
        }


class TestRefuse:
    def test_an_upstreams_error_is_502_in_the_old_words(self) -> None:
        error = UpstreamError(Code.UPSTREAM_GONE, "It is gone (410).", hint="Choose another.")
        status, headers, body = refused(error)
        assert status == 502
        assert headers == {"content-type": "application/json"}
        assert body == {
            "error": UPSTREAM_FAILED,
            "detail": "It is gone (410). Choose another.",
            "code": "upstream_gone",
            "request_id": "the-id",
        }

    def test_retry_after_goes_on(self) -> None:
        error = UpstreamError(Code.UPSTREAM_RATE_LIMITED, "Slow down.", retry_after="7")
        assert refused(error)[1]["retry-after"] == "7"

    def test_a_405_names_the_methods(self) -> None:
        error = ClientError(Code.METHOD_NOT_ALLOWED, "No.", status=405, allow=("OPTIONS", "POST"))
        status, headers, _ = refused(error)
        assert (status, headers["allow"]) == (405, "OPTIONS, POST")

    def test_the_gateways_own_errors_keep_their_status(self) -> None:
        assert refused(GatewayError(Code.SHUTTING_DOWN, "Bye.", status=503))[0] == 503
        assert refused(KeyholeError(Code.INTERNAL_ERROR, "?"))[0] == 500
