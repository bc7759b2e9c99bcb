"""Pack documents into rows of token ids for training; which documents there are is documents.py's.

A document looks only at itself: at inference there is nothing before a prompt either.
"""

import itertools
import random
import re
from collections.abc import Iterator

import numpy as np
import torch
from documents import BASE, END, Mixture, Segment, make_document, make_plain_story, taught
from tokenizers import Tokenizer
from torch import Tensor

IGNORED = -100
MIDDLE_SHARE = 0.12
EXERCISE_BATCHES = 400
EXERCISE_ROWS = 2
BARE_SHARE = 0.5
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")


class Row:
    """Documents one after another, cut at `length` ids."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.ids: list[int] = []
        self.learned: list[bool] = []
        self.owner: list[int] = []

    @property
    def is_full(self) -> bool:
        """Whether nothing more fits."""
        return len(self.ids) >= self.length

    def add(self, ids: list[int], learned: list[bool]) -> None:
        """Add a document, or as much of it as fits."""
        room = self.length - len(self.ids)
        self.owner += [len(self.owner)] * len(ids[:room])
        self.ids += ids[:room]
        self.learned += learned[:room]


class Batch:
    """Token ids and targets of shape (rows, context), and the attention mask for them."""

    def __init__(self, rows: list[Row]) -> None:
        ids = torch.tensor(np.array([row.ids for row in rows], dtype=np.int64))
        learned = torch.tensor(np.array([row.learned for row in rows]))
        owner = torch.tensor(np.array([row.owner for row in rows], dtype=np.int64))
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


def training_documents(seed: int, mixture: Mixture = BASE) -> Iterator[tuple[list[Segment], bool]]:
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
            yield make_document(rng, mixture), bare


def exercise(rng: random.Random, vocabulary: int) -> tuple[list[int], list[bool]]:
    """Make random ids and repeat them; only the repetition can be learned, by copying."""
    ids = [rng.randrange(1, vocabulary) for _ in range(rng.randrange(8, 65))]
    times = rng.randrange(1, 4)
    return ids * (1 + times), [False] * len(ids) + [True] * len(ids) * times


def batches(
    tokenizer: Tokenizer,
    seed: int,
    size: int,
    context: int,
    mixture: Mixture = BASE,
    exercise_batches: int = 0,
) -> Iterator[Batch]:
    """Yield batches for ever, the first few with rows of exercises; a seed gives the same ones."""
    documents = training_documents(seed, mixture)
    rng = random.Random(seed + 1)
    for number in itertools.count():
        rows = [Row(context + 1) for _ in range(size)]
        exercises = EXERCISE_ROWS if number < exercise_batches else 0
        for index, row in enumerate(rows):
            while not row.is_full:
                if index < exercises:
                    row.add(*exercise(rng, tokenizer.get_vocab_size()))
                else:
                    document, bare = next(documents)
                    row.add(*encode(tokenizer, document, bare=bare))
        yield Batch(rows)
