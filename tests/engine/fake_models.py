"""Models that do as they are told, in place of the arithmetic."""

from __future__ import annotations

import asyncio
import threading

import numpy as np


class FakeModel:
    """Says token 65, or the tokens it is given, one for each pass that ends a span.

    It notes the rows of each pass, stops before a pass while told to, and may stop by itself
    before the pass of a given number, or need a step allowed for each.
    """

    def __init__(self, shape, says=(), *, stops_before=None, is_stepped=False):
        self.shape = shape
        self.says = list(says)
        self.passes = []
        self.stops_before = stops_before
        self.may_run = threading.Event()
        self.may_run.set()
        self.steps = threading.Semaphore(0) if is_stepped else None
        self.has_begun = threading.Event()
        self.has_stopped = threading.Event()
        self.error = None

    def forward(self, spans):
        self.has_begun.set()
        if self.stops_before == len(self.passes):
            self.may_run.clear()
            self.has_stopped.set()
        self.may_run.wait()
        if self.steps is not None:
            self.steps.acquire()
        if self.error is not None:
            raise self.error
        said = self.says[len(self.passes)] if len(self.passes) < len(self.says) else 65
        self.passes.append([len(span.tokens) for span in spans])
        logits = np.zeros((len(spans), self.shape.vocabulary), np.float32)
        logits[:, said] = 1
        return logits

    async def stopped(self):
        await asyncio.to_thread(self.has_stopped.wait)
