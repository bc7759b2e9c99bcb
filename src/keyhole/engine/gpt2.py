"""GPT-2's forward pass in numpy, for many sequences at once.

It knows tokens, positions and logits; not text, sampling or who is waiting.

Every pass takes a list of spans: each is a few tokens to append to one sequence, a chunk of a
prompt or the one token that was sampled last. All rows go through the linear layers together,
and only attention looks at each sequence by itself, so prompts and running texts share a pass
whatever their lengths.

Facts (OpenBLAS 0.3.31 as numpy 2.4 ships it, AMD EPYC with AVX-512, two threads, 2026-11):
- sgemm repacks the weight each time, and its kernel likes eight rows: against 3072 weights of
  768 from memory, one row by gemv costs 160 us, four rows 430; by sgemm four rows cost 530,
  six 780 and eight 460. So up to three rows go one by one, more are padded to eights.
- The head's 50257 rows are packed 10 % faster in slices that fit the second-level cache.
- `np.zeros` takes 2 MB pages, so a cache would be resident before it is used; an anonymous
  mapping with MADV_NOHUGEPAGE grows as the sequence does, and goes when the sequence goes.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from keyhole.engine.blas import BlasThreads
from keyhole.engine.folder import Architecture
from keyhole.engine.weights import Block, Floats, Linear, Norm, Weights

GEMM_ROWS = 8
GEMV_MAX_ROWS = 3
HEAD_SLICE = 2048
SMALLEST_WIDTH_FOR_THREADS = 512
"""Below it a second thread gains little and, on a busy machine, loses a lot (`blas`)."""
LONGEST_SPAN = 128
"""The most tokens that one span may append."""
FUTURE = np.triu(np.full((LONGEST_SPAN, LONGEST_SPAN), -np.inf, np.float32), k=1)
GELU_SCALE = math.sqrt(2 / math.pi)


class Cache:
    """The keys and values of one sequence, for at most `capacity` tokens."""

    def __init__(self, shape: Architecture, capacity: int) -> None:
        axes = (shape.layers, 2, shape.heads, capacity, shape.head_width)
        pages = mmap.mmap(-1, max(4 * math.prod(axes), 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel built without huge pages says EINVAL
                pages.madvise(mmap.MADV_NOHUGEPAGE)
        self.layers = np.frombuffer(pages, np.float32, math.prod(axes)).reshape(axes)
        self.length = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens to append to one sequence: at least one, at most LONGEST_SPAN."""

    cache: Cache
    tokens: Sequence[int]


class GPT2:
    """A loaded model; passes must not overlap."""

    def __init__(self, shape: Architecture, weights: Weights) -> None:
        self.shape = shape
        self._weights = weights
        self._blas = BlasThreads()
        is_wide = shape.width >= SMALLEST_WIDTH_FOR_THREADS
        self._threads = self._blas.most if is_wide else 1

    def forward(self, spans: Sequence[Span]) -> Floats:
        """Append every span to its cache; the logits after each, (len(spans), vocabulary)."""
        self._blas.use(self._threads)
        hidden = self._embed(spans)
        epsilon = self.shape.epsilon
        chunks, singles = _rows_of(spans)
        for index, block in enumerate(self._weights.blocks):
            heads = self._query_key_value(_norm(hidden, block.norm_1, epsilon), block)
            mixed = np.empty_like(heads[:, 0])
            for rows, cache in chunks:
                mixed[rows] = _attend_chunk(heads[rows], cache, index)
            if singles:
                _attend_singles(heads, singles, index, mixed)
            hidden += _project(mixed.reshape(hidden.shape), block.attention_out)
            hidden += _mlp(_norm(hidden, block.norm_2, epsilon), block)
        ends = np.cumsum([len(span.tokens) for span in spans]) - 1
        for span in spans:
            span.cache.length += len(span.tokens)
        return _logits(_norm(hidden[ends], self._weights.norm, epsilon), self._weights.head)

    def _embed(self, spans: Sequence[Span]) -> Floats:
        tokens: list[int] = []
        positions: list[int] = []
        for span in spans:
            tokens.extend(span.tokens)
            positions.extend(range(span.cache.length, span.cache.length + len(span.tokens)))
        return cast("Floats", self._weights.tokens[tokens] + self._weights.positions[positions])

    def _query_key_value(self, rows: Floats, block: Block) -> Floats:
        """Shape (rows, 3, heads, head_width), the query already divided by its root."""
        shape = self.shape
        projected = _project(rows, block.qkv)
        projected[:, : shape.width] *= 1 / math.sqrt(shape.head_width)
        return projected.reshape(len(rows), 3, shape.heads, shape.head_width)


def _rows_of(spans: Sequence[Span]) -> tuple[list[tuple[slice, Cache]], list[tuple[int, Cache]]]:
    """Which rows of a pass belong to which cache: spans of many rows, and spans of one."""
    chunks: list[tuple[slice, Cache]] = []
    singles: list[tuple[int, Cache]] = []
    row = 0
    for span in spans:
        end = row + len(span.tokens)
        if end - row == 1:
            singles.append((row, span.cache))
        else:
            chunks.append((slice(row, end), span.cache))
        row = end
    return chunks, singles


def _attend_chunk(rows: Floats, cache: Cache, layer: int) -> Floats:
    """Attention of one span, (n, 3, heads, head_width) to (n, heads, head_width)."""
    past, end = cache.length, cache.length + len(rows)
    keys, values = cache.layers[layer, :, :, :end]
    query, keys[:, past:], values[:, past:] = rows.transpose(1, 2, 0, 3)
    scores = query @ keys.transpose(0, 2, 1)
    scores[:, :, past:] += FUTURE[: len(rows), : len(rows)]
    _softmax(scores)
    return cast("Floats", (scores @ values).transpose(1, 0, 2))


def _attend_singles(
    heads: Floats, singles: list[tuple[int, Cache]], layer: int, mixed: Floats
) -> None:
    """Attention of all spans of one row into `mixed`, with one softmax for all of them."""
    longest = max(cache.length for _, cache in singles) + 1
    scores = np.full((len(singles), heads.shape[2], longest), -np.inf, np.float32)
    for (row, cache), score in zip(singles, scores, strict=True):
        pair = cache.layers[layer, :, :, : cache.length + 1]
        pair[:, :, -1] = heads[row, 1:]
        np.matmul(pair[0], heads[row, 0, :, :, None], out=score[:, : cache.length + 1, None])
    _softmax(scores)
    for (row, cache), score in zip(singles, scores, strict=True):
        values = cache.layers[layer, 1, :, : cache.length + 1]
        np.matmul(score[:, None, : cache.length + 1], values, out=mixed[row, :, None])


def _softmax(scores: Floats) -> None:
    """Over the last axis, in place."""
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)


def _norm(rows: Floats, norm: Norm, epsilon: float) -> Floats:
    width = rows.shape[-1]
    centred = rows - np.add.reduce(rows, axis=-1, keepdims=True) / np.float32(width)
    variance = np.vecdot(centred, centred)[:, None] / np.float32(width)
    centred /= np.sqrt(variance + np.float32(epsilon))
    centred *= norm.weight
    centred += norm.bias
    return cast("Floats", centred)


def _mlp(rows: Floats, block: Block) -> Floats:
    inner = _project(rows, block.mlp_in)
    # GELU by tanh: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
    gate = inner * inner
    gate *= 0.044715
    gate += 1
    gate *= inner
    gate *= GELU_SCALE
    np.tanh(gate, out=gate)
    gate += 1
    gate *= inner
    gate *= 0.5
    return _project(gate, block.mlp_out)


def _project(rows: Floats, linear: Linear) -> Floats:
    count, outputs = len(rows), len(linear.bias)
    if count > GEMV_MAX_ROWS:
        projected = (_padded(rows) @ linear.weight)[:count]
    else:
        projected = np.empty((count, outputs), np.float32)
        for row, out in zip(rows, projected, strict=True):
            np.dot(row, linear.weight, out=out)
    projected += linear.bias
    return projected


def _logits(rows: Floats, head: Floats) -> Floats:
    count, vocabulary = len(rows), len(head)
    if count > GEMV_MAX_ROWS:
        rows = _padded(rows)
        logits = np.empty((len(rows), vocabulary), np.float32)
        for begin in range(0, vocabulary, HEAD_SLICE):
            part = slice(begin, begin + HEAD_SLICE)
            np.matmul(rows, head[part].T, out=logits[:, part])
        return logits[:count]
    logits = np.empty((count, vocabulary), np.float32)
    for row, out in zip(rows, logits, strict=True):
        np.dot(head, row, out=out)
    return logits


def _padded(rows: Floats) -> Floats:
    """The rows, and rows of zeros up to a multiple of eight."""
    missing = -len(rows) % GEMM_ROWS
    if missing == 0:
        return rows
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]), np.float32)])
