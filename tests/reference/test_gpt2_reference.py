"""The forward pass against transformers' GPT2LMHeadModel, on random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_gpt2 import write_model
from transformers import GPT2LMHeadModel

from keyhole.engine.folder import read_folder
from keyhole.engine.gpt2 import GPT2, Cache, Span
from keyhole.engine.weights import load_weights

TOLERANCE = 2e-4


@pytest.fixture(
    params=[
        {},
        {"layers": 3, "width": 48, "heads": 6, "context": 200, "prefix": "transformer."},
        {"layers": 2, "width": 768, "heads": 12, "context": 300, "vocabulary": 5000},
    ],
    ids=["tiny", "prefixed", "wide"],
)
def pair(request, tmp_path):
    path = write_model(tmp_path / "model", **request.param)
    return ours(path), GPT2LMHeadModel.from_pretrained(path).eval()


def ours(path: Path) -> GPT2:
    folder = read_folder("model", path)
    return GPT2(folder.architecture, load_weights(folder))


def expected(reference: GPT2LMHeadModel, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return reference(torch.tensor([tokens])).logits[0].numpy()


def draw_tokens(model: GPT2, count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.shape.vocabulary, count).tolist()


@pytest.mark.parametrize("chunks", [(1,) * 20, (20,), (7, 1, 5, 7), (4, 16)])
def test_chunked_prefill_gives_the_reference_logits(pair, chunks):
    model, reference = pair
    tokens = draw_tokens(model, sum(chunks), 1)
    cache = Cache(model.shape, len(tokens))

    for end in np.cumsum(chunks):
        logits = model.forward([Span(cache, tokens[cache.length : end])])
        np.testing.assert_allclose(logits[0], expected(reference, tokens)[end - 1], atol=TOLERANCE)


@pytest.mark.parametrize("count", [2, 4, 5, 9])
def test_ragged_batches_give_the_reference_logits(pair, count):
    """Prompts of any length and single tokens in one pass do not disturb each other."""
    model, reference = pair
    texts = [draw_tokens(model, 3 + 5 * index, index) for index in range(count)]
    caches = [Cache(model.shape, len(text)) for text in texts]
    steps = [1 if index % 2 else 6 for index in range(count)]

    while any(cache.length < len(text) for cache, text in zip(caches, texts, strict=True)):
        live = [i for i in range(count) if caches[i].length < len(texts[i])]
        spans = [
            Span(caches[i], texts[i][caches[i].length : caches[i].length + steps[i]]) for i in live
        ]
        logits = model.forward(spans)
        for row, i in zip(logits, live, strict=True):
            wanted = expected(reference, texts[i])[caches[i].length - 1]
            np.testing.assert_allclose(row, wanted, atol=TOLERANCE)


def test_a_prompt_longer_than_a_span_gives_the_reference_logits(tmp_path):
    path = write_model(tmp_path / "model", context=400)
    model, reference = ours(path), GPT2LMHeadModel.from_pretrained(path).eval()
    tokens = draw_tokens(model, 400, 3)
    cache = Cache(model.shape, 400)

    for begin in range(0, 400, 128):
        logits = model.forward([Span(cache, tokens[begin : begin + 128])])

    np.testing.assert_allclose(logits[0], expected(reference, tokens)[-1], atol=TOLERANCE)


def test_an_untied_head_gives_the_reference_logits(tmp_path):
    head = np.random.default_rng(5).standard_normal((320, 32), np.float32)
    path = write_model(
        tmp_path / "model",
        vocabulary=320,
        extra={"lm_head.weight": head},
        config={"tie_word_embeddings": False},
    )
    reference = GPT2LMHeadModel.from_pretrained(path).eval()
    assert np.array_equal(reference.lm_head.weight.detach().numpy(), head)
    model = ours(path)

    logits = model.forward([Span(Cache(model.shape, 4), [5, 6, 7, 8])])

    np.testing.assert_allclose(logits[0], expected(reference, [5, 6, 7, 8])[-1], atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_text_is_the_references(pair, seed):
    model, reference = pair
    prompt = draw_tokens(model, 9, seed)
    wanted = reference.generate(
        torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=40,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()

    cache, tokens = Cache(model.shape, 49), list(prompt)
    while len(tokens) < 49:
        tokens.append(int(model.forward([Span(cache, tokens[cache.length :])])[0].argmax()))

    assert tokens == wanted
