"""Tokens in, told tokens out: whose text is certain, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_gpt2 import END, train_tokenizer
from tokenizers import Tokenizer

from keyhole.engine.continuation import Continuation, Job
from keyhole.engine.folder import Architecture
from keyhole.engine.sampling import Sampling
from keyhole.engine.text import Prompt, Vocabulary

TOKENIZER = Tokenizer.from_str(train_tokenizer().to_str())
VOCABULARY = Vocabulary(TOKENIZER)
END_ID = TOKENIZER.token_to_id(END)
SIZE = TOKENIZER.get_vocab_size()
SHAPE = Architecture(
    vocabulary=SIZE,
    context=64,
    width=4,
    layers=0,
    heads=1,
    inner_width=4,
    epsilon=1e-5,
    has_own_head=False,
)


def told(ids, *, stop=(), new_tokens=None, eos=(), lost_space=False):
    """What is told after each of the tokens, up to the end; and why that is the end."""
    job = Job(
        prompt=Prompt([1], lost_space=lost_space),
        sampling=Sampling(),
        max_new_tokens=new_tokens or len(ids),
        stop=tuple(stop),
        eos_token_ids=frozenset(eos),
    )
    continuation, steps = Continuation(job, SHAPE, VOCABULARY), []
    for id_ in ids:
        steps.append(continuation.advance(np.eye(SIZE, dtype=np.float32)[id_]))
        if continuation.finish_reason is not None:
            break
    return steps, continuation.finish_reason


def texts(steps):
    return [[token.text for token in step] for step in steps]


def text_of(steps):
    return "".join(token.text for step in steps for token in step if not token.special)


def ids_of(text):
    return TOKENIZER.encode(text).ids


def test_a_token_is_told_in_its_own_step():
    steps, reason = told(ids_of("abc"), new_tokens=9)

    assert texts(steps) == [["a"], ["b"], ["c"]]
    assert reason is None


def test_what_begins_a_character_waits_for_its_end():
    """Its tokens are told all the same, one step late at most, and the text with the last one."""
    steps, _ = told(ids_of("a\N{FOX FACE}b"))

    assert texts(steps) == [["a"], [], [""], [""], ["", "\N{FOX FACE}"], ["b"]]


def test_what_may_begin_a_stop_string_waits_until_it_cannot():
    steps, reason = told(ids_of("xqjv"), stop=["qjk"])

    assert texts(steps) == [["x"], [], [""], ["", "qjv"]]
    assert reason == "length"


def test_a_stop_string_comes_whole_in_the_last_token_and_what_follows_it_does_not():
    steps, reason = told(ids_of("x zebra!"), stop=["zeb"], new_tokens=99)

    assert text_of(steps) == "x zeb"
    assert steps[-1][-1].text.endswith("zeb")
    assert not any("z" in piece for step in texts(steps[:-1]) for piece in step)
    assert reason == "stop_sequence"


@pytest.mark.parametrize("end", [True, False], ids=["by a marker", "by its length"])
@pytest.mark.parametrize("tail", ["do", "\N{FOX FACE}"])
def test_the_end_brings_out_what_was_held_back(tail, end):
    """The marker has no text; that belongs to the last token which is none."""
    ids = [*ids_of("x"), *ids_of(tail)[:2]]
    steps, reason = told([*ids, END_ID] if end else ids, stop=["door"], eos=[END_ID])

    expected = TOKENIZER.decode(ids)
    tokens = [token for step in steps for token in step]
    assert text_of(steps) == expected
    assert [token.id for token in tokens] == ([*ids, END_ID] if end else ids)
    assert reason == ("eos_token" if end else "length")
    if end:
        assert (tokens[-1].text, tokens[-1].special) == ("", True)


@given(
    st.lists(st.integers(0, SIZE - 1) | st.integers(0, 90), min_size=1, max_size=40),
    st.lists(st.text("abde \N{FOX FACE}\N{REPLACEMENT CHARACTER}", min_size=1, max_size=3)),
    st.booleans(),
    st.booleans(),
)
def test_whatever_is_generated_the_told_tokens_add_up_to_it(ids, stop, ends, lost_space):
    """Broken characters, markers anywhere, stop strings: every token is told once, in order."""
    steps, reason = told(ids, stop=stop, eos=[END_ID] if ends else [], lost_space=lost_space)
    free, _ = told(ids, eos=[END_ID] if ends else [], lost_space=lost_space)
    text = text_of(steps)

    assert [token.id for step in steps for token in step] == ids[: len(steps)]
    assert all(token.special == (token.id == END_ID) for step in steps for token in step)
    assert not any(token.text for step in steps for token in step if token.special)
    assert text_of(free).startswith(text)
    if reason == "stop_sequence":
        assert any(text.endswith(one) for one in stop)
        assert not any(one in text[:-1] for one in stop)
    else:
        assert text == text_of(free)
        assert not any(one in text for one in stop)
