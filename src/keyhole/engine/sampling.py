"""Logits in, one token out, reproducible by its seed.

It does not decide what the parameters are (`plan`), nor when a text ends.

The order is transformers': repetition and frequency penalties, temperature, top-k, top-p,
typical-p, and each step keeps what transformers' logits processors of the same name keep
(5.23.0, 2026-11). Two choices are our own:
- The draw goes over tokens in the order of their ids, not of their odds. Passes over one row
  and over many round differently, which may swap two neighbours in the order of odds, and a
  seed would then mean another text; ids never swap.
- `frequency_penalty` is OpenAI's, times the count of the token in the generated text. TGI's
  own divides by the length and counts the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from keyhole.engine.weights import Floats

Ids: TypeAlias = npt.NDArray[np.intp]

EXTREME = 1e6
"""A factor on scores beyond which nothing would change any more, but fp32 could overflow."""


class Sampling(Struct, frozen=True, kw_only=True):
    """How to choose tokens; None and neutral values switch a step off."""

    do_sample: bool = False
    """False takes the likeliest token each time, after the penalties."""
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    seed: int = 0


class Sampler:
    """Chooses the tokens of one sequence; knows the prompt and what it has chosen."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._is_seen = np.zeros(vocabulary, np.bool_)
        self._is_seen[list(prompt)] = True
        self._counts = np.zeros(vocabulary, np.float32)

    def choose(self, logits: Floats) -> tuple[int, float]:
        """A token and the logarithm of its chance; raises ArithmeticError for NaN in logits."""
        ids, scores = self.candidates(logits)
        odds = np.exp(scores - scores.max())
        total = float(odds.sum(dtype=np.float64))
        if not math.isfinite(total):
            raise ArithmeticError("the model's logits are not numbers; its weights are damaged")
        index = self._draw(odds) if self._sampling.do_sample else int(odds.argmax())
        token = int(ids[index])
        self._is_seen[token] = True
        self._counts[token] += 1
        return token, math.log(odds[index] / total)

    def _draw(self, odds: Floats) -> int:
        cumulative = odds.cumsum(dtype=np.float64)
        drawn = int(cumulative.searchsorted(self._random.random() * cumulative[-1], side="right"))
        return min(drawn, len(odds) - 1)

    def candidates(self, logits: Floats) -> tuple[Ids, Floats]:
        """The tokens that may come next, by rising id, and their scores."""
        sampling = self._sampling
        scores = self._penalised(logits)
        ids: Ids = np.arange(len(scores))
        if not sampling.do_sample:
            return ids, scores
        if sampling.temperature != 1.0:
            scores = scores / _factor(sampling.temperature)
        if sampling.top_k is not None and sampling.top_k < len(scores):
            kept = scores >= np.partition(scores, -sampling.top_k)[-sampling.top_k]
            ids, scores = ids[kept], scores[kept]
        if sampling.top_p is not None:
            kept = _nucleus(scores, sampling.top_p)
            ids, scores = ids[kept], scores[kept]
        if sampling.typical_p is not None:
            kept = _typical(scores, sampling.typical_p)
            ids, scores = ids[kept], scores[kept]
        return ids, scores

    def _penalised(self, logits: Floats) -> Floats:
        penalty = _factor(self._sampling.repetition_penalty)
        scores = logits
        if penalty != 1:
            scores = scores.copy()
            seen = scores[self._is_seen]
            scores[self._is_seen] = np.where(seen < 0, seen * penalty, seen / penalty)
        if self._sampling.frequency_penalty != 0:
            scores = scores - np.float32(self._sampling.frequency_penalty) * self._counts
        return scores


def _factor(asked: float) -> np.float32:
    return np.float32(min(max(asked, 1 / EXTREME), EXTREME))


def _nucleus(scores: Floats, top_p: float) -> npt.NDArray[np.bool_]:
    """Which are left when the unlikeliest, 1 - top_p of the chance together, are dropped."""
    chances = _softmax(scores)
    dropped = 1 - top_p
    # What is this unlikely cannot add up to more than is dropped: it needs no sorting, which
    # for a vocabulary of 50257 is most of the work.
    kept = chances > dropped / len(chances)
    tail = float(chances[~kept].sum(dtype=np.float64))
    ids = np.flatnonzero(kept)
    order = ids[chances[ids].argsort(kind="stable")]
    below = tail + chances[order].cumsum(dtype=np.float64) <= dropped
    below[-1:] = False
    kept[order[below]] = False
    if not kept.any():
        kept[chances.argmax()] = True
    return kept


def _typical(scores: Floats, typical_p: float) -> npt.NDArray[np.bool_]:
    """Which are nearest to the expected surprise, typical_p of the chance together."""
    chances = _softmax(scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(chances)
        entropy = np.nansum(surprise * chances)
    distance = np.abs(surprise - entropy)
    order = distance.argsort(kind="stable")
    reached = chances[order].cumsum(dtype=np.float64) < typical_p
    last = min(int(reached.sum()), len(order) - 1)
    kept: npt.NDArray[np.bool_] = distance <= distance[order[last]]
    return kept


def _softmax(scores: Floats) -> Floats:
    odds: Floats = np.exp(scores - scores.max())
    odds /= odds.sum(dtype=np.float64)
    return odds
