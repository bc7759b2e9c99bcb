"""Start a model with heads that copy; training then shapes them like any other weights.

A story must repeat names that it has never seen before. That takes two heads in a row: one tells
each place which token stands before it, the next looks for the places that follow the token it is
at (the "induction heads" of Olsson et al., https://arxiv.org/abs/2209.11895, November 2026). A run
of a few thousand steps may end before gradient descent has found them, so they are planted. Only
starting values are set: the architecture is GPT-2's, and nothing is held fixed.
"""

import math

import torch
from model import StoryModel
from torch import Tensor

WAVES = 24
SHARP_WAVES = 16
FASTEST, SLOWEST = 2.5, 0.01
SCALE = 0.02
PLACE_GAIN = 2.0
MATCH_GAIN = 1.6
NOTE_GAIN = 2.0


def _frequencies() -> Tensor:
    steps = torch.arange(WAVES) / (WAVES - 1)
    return FASTEST * (SLOWEST / FASTEST) ** steps


def _frame(rows: int, columns: int) -> Tensor:
    """Return `rows` random directions of `columns` numbers, at right angles to one another."""
    frame: Tensor = torch.linalg.qr(torch.randn(columns, rows))[0].T
    return frame


@torch.no_grad()
def plant(model: StoryModel) -> None:
    """Give positions dimensions of their own, and the first two layers a pair of copying heads."""
    width, size = model.shape.width, model.shape.width // model.shape.heads
    words = width - 2 * WAVES
    angles = torch.arange(model.shape.context)[:, None] * _frequencies()
    model.wpe.weight.zero_()
    model.wpe.weight[:, words:] = SCALE * math.sqrt(2) * torch.cat((angles.sin(), angles.cos()), 1)
    model.wte.weight[:, words:] = 0
    read, write = _frame(size, words), _frame(size, words)
    _plant_previous(model, read, write)
    first, second = _frame(2 * size, words).split(size)
    for head, copied in enumerate((first, second)):
        block, rows = model.blocks[1], slice(head * size, (head + 1) * size)
        query, key, value = block.c_attn.weight.view(3, width, width)[:, rows]
        for part in (query, key, value):
            part.zero_()
        query[:, :words] = MATCH_GAIN * read
        key[:, :words] = MATCH_GAIN * write
        value[:, :words] = copied
        block.attn_proj.weight[:, rows] = 0
        block.attn_proj.weight[:words, rows] = 2 * SCALE * copied.T


def _plant_previous(model: StoryModel, read: Tensor, write: Tensor) -> None:
    """Make the first head note, in the directions `write`, what `read` sees one place earlier."""
    size, width = read.shape[0], model.shape.width
    words = width - 2 * WAVES
    block = model.blocks[0]
    query, key, value = block.c_attn.weight.view(3, width, width)[:, :size]
    for part in (query, key, value):
        part.zero_()
    for number, frequency in enumerate(_frequencies()[:SHARP_WAVES].tolist()):
        sine, cosine = words + number, words + WAVES + number
        key[number, sine] = key[SHARP_WAVES + number, cosine] = PLACE_GAIN
        query[number, sine] = PLACE_GAIN * math.cos(frequency)
        query[number, cosine] = -PLACE_GAIN * math.sin(frequency)
        query[SHARP_WAVES + number, cosine] = PLACE_GAIN * math.cos(frequency)
        query[SHARP_WAVES + number, sine] = PLACE_GAIN * math.sin(frequency)
    value[:, :words] = read
    block.attn_proj.weight[:, :size] = 0
    block.attn_proj.weight[:words, :size] = NOTE_GAIN * SCALE * write.T
