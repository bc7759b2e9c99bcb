"""Upstreams of the OpenAI format: calls passed on as they came, calls translated, and streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from upstreams import BACKENDS, TOKEN, make_call, make_target

from keyhole.backends.base import Stream
from keyhole.catalog import Target
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.errors import ClientError, Code, UpstreamError
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call
from keyhole.wire.http import Head, UpstreamRequest, UpstreamResponse
from records import record

OPENAI = OpenAiDialect()
HI = [{"role": "user", "content": "Hi"}]
RECORD = record("the-id", 1, "public")

CHATTY = make_target("openai", "m")
TEXTUAL = make_target("openai", "m", has_completions=True)
ROUTER = make_target("huggingface", "m")
ITSELF = make_target("openai", "m", url="https://api.openai.com/v1")


def chat(**fields: Any) -> Call:
    body = {"model": "public", "messages": HI, **fields}
    return OPENAI.decode(
        Head(method="POST", path="/v1/chat/completions"), json.dumps(body).encode()
    )


def text(**fields: Any) -> Call:
    body = {"model": "public", "prompt": "Once", **fields}
    return OPENAI.decode(Head(method="POST", path="/v1/completions"), json.dumps(body).encode())


def ask(target: Target, call: Call, maximum: int | None = None) -> UpstreamRequest:
    backend = BACKENDS[target.upstream.kind]
    (request,) = backend.requests(call, target, max_output_tokens=maximum)
    return request


def stream(target: Target, call: Call, maximum: int | None = None) -> Stream:
    return BACKENDS[target.upstream.kind].stream(call, target, max_output_tokens=maximum)


def good(value: Any) -> UpstreamResponse:
    return UpstreamResponse(status=200, headers={}, body=json.dumps(value).encode())


RICH = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_k": 5,
    "logprobs": True,
    "n": 2,
    "temperature": 1.50,
    "brand_new": {"a": [None, 1e10]},
    "stream_options": None,
}


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (CHATTY, "/chat/completions"),
        (TEXTUAL, "/chat/completions"),
        (ROUTER, "/v1/chat/completions"),
    ],
)
def test_a_chat_is_passed_on_with_every_field_it_came_with(target: Target, path: str) -> None:
    request = ask(target, chat(**RICH))

    assert request.path == path
    assert json.loads(request.body) == {"model": "m", "messages": HI, **RICH}


def test_a_text_completion_is_passed_on_where_there_are_some() -> None:
    request = ask(TEXTUAL, text(prompt=[[1, 2], [3]], suffix="x", best_of=2))

    assert request.path == "/completions"
    assert json.loads(request.body) == {
        "model": "m",
        "prompt": [[1, 2], [3]],
        "suffix": "x",
        "best_of": 2,
    }


ODD = [
    {"max_tokens": -1},
    {"max_tokens": 5, "max_completion_tokens": 9},
    {"n": 200},
    {"top_p": 1.5},
    {"max_tokens": "5"},
    {"stop": [1]},
    {"temperature": {"odd": True}},
]


@pytest.mark.parametrize("fields", [*ODD, {"messages": []}, {"messages": [{"content": 5}, 7]}])
def test_an_upstream_is_left_to_judge_its_own_formats_values(fields: dict[str, Any]) -> None:
    expected = {"model": "m", "messages": HI, **fields}
    maximum = 40 if "max_tokens" in fields else None

    assert json.loads(ask(TEXTUAL, chat(**fields), maximum).body) == expected
    made = stream(TEXTUAL, chat(**fields, stream=True), maximum)
    assert json.loads(made.request.body) == expected | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert made.is_chat


@pytest.mark.parametrize("fields", [*ODD, {"prompt": None}, {"prompt": ["a", 1]}, {"prompt": 5}])
def test_what_would_have_to_be_translated_is_judged(fields: dict[str, Any]) -> None:
    call = text(**fields)
    assert json.loads(ask(TEXTUAL, call).body) == {"model": "m", "prompt": "Once", **fields}
    if "max_completion_tokens" in fields:  # text completions have none
        call = chat(**fields)
        for kind in ("tgi", "hf-inference"):
            with pytest.raises(ClientError, match="differ"):
                ask(make_target(kind), call)
        return
    name = next(iter(fields))
    for target in (CHATTY, make_target("tgi"), make_target("hf-inference")):
        with pytest.raises(ClientError) as caught:
            ask(target, call)
        assert (caught.value.param or "").startswith(name)


def test_a_completion_without_a_prompt_is_for_its_own_format() -> None:
    call = OPENAI.decode(Head(method="POST", path="/v1/completions"), b'{"model":"public"}')

    assert json.loads(ask(TEXTUAL, call).body) == {"model": "m"}
    with pytest.raises(ClientError, match="'prompt' is missing"):
        ask(CHATTY, call)


def test_a_text_of_several_choices_that_were_not_read_is_kept_as_it_came() -> None:
    response = good({"choices": [{"text": "x", "finish_reason": "stop"}] * 200})
    answer = BACKENDS["openai"].answer(text(n=200), TEXTUAL, [response])
    assert answer.verbatim == response.body


@pytest.mark.parametrize(
    ("target", "call", "name"),
    [
        (CHATTY, chat(), "max_tokens"),
        (CHATTY, chat(max_tokens=None), "max_tokens"),
        (ITSELF, chat(), "max_completion_tokens"),
        (ROUTER, chat(), "max_tokens"),
        (TEXTUAL, text(), "max_tokens"),
    ],
)
def test_the_routes_maximum_is_added_where_the_client_names_none(
    target: Target, call: Call, name: str
) -> None:
    assert json.loads(ask(target, call, 40).body)[name] == 40


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_clients_own_maximum_stays_under_its_name(name: str) -> None:
    body = json.loads(ask(CHATTY, chat(**{name: 7}), 40).body)

    assert [body.get(key) for key in ("max_tokens", "max_completion_tokens")].count(7) == 1
    assert 40 not in body.values()


@pytest.mark.parametrize("target", [CHATTY, ROUTER])
def test_a_text_for_a_chat_is_one_message_of_the_user(target: Target) -> None:
    request = ask(target, text(max_tokens=5, stop="END", user=None))

    assert request.path.endswith("/chat/completions")
    assert json.loads(request.body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Once"}],
        "max_tokens": 5,
        "stop": ["END"],
    }


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_cannot_be_translated_is_refused_by_name(is_stream: bool) -> None:
    call = text(suffix="x", logprobs=2, stream=is_stream)
    with pytest.raises(ClientError) as raised:
        (stream if is_stream else ask)(CHATTY, call)

    error = raised.value
    assert (error.code, error.status, error.param) == (Code.UNSUPPORTED_PARAMETER, 400, "suffix")
    assert error.message.startswith("'suffix', 'logprobs' cannot be asked of 'gpu/m'")


def test_a_client_is_told_its_own_words() -> None:
    with pytest.raises(ClientError, match=r"times 'n' \(40\)") as raised:
        ask(CHATTY, text(n=40))
    assert raised.value.param == "n"


class TestStream:
    @pytest.mark.parametrize("target", [CHATTY, TEXTUAL, ROUTER])
    def test_a_stream_of_the_same_format_is_passed_on(self, target: Target) -> None:
        made = stream(target, chat(**RICH | {"stream": True}), 40)

        assert made.is_passed_on
        assert made.is_chat
        assert ("accept", "text/event-stream") in made.request.headers
        assert json.loads(made.request.body) == {
            "model": "m",
            "messages": HI,
            **RICH,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 40,
        }

    def test_the_clients_stream_options_stay(self) -> None:
        options = {"include_usage": False, "continuous_usage_stats": True}
        made = stream(TEXTUAL, text(stream=True, stream_options=options))

        body = json.loads(made.request.body)
        assert body["stream_options"] == options | {"include_usage": True}
        assert not made.is_chat

    @pytest.mark.parametrize("asks", [False, True])
    def test_the_usage_is_withheld_from_a_client_that_did_not_ask(self, asks: bool) -> None:
        call = chat(stream=True, stream_options={"include_usage": asks})
        edit = stream(CHATTY, call).edit
        frame = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":1}}\n\n'

        assert edit is not None
        assert edit(frame) == (frame.replace(b'"m"', b'"public"') if asks else b"")

    def test_the_default_routes_model_is_called_so(self) -> None:
        edit = stream(CHATTY, chat(model=None, stream=True)).edit

        assert edit is not None
        assert edit(b'data: {"model":"m"}\n\n') == b'data: {"model":"default"}\n\n'

    def test_a_translated_stream_is_asked_for_one_text_and_its_usage(self) -> None:
        made = stream(TEXTUAL, make_call("Once"), 40)

        assert (made.is_passed_on, made.edit, made.is_chat) == (False, None, False)
        assert made.request.path == "/completions"
        assert json.loads(made.request.body) == {
            "model": "m",
            "prompt": "Once",
            "max_tokens": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        assert stream(ROUTER, make_call("Once")).is_chat

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (text(n=2, stream=True), "n"),
            (text(prompt=["a", "b"], stream=True), "prompt"),
            (make_call("a", num_return_sequences=2), "num_return_sequences"),
            (make_call(["a", "b"]), "input"),
        ],
    )
    def test_several_texts_are_not_translated_in_one_stream(self, call: Call, name: str) -> None:
        with pytest.raises(ClientError) as raised:
            stream(CHATTY, call)

        assert (raised.value.code, raised.value.param) == (Code.UNSUPPORTED_PARAMETER, name)
        assert f"'{name}'" in raised.value.message

    def test_a_list_of_one_prompt_is_one_text(self) -> None:
        body = json.loads(stream(CHATTY, text(prompt=["a"], stream=True)).request.body)

        assert body["messages"] == [{"role": "user", "content": "a"}]


class TestAnswer:
    def test_an_answer_in_the_same_format_is_kept_as_it_came(self) -> None:
        response = good(
            {
                "model": "m",
                "choices": [
                    {"message": {"content": "a"}, "finish_reason": "stop"},
                    {"message": {"content": None, "tool_calls": [1]}, "finish_reason": "length"},
                ],
                "usage": {"prompt_tokens": 1, "completion_tokens": 2},
            }
        )
        call = chat(n=2)
        answer = BACKENDS["openai"].answer(call, CHATTY, [response])

        assert (answer.verbatim, answer.format) == (response.body, "openai-chat")
        assert answer.texts == (("a", ""),)
        assert answer.finishes == (("stop", "length"),)
        assert answer.usage == Usage(1, 2)
        assert answer.is_chat
        assert json.loads(OPENAI.encode(call, answer, RECORD)) == json.loads(response.body) | {
            "model": "public"
        }

    @pytest.mark.parametrize("value", [{"error": "x"}, {"choices": []}, {"choices": [{}]}, []])
    def test_another_answer_is_the_upstreams_failure(self, value: Any) -> None:
        for call in (chat(), text()):
            with pytest.raises(UpstreamError):
                BACKENDS["openai"].answer(call, TEXTUAL, [good(value)])

    def test_a_translated_answer_says_why_its_texts_ended(self) -> None:
        responses = [
            good({"choices": [{"message": {"content": str(i)}, "finish_reason": "length"}]})
            for i in range(2)
        ]
        call = text(n=2)
        answer = BACKENDS["openai"].answer(call, CHATTY, responses)

        assert (answer.texts, answer.finishes) == ((("0", "1"),), (("length", "length"),))
        assert answer.verbatim is None
        body = json.loads(OPENAI.encode(call, answer, RECORD))
        assert [choice["text"] for choice in body["choices"]] == ["0", "1"]


class TestFault:
    """What an upstream of the client's own format says of a request is said in its words."""

    @staticmethod
    def told(call: Call, target: Target, status: int = 400, **error: Any) -> Any:
        body = json.dumps({"error": {"message": "no", "type": "t", **error}}).encode()
        response = UpstreamResponse(status=status, headers={}, body=body)
        fault = BACKENDS[target.upstream.kind].fault(call, target, response)
        return json.loads(OPENAI.refuse(fault, "the-id").body)["error"]

    @pytest.mark.parametrize(
        ("code", "param"),
        [("context_length_exceeded", "messages"), ("invalid_value", "messages[0].content")],
    )
    @pytest.mark.parametrize("target", [CHATTY, ROUTER])
    def test_its_code_and_the_field_are_handed_on(
        self, target: Target, code: str, param: str
    ) -> None:
        error = self.told(chat(), target, code=code, param=param)
        assert (error["code"], error["param"]) == (code, param)

    @pytest.mark.parametrize(
        "word",
        [
            "",
            None,
            400,
            ["a"],
            "Two words",
            "a" * 65,
            TOKEN,
            TOKEN[:14],
            f"x.{TOKEN}",
            "the_secret_plan_of_foxes",
            "a\n",
        ],
    )
    def test_what_is_no_word_or_must_stay_here_is_not(self, word: Any) -> None:
        call = chat(messages=[{"role": "user", "content": "Tell the secret plan of foxes"}])
        error = self.told(call, CHATTY, code=word, param=word)
        assert (error["code"], error["param"]) == ("upstream_refused_request", None)

    @pytest.mark.parametrize(
        ("call", "target", "status", "code"),
        [
            (text(), CHATTY, 400, "upstream_refused_request"),
            (make_call(), CHATTY, 400, "upstream_refused_request"),
            (chat(), CHATTY, 401, "upstream_token_refused"),
            (chat(), CHATTY, 500, "upstream_error"),
            (chat(), CHATTY, 404, "model_not_found"),
        ],
    )
    def test_of_a_translated_request_or_of_the_operators_affairs_they_are_not(
        self, call: Call, target: Target, status: int, code: str
    ) -> None:
        error = self.told(call, target, status, code="their_own")
        assert (error["code"], error["param"]) == (code, None)
