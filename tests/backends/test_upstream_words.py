"""Whatever an upstream sends, an error comes of it, and no secret and no prompt is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from upstreams import BACKENDS, KINDS, TOKEN, make_call, make_target

from keyhole.backends import faults
from keyhole.backends.faults import read_retry_after
from keyhole.backends.words import MAX_CHARS, repeatable
from keyhole.errors import Code, UpstreamError
from keyhole.secret import Secret
from keyhole.wire.http import UpstreamResponse

PLANTED = "Zorblax the fox\nwent home,\tquietly"
STATUSES = (
    400,
    404,
    422,
    200,
    204,
    206,
    301,
    400,
    401,
    402,
    403,
    404,
    408,
    410,
    413,
    418,
    422,
    424,
    429,
    500,
)
STATUSES += (501, 502, 503, 504, 529, 599)
KEYS = ("error", "message", "detail", "msg", "loc", "title", "code", "type", "error_type")
KEYS += ("estimated_time", "choices", "content", "usage", "text", "generated_text")
KEYS += ("prompt_tokens", "completion_tokens")

planted = st.sampled_from(
    [
        TOKEN,
        f"Bearer {TOKEN}",
        quote(TOKEN).replace("_", "%5F"),
        "\x00".join(TOKEN),
        PLANTED,
        repr(PLANTED),
        json.dumps(PLANTED),
        PLANTED[5:27],
        PLANTED.upper(),
        "x" * 190 + PLANTED,
        "x" * 190 + TOKEN,
    ]
)
texts = st.lists(st.one_of(st.text(max_size=20), planted), max_size=4).map("".join)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(KEYS),
                texts,
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
SHAPES: tuple[Callable[[str], object], ...] = (
    lambda words: {"error": words},
    lambda words: {"error": [words, words]},
    lambda words: {"error": {"message": words, "code": "x"}},
    lambda words: {"message": words},
    lambda words: {"detail": [{"loc": ["body", words], "msg": words}]},
    lambda words: words,
)
spoken = st.builds(lambda shape, words: shape(words), st.sampled_from(SHAPES), texts)
bodies = st.one_of(
    spoken.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=200),
    texts.map(str.encode),
    values.map(lambda value: json.dumps(value).encode()),
)
headers = st.dictionaries(
    st.sampled_from(["content-type", "retry-after", "ratelimit", "x-prompt-tokens"]),
    st.one_of(st.text(max_size=30), st.sampled_from(["text/html", "1e9", "-1", '"a";r=0;t=1'])),
)


@given(
    kind=st.sampled_from(KINDS),
    response=st.builds(
        UpstreamResponse, status=st.sampled_from(STATUSES), headers=headers, body=bodies
    ),
    has_completions=st.booleans(),
)
@settings(max_examples=300)
def test_no_answer_raises_anything_else_or_gives_a_secret_or_a_prompt_away(
    kind: str, response: UpstreamResponse, has_completions: bool
) -> None:
    target = make_target(kind, has_completions=has_completions)
    call = make_call([PLANTED, {"deep": [PLANTED]}] if kind == "hf-inference" else PLANTED)
    backend = BACKENDS[kind]
    if response.status == 200:
        try:
            backend.answer(call, target, [response])
        except UpstreamError as raised:
            error = raised
        else:
            return
    else:
        error = backend.fault(call, target, response)

    shown = error.explained
    assert shown.isprintable()
    assert len(shown) < 700
    assert TOKEN not in shown
    flat = "".join(char for char in shown.casefold() if char.isalnum())
    assert "zorblaxthefox" not in flat
    assert "foxwenthomequietly" not in flat
    after = error.retry_after
    assert after is None or (after.isascii() and after.isprintable() and len(after) < 32)


@pytest.mark.parametrize("depth", [2_000, 60_000])
def test_nesting_without_end_is_not_json(depth: int) -> None:
    response = UpstreamResponse(status=200, headers={}, body=b'{"error":[' * depth)
    target = make_target("hf-inference")

    with pytest.raises(UpstreamError):
        BACKENDS["hf-inference"].answer(make_call(), target, [response])
    error = BACKENDS["hf-inference"].fault(make_call(), target, replace(response, status=400))
    assert error.code == Code.UPSTREAM_REFUSED_REQUEST


@given(words=st.text(max_size=600))
@example(words="\x1b[31mred\x1b[0m\r\n\u202egnirts\u2028 x")
def test_repeated_words_are_one_short_printable_line(words: str) -> None:
    shown = repeatable(words, make_call(), None)

    assert shown is None or (shown.isprintable() and 0 < len(shown) <= MAX_CHARS)


@pytest.mark.parametrize(
    ("words", "prompt", "is_shown"),
    [
        ("`inputs` must have less than 512 tokens. Given: 700", "A tale of foxes. " * 100, True),
        ("bad value 'short'", "short", True),  # under eight characters: found by chance
        ("cannot read 'A tale of foxes'", "A tale of foxes", False),
        ("cannot read 'A tale of'", "A tale of foxes", True),  # too little to be told from chance
        ("cannot read 'tale of seventeen fo...'", "A tale of seventeen foxes", False),
        ("cannot read 'A\\ntale\\u0020of foxes'", "A\ntale of foxes", False),
        (
            "cannot read '\\u0421\\u043a\\u0430\\u0437\\u043a\\u0430 \\u043e \\u043b'",
            "\u0421\u043a\u0430\u0437\u043a\u0430 \u043e \u043b",
            False,
        ),
        ("x" * 195 + " tale of seventeen foxes", "A tale of seventeen foxes", False),
        ("!!!??!!!", "!!!??!!!", False),
    ],
)
def test_words_are_left_out_where_they_repeat_a_prompt(
    words: str, prompt: str, is_shown: bool
) -> None:
    assert (repeatable(words, make_call(prompt), None) is not None) == is_shown


@pytest.mark.parametrize(
    "words", [TOKEN, TOKEN[:16] + "***", TOKEN.replace("_", "%5f"), "\x07".join(TOKEN)]
)
def test_words_are_left_out_where_they_repeat_the_secret(words: str) -> None:
    assert repeatable(f"key {words}!", make_call(), Secret(TOKEN)) is None
    assert repeatable(f"key {words}!", make_call(), None) is not None


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_that_refuses_a_token_is_never_quoted(status: int) -> None:
    response = UpstreamResponse(
        status=status, headers={}, body=b'{"error":{"message":"Incorrect key: hf_p****6789"}}'
    )
    for kind in KINDS:
        error = BACKENDS[kind].fault(make_call(), make_target(kind), response)
        assert error.code == Code.UPSTREAM_TOKEN_REFUSED
        assert "6789" not in error.explained


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("0", "0"),
        ("120", "120"),
        (" 30 ", "30"),
        ("8.9986", "9"),
        ("0.0", "0"),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", None),
        ("-1", None),
        ("1e3", None),
        ("99999999999", None),
        ("\u0663", None),
        ("30\r\nset-cookie: x=1", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_retry_after_is_kept_in_whole_seconds_or_dropped(told: str, read: str | None) -> None:
    assert read_retry_after({"retry-after": told}) == read


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ('"api";r=0;t=55', "55"),
        ('"api"; t=7; r=0', "7"),
        ('"a";r=0;t=3, "b";r=0;t=9', "9"),
        ('"api";r=1;t=55', None),
        ('"api";r=0', None),
        ("nonsense", None),
    ],
)
def test_a_used_up_rate_limit_says_when_to_come_back(told: str, read: str | None) -> None:
    assert read_retry_after({"ratelimit": told}) == read
    assert read_retry_after({"ratelimit": told, "retry-after": "4"}) == "4"


def test_a_long_body_is_not_searched_for_words() -> None:
    long: dict[str, Any] = {"error": "too long", "input": "x" * 70_000}
    response = UpstreamResponse(status=422, headers={}, body=json.dumps(long).encode())

    error = BACKENDS["tgi"].fault(make_call(), make_target("tgi"), response)
    assert error.message == "Upstream 'gpu' refused the request (422)."


@pytest.mark.parametrize("kind", ["hf-inference", "huggingface", "engine"])
@pytest.mark.parametrize("url", ["http://10.0.0.7:8080", "https://huggingface.co.example.org"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 429, 500, 503])
def test_a_server_elsewhere_is_not_blamed_on_whom_its_kind_is_named_after(
    kind: str, url: str, status: int
) -> None:
    target = make_target(kind, url=url)
    body = json.dumps({"error": "gone: no longer supported"}).encode()
    response = UpstreamResponse(status=status, headers={}, body=body)
    errors = [
        BACKENDS[kind].fault(make_call(), target, response),
        faults.bad_answer(target, replace(response, status=200)),
        faults.broken_off(target),
        faults.bad_frame(target),
    ]
    for error in errors:
        assert error.message.startswith(f"Upstream '{target.upstream.name}' ")
        for words in ("Hugging Face", "huggingface.co", "hf auth login", "HF_TOKEN", "The engine"):
            assert words not in error.explained


def test_a_model_that_an_engine_elsewhere_lacks_is_to_be_pulled_there() -> None:
    body = b'{"error":"x","error_type":"model_not_pulled"}'
    response = UpstreamResponse(status=404, headers={}, body=body)
    target = make_target("engine", "o/m", url="http://10.0.0.7:8080")

    error = BACKENDS["engine"].fault(make_call(), target, response)
    assert error.hint == "Run on its machine: keyhole model pull o/m"
