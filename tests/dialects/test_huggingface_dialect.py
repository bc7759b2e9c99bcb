"""The hosted API's format as its clients speak it to Keyhole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Parameters
from keyhole.wire.events import Delta
from keyhole.wire.http import Head
from records import record

HF = HuggingFaceDialect()
RECORD = record("r", 0, "gpt2")


def decode(
    value: Any, path: str = "/models/gpt2", headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Call:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return HF.decode(Head(method="POST", path=path, headers=headers), body)


def asked(inputs: Any = "Once", **parameters: Any) -> Call:
    return decode({"inputs": inputs, "parameters": parameters})


def refusal(value: Any, path: str = "/models/gpt2") -> ClientError:
    with pytest.raises(ClientError) as caught:
        decode(value, path)
    return caught.value


def outcome(body: bytes) -> int | None:
    """None for a call, or the status of its refusal; nothing but a ClientError may be raised."""
    try:
        decode(body)
    except ClientError as error:
        return refused(error)[0]
    return None


def refused(error: KeyholeError) -> tuple[int, dict[str, str], dict[str, Any]]:
    reply = HF.refuse(error, "the-id")
    return reply.status, dict(reply.headers), json.loads(reply.body)


def fields(call: Call) -> dict[str, Any]:
    assert call.original is not None
    return {name: json.loads(bytes(raw)) for name, raw in call.original.fields.items()}


class TestDecode:
    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("/models/gpt2", "gpt2"),
            ("/models/openai-community/gpt2", "openai-community/gpt2"),
            ("/hf-inference/models/openai-community/gpt2", "openai-community/gpt2"),
            ("/models/o/n:fastest", "o/n:fastest"),
        ],
    )
    def test_the_path_names_the_model(self, path: str, model: str) -> None:
        assert path.startswith(HF.prefixes)
        assert decode({"inputs": "x", "model": "another"}, path).model == model

    @pytest.mark.parametrize(
        "path",
        [
            "/models/",
            "/models/gpt2/",
            "/models//gpt2",
            "/models/../gpt2",
            "/models/a%2Fb",
            "/models/gpt%32",
            "/models/a/b/c/d/e",
            "/hf-inference/models/",
            "/models/" + "x" * 201,
        ],
    )
    def test_what_is_no_name_is_a_model_that_does_not_exist(self, path: str) -> None:
        error = refusal({"inputs": "x"}, path)
        assert (error.code, error.status) == (Code.MODEL_NOT_FOUND, 404)

    @pytest.mark.parametrize(
        ("body", "inputs"),
        [
            (b'{"inputs":"x"}', "x"),
            (b'{"inputs":["x",["y"]]}', ["x", ["y"]]),
            (b'"x"', "x"),
            (b'["x"]', ["x"]),
            (b' \r\n\t"x" \n', "x"),
            (b'\n["x"]\n', ["x"]),
            (b"5", "5"),
            (b" -1.50e3\n", "-1.50e3"),
            (b' {"inputs":"x"}', "x"),
        ],
    )
    def test_inputs_are_a_string_or_a_list_or_the_body(self, body: bytes, inputs: Any) -> None:
        call = decode(body)
        assert call.input == inputs
        assert fields(call)["inputs"] == inputs

    def test_parameters_and_what_only_this_format_can_say_are_told_apart(self) -> None:
        given: dict[str, Any] = {"top_k": 3, "num_return_sequences": 2, "do_sample": False}
        call = asked(**given, max_time=3.5, watermark=False, truncate=None)
        assert call.parameters == Parameters(**given)
        assert call.original is not None
        assert call.original.format == "huggingface"
        assert call.original.beyond == ("max_time",)

    def test_the_options_are_taken_and_the_headers_say_them_too(self) -> None:
        options = {"use_cache": False, "use_gpu": False}
        call = decode(
            {"inputs": "x", "options": options},
            headers=((b"x-wait-for-model", b"true"), (b"x-use-cache", b"true")),
        )
        assert fields(call)["options"] == {**options, "wait_for_model": True}
        assert call.original is not None
        assert not call.original.beyond
        assert "options" not in fields(decode({"inputs": "x"}))

    def test_options_that_nobody_knows_are_for_this_format_alone(self) -> None:
        options = {"foo": 1, "use_gpu": True, "wait_for_model": True, "none": None}
        call = decode({"inputs": "x", "options": options, "max_time": 1})
        assert call.original is not None
        assert call.original.beyond == ("max_time", "options.foo", "options.use_gpu")
        assert fields(call)["options"] == options

    def test_a_client_may_ask_not_to_be_held(self) -> None:
        plain = {"inputs": "x"}
        header = ((b"x-wait-for-model", b"false"),)
        assert decode(plain).waits_for_model
        assert decode(plain | {"options": {"wait_for_model": True}}, headers=header).waits_for_model
        assert not decode(plain | {"options": {"wait_for_model": False}}).waits_for_model
        assert not decode(plain, headers=header).waits_for_model

    @pytest.mark.parametrize(("stream", "streams"), [(True, True), (False, False), (None, False)])
    def test_it_streams_if_told_to(self, stream: bool | None, streams: bool) -> None:
        assert decode({"inputs": "x", "stream": stream}).wants_stream is streams

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"inputs": 5},
            {"inputs": {"question": "x"}},
            {"inputs": "x", "options": []},
            {"inputs": "x", "options": {"wait_for_model": "yes"}},
            {"inputs": "x", "stream": 1},
            {"inputs": ["x", "y"], "stream": True},
            {"inputs": "x", "stream": True, "parameters": {"num_return_sequences": 2}},
            {"inputs": "x", "parameters": {"return_full_text": 1}},
            {"inputs": "x", "parameters": {"details": "yes"}},
            b"true",
            b"null",
            b"5 6",
            b"-",
            b'"x","parameters":{}',
            b'{"inputs"',
        ],
    )
    def test_what_cannot_be_taken_is_400(self, body: Any) -> None:
        status, _, told = refused(refusal(body))
        assert status == 400
        assert isinstance(told["error"], str)

    @given(data=st.data())
    @settings(max_examples=150)
    def test_mutated_bodies_are_a_call_or_a_client_error(self, data: st.DataObject) -> None:
        body = bytearray(
            b'{"inputs":["Once"],"parameters":{"top_k":5,"details":true},"options":{"use_cache":'
            b'true},"stream":false}'
        )
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at : at + data.draw(st.integers(0, 2))] = (
                data.draw(
                    st.binary(max_size=2) | st.sampled_from([b"null", b'"', b"[]", b"-1", b"1e400"])
                )
                or b" "
            )
        assert outcome(bytes(body)) in (None, 400)


class TestEncode:
    def test_json_of_this_format_goes_out_as_it_came_and_tgis_in_a_list(self) -> None:
        own = Answer(verbatim=b' [{"generated_text": "x"}]', format="huggingface")
        assert HF.encode(asked(), own, RECORD) == own.verbatim
        other = Answer(texts=(("x",),), verbatim=b'{"generated_text":"x"}', format="tgi")
        assert HF.encode(asked(), other, RECORD) == b'[{"generated_text":"x"}]'

    @pytest.mark.parametrize(
        ("said", "is_chat", "text"),
        [(None, False, "Once x"), (False, False, " x"), (None, True, " x"), (True, True, "Once x")],
    )
    def test_the_prompt_stands_in_front_as_it_did(
        self, said: bool | None, is_chat: bool, text: str
    ) -> None:
        answer = Answer(texts=((" x",),), is_chat=is_chat)
        body = HF.encode(asked(return_full_text=said), answer, RECORD)
        assert json.loads(body) == [{"generated_text": text}]

    def test_a_list_is_answered_with_a_list_each(self) -> None:
        answer = Answer(texts=(("1", "2"), ("3", "4")))
        body = HF.encode(asked(["a", "b"], num_return_sequences=2), answer, RECORD)
        assert json.loads(body) == [
            [{"generated_text": "a1"}, {"generated_text": "a2"}],
            [{"generated_text": "b3"}, {"generated_text": "b4"}],
        ]

    def test_details_are_tgis(self) -> None:
        answer = Answer(texts=(("x",),), finishes=(("eos",),), usage=Usage(3, 4))
        ((row,),) = (json.loads(HF.encode(asked(details=True), answer, RECORD)),)
        assert row["details"]["finish_reason"] == "eos_token"
        assert row["details"]["generated_tokens"] == 4

    def test_the_usage_of_several_texts_is_not_that_of_one(self) -> None:
        answer = Answer(texts=(("x", "y"),), usage=Usage(3, 4))
        rows = json.loads(HF.encode(asked(details=True, num_return_sequences=2), answer, RECORD))
        assert [row["details"]["generated_tokens"] for row in rows] == [0, 0]

    def test_a_stream_is_in_tgis_frames(self) -> None:
        frame = HF.stream(asked(), RECORD, is_chat=False).write(Delta("x"))
        assert json.loads(frame.removeprefix(b"data: "))["token"]["text"] == "x"


class TestRefuse:
    def test_a_model_that_loads_is_told_in_the_words_that_clients_know(self) -> None:
        error = UpstreamError(
            Code.UPSTREAM_LOADING, "It loads.", model="o/n", retry_after="7", hint="Wait."
        )
        status, headers, body = refused(error)
        assert status == 503
        assert body == {"error": "Model o/n is currently loading", "estimated_time": 7.0}
        assert headers["retry-after"] == "7"

    @pytest.mark.parametrize("told", [None, "Fri, 31 Dec 1999 23:59:59 GMT"])
    def test_a_model_that_loads_for_nobody_knows_how_long_is_given_a_time(
        self, told: str | None
    ) -> None:
        _, headers, body = refused(UpstreamError(Code.UPSTREAM_LOADING, "x", retry_after=told))
        assert body["estimated_time"] == 20.0
        assert headers["retry-after"] == (told or "20")

    def test_a_model_that_is_not_there_is_told_in_the_words_that_clients_know(self) -> None:
        error = ClientError(
            Code.MODEL_NOT_FOUND, "x", status=404, model="a/b", hint="There are: c."
        )
        assert refused(error)[::2] == (404, {"error": "Model a/b does not exist. There are: c."})

    def test_a_failure_of_the_model_has_a_warning(self) -> None:
        status, _, body = refused(UpstreamError(Code.UPSTREAM_ERROR, "It failed."))
        assert status == 502
        assert body["warnings"] == ["There was an inference error: It failed."]

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ClientError(Code.UNSUPPORTED_PARAMETER, "x"), 400),
            (UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "x", upstream_status=422), 422),
            (UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "x", upstream_status=400), 400),
            (UpstreamError(Code.UPSTREAM_RATE_LIMITED, "x"), 429),
            (UpstreamError(Code.UPSTREAM_OUT_OF_CREDITS, "x"), 402),
            (UpstreamError(Code.UPSTREAM_UNAVAILABLE, "x"), 502),
            (ClientError(Code.TOO_MUCH_BUFFERED, "x", status=503), 429),
            (GatewayError(Code.INTERNAL_ERROR, "x"), 500),
        ],
    )
    def test_no_status_makes_a_client_ask_again_at_once_but_for_a_model_that_loads(
        self, error: KeyholeError, status: int
    ) -> None:
        told, headers, body = refused(error)
        assert (told, body["error"]) == (status, "x")
        assert headers["x-error-message"] == "x"


@pytest.mark.parametrize(
    ("estimate", "after", "told"), [(300.88, "301", 300.88), (None, "7", 7), (None, None, 20)]
)
def test_how_long_a_model_loads_is_told_as_the_upstream_said_it(
    estimate: float | None, after: str | None, told: float
) -> None:
    error = UpstreamError(Code.UPSTREAM_LOADING, "m", retry_after=after, model="gpt2")
    error.estimated_time_s = estimate
    assert json.loads(HF.refuse(error, "r").body)["estimated_time"] == told
