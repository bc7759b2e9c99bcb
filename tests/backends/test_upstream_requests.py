"""What goes upstream for a call: path, headers and body, for each kind of upstream."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from upstreams import BACKENDS, KINDS, PROMPT, TOKEN, make_call, make_target

from keyhole.catalog import Target
from keyhole.errors import ClientError, Code
from keyhole.wire.call import Call
from keyhole.wire.http import UpstreamRequest, UpstreamResponse

ONE_TEXT_KINDS = tuple(kind for kind in KINDS if kind != "hf-inference")


def ask(
    target: Target, call: Call, max_output_tokens: int | None = None
) -> tuple[UpstreamRequest, ...]:
    return BACKENDS[target.upstream.kind].requests(
        call, target, max_output_tokens=max_output_tokens
    )


def body_of(target: Target, call: Call, max_output_tokens: int | None = None) -> dict[str, Any]:
    (request,) = ask(target, call, max_output_tokens)
    return msgspec.json.decode(request.body, type=dict[str, Any])


@pytest.mark.parametrize(
    ("kind", "model", "path"),
    [
        ("hf-inference", "gpt2", "/models/gpt2"),
        ("hf-inference", "openai-community/gpt2", "/models/openai-community/gpt2"),
        ("hf-inference", "odd name/a?b#c%2F", "/models/odd%20name/a%3Fb%23c%252F"),
        ("huggingface", "owner/name:fastest", "/v1/chat/completions"),
        ("tgi", "owner/name", "/generate"),
        ("engine", "openai-community/gpt2", "/openai-community/gpt2/generate"),
        ("engine", "keyhole-demo", "/keyhole-demo/generate"),
        ("openai", "gpt-4o", "/chat/completions"),
    ],
)
def test_each_kind_has_its_path(kind: str, model: str, path: str) -> None:
    (request,) = ask(make_target(kind, model), make_call())

    assert (request.method, request.path) == ("POST", path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_says_what_it_is_and_nothing_of_the_client_or_the_token(kind: str) -> None:
    (request,) = ask(make_target(kind), make_call())

    json = "application/json"
    assert request.headers == (("content-type", json), ("accept", json))
    assert TOKEN.encode() not in request.body
    (billed,) = ask(make_target(kind, bill_to="my-org"), make_call())
    assert billed.headers[2:] == (("x-hf-bill-to", "my-org"),)


def test_the_original_scripts_request_goes_upstream_unchanged() -> None:
    (request,) = ask(make_target("hf-inference"), make_call())

    assert request.body == b'{"inputs":"Once upon a time"}'


def test_the_hosted_api_gets_every_name_and_input_as_the_client_gave_it() -> None:
    given = {
        "max_new_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "do_sample": False,
        "return_full_text": False,
        "num_return_sequences": 3,
        "stop": (),
    }
    odd = ["one", {"two": [3, None]}]
    assert body_of(make_target("hf-inference"), make_call(odd, **given)) == {
        "inputs": odd,
        "parameters": {**given, "stop": []},
    }


@pytest.mark.parametrize(
    ("kind", "bare", "named"),
    [
        ("hf-inference", {"inputs": PROMPT}, {"parameters": {"max_new_tokens": 40}}),
        ("tgi", {"inputs": PROMPT}, {"parameters": {"max_new_tokens": 40, "do_sample": True}}),
        (
            "huggingface",
            {"model": "gpt2", "messages": [{"role": "user", "content": PROMPT}]},
            {"max_tokens": 40},
        ),
        (
            "openai",
            {"model": "gpt2", "messages": [{"role": "user", "content": PROMPT}]},
            {"max_tokens": 40},
        ),
    ],
)
def test_the_routes_maximum_is_sent_only_where_the_client_names_none(
    kind: str, bare: dict[str, Any], named: dict[str, Any]
) -> None:
    target = make_target(kind)

    assert body_of(target, make_call()) == bare
    assert body_of(target, make_call(), 40) == bare | named
    assert body_of(target, make_call(max_new_tokens=40), 7) == bare | named


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, None),
        ({"do_sample": True}, None),
        ({"top_p": 1.0}, None),
        ({"return_full_text": True}, None),
        ({"stop": ()}, None),
        ({"do_sample": False}, {"do_sample": False}),
        ({"temperature": 0.0}, {"do_sample": False}),
        (
            {"do_sample": False, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3},
            {"do_sample": False},
        ),
        (
            {"temperature": 0, "repetition_penalty": 1.2, "stop": ("\n",), "max_new_tokens": 9},
            {"do_sample": False, "repetition_penalty": 1.2, "stop": ["\n"], "max_new_tokens": 9},
        ),
        (
            {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3},
            {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3},
        ),
        ({"max_new_tokens": 9, "top_p": 1}, {"do_sample": True, "max_new_tokens": 9}),
        ({"stop": ("a",) * 5}, {"do_sample": True, "stop": ["a"] * 5}),
    ],
)
def test_tgi_is_told_whether_to_sample_and_nothing_that_it_refuses(
    given: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    body = body_of(make_target("tgi"), make_call(**given))

    assert body.get("parameters") == sent
    assert ("parameters" in body) == (sent is not None)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (
            {"temperature": 2.5, "top_p": 0.5, "seed": 7},
            {"temperature": 2.5, "top_p": 0.5, "seed": 7},
        ),
        ({"top_p": 1.0, "repetition_penalty": 1.0}, {}),
        ({"do_sample": True, "return_full_text": True}, {}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"temperature": 0.0}, {"temperature": 0}),
        ({"stop": ("\n", "END")}, {"stop": ["\n", "END"]}),
        ({"stop": ()}, {}),
        ({"max_new_tokens": 3}, {"max_tokens": 3}),
    ],
)
def test_the_openai_format_gets_its_own_names_and_nothing_unasked(
    given: dict[str, Any], sent: dict[str, Any]
) -> None:
    body = body_of(make_target("openai"), make_call(**given))

    del body["model"], body["messages"]
    assert body == sent


def test_openai_itself_is_given_the_maximum_under_its_newer_name_in_chats_alone() -> None:
    url = "https://api.openai.com/v1"
    chat = make_target("openai", url=url)
    text = make_target("openai", url=url, has_completions=True)

    assert body_of(chat, make_call(max_new_tokens=3))["max_completion_tokens"] == 3
    assert "max_tokens" not in body_of(chat, make_call(max_new_tokens=3))
    assert body_of(text, make_call(max_new_tokens=3))["max_tokens"] == 3


def test_an_upstream_with_completions_continues_the_prompt_and_is_always_told_how_far() -> None:
    target = make_target("openai", has_completions=True)
    (request,) = ask(target, make_call())

    assert request.path == "/completions"
    assert body_of(target, make_call()) == {"model": "gpt2", "prompt": PROMPT, "max_tokens": 256}
    assert body_of(target, make_call(), 40)["max_tokens"] == 40


@pytest.mark.parametrize("kind", ["huggingface", "openai"])
@pytest.mark.parametrize("name", ["top_k", "repetition_penalty"])
def test_what_the_openai_format_lacks_is_refused_unless_the_upstream_takes_it(
    kind: str, name: str
) -> None:
    with pytest.raises(ClientError) as raised:
        ask(make_target(kind), make_call(**{name: 2}))

    assert (raised.value.code, raised.value.status) == (Code.UNSUPPORTED_PARAMETER, 400)
    for said in (f"'{name}'", "/gpt2'", f'accepts = ["{name}"]', "[upstream."):
        assert said in raised.value.explained
    assert body_of(make_target(kind, accepts=(name,)), make_call(**{name: 2}))[name] == 2


@pytest.mark.parametrize("kind", ONE_TEXT_KINDS)
def test_each_choice_of_each_prompt_is_a_request_of_its_own_prompt_by_prompt(kind: str) -> None:
    target, call = make_target(kind), make_call(["first", "other"], num_return_sequences=3, seed=5)
    requests = ask(target, call)

    assert ["first" if b"first" in request.body else "other" for request in requests] == (
        ["first"] * 3 + ["other"] * 3
    )
    assert [
        request.body.count(b'"seed":%d' % (5 + i % 3)) for i, request in enumerate(requests)
    ] == ([1] * 6)
    assert all(b"num_return" not in r.body and b'"n"' not in r.body for r in requests)

    answer = BACKENDS[kind].answer(call, target, [good(kind, str(i)) for i in range(6)])
    assert answer.texts == (("0", "1", "2"), ("3", "4", "5"))
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 18)


def test_what_was_used_is_unknown_as_soon_as_one_answer_does_not_say() -> None:
    target, call = make_target("tgi"), make_call(["a", "b"])
    silent = UpstreamResponse(status=200, headers={}, body=b'{"generated_text":"x"}')

    assert BACKENDS["tgi"].answer(call, target, [good("tgi", "x"), silent]).usage is None


def test_a_seed_stays_one_that_a_server_can_read() -> None:
    requests = ask(make_target("tgi"), make_call(seed=2**63 - 1, num_return_sequences=2))

    seeds = [msgspec.json.decode(request.body)["parameters"]["seed"] for request in requests]
    assert seeds == [2**63 - 1, 0]


@pytest.mark.parametrize("kind", ONE_TEXT_KINDS)
@pytest.mark.parametrize("odd", [[], ["a", 1], [["a"]], [None], [{"text": "a"}]])
def test_only_texts_can_be_asked_of_a_server_that_takes_one_prompt(
    kind: str, odd: list[Any]
) -> None:
    with pytest.raises(ClientError) as raised:
        ask(make_target(kind), make_call(odd))

    assert (raised.value.code, raised.value.status) == (Code.INVALID_INPUT, 400)


@pytest.mark.parametrize("kind", ONE_TEXT_KINDS)
def test_a_call_becomes_no_more_than_32_requests(kind: str) -> None:
    target = make_target(kind)

    assert len(ask(target, make_call(["a"] * 32))) == 32
    with pytest.raises(ClientError) as raised:
        ask(target, make_call(["a"] * 4, num_return_sequences=9))
    assert raised.value.code == Code.INVALID_PARAMETER
    for number in ("(4)", "(9)", " 36 ", " 32 "):
        assert number in raised.value.message


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("hf-inference", "/models/o/m"),
        ("huggingface", "/v1/models"),
        ("tgi", "/info"),
        ("engine", "/o/m/info"),
        ("openai", "/models"),
    ],
)
def test_each_kind_can_be_probed_for_nothing(kind: str, path: str) -> None:
    assert BACKENDS[kind].probe_path(make_target(kind, "o/m")) == path


def good(kind: str, text: str) -> UpstreamResponse:
    """A good answer of 2 prompt tokens and 3 generated ones."""
    headers = {"x-prompt-tokens": "2", "x-generated-tokens": "3"}
    usage = {"prompt_tokens": 2, "completion_tokens": 3}
    if kind in ("tgi", "engine"):
        value: dict[str, Any] = {"generated_text": text}
    else:
        value = {"choices": [{"message": {"content": text}}], "usage": usage}
    return UpstreamResponse(status=200, headers=headers, body=msgspec.json.encode(value))


@pytest.mark.parametrize(("kind", "sent"), [("engine", "<|endoftext|>"), ("tgi", "")])
def test_an_empty_prompt_begins_a_text_at_the_engine(kind: str, sent: str) -> None:
    """TGI refuses an empty prompt, as it says; the hosted API answered one with a new text."""
    target = make_target(kind)

    requests = ask(target, make_call(["", "x"]))

    prompts = [msgspec.json.decode(request.body)["inputs"] for request in requests]
    assert prompts == [sent, "x"]
