"""Choosing a token; that the odds are transformers' own is shown in tests/reference."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_an_error(bad):
    logits = LOGITS.copy()
    logits[2] = bad

    with pytest.raises(ArithmeticError, match="weights are damaged"), np.errstate(all="ignore"):
        Sampler(Sampling(), [], 4).choose(logits)
