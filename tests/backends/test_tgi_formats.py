"""What TGI, the engine and the hosted API are sent for calls in the formats of others, and read."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from upstreams import BACKENDS, PROMPT, TOKEN, make_call, make_target

from keyhole.backends import faults
from keyhole.backends.base import Stream
from keyhole.dialects.base import ClientDialect, StreamFailedError
from keyhole.dialects.generate import GenerateDialect
from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.dialects.tgi_client import (
    TgiDialect,
    TgiInfoDialect,
    TgiRootDialect,
    TgiTokenizeDialect,
)
from keyhole.errors import ClientError, Code, UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Counted, Delta, Finish, Token
from keyhole.wire.http import Head, UpstreamResponse
from records import record

TGI_KINDS = ("tgi", "engine")
TGI_TEXT = {"generated_text": " end", "details": {"finish_reason": "eos_token"}}
TEXT_IN_LIST = [{"generated_text": " end"}]
COUNTS = {"x-prompt-tokens": "3", "x-generated-tokens": "2"}
LAST = (
    b'{"index":1,"token":{"id":9,"text":" end","logprob":-1.0,"special":false},'
    b'"generated_text":" end","details":{"finish_reason":"length","generated_tokens":2,'
    b'"seed":null,"input_length":3}}'
)
DIALECTS: dict[str, tuple[ClientDialect, str]] = {
    "generate": (GenerateDialect(), "/generate"),
    "tgi": (TgiDialect(), "/generate"),
    "tgi-stream": (TgiDialect(), "/generate_stream"),
    "tgi-root": (TgiRootDialect(), "/"),
    "hf": (HuggingFaceDialect(), "/models/gpt2"),
    "chat": (OpenAiDialect(), "/v1/chat/completions"),
    "completion": (OpenAiDialect(), "/v1/completions"),
}
TURN = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def asked(name: str, body: dict[str, Any]) -> Call:
    dialect, path = DIALECTS[name]
    return dialect.decode(Head(method="POST", path=path), json.dumps(body).encode())


def sent(kind: str, call: Call, most: int | None = None) -> list[Any]:
    found = BACKENDS[kind].requests(call, make_target(kind), max_output_tokens=most)
    return [msgspec.json.decode(request.body) for request in found]


def stream(kind: str, call: Call, most: int | None = None) -> Stream:
    return BACKENDS[kind].stream(call, make_target(kind), max_output_tokens=most)


def sent_to_stream(kind: str, call: Call, most: int | None = None) -> Any:
    return msgspec.json.decode(stream(kind, call, most).request.body)


def answered(kind: str, name: str, body: dict[str, Any], *values: Any) -> Any:
    """What a client gets of the upstream's answers."""
    call = asked(name, body)
    responses = [
        UpstreamResponse(status=200, headers=COUNTS, body=json.dumps(value).encode())
        for value in values
    ]
    answer = BACKENDS[kind].answer(call, make_target(kind), responses)
    told = record("r", 0, "gpt2")
    return json.loads(DIALECTS[name][0].encode(call, answer, told))


def question(name: str) -> Call:
    """A call that asks for no text."""
    if name == "info":
        return TgiInfoDialect().decode(Head(method="GET", path="/info"), b"")
    body = b'{"inputs":"x","odd":[1,  2]}'
    return TgiTokenizeDialect().decode(Head(method="POST", path="/tokenize"), body)


def told(kind: str, name: str, response: UpstreamResponse) -> Answer:
    return BACKENDS[kind].answer(question(name), make_target(kind), [response])


class TestTgisOwnFormat:
    @pytest.mark.parametrize("kind", TGI_KINDS)
    def test_a_request_goes_on_as_it_came(self, kind: str) -> None:
        body = b'{"inputs":"x","odd":[1,  2],"parameters":{"grammar":{"b":1e2},"top_p":1.0}}'
        call = TgiDialect().decode(Head(method="POST", path="/generate"), body)

        (request,) = BACKENDS[kind].requests(call, make_target(kind), max_output_tokens=None)
        assert request.body == body

    @pytest.mark.parametrize("most", [None, 40])
    @pytest.mark.parametrize("given", [{"max_new_tokens": 0}, {"max_new_tokens": -1, "top_k": 0}])
    @pytest.mark.parametrize("kind", [*TGI_KINDS, "hf-inference"])
    def test_tgi_is_left_to_judge_its_own_values(
        self, kind: str, given: dict[str, Any], most: int | None
    ) -> None:
        given |= {"seed": 2**64 - 1, "temperature": 101, "do_sample": True}
        call = asked("tgi", {"inputs": "x", "parameters": given})
        (body,) = sent(kind, call, most)
        assert body["parameters"] | given == body["parameters"]

    @pytest.mark.parametrize("kind", ["openai", "huggingface"])
    @pytest.mark.parametrize("name", ["tgi", "tgi-stream", "tgi-root", "hf"])
    def test_a_value_that_would_have_to_be_translated_is_judged(self, kind: str, name: str) -> None:
        call = asked(name, {"inputs": "x", "parameters": {"temperature": 101}})
        with pytest.raises(ClientError, match="'temperature' in 'parameters' is 101") as caught:
            sent(kind, call)
        assert (caught.value.code, caught.value.status) == (Code.INVALID_PARAMETER, 400)
        with pytest.raises(ClientError, match="'temperature'"):
            stream(kind, call)

    @pytest.mark.parametrize(
        ("name", "given", "most", "gone_on"),
        [
            ("tgi", {"stream": True}, None, {}),
            ("tgi", {}, 40, {"parameters": {"do_sample": True, "max_new_tokens": 40}}),
            ("tgi", {"parameters": {}}, 40, {"parameters": {"max_new_tokens": 40}}),
            ("tgi", {"parameters": {"max_new_tokens": 5}}, 40, None),
            ("tgi-root", {}, None, {"parameters": {"do_sample": True, "return_full_text": True}}),
            ("tgi-root", {"parameters": {"return_full_text": False, "top_k": 3}}, None, None),
        ],
    )
    def test_only_what_must_be_said_is_added(
        self, name: str, given: dict[str, Any], most: int | None, gone_on: dict[str, Any] | None
    ) -> None:
        expected = {"inputs": "x"} | (given if gone_on is None else gone_on)
        assert sent("tgi", asked(name, {"inputs": "x"} | given), most) == [expected]

    def test_a_stream_is_asked_for_details_which_a_client_gets_that_asked(self) -> None:
        plain = asked("tgi-stream", {"inputs": "x"})
        assert sent_to_stream("tgi", plain) == {
            "inputs": "x",
            "parameters": {"do_sample": True, "details": True},
        }
        edit = stream("tgi", plain).edit
        assert edit is not None
        assert b'"details":null' in edit(b"data: %b\n\n" % LAST)

        wanted = {"inputs": "x", "parameters": {"details": True, "typical_p": 0.95}}
        assert sent_to_stream("tgi", asked("tgi-stream", wanted)) == wanted
        assert stream("tgi", asked("tgi-stream", wanted)).edit is None

    @pytest.mark.parametrize(
        ("kind", "path"), [("tgi", "/generate_stream"), ("engine", "/gpt2/generate_stream")]
    )
    def test_its_frames_are_passed_on_and_read_beside(self, kind: str, path: str) -> None:
        told = stream(kind, asked("tgi-stream", {"inputs": "x"}))

        assert (told.request.path, told.is_passed_on, told.is_chat) == (path, True, False)
        assert dict(told.request.headers)["accept"] == "text/event-stream"
        assert told.reader.read(LAST) == (
            Delta(" end", 0, Token(9, -1.0)),
            Finish("length", 0, " end"),
            Counted(Usage(3, 2)),
        )

    @pytest.mark.parametrize("kind", TGI_KINDS)
    def test_its_answer_goes_back_as_it_came(self, kind: str) -> None:
        assert answered(kind, "tgi", {"inputs": "x"}, TGI_TEXT) == TGI_TEXT
        whole = {"generated_text": "x end"}
        assert answered(kind, "tgi-root", {"inputs": "x"}, whole) == [whole]

    def test_its_answer_is_read_for_the_books(self) -> None:
        call = asked("tgi-root", {"inputs": "x"})
        body = json.dumps(TGI_TEXT | {"generated_text": "x end"}).encode()
        response = UpstreamResponse(status=200, headers=COUNTS, body=body)
        answer = BACKENDS["tgi"].answer(call, make_target("tgi"), [response])

        assert (answer.texts, answer.finishes) == (((" end",),), (("eos",),))
        assert answer.usage == Usage(3, 2)

    def test_the_hosted_api_is_told_what_it_would_take_otherwise(self) -> None:
        assert sent("hf-inference", asked("tgi", {"inputs": "x"})) == [
            {"inputs": "x", "parameters": {"return_full_text": False}}
        ]
        grammar = {"grammar": {"type": "json"}}
        assert sent("hf-inference", asked("tgi-root", {"inputs": "x", "parameters": grammar})) == [
            {"inputs": "x", "parameters": {**grammar, "do_sample": False}}
        ]
        text = [{"generated_text": "end"}]
        assert answered("hf-inference", "tgi", {"inputs": "x"}, text) == text[0]

    def test_a_text_is_needed_of_the_hosted_api(self) -> None:
        with pytest.raises(Exception, match="JSON that is not what its kind"):
            answered("hf-inference", "tgi", {"inputs": "x"}, [{"label": "x"}])

    @pytest.mark.parametrize("kind", ["openai", "huggingface"])
    def test_what_only_tgi_can_say_is_refused_by_others(self, kind: str) -> None:
        call = asked("tgi", {"inputs": "x", "parameters": {"truncate": 5, "watermark": True}})
        with pytest.raises(ClientError, match="'truncate', 'watermark' cannot be asked") as caught:
            sent(kind, call)
        assert caught.value.code == Code.UNSUPPORTED_PARAMETER

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("tgi", {"inputs": "x", "parameters": {"frequency_penalty": 0.5}}),
            ("hf", {"inputs": "x", "parameters": {"frequency_penalty": 0.5}}),
            ("completion", {"model": "m", "prompt": "x", "frequency_penalty": 0.5}),
        ],
    )
    @pytest.mark.parametrize("kind", ["openai", "huggingface"])
    def test_a_frequency_penalty_is_the_same_everywhere(
        self, kind: str, name: str, body: dict[str, Any]
    ) -> None:
        (request,) = sent(kind, asked(name, body))
        assert request["frequency_penalty"] == 0.5
        assert sent_to_stream(kind, asked(name, body))["frequency_penalty"] == 0.5

    def test_a_frequency_penalty_of_nothing_is_not_carried(self) -> None:
        for value in (0, None):
            body = {"inputs": "x", "parameters": {"frequency_penalty": value}}
            assert "frequency_penalty" not in sent("openai", asked("tgi", body))[0]

    @pytest.mark.parametrize("parameters", [None, {"frequency_penalty": None}, {}])
    def test_a_frequency_penalty_in_the_wrong_place_is_not_lost(self, parameters: Any) -> None:
        body = {"inputs": "x", "frequency_penalty": 0.5, "parameters": parameters}
        with pytest.raises(ClientError, match="'frequency_penalty' cannot be asked"):
            sent("openai", asked("tgi", body))


class TestTheHostedFormat:
    def test_it_goes_on_as_it_came_where_it_is_spoken(self) -> None:
        body = {
            "inputs": [["x"]],
            "parameters": {"max_time": 3.0, "watermark": False, "details": True},
            "options": {"use_cache": False, "wait_for_model": True},
        }
        assert sent("hf-inference", asked("hf", body)) == [body]
        assert sent("hf-inference", asked("hf", {"inputs": "x", "stream": False}), 7) == [
            {"inputs": "x", "parameters": {"max_new_tokens": 7}}
        ]
        odd = [{"anything": 1}]
        assert answered("hf-inference", "hf", body, odd) == odd

    def test_the_hosted_api_is_left_to_judge_its_own_values(self) -> None:
        given = {"temperature": 101, "max_new_tokens": 0, "num_return_sequences": 11}
        body = {"inputs": "x", "parameters": given}
        assert sent("hf-inference", asked("hf", body), 40) == [body]

    @pytest.mark.parametrize("inputs", ["x", ["x", "y"]])
    @pytest.mark.parametrize("kind", TGI_KINDS)
    def test_what_tgi_would_be_told_in_other_words_is_judged(self, kind: str, inputs: Any) -> None:
        call = asked("hf", {"inputs": inputs, "parameters": {"max_new_tokens": 0}})
        with pytest.raises(ClientError, match="'max_new_tokens' in 'parameters' is 0"):
            sent(kind, call)

    def test_its_stream_is_passed_on_in_tgis_frames(self) -> None:
        call = asked("hf", {"inputs": "x", "stream": True})
        told = stream("hf-inference", call)

        assert (told.request.path, told.is_passed_on, told.edit) == ("/models/gpt2", True, None)
        assert json.loads(told.request.body) == {"inputs": "x", "stream": True}

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({}, {"do_sample": True}),
            ({"temperature": 0, "seed": 1, "typical_p": 0.5}, {"do_sample": False}),
            ({"top_p": 1, "typical_p": 1}, {"do_sample": True}),
            (
                {"typical_p": 0.95, "truncate": 9, "stop": "."},
                {"do_sample": True, "typical_p": 0.95, "truncate": 9, "stop": ["."]},
            ),
            ({"details": True}, {"do_sample": True, "details": True}),
            ({"best_of": None, "watermark": False}, {"do_sample": True, "watermark": False}),
        ],
    )
    def test_tgi_is_told_what_it_would_take_otherwise(
        self, given: dict[str, Any], said: dict[str, Any]
    ) -> None:
        call = asked("hf", {"inputs": "x", "parameters": given, "options": {"use_cache": False}})
        assert sent("tgi", call) == [
            {"inputs": "x", "parameters": said | {"return_full_text": True}}
        ]

    def test_tgis_answer_and_stream_are_its_own(self) -> None:
        body = {"inputs": "x", "parameters": {"details": True}, "stream": True}
        whole = TGI_TEXT | {"generated_text": "x end"}
        assert answered("tgi", "hf", body, whole) == [whole]
        told = stream("tgi", asked("hf", body))
        assert told.is_passed_on
        assert told.edit is None

    def test_several_texts_are_several_requests(self) -> None:
        body = {"inputs": ["a", "b"], "parameters": {"details": True, "truncate": 9}}
        requests = sent("tgi", asked("hf", body))
        parameters = {"details": True, "do_sample": True, "truncate": 9}
        assert requests == [{"inputs": text, "parameters": parameters} for text in "ab"]
        rows = answered("tgi", "hf", body, TGI_TEXT, TGI_TEXT)
        assert [row[0]["generated_text"] for row in rows] == ["a end", "b end"]
        assert rows[1][0]["details"]["finish_reason"] == "eos_token"

    @pytest.mark.parametrize("kind", [*TGI_KINDS, "openai", "huggingface"])
    def test_options_that_nobody_knows_are_refused_by_name(self, kind: str) -> None:
        taken = {"use_cache": True, "wait_for_model": False, "use_gpu": False}
        assert sent(kind, asked("hf", {"inputs": "x", "options": taken}))
        call = asked("hf", {"inputs": "x", "options": taken | {"foo": 1}})
        with pytest.raises(ClientError, match=r"^'options\.foo' cannot be asked") as caught:
            sent(kind, call)
        assert caught.value.code == Code.UNSUPPORTED_PARAMETER

    @pytest.mark.parametrize("inputs", ["x", ["x", "y"]])
    def test_what_tgi_does_not_know_is_refused_by_name(self, inputs: Any) -> None:
        call = asked("hf", {"inputs": inputs, "parameters": {"max_time": 5.0}})
        with pytest.raises(ClientError, match="'max_time' cannot be asked"):
            sent("tgi", call)

    def test_what_would_be_lost_from_several_answers_is_refused(self) -> None:
        call = asked("hf", {"inputs": ["x"], "parameters": {"top_n_tokens": 2}})
        with pytest.raises(ClientError, match="'top_n_tokens'"):
            sent("tgi", call)

    def test_an_empty_text_begins_at_the_engine(self) -> None:
        call = asked("hf", {"inputs": "", "stream": True})
        assert sent_to_stream("engine", call)["inputs"] == "<|endoftext|>"
        assert not stream("engine", call).is_passed_on
        assert sent("tgi", call)[0]["inputs"] == ""


class TestOtherFormats:
    def test_the_original_scripts_requests_are_what_they_were(self) -> None:
        assert sent("tgi", make_call()) == [{"inputs": PROMPT}]
        assert sent("hf-inference", make_call()) == [{"inputs": PROMPT}]

    @pytest.mark.parametrize("kind", TGI_KINDS)
    def test_a_generate_stream_is_translated(self, kind: str) -> None:
        told = stream(kind, asked("generate", {"input": "x", "stream": True}), 5)
        assert not told.is_passed_on
        assert json.loads(told.request.body) == {
            "inputs": "x",
            "parameters": {"max_new_tokens": 5, "details": True, "do_sample": True},
        }

    def test_the_hosted_api_streams_a_text_without_its_prompt(self) -> None:
        told = stream("hf-inference", asked("generate", {"input": "x", "stream": True}), 5)
        assert not told.is_passed_on
        assert json.loads(told.request.body) == {
            "inputs": "x",
            "parameters": {"max_new_tokens": 5, "return_full_text": False},
            "stream": True,
        }

    def test_a_completion_is_told_why_it_ended(self) -> None:
        body = {"model": "m", "prompt": "x", "frequency_penalty": 0.5, "max_tokens": 4}
        assert sent("tgi", asked("completion", body)) == [
            {
                "inputs": "x",
                "parameters": {
                    "max_new_tokens": 4,
                    "frequency_penalty": 0.5,
                    "details": True,
                    "do_sample": True,
                },
            }
        ]
        told = answered("tgi", "completion", body, TGI_TEXT)
        assert told["choices"][0]["text"] == " end"
        assert told["choices"][0]["finish_reason"] == "stop"
        assert told["usage"]["total_tokens"] == 5

    @pytest.mark.parametrize("kind", [*TGI_KINDS, "hf-inference"])
    def test_a_chat_is_rendered_and_its_reply_is_read(self, kind: str) -> None:
        call = asked("chat", TURN)
        (request,) = sent(kind, call)
        assert request["inputs"] == "\n\nUser: Hi\nAssistant:".strip()

        value: Any = {"generated_text": " Hello\nUser:"}
        told = answered(kind, "chat", TURN, [value] if kind == "hf-inference" else value)
        assert told["choices"][0]["message"]["content"] == "Hello"

        streamed = stream(kind, asked("chat", TURN | {"stream": True}))
        assert (streamed.is_chat, streamed.is_passed_on) == (True, False)
        delta, *_ = streamed.reader.read(LAST)
        assert isinstance(delta, Delta)
        assert delta.text == "end"

    @pytest.mark.parametrize("kind", [*TGI_KINDS, "hf-inference"])
    def test_what_only_openai_can_say_is_refused(self, kind: str) -> None:
        call = asked("chat", TURN | {"tools": [{"type": "function"}]})
        with pytest.raises(ClientError, match="'tools' cannot be asked"):
            sent(kind, call)
        with pytest.raises(ClientError, match="'tools' cannot be asked"):
            stream(kind, call)

    def test_the_hosted_api_is_sent_no_stop_sequence_of_ours(self) -> None:
        """A model that transformers runs refuses any; the reply is cut all the same."""
        assert sent("hf-inference", asked("chat", TURN)) == [
            {"inputs": "User: Hi\nAssistant:", "parameters": {"return_full_text": False}}
        ]
        body = TURN | {"stop": "END", "stream": True}
        assert sent_to_stream("hf-inference", asked("chat", body))["parameters"]["stop"] == ["END"]

        value = [{"generated_text": " Hello\nUser: And you?\nAssistant: Fine."}]
        told = answered("hf-inference", "chat", TURN, value)
        assert told["choices"][0]["message"]["content"] == "Hello"
        reader = stream("hf-inference", asked("chat", TURN | {"stream": True})).reader
        pieces = (" Hello", "\nUs", "er: And", " you?")
        frames = [b'{"token":{"id":1,"text":%b}}' % json.dumps(piece).encode() for piece in pieces]
        events = [event for frame in frames for event in reader.read(frame)]
        assert "".join(event.text for event in events if isinstance(event, Delta)) == "Hello"

    def test_the_hosted_api_gets_a_completion_in_its_own_terms(self) -> None:
        body = {"model": "m", "prompt": ["x"], "temperature": 0, "max_tokens": 4}
        parameters = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
        assert sent("hf-inference", asked("completion", body)) == [
            {"inputs": "x", "parameters": parameters}
        ]
        assert sent_to_stream("hf-inference", asked("completion", body | {"stream": True})) == {
            "inputs": "x",
            "parameters": parameters,
            "stream": True,
        }
        several = body | {"prompt": ["x", "y"]}
        assert sent("hf-inference", asked("completion", several))[0]["inputs"] == ["x", "y"]

        told = answered("hf-inference", "completion", body | {"echo": True}, TEXT_IN_LIST)
        (choice,) = told["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("x end", "stop")

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("hf", {"inputs": "x"}),
            ("tgi", {"inputs": "x"}),
            ("chat", TURN),
            ("completion", {"model": "m", "prompt": "x"}),
        ],
    )
    def test_an_error_under_a_good_status_is_the_hosted_apis_fault(
        self, name: str, body: dict[str, Any]
    ) -> None:
        with pytest.raises(UpstreamError, match="an error in place of a text") as caught:
            answered("hf-inference", name, body, {"error": "unknown error"})
        assert caught.value.code == Code.UPSTREAM_ERROR
        assert DIALECTS[name][0].refuse(caught.value, "r").status == 502

    def test_the_original_scripts_client_gets_even_that_as_it_came(self) -> None:
        told = {"error": "unknown error"}
        assert answered("hf-inference", "generate", {"input": "x"}, told) == told

    @pytest.mark.parametrize("kind", [*TGI_KINDS, "hf-inference"])
    @pytest.mark.parametrize(
        ("given", "name"), [({"n": 2}, "n"), ({"prompt": ["x", "y"]}, "prompt")]
    )
    def test_several_texts_are_not_streamed(
        self, kind: str, given: dict[str, Any], name: str
    ) -> None:
        with pytest.raises(ClientError, match=f"'{name}' asks for several texts") as caught:
            stream(kind, asked("completion", {"model": "m", "prompt": "x"} | given))
        assert (caught.value.code, caught.value.status) == (Code.UNSUPPORTED_PARAMETER, 400)


class TestQuestions:
    @pytest.mark.parametrize(("kind", "prefix"), [("tgi", ""), ("engine", "/gpt2")])
    def test_they_are_asked_of_the_upstream(self, kind: str, prefix: str) -> None:
        target = make_target(kind)
        for name, method, path, body in (
            ("tokenize", "POST", "/tokenize", b'{"inputs":"x","odd":[1,  2]}'),
            ("info", "GET", "/info", b""),
        ):
            (request,) = BACKENDS[kind].requests(question(name), target, max_output_tokens=5)
            assert (request.method, request.path, request.body) == (method, prefix + path, body)

    @pytest.mark.parametrize("kind", TGI_KINDS)
    def test_their_answers_go_back_as_they_came(self, kind: str) -> None:
        for name, body in (("tokenize", b'[ {"id":1} ]'), ("info", b'{ "model_id":"x"}')):
            answer = told(kind, name, UpstreamResponse(status=200, headers={}, body=body))
            assert (answer.verbatim, answer.format, answer.usage) == (body, "tgi", None)

    @pytest.mark.parametrize("name", ["tokenize", "info"])
    @pytest.mark.parametrize("body", [b"", b"<html>", b'"x"'])
    def test_what_is_no_answer_to_them_is_the_upstreams_fault(self, name: str, body: bytes) -> None:
        with pytest.raises(UpstreamError) as caught:
            told("tgi", name, UpstreamResponse(status=200, headers={}, body=body))
        assert caught.value.code == Code.UPSTREAM_NOT_JSON

    @pytest.mark.parametrize("name", ["tokenize", "info"])
    @pytest.mark.parametrize("kind", ["openai", "huggingface", "hf-inference"])
    def test_upstreams_of_other_kinds_are_not_asked(self, kind: str, name: str) -> None:
        with pytest.raises(ClientError, match="has no such path") as caught:
            sent(kind, question(name))
        assert (caught.value.code, caught.value.status) == (Code.UNSUPPORTED_BY_UPSTREAM, 404)
        assert TgiDialect().refuse(caught.value, "r").status == 404

    @pytest.mark.parametrize(
        ("status", "body", "code"),
        [
            (404, b"", Code.UNSUPPORTED_BY_UPSTREAM),
            (405, b"", Code.UNSUPPORTED_BY_UPSTREAM),
            (404, b'{"error":"x","error_type":"model_not_pulled"}', Code.MODEL_NOT_PULLED),
            (503, b"", Code.UPSTREAM_UNAVAILABLE),
            (422, b'{"error":"x"}', Code.UPSTREAM_REFUSED_REQUEST),
        ],
    )
    def test_a_server_that_is_too_old_for_them_is_told_from_one_that_fails(
        self, status: int, body: bytes, code: Code
    ) -> None:
        response = UpstreamResponse(status=status, headers={}, body=body)
        for name in ("tokenize", "info"):
            error = BACKENDS["engine"].fault(question(name), make_target("engine"), response)
            assert error.code == code
            is_missing = code == Code.UNSUPPORTED_BY_UPSTREAM
            assert (f"has nothing at /{name} ({status})" in error.message) is is_missing
            assert not is_missing or TgiDialect().refuse(error, "r").status == 404


class TestStreamFaults:
    @pytest.mark.parametrize(
        ("message", "status", "code", "words"),
        [
            ("`top_p` must be < 1.0", 422, Code.UPSTREAM_REFUSED_REQUEST, "`top_p` must be"),
            ("Model is overloaded", 429, Code.UPSTREAM_RATE_LIMITED, "is overloaded"),
            ("CUDA out of memory", 424, Code.UPSTREAM_ERROR, "failed while it generated"),
            ("Model x is loading", 503, Code.UPSTREAM_LOADING, "is loading"),
            ("worker died", None, Code.UPSTREAM_ERROR, "failed (in its stream)"),
            ("", 599, Code.UPSTREAM_ERROR, "failed"),
        ],
    )
    def test_an_error_in_a_stream_means_what_it_means_before_one(
        self, message: str, status: int | None, code: Code, words: str
    ) -> None:
        failed = StreamFailedError(message, status=status)
        error = faults.stream_failed(make_call(), make_target("tgi"), failed)

        assert error.code == code
        assert words in error.explained
        assert "in its stream)" in error.message
        assert error.upstream_status == (status or 500)
        assert error.model == "gpt2"

    def test_no_prompt_and_no_secret_is_repeated(self) -> None:
        for words in (f"bad token {TOKEN}", f"no text like {PROMPT}"):
            failed = StreamFailedError(words, status=422)
            error = faults.stream_failed(make_call(), make_target("tgi"), failed)
            assert TOKEN not in error.explained
            assert PROMPT not in error.explained

    def test_a_broken_stream_is_the_upstreams_fault(self) -> None:
        target = make_target("tgi")
        assert faults.bad_frame(target).code == Code.UPSTREAM_NOT_JSON
        assert faults.broken_off(target).code == Code.UPSTREAM_UNREACHABLE
        assert "'gpu'" in faults.broken_off(target).message
