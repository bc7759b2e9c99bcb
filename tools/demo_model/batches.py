"""Pack documents into rows of token ids for training; which documents there are is documents.py's.

A document looks only at itself: at inference there is nothing before a prompt either.
"""

import random
import re
from collections.abc import Iterator

import numpy as np
import torch
from documents import END, Segment, make_document, make_plain_story, taught
from tokenizers import Tokenizer
from torch import Tensor

IGNORED = -100
MIDDLE_SHARE = 0.12
BARE_SHARE = 0.5
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")


class Batch:
    """Token ids and targets of shape (rows, context), and the attention mask for them."""

    def __init__(self, rows: list[tuple[list[int], list[bool], list[int]]]) -> None:
        ids = torch.tensor(np.array([row[0] for row in rows], dtype=np.int64))
        learned = torch.tensor(np.array([row[1] for row in rows]))
        owner = torch.tensor(np.array([row[2] for row in rows], dtype=np.int64))
        self.tokens = ids[:, :-1]
        self.targets = torch.where(learned[:, 1:], ids[:, 1:], IGNORED)
        owner = owner[:, :-1]
        same = owner[:, :, None] == owner[:, None, :]
        self.mask: Tensor = (same & torch.ones_like(same[0]).tril())[:, None]


def encode(
    tokenizer: Tokenizer, document: list[Segment], *, bare: bool = False
) -> tuple[list[int], list[bool]]:
    """Encode each segment on its own, as a prompt is, between two end marks (`bare`: no first)."""
    end = tokenizer.token_to_id(END)
    ids, learned = ([], []) if bare else ([end], [False])
    for segment in document:
        new = tokenizer.encode(segment.text).ids
        ids += new
        learned += [segment.learned] * len(new)
    return [*ids, end], [*learned, True]


def training_documents(seed: int) -> Iterator[tuple[list[Segment], bool]]:
    """Yield documents for ever, and whether each begins without an end mark, as a prompt does.

    Some of those are stories told from somewhere in the middle: a prompt may be anything.
    """
    rng = random.Random(seed)
    while True:
        bare = rng.random() < BARE_SHARE
        if bare and rng.random() < MIDDLE_SHARE:
            sentences = _SENTENCE.split(make_plain_story(rng))
            text = " ".join(sentences[rng.randrange(1, len(sentences) - 1) :])
            yield [taught(text)], bare
        else:
            yield make_document(rng), bare


def batches(tokenizer: Tokenizer, seed: int, size: int, context: int) -> Iterator[Batch]:
    """Yield batches for ever; the same seed gives the same ones."""
    documents = training_documents(seed)
    while True:
        rows = []
        for _ in range(size):
            ids: list[int] = []
            learned: list[bool] = []
            owner: list[int] = []
            while len(ids) <= context:
                document, bare = next(documents)
                new_ids, new_learned = encode(tokenizer, document, bare=bare)
                owner += [len(owner)] * len(new_ids)
                ids += new_ids
                learned += new_learned
            rows.append((ids[: context + 1], learned[: context + 1], owner[: context + 1]))
        yield Batch(rows)
