"""Choosing a token; that the odds are transformers' own is shown in tests/reference."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.engine.sampling import Sampler, Sampling

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def test_greedy_takes_the_likeliest_and_says_how_likely():
    token, logprob = Sampler(Sampling(), [], 4).choose(LOGITS)

    assert token == 0
    assert logprob == pytest.approx(math.log(0.5), abs=1e-6)


def test_draws_follow_the_odds():
    sampler = Sampler(Sampling(do_sample=True, seed=1), [], 4)

    drawn = Counter(sampler.choose(LOGITS)[0] for _ in range(20_000))

    assert [drawn[token] / 20_000 for token in range(4)] == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.015
    )


def test_a_seed_repeats_itself_and_another_differs():
    def draw(seed):
        sampler = Sampler(Sampling(do_sample=True, seed=seed), [], 4)
        return [sampler.choose(LOGITS)[0] for _ in range(50)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_a_seed_may_have_64_bits():
    Sampler(Sampling(do_sample=True, seed=2**64 - 1), [], 4).choose(LOGITS)


def test_rounding_that_swaps_two_neighbours_does_not_change_what_a_seed_draws():
    """One row and eight rows round differently; the text of a seed must not."""
    logits = np.zeros(100, np.float32)
    rounded = logits + np.random.default_rng(0).uniform(-1e-6, 1e-6, 100).astype(np.float32)

    def draw(scores):
        sampler = Sampler(Sampling(do_sample=True, seed=9), [], 100)
        return [sampler.choose(scores)[0] for _ in range(200)]

    assert draw(logits) == draw(rounded)


def test_frequency_penalty_counts_what_was_generated_only():
    sampler = Sampler(Sampling(frequency_penalty=0.4), [1, 1, 1], 4)

    chosen = [sampler.choose(LOGITS)[0] for _ in range(4)]

    # ln .5 - .4 n against ln .3 - .4 m: each token makes the other one likelier.
    assert chosen == [0, 0, 1, 0]


def test_the_logits_are_left_as_they_are():
    before = LOGITS.copy()
    wanted = Sampling(
        do_sample=True, temperature=2, top_k=3, top_p=0.9, repetition_penalty=2, seed=1
    )

    Sampler(wanted, [0, 1], 4).choose(LOGITS)

    assert np.array_equal(before, LOGITS)


fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)
positive = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)


@given(
    wanted=st.builds(
        Sampling,
        do_sample=st.booleans(),
        temperature=positive,
        top_k=st.none() | st.integers(1, 2**31 - 1),
        top_p=st.none() | fractions,
        typical_p=st.none() | fractions,
        repetition_penalty=positive,
        frequency_penalty=st.floats(-2, 2),
        seed=st.integers(0, 2**64 - 1),
    ),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
)
def test_whatever_may_be_asked_for_gives_a_token(wanted, scale):
    """One client's odd parameters must not be an error that ends the others' texts."""
    logits = np.random.default_rng(0).standard_normal(50, np.float32) * np.float32(scale)
    sampler = Sampler(wanted, [1, 2], 50)

    for _ in range(3):
        token, logprob = sampler.choose(logits)
        assert 0 <= token < 50
        assert -1e4 < logprob <= 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_an_error(bad):
    logits = LOGITS.copy()
    logits[2] = bad

    with pytest.raises(ArithmeticError, match="weights are damaged"), np.errstate(all="ignore"):
        Sampler(Sampling(), [], 4).choose(logits)
