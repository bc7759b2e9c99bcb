"""The forward pass with itself; that it is GPT-2's is shown in tests/reference."""

from __future__ import annotations

import numpy as np
import pytest

from keyhole.engine.gpt2 import GPT2, Cache, Span
from keyhole.engine.weights import load_weights

TOKENS = list(range(1, 41))


@pytest.fixture(scope="module")
def model(folder):
    return GPT2(folder.architecture, load_weights(folder))


def run(model, *chunks):
    """The logits after the last of the chunks."""
    cache = Cache(model.shape, sum(len(chunk) for chunk in chunks))
    for chunk in chunks:
        logits = model.forward([Span(cache, chunk)])
    assert cache.length == sum(len(chunk) for chunk in chunks)
    return logits[0]


@pytest.mark.parametrize("size", [1, 3, 7, 39])
def test_how_a_prompt_is_cut_does_not_matter(model, size):
    chunks = [TOKENS[at : at + size] for at in range(0, len(TOKENS), size)]

    np.testing.assert_allclose(run(model, *chunks), run(model, TOKENS), atol=1e-5)


@pytest.mark.parametrize("count", range(1, 18))
def test_who_shares_a_pass_does_not_matter(model, count):
    """Rows are padded from four on; nobody sees the padding, nor the neighbours."""
    caches = [Cache(model.shape, 40) for _ in range(count)]
    model.forward([Span(cache, TOKENS[: 2 + i]) for i, cache in enumerate(caches)])

    logits = model.forward([Span(cache, [5]) for cache in caches])

    assert logits.shape == (count, model.shape.vocabulary)
    for i, row in enumerate(logits):
        np.testing.assert_allclose(row, run(model, TOKENS[: 2 + i], [5]), atol=1e-5)


def test_the_order_of_the_tokens_matters(model):
    assert not np.allclose(run(model, [1, 2, 3]), run(model, [2, 1, 3]))
