"""TGI's format as its clients speak it to Keyhole."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyhole.dialects import tgi, tgi_client
from keyhole.dialects.tgi_client import (
    TgiDialect,
    TgiInfoDialect,
    TgiRootDialect,
    TgiTokenizeDialect,
    is_tgi,
)
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Parameters
from keyhole.wire.http import Head
from records import record

TGI, ROOT = TgiDialect(), TgiRootDialect()
TOKENIZE, TO_TOKENIZE = TgiTokenizeDialect(), Head(method="POST", path="/tokenize")
RECORD = record("r", 0, "gpt2")
BODIES = (
    b'{"inputs":"Once","parameters":{"max_new_tokens":5,"details":true,"stop":["."]}}',
    b'{"inputs":"Once","stream":true,"parameters":{"top_p":0.9,"grammar":{"type":"json"}}}',
    b'{"inputs":"","parameters":null,"more":[1,{"a":1e5}]}',
)


def decode(value: Any, path: str = "/generate") -> Call:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    dialect = ROOT if path == "/" else TGI
    return dialect.decode(Head(method="POST", path=path), body)


def asked(path: str = "/generate", **parameters: Any) -> Call:
    return decode({"inputs": "Once", "parameters": parameters}, path)


def refusal(value: Any, path: str = "/generate") -> ClientError:
    with pytest.raises(ClientError) as caught:
        decode(value, path)
    return caught.value


def outcome(body: bytes, path: str) -> int | None:
    """None for a call, or the status of its refusal; nothing but a ClientError may be raised."""
    try:
        call = decode(body, path)
    except ClientError as error:
        return refused(error)[0]
    assert isinstance(call.input, str)
    return None


def refused(error: KeyholeError) -> tuple[int, dict[str, str], dict[str, Any]]:
    reply = TGI.refuse(error, "the-id")
    return reply.status, dict(reply.headers), json.loads(reply.body)


class TestDecode:
    def test_the_body_is_kept_as_it_came(self) -> None:
        body = b'{"inputs": "Once", "parameters": {"seed": 1e0}, "odd": [1,  2]}'

        original = decode(body.replace(b"1e0", b"1")).original
        assert original is not None
        assert original.format == "tgi"
        assert {name: bytes(raw) for name, raw in original.fields.items()} == {
            "inputs": b'"Once"',
            "parameters": b'{"seed": 1}',
            "odd": b"[1,  2]",
        }
        assert original.beyond == ("odd",)

    @pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream"])
    def test_a_model_may_be_named(self, path: str) -> None:
        assert decode({"inputs": "x", "model": "o/n"}, path).model == "o/n"
        for name in (None, "", "http://127.0.0.1:5000"):
            assert decode({"inputs": "x", "model": name}, path).model is None
        assert decode({"inputs": "x", "model": "tgi"}, path).is_model_optional
        for name in (5, "../x"):
            assert refusal({"inputs": "x", "model": name}, path).param == "model"

    @pytest.mark.parametrize(
        ("path", "stream", "streams"),
        [
            ("/generate", True, False),
            ("/generate", None, False),
            ("/generate_stream", False, True),
            ("/generate_stream", None, True),
            ("/", True, True),
            ("/", False, False),
            ("/", None, False),
        ],
    )
    def test_the_path_says_what_is_streamed(
        self, path: str, stream: bool | None, streams: bool
    ) -> None:
        assert decode({"inputs": "x", "stream": stream}, path).wants_stream is streams

    @pytest.mark.parametrize(
        ("body", "do_sample"),
        [
            ({}, None),
            ({"parameters": None}, None),
            ({"parameters": {}}, False),
            ({"parameters": {"do_sample": True}}, True),
            ({"parameters": {"temperature": 0.8, "do_sample": False}}, True),
            ({"parameters": {"temperature": 1.0}}, False),
            ({"parameters": {"top_k": 5}}, True),
            ({"parameters": {"top_p": 0.5}}, True),
            ({"parameters": {"typical_p": 0.5}}, True),
            ({"parameters": {"top_p": None, "seed": 4}}, False),
            ({"parameters": {"do_sample": True, "temperature": 0}}, False),
        ],
    )
    def test_sampling_is_on_or_off_as_at_tgi(self, body: Any, do_sample: bool | None) -> None:
        assert decode({"inputs": "x"} | body).parameters.do_sample is do_sample

    def test_the_known_parameters_get_the_hugging_face_names(self) -> None:
        given: dict[str, Any] = {
            "max_new_tokens": 3,
            "temperature": 0.5,
            "top_k": 4,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
            "do_sample": True,
            "return_full_text": True,
            "seed": 5,
            "stop": ["a", "b"],
        }
        call = asked(**given, details=True)
        assert call.parameters == Parameters(**{**given, "stop": ("a", "b")})
        assert call.wants_usage

    @pytest.mark.parametrize(
        ("said", "beyond"),
        [
            ({"best_of": 2}, True),
            ({"best_of": 1}, False),
            ({"typical_p": 0.4}, True),
            ({"typical_p": 1}, False),
            ({"typical_p": 0.95}, False),
            ({"grammar": {"type": "regex", "value": "a"}}, True),
            ({"watermark": True}, True),
            ({"watermark": False}, False),
            ({"decoder_input_details": True}, True),
            ({"top_n_tokens": 0}, False),
            ({"top_n_tokens": 2}, True),
            ({"adapter_id": None}, False),
            ({"adapter_id": "x"}, True),
            ({"truncate": 5}, True),
            ({"frequency_penalty": 0.0}, False),
            ({"frequency_penalty": 0.5}, True),
            ({"num_return_sequences": 2}, True),
            ({"details": True}, False),
            ({"new_of_next_year": 0}, True),
        ],
    )
    def test_what_only_tgi_can_say_is_named(self, said: dict[str, Any], beyond: bool) -> None:
        original = asked(**said).original
        assert original is not None
        assert original.beyond == (tuple(said) if beyond else ())

    def test_what_langchain_sends_unasked_keeps_nobody_out(self) -> None:
        defaults = {"top_p": 0.95, "typical_p": 0.95, "temperature": 0.8, "do_sample": False}
        call = asked(**defaults, watermark=False, stop=[], return_full_text=False, max_new_tokens=9)
        assert call.original is not None
        assert not call.original.beyond
        assert call.parameters.do_sample

    @pytest.mark.parametrize(
        "body",
        [
            b"{}",
            b"[]",
            b'"x"',
            b'{"inputs":null}',
            b'{"inputs":["x"]}',
            b'{"inputs":"x","stream":"yes"}',
            b'{"inputs":"x","parameters":[]}',
            b'{"inputs":"x","parameters":{"details":1}}',
            b'{"inputs":"x","parameters":{"return_full_text":"yes"}}',
        ],
    )
    def test_what_is_no_request_is_422_as_at_tgi(self, body: bytes) -> None:
        status, _, told = refused(refusal(body))
        assert (status, told["error_type"]) == (422, "validation")
        assert told["error"].startswith("Input validation error: ")

    @pytest.mark.parametrize(
        ("name", "value"),
        [("top_k", 0), ("max_new_tokens", "5"), ("seed", 2**64 - 1), ("stop", [""])],
    )
    def test_a_value_that_only_tgi_may_judge_is_kept_with_what_is_wrong(
        self, name: str, value: Any
    ) -> None:
        original = asked(**{name: value}, do_sample=True).original
        assert original is not None
        (kept,) = original.unreadable
        assert (kept.name, kept.code) == (name, Code.INVALID_PARAMETER)
        assert kept.message.startswith(f"'{name}' in 'parameters'")
        assert not original.beyond

    @pytest.mark.parametrize("body", [b"", b"{", b'{"inputs":"\xff"}', b"[" * 100_000])
    def test_what_is_not_json_is_400(self, body: bytes) -> None:
        error = refusal(body)
        assert (error.code, refused(error)[0]) == (Code.INVALID_JSON, 400)
        assert '"inputs"' in error.explained

    @given(body=st.sampled_from(BODIES), data=st.data())
    @settings(max_examples=150)
    def test_mutated_bodies_are_a_call_or_a_client_error(
        self, body: bytes, data: st.DataObject
    ) -> None:
        changed = bytearray(body)
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(changed) - 1))
            changed[at : at + data.draw(st.integers(0, 2))] = (
                data.draw(
                    st.binary(max_size=2) | st.sampled_from([b"null", b'"', b"[]", b"-1", b"1e400"])
                )
                or b" "
            )
        for path in ("/", "/generate_stream"):
            assert outcome(bytes(changed), path) in (None, 400, 422)

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b'{"inputs":"x"}', True),
            (b'{"input":"x","inputs":"y"}', False),
            (b'{"input":"inputs"}', False),
            (b'{"input":"\\"inputs\\""}', False),
            (b'{"parameters":{"inputs":1}}', False),
            (b'{"inputs"', False),
            (b'["inputs"]', False),
            (b'{"inputs":' + b"[" * 100_000, False),
        ],
    )
    def test_a_body_at_generate_is_told_from_the_original_scripts(
        self, body: bytes, expected: bool
    ) -> None:
        assert is_tgi(body) is expected


class TestEncode:
    def test_tgis_own_answer_goes_out_as_it_came(self) -> None:
        answer = Answer(texts=(("x",),), verbatim=b' {"generated_text": "x"}', format="tgi")
        assert TGI.encode(asked(), answer, RECORD) == answer.verbatim
        assert ROOT.encode(asked("/"), answer, RECORD) == b'[ {"generated_text": "x"}]'

    @pytest.mark.parametrize(
        ("path", "said", "is_chat", "text"),
        [
            ("/generate", None, False, " upon"),
            ("/generate", True, False, "Once upon"),
            ("/generate", True, True, "Once upon"),
            ("/", None, False, "Once upon"),
            ("/", None, True, " upon"),
            ("/", False, False, " upon"),
        ],
    )
    def test_the_prompt_stands_in_front_as_at_tgi(
        self, path: str, said: bool | None, is_chat: bool, text: str
    ) -> None:
        dialect = ROOT if path == "/" else TGI
        answer = Answer(texts=((" upon",),), is_chat=is_chat)
        told = json.loads(dialect.encode(asked(path, return_full_text=said), answer, RECORD))
        assert told == ([{"generated_text": text}] if path == "/" else {"generated_text": text})

    def test_details_are_made_of_what_is_known(self) -> None:
        answer = Answer(texts=(("x",),), finishes=(("length",),), usage=Usage(1, 7))
        body = TGI.encode(asked(details=True), answer, RECORD)
        assert json.loads(body)["details"] == {
            "finish_reason": "length",
            "generated_tokens": 7,
            "seed": None,
            "prefill": [],
            "tokens": [],
        }

    @pytest.mark.parametrize(
        ("parameters", "usage", "word", "count"),
        [
            ({}, None, "eos_token", 0),
            ({"stop": ["."]}, None, "stop_sequence", 0),
            ({"max_new_tokens": 7, "stop": ["."]}, Usage(1, 7), "length", 7),
            ({"max_new_tokens": 8}, Usage(1, 7), "eos_token", 7),
        ],
    )
    def test_why_a_text_ended_is_guessed_where_nobody_tells(
        self, parameters: Any, usage: Usage | None, word: str, count: int
    ) -> None:
        body = TGI.encode(
            asked(details=True, **parameters), Answer(texts=(("x",),), usage=usage), RECORD
        )
        details = msgspec.json.decode(body, type=tgi.GenerateResponse).details
        assert isinstance(details, tgi.Details)
        assert (details.finish_reason, details.generated_tokens) == (word, count)

    @pytest.mark.parametrize("texts", [(), ((),), (("a", "b"),)])
    def test_an_answer_that_is_not_one_text_is_the_upstreams_fault(self, texts: Any) -> None:
        with pytest.raises(UpstreamError):
            TGI.encode(asked(), Answer(texts=texts), RECORD)


class TestRefuse:
    @pytest.mark.parametrize(
        ("error", "status", "kind"),
        [
            (ClientError(Code.UNSUPPORTED_PARAMETER, "x"), 422, "validation"),
            (ClientError(Code.INVALID_JSON, "x"), 400, "validation"),
            (ClientError(Code.BODY_TOO_LARGE, "x", status=413), 413, "validation"),
            (ClientError(Code.MODEL_NOT_FOUND, "x", status=404), 404, None),
            (ClientError(Code.CALLER_NOT_LOCAL, "x", status=403), 403, None),
            (ClientError(Code.TOO_MUCH_BUFFERED, "x", status=503), 429, "overloaded"),
            (GatewayError(Code.SHUTTING_DOWN, "x", status=503), 503, None),
            (KeyholeError(Code.INTERNAL_ERROR, "x"), 500, None),
            (UpstreamError(Code.UPSTREAM_RATE_LIMITED, "x"), 429, "overloaded"),
            (UpstreamError(Code.UPSTREAM_LOADING, "x"), 503, None),
            (UpstreamError(Code.UPSTREAM_UNAVAILABLE, "x"), 502, None),
            (UpstreamError(Code.UPSTREAM_UNREACHABLE, "x"), 502, None),
            (UpstreamError(Code.UPSTREAM_TOKEN_REFUSED, "x"), 502, None),
            (UpstreamError(Code.UPSTREAM_TIMEOUT, "x"), 504, None),
            (UpstreamError(Code.MODEL_NOT_PULLED, "x"), 404, None),
            (UpstreamError(Code.UPSTREAM_ERROR, "x", upstream_status=500), 502, None),
            (UpstreamError(Code.UPSTREAM_ERROR, "x", upstream_status=424), 424, "generation"),
            (
                UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "x", upstream_status=400),
                422,
                "validation",
            ),
            (
                UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "x", upstream_status=413),
                413,
                "validation",
            ),
        ],
    )
    def test_an_error_has_the_status_and_type_that_clients_know(
        self, error: KeyholeError, status: int, kind: str | None
    ) -> None:
        told_status, headers, body = refused(error)
        assert (told_status, body.get("error_type")) == (status, kind)
        assert body["error"].endswith("x")
        assert headers["x-error-code"] == error.code
        assert headers["x-error-message"] == "x"
        assert headers["content-type"] == "application/json"

    def test_when_to_come_back_and_what_is_allowed_go_on(self) -> None:
        limited = UpstreamError(Code.UPSTREAM_RATE_LIMITED, "x", retry_after="7")
        assert refused(limited)[1]["retry-after"] == "7"
        stopping = GatewayError(Code.SHUTTING_DOWN, "x", status=503)
        assert refused(stopping)[1]["retry-after"] == "1"
        method = ClientError(Code.METHOD_NOT_ALLOWED, "x", status=405, allow=("POST",))
        assert refused(method)[1]["allow"] == "POST"


class TestPages:
    def test_health_is_an_empty_200(self) -> None:
        assert (tgi_client.health().status, tgi_client.health().body) == (200, b"")

    def test_info_has_all_of_tgis_names_and_no_bound_that_nobody_set(self) -> None:
        told = json.loads(tgi_client.info("gpt2", version="1").body)
        assert set(told) == set(tgi.Info.__struct_fields__)
        assert told["model_id"] == "gpt2"
        assert told["max_total_tokens"] > 10**9


class TestQuestions:
    def test_the_tokens_of_a_text_are_asked_with_the_body_as_it_came(self) -> None:
        call = TOKENIZE.decode(TO_TOKENIZE, b'{"inputs":"x", "model":"o/m", "odd":[1,  2]}')

        assert (call.model, call.input, call.wants_stream) == ("o/m", "x", False)
        assert call.original is not None
        assert (call.original.format, call.original.beyond) == (tgi.TOKENS, ("/tokenize",))
        assert bytes(call.original.fields["odd"]) == b"[1,  2]"
        assert TOKENIZE.decode(TO_TOKENIZE, b'{"inputs":""}').model is None

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"{}", Code.MISSING_INPUT),
            (b"[]", Code.MISSING_INPUT),
            (b'{"inputs":["x"]}', Code.MISSING_INPUT),
            (b"x", Code.INVALID_JSON),
            (b'{"inputs":"x","model":"../x"}', Code.INVALID_PARAMETER),
            (b'{"inputs":"x","model":5}', Code.INVALID_PARAMETER),
        ],
    )
    def test_what_has_no_text_or_no_model_is_not_tokenized(self, body: bytes, code: Code) -> None:
        with pytest.raises(ClientError) as caught:
            TOKENIZE.decode(TO_TOKENIZE, body)
        assert caught.value.code == code

    def test_info_is_asked_of_the_default_route(self) -> None:
        dialect = TgiInfoDialect()
        call = dialect.decode(Head(method="GET", path="/info"), b"")

        assert (call.model, call.wants_stream) == (None, False)
        assert call.original is not None
        assert (call.original.format, call.original.beyond) == (tgi.INFO, ("/info",))

    def test_the_answer_goes_back_as_it_came(self) -> None:
        call = TOKENIZE.decode(TO_TOKENIZE, b'{"inputs":"x"}')
        answer = Answer(verbatim=b'[ {"id":1} ]', format="tgi")
        assert TOKENIZE.encode(call, answer, RECORD) == b'[ {"id":1} ]'
