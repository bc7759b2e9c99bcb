"""The odds of the next token against transformers' logits processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from keyhole.engine.sampling import Sampler, Sampling

VOCABULARY = 3000
PROMPT = [5, 17, 17, 256, 2999]


def reference(wanted: Sampling, logits: np.ndarray) -> np.ndarray:
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(wanted.repetition_penalty)])
    if wanted.do_sample:
        steps.append(TemperatureLogitsWarper(wanted.temperature))
        if wanted.top_k is not None:
            steps.append(TopKLogitsWarper(wanted.top_k))
        if wanted.top_p is not None:
            steps.append(TopPLogitsWarper(wanted.top_p))
        if wanted.typical_p is not None:
            steps.append(TypicalLogitsWarper(wanted.typical_p))
    return steps(torch.tensor([PROMPT]), torch.tensor(logits[None].copy()))[0].numpy()


@pytest.mark.parametrize("spread", [0.5, 3.0, 12.0])
@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3, "do_sample": False},
        {"repetition_penalty": 0.7},
        {"temperature": 0.6},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 5000},
        {"top_p": 0.001},
        {"top_p": 0.5},
        {"top_p": 0.95},
        {"typical_p": 0.2},
        {"typical_p": 0.9},
        {"temperature": 1.7, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.2},
        {"top_k": 100, "top_p": 0.8, "typical_p": 0.7},
    ],
    ids=str,
)
def test_candidates_are_the_references(options, spread):
    """The same tokens are left, with the same scores."""
    logits = np.random.default_rng(7).standard_normal(VOCABULARY, np.float32) * np.float32(spread)
    wanted = Sampling(**({"do_sample": True} | options))

    ids, scores = Sampler(wanted, PROMPT, VOCABULARY).candidates(logits)

    expected = reference(wanted, logits)
    assert np.array_equal(ids, np.flatnonzero(np.isfinite(expected)))
    np.testing.assert_allclose(scores, expected[ids], rtol=1e-6)


def test_equal_scores_are_kept_together_by_top_k():
    logits = np.array([1, 2, 2, 2, 0], np.float32)
    wanted = Sampling(do_sample=True, top_k=2)

    ids, _ = Sampler(wanted, [], 5).candidates(logits)

    assert ids.tolist() == [1, 2, 3]
    assert TopKLogitsWarper(2)(None, torch.tensor(logits[None]))[0].isfinite().sum() == 3
