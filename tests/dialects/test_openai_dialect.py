"""The OpenAI dialect: what its clients send, and what they get.

One long file: chats, texts and models are tried with the same few helpers.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyhole.backends.originals import refuse_beyond
from keyhole.catalog import Catalog, Route, Target, Upstream
from keyhole.dialects.openai import CHAT, COMPLETION
from keyhole.dialects.openai.client import OpenAiDialect, models_page, rename_model, show_models
from keyhole.dialects.openai.upstream import encode_again
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Message, Parameters
from keyhole.wire.http import Head
from records import record

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"

OPENAI = OpenAiDialect()
CHAT_HEAD = Head(method="POST", path="/v1/chat/completions")
TEXT_HEAD = Head(method="POST", path="/v1/completions")
RECORD = record("the-id", 1700000000, "public")
HI = [{"role": "user", "content": "Hi"}]

BODIES = (
    (
        b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stop":["a"],"stream":true,'
        b'"stream_options":{"include_usage":true},"tools":[{"a":1}]}'
    ),
    (
        b'{"prompt":["a","b"],"n":2,"max_tokens":5,"temperature":0.5,"seed":-1,'
        b'"logit_bias":{"5":1e400},"echo":true}'
    ),
)


def chat(messages: Any = HI, **fields: Any) -> Call:
    return OPENAI.decode(CHAT_HEAD, json.dumps({"messages": messages, **fields}).encode())


def text(prompt: Any = "Once", **fields: Any) -> Call:
    return OPENAI.decode(TEXT_HEAD, json.dumps({"prompt": prompt, **fields}).encode())


def beyond(call: Call) -> tuple[str, ...]:
    assert call.original is not None
    return call.original.beyond


def refusal(head: Head, body: bytes) -> ClientError:
    """What is said at once, or by an upstream of another format."""
    target = Target(Upstream(name="gpu", kind="tgi", url="http://u"), "m")
    with pytest.raises(ClientError) as caught:
        refuse_beyond(OPENAI.decode(head, body), target)
    return caught.value


class TestDecode:
    def test_a_chat_is_its_messages_as_text(self) -> None:
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        call = chat(
            [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": parts, "name": None},
                {"role": "assistant", "content": None, "tool_calls": []},
            ],
            model="owner/name:fastest",
        )

        assert call.model == "owner/name:fastest"
        assert call.messages == (
            Message("developer", "Be kind."),
            Message("user", "one\ntwo"),
            Message("assistant", ""),
        )
        assert (call.input, beyond(call)) == ("", ())
        assert call.original is not None
        assert call.original.format == CHAT

    @pytest.mark.parametrize("prompt", ["Once", "", ["one", "two"], [""]])
    def test_a_completion_is_its_prompt(self, prompt: Any) -> None:
        call = text(prompt)

        assert (call.input, call.messages, beyond(call)) == (prompt, (), ())
        assert call.original is not None
        assert call.original.format == COMPLETION

    @pytest.mark.parametrize("name", [None, "", "http://127.0.0.1:5000/v1"])
    def test_what_clients_send_for_want_of_a_models_name_asks_for_the_default(
        self, name: str | None
    ) -> None:
        for call in (chat(model=name), text(model=name)):
            assert (call.model, call.is_model_optional) == (None, False)

    @pytest.mark.parametrize("name", ["tgi", "dummy"])
    def test_a_word_for_none_may_yet_be_a_routes_name(self, name: str) -> None:
        for call in (chat(model=name), text(model=name)):
            assert (call.model, call.is_model_optional) == (name, True)
        assert not chat(model="gpt2").is_model_optional

    @pytest.mark.parametrize(
        ("fields", "parameters"),
        [
            ({}, {}),
            ({"max_tokens": 5}, {"max_new_tokens": 5}),
            ({"max_completion_tokens": 5}, {"max_new_tokens": 5}),
            ({"max_completion_tokens": 5, "max_tokens": 5}, {"max_new_tokens": 5}),
            ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
            ({"top_p": 1, "n": 1, "repetition_penalty": 1.0}, {}),
            ({"top_k": 0}, {}),
            ({"top_k": -1}, {}),
            ({"top_k": 7, "repetition_penalty": 1.5}, {"top_k": 7, "repetition_penalty": 1.5}),
            ({"seed": 0, "n": 3}, {"seed": 0, "num_return_sequences": 3}),
            ({"stop": "END"}, {"stop": ("END",)}),
            ({"stop": ["a", "", "b"]}, {"stop": ("a", "b")}),
            ({"stop": []}, {}),
            ({"stop": ""}, {}),
        ],
    )
    def test_parameters_get_the_names_that_every_upstream_is_asked_under(
        self, fields: dict[str, Any], parameters: dict[str, Any]
    ) -> None:
        call = chat(**fields)

        assert call.parameters == Parameters(**{"return_full_text": False, **parameters})
        assert beyond(call) == ()

    @pytest.mark.parametrize("name", ["temperature", "stop", "n", "stream", "stream_options"])
    def test_null_is_as_good_as_nothing(self, name: str) -> None:
        assert chat(**{name: None}).parameters == chat().parameters

    def test_an_echo_is_the_full_text(self) -> None:
        assert text(echo=True).parameters.return_full_text is True
        assert text(echo=False).parameters.return_full_text is False

    @pytest.mark.parametrize(
        ("fields", "wants"),
        [
            ({}, (False, False)),
            ({"stream": False}, (False, False)),
            ({"stream": True}, (True, False)),
            ({"stream": True, "stream_options": {}}, (True, False)),
            ({"stream": True, "stream_options": {"include_usage": True}}, (True, True)),
        ],
    )
    def test_a_stream_may_ask_for_the_usage(
        self, fields: dict[str, Any], wants: tuple[bool, bool]
    ) -> None:
        for call in (chat(**fields), text(**fields)):
            assert ((call.wants_stream, call.wants_usage), beyond(call)) == (wants, ())

    @pytest.mark.parametrize(
        "fields",
        [
            {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": None},
            {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
            {"response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto"},
            {"logprobs": False, "top_logprobs": 0, "store": False, "metadata": {}},
            {"best_of": 1, "suffix": "", "min_p": 0, "ignore_eos": False},
        ],
    )
    def test_values_that_ask_for_nothing_are_not_counted(self, fields: dict[str, Any]) -> None:
        assert beyond(chat(**fields)) == ()

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"tools": [{"type": "function"}], "logprobs": True}, ("tools", "logprobs")),
            ({"response_format": {"type": "json_object"}}, ("response_format",)),
            ({"frequency_penalty": 0.5, "logit_bias": {"1": 1}}, None),
            ({"tool_choice": "required"}, ("tool_choice",)),
            ({"guided_json": {}, "brand new": 1}, ("guided_json", "(unknown)")),
            ({"max_tokens": 0}, ("max_tokens",)),
            ({"top_p": 0}, ("top_p",)),
            ({"seed": -1}, ("seed",)),
            ({"best_of": True}, ("best_of",)),
            (
                {"stream": True, "stream_options": {"include_obfuscation": True}},
                ("stream_options.include_obfuscation",),
            ),
        ],
    )
    def test_what_only_this_format_can_say_is_named(
        self, fields: dict[str, Any], names: tuple[str, ...] | None
    ) -> None:
        assert beyond(chat(**fields)) == (names or tuple(fields))

    def test_log_probabilities_of_no_alternatives_are_asked_for_all_the_same(self) -> None:
        assert beyond(text(logprobs=0)) == ("logprobs",)

    def test_what_is_no_text_in_a_message_is_named_with_its_place(self) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:secret"}}
        call = chat(
            [
                {"role": "user", "content": [{"type": "text", "text": "See"}, image, 7]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "42", "tool_call_id": "1"},
                {"role": "user", "content": "Hi", "name": "Ann"},
                {"role": "user", "content": [{"type": "a secret!"}]},
                {"role": "user", "content": [{"type": "text", "text": "", "cache_control": {}}]},
            ]
        )

        assert beyond(call) == (
            "messages[0].image_url",
            "messages[0].(unknown)",
            "messages[1].tool_calls",
            "messages[2].role",
            "messages[2].tool_call_id",
            "messages[3].name",
            "messages[4].(unknown)",
            "messages[5].cache_control",
        )
        assert [message.content for message in call.messages] == ["See", "", "42", "Hi", "", ""]

    @pytest.mark.parametrize("prompt", [[1, 2], [[1], [2, 3]]])
    def test_a_prompt_of_tokens_is_for_this_format_alone(self, prompt: Any) -> None:
        assert beyond(text(prompt)) == ("prompt",)

    @pytest.mark.parametrize(
        ("head", "value", "code", "param"),
        [
            (CHAT_HEAD, {}, Code.MISSING_INPUT, "messages"),
            (TEXT_HEAD, {}, Code.MISSING_INPUT, "prompt"),
            (CHAT_HEAD, [], Code.MISSING_INPUT, None),
            (CHAT_HEAD, {"messages": []}, Code.INVALID_INPUT, "messages"),
            (CHAT_HEAD, {"messages": ["x"]}, Code.INVALID_INPUT, "messages[0]"),
            (CHAT_HEAD, {"messages": [{}]}, Code.INVALID_INPUT, "messages[0].role"),
            (CHAT_HEAD, {"messages": "Hi"}, Code.INVALID_INPUT, "messages"),
            (
                CHAT_HEAD,
                {"messages": [{"role": "user", "content": 5}]},
                Code.INVALID_INPUT,
                "messages[0].content",
            ),
            (
                CHAT_HEAD,
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                Code.INVALID_INPUT,
                "messages[0].content",
            ),
            (TEXT_HEAD, {"prompt": []}, Code.INVALID_INPUT, "prompt"),
            (TEXT_HEAD, {"prompt": ["a", 1]}, Code.INVALID_INPUT, "prompt"),
            (TEXT_HEAD, {"prompt": [1, True]}, Code.INVALID_INPUT, "prompt"),
            (TEXT_HEAD, {"prompt": None}, Code.MISSING_INPUT, "prompt"),
            (TEXT_HEAD, {"prompt": "a", "max_tokens": "5"}, Code.INVALID_PARAMETER, "max_tokens"),
            (TEXT_HEAD, {"prompt": "a", "max_tokens": -1}, Code.INVALID_PARAMETER, "max_tokens"),
            (TEXT_HEAD, {"prompt": "a", "temperature": -1}, Code.INVALID_PARAMETER, "temperature"),
            (TEXT_HEAD, {"prompt": "a", "top_p": 2}, Code.INVALID_PARAMETER, "top_p"),
            (TEXT_HEAD, {"prompt": "a", "n": 0}, Code.INVALID_PARAMETER, "n"),
            (TEXT_HEAD, {"prompt": "a", "stop": [1]}, Code.INVALID_PARAMETER, "stop[0]"),
            (TEXT_HEAD, {"prompt": "a", "stream": "yes"}, Code.INVALID_PARAMETER, "stream"),
            (TEXT_HEAD, {"prompt": "a", "model": "../x"}, Code.INVALID_PARAMETER, "model"),
            (
                CHAT_HEAD,
                {"messages": HI, "max_tokens": 1, "max_completion_tokens": 2},
                Code.INVALID_PARAMETER,
                "max_completion_tokens",
            ),
        ],
    )
    def test_what_cannot_be_understood_is_refused_with_its_name(
        self, head: Head, value: Any, code: Code, param: str | None
    ) -> None:
        error = refusal(head, json.dumps(value).encode())

        assert (error.status, error.code, error.param) == (400, code, param)
        assert (param or "object") in error.message

    @pytest.mark.parametrize(
        ("head", "value", "param"),
        [
            (CHAT_HEAD, {}, "messages"),
            (CHAT_HEAD, {"messages": "Hi"}, "messages"),
            (CHAT_HEAD, {"messages": HI, "model": 5}, "model"),
            (CHAT_HEAD, {"messages": HI, "model": "../x"}, "model"),
            (TEXT_HEAD, {"prompt": "a", "stream": "yes"}, "stream"),
            (TEXT_HEAD, {"prompt": "a", "stream": True, "stream_options": 1}, "stream_options"),
            (TEXT_HEAD, {"n": 500, "stream": 1}, "stream"),
        ],
    )
    def test_what_we_act_on_ourselves_is_refused_at_once(
        self, head: Head, value: Any, param: str
    ) -> None:
        with pytest.raises(ClientError) as caught:
            OPENAI.decode(head, json.dumps(value).encode())
        assert caught.value.param == param

    def test_the_rest_of_a_body_with_odd_values_is_read(self) -> None:
        call = text(max_tokens=-1, top_p=7, stop=[1], temperature=0.5, model="m", stream=True)

        assert call.original is not None
        assert [field.name for field in call.original.unreadable] == [
            "max_tokens",
            "top_p",
            "stop[0]",
        ]
        assert call.parameters == Parameters(return_full_text=False, temperature=0.5)
        assert (call.input, call.model, call.wants_stream) == ("Once", "m", True)

    def test_a_chat_is_one_even_where_no_message_can_be_read(self) -> None:
        assert chat([]).messages
        assert chat([5]).messages

    @pytest.mark.parametrize(
        "body", [b"", b"{", b'{"prompt": "\xff"}', b'{"a":' * 5000, b'{"prompt": "\\ud800"}']
    )
    def test_what_is_not_json_is_refused(self, body: bytes) -> None:
        for head in (CHAT_HEAD, TEXT_HEAD):
            assert refusal(head, body).code == Code.INVALID_JSON

    def test_no_refusal_repeats_what_was_said(self) -> None:
        secret = "my secret prompt"
        for value in (
            {"messages": secret},
            {"messages": [secret]},
            {"messages": [{"role": {"x": secret}}]},
            {"messages": [{"role": "user", "content": {"x": secret}}]},
            {"messages": HI, "max_tokens": secret},
            {"messages": HI, "stop": {secret: secret}},
            {"messages": HI, "model": secret},
        ):
            error = refusal(CHAT_HEAD, json.dumps(value).encode())
            assert secret not in error.explained

    @settings(max_examples=300, deadline=None)
    @given(data=st.data())
    def test_mutated_bodies_are_understood_or_refused(self, data: st.DataObject) -> None:
        body = bytearray(data.draw(st.sampled_from(BODIES)))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        for head in (CHAT_HEAD, TEXT_HEAD):
            try:
                call = OPENAI.decode(head, bytes(body))
            except ClientError:
                continue
            assert call.original is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}],"new":1.50}',
        b'{"model":"m","prompt":[1,2],"logit_bias":{"50256":-100},"suffix":"\\u00e9","n":2}',
    ],
)
def test_a_body_that_is_read_and_written_again_is_the_same(body: bytes) -> None:
    head = CHAT_HEAD if b"messages" in body else TEXT_HEAD
    original = OPENAI.decode(head, body).original
    assert original is not None

    again = encode_again(
        original.fields, "m", maximum="max_tokens", max_output_tokens=None, is_stream=False
    )
    assert again == body


class TestEncode:
    def test_a_chat_completion_is_made_of_a_text(self) -> None:
        answer = Answer(texts=(("Hello",),), finishes=(("eos",),), usage=Usage(2, 3))

        assert json.loads(OPENAI.encode(chat(), answer, RECORD)) == {
            "id": "chatcmpl-the-id",
            "created": 1700000000,
            "model": "public",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
        }

    def test_text_completions_are_counted_prompt_by_prompt(self) -> None:
        answer = Answer(texts=(("a", "b"), ("c", "d")), finishes=(("eos", "stop"), ("length",) * 2))
        body = json.loads(OPENAI.encode(text(["x", "y"], n=2, echo=True), answer, RECORD))

        assert (body["id"], body["object"]) == ("cmpl-the-id", "text_completion")
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
        assert [choice["text"] for choice in body["choices"]] == ["xa", "xb", "yc", "yd"]
        reasons = [choice["finish_reason"] for choice in body["choices"]]
        assert reasons == ["stop", "stop", "length", "length"]

    @pytest.mark.parametrize("call", [chat(), text()])
    def test_a_usage_that_nobody_told_is_zeros(self, call: Call) -> None:
        """langchain-openai raises TypeError for a text without any."""
        answer = Answer(texts=((" upon",),))
        told = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        assert json.loads(OPENAI.encode(call, answer, RECORD))["usage"] == told

    def test_a_text_ends_before_its_stop_sequence(self) -> None:
        answer = Answer(texts=(("one END two",),), finishes=(("length",),))
        (choice,) = json.loads(OPENAI.encode(text(stop="END"), answer, RECORD))["choices"]

        assert (choice["text"], choice["finish_reason"]) == ("one ", "stop")

    def test_an_answer_in_the_clients_format_has_only_its_models_name_changed(self) -> None:
        theirs = b'{"id":"x","model":"m","choices":[ {"model":"m"} ],"extra":1.0}'
        answer = Answer(verbatim=theirs, format=CHAT)

        assert OPENAI.encode(chat(), answer, RECORD) == theirs.replace(b'"m"', b'"public"', 1)
        with pytest.raises(UpstreamError):
            OPENAI.encode(text(), answer, RECORD)

    @pytest.mark.parametrize(
        "body", [b'{ "model": "public" }', b'{"a":1}', b"[1]", b'{"model":5}', b'{"model":null}']
    )
    def test_an_answer_with_that_name_or_none_is_as_it_came(self, body: bytes) -> None:
        assert rename_model(body, "public") == body


def refused(error: KeyholeError) -> tuple[int, dict[str, str], dict[str, Any]]:
    reply = OPENAI.refuse(error, "the-id")
    return reply.status, dict(reply.headers), json.loads(reply.body)["error"]


class TestRefuse:
    @pytest.mark.parametrize(
        ("error", "status", "kind", "code"),
        [
            (ClientError(Code.INVALID_JSON, "m"), 400, "invalid_request_error", "invalid_json"),
            (
                ClientError(Code.MODEL_NOT_FOUND, "m", status=404),
                404,
                "invalid_request_error",
                "model_not_found",
            ),
            (
                ClientError(Code.BODY_TOO_LARGE, "m", status=413),
                413,
                "invalid_request_error",
                "body_too_large",
            ),
            (
                ClientError(Code.CALLER_NOT_LOCAL, "m", status=401),
                401,
                "invalid_request_error",
                "invalid_api_key",
            ),
            (GatewayError(Code.INTERNAL_ERROR, "m"), 500, "server_error", "internal_error"),
            (
                GatewayError(Code.SHUTTING_DOWN, "m", status=503),
                503,
                "server_error",
                "shutting_down",
            ),
            (UpstreamError(Code.UPSTREAM_ERROR, "m"), 502, "upstream_error", "upstream_error"),
            (
                UpstreamError(Code.UPSTREAM_TIMEOUT, "m"),
                504,
                "upstream_error",
                "upstream_timeout",
            ),
            (
                UpstreamError(Code.UPSTREAM_UNAVAILABLE, "m", upstream_status=503),
                502,
                "upstream_error",
                "upstream_unavailable",
            ),
            (UpstreamError(Code.UPSTREAM_LOADING, "m"), 503, "upstream_error", "upstream_loading"),
            (
                ClientError(Code.TOO_MUCH_BUFFERED, "m", status=503),
                429,
                "requests",
                "too_much_buffered",
            ),
            (
                UpstreamError(Code.UPSTREAM_RATE_LIMITED, "m"),
                429,
                "requests",
                "rate_limit_exceeded",
            ),
            (
                UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "m", upstream_status=422),
                422,
                "invalid_request_error",
                "upstream_refused_request",
            ),
            (
                UpstreamError(Code.UPSTREAM_MODEL_NOT_FOUND, "m"),
                404,
                "invalid_request_error",
                "model_not_found",
            ),
        ],
    )
    def test_each_error_has_the_status_and_words_that_sdks_act_on(
        self, error: KeyholeError, status: int, kind: str, code: str
    ) -> None:
        assert refused(error)[0] == status
        assert refused(error)[2] == {
            "message": "m",
            "type": kind,
            "param": None,
            "code": code,
            "request_id": "the-id",
        }

    @pytest.mark.parametrize("code", Code)
    def test_every_code_can_be_told(self, code: Code) -> None:
        for error in (ClientError(code, "m"), UpstreamError(code, "m"), GatewayError(code, "m")):
            status, headers, told = refused(error)
            assert 400 <= status < 600
            assert headers["content-type"] == "application/json"
            assert told["code"]

    def test_when_to_come_back_is_passed_on(self) -> None:
        limited = UpstreamError(Code.UPSTREAM_RATE_LIMITED, "m", retry_after="7")
        assert refused(limited)[1]["retry-after"] == "7"
        assert refused(UpstreamError(Code.UPSTREAM_LOADING, "m"))[1]["retry-after"] == "20"
        for told, kept in (("60", "60"), ("301", "60"), (DATE, DATE)):
            limited = UpstreamError(Code.UPSTREAM_RATE_LIMITED, "m", retry_after=told)
            assert refused(limited)[1]["retry-after"] == kept
        assert "retry-after" not in refused(UpstreamError(Code.UPSTREAM_ERROR, "m"))[1]

    def test_what_is_soon_over_is_worth_another_try_in_a_second(self) -> None:
        full = ClientError(Code.TOO_MUCH_BUFFERED, "m", status=503)
        stopping = GatewayError(Code.SHUTTING_DOWN, "m", status=503)
        assert {refused(error)[1]["retry-after"] for error in (full, stopping)} == {"1"}

    @pytest.mark.parametrize("code", [Code.UPSTREAM_OUT_OF_CREDITS, Code.UPSTREAM_TOKEN_REFUSED])
    def test_what_will_fail_again_is_not_to_be_sent_again(self, code: Code) -> None:
        assert refused(UpstreamError(code, "m"))[1]["x-should-retry"] == "false"
        assert "x-should-retry" not in refused(UpstreamError(Code.UPSTREAM_TIMEOUT, "m"))[1]

    def test_the_field_at_fault_and_what_to_do_are_told(self) -> None:
        error = ClientError(Code.INVALID_PARAMETER, "No.", hint="Do so.", param="n", allow=("GET",))

        _, headers, told = refused(error)
        assert (told["message"], told["param"], headers["allow"]) == ("No. Do so.", "n", "GET")


class TestModels:
    CATALOG = Catalog(
        upstreams={},
        exact={name: Route(name=name, targets=()) for name in ("default", "owner/name")},
        patterns=(Route(name="hf/*", targets=()),),
    )
    PAGE = staticmethod(models_page(CATALOG, 1700000000, lambda _key, _model: True))

    def get(self, path: str) -> Any:
        reply = self.PAGE(Head(method="GET", path=path), None)
        assert (reply.status, reply.headers) == (200, [("content-type", "application/json")])
        return json.loads(reply.body)

    @pytest.mark.parametrize(
        ("allowed", "listed"),
        [
            ((), []),
            (("owner/name",), ["owner/name"]),
            (("default", "nowhere"), ["default"]),
        ],
    )
    def test_somebody_who_may_use_some_models_hears_of_no_others(
        self, allowed: tuple[str, ...], listed: list[str]
    ) -> None:
        def ask(path: str) -> Any:
            head = Head(method="GET", path=path)
            may_use = allowed.__contains__
            return json.loads(
                show_models(head, self.CATALOG, 1, may_use=may_use, named=allowed).body
            )

        assert [row["id"] for row in ask("/v1/models")["data"]] == listed
        for name in {"default", "owner/name"} - set(allowed):
            with pytest.raises(ClientError) as refused:
                ask(f"/v1/models/{name}")
            assert refused.value.code is Code.MODEL_NOT_FOUND
        for name in listed:
            assert ask(f"/v1/models/{name}")["id"] == name

    def test_every_route_with_a_name_of_its_own_is_listed(self) -> None:
        assert self.get("/v1/models") == {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 1700000000, "owned_by": "keyhole"}
                for name in ("default", "owner/name")
            ],
        }

    @pytest.mark.parametrize("path", ["owner/name", "owner%2Fname", "hf/any"])
    def test_each_model_that_a_route_answers_to_has_a_page(self, path: str) -> None:
        assert self.get(f"/v1/models/{path}")["id"] == path.replace("%2F", "/")

    @pytest.mark.parametrize("path", ["none", "hf/a/b", "%00", "../x", "%E9"])
    def test_another_is_not_found(self, path: str) -> None:
        with pytest.raises(ClientError) as caught:
            self.get(f"/v1/models/{path}")

        status, _, told = refused(caught.value)
        assert (status, told["code"], told["param"]) == (404, "model_not_found", "model")
