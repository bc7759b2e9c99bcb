"""Recorded answers of real servers, read without a network."""

from __future__ import annotations

import pytest
from upstreams import BACKENDS, TOKEN, Golden, read_goldens

from keyhole.errors import Code, UpstreamError

GOLDENS = read_goldens()


@pytest.mark.parametrize("golden", [g for g in GOLDENS if "texts" in g.expect], ids=str)
def test_an_answer_gives_its_texts_and_what_it_used(golden: Golden) -> None:
    answer = BACKENDS[golden.kind].answer(golden.call, golden.target, [golden.response])

    assert [list(texts) for texts in answer.texts] == golden.expect["texts"]
    assert answer.is_chat == golden.expect["is_chat"]
    usage = answer.usage and [answer.usage.prompt_tokens, answer.usage.completion_tokens]
    assert usage == golden.expect["usage"]
    assert answer.verbatim == (golden.content if golden.kind == "hf-inference" else None)


@pytest.mark.parametrize("golden", [g for g in GOLDENS if "code" in g.expect], ids=str)
def test_a_failure_is_named_with_its_culprit_and_what_to_do(golden: Golden) -> None:
    backend = BACKENDS[golden.kind]
    if golden.status == 200:
        with pytest.raises(UpstreamError) as raised:
            backend.answer(golden.call, golden.target, [golden.response])
        error = raised.value
    else:
        error = backend.fault(golden.call, golden.target, golden.response)

    assert error.code == golden.expect["code"]
    assert error.explained == golden.expect["detail"]
    assert error.retry_after == golden.expect.get("retry_after")
    assert error.upstream_status == golden.status
    assert TOKEN not in error.explained
    assert golden.call.input not in error.explained


def test_the_goldens_hold_every_code_that_an_answer_can_lead_to() -> None:
    reached = {golden.expect["code"] for golden in GOLDENS if "code" in golden.expect}
    # The others are the transport's: there is no answer to read.
    without_answer = {
        Code.UPSTREAM_ANSWER_TOO_LARGE,
        Code.UPSTREAM_UNREACHABLE,
    }
    expected = {code for code in Code if code.startswith("upstream_")} | {Code.MODEL_NOT_PULLED}

    assert reached == expected - without_answer
