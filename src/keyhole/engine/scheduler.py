"""Continuous batching: one thread that moves every running text a step at a time.

It chooses who runs, not what they say: continuations and the model do that.

A tick is one pass of the model. Every running text gets its next token in it; prompts share
what is left of a budget of rows, oldest first, so a long prompt slows the texts beside it by a
bounded amount and several short ones start together. A text that ends makes room for a
waiting one before the next tick.

The event loop and the thread share three things under one lock: who waits, who is cancelled,
whether to stop. What the thread makes goes to the loop once per tick.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from keyhole.dialects.tgi import Token
from keyhole.engine.continuation import Continuation, Job
from keyhole.engine.folder import Architecture
from keyhole.engine.generation import (
    CancelledGenerationError,
    End,
    Generation,
    Outcome,
    OverloadedError,
    StoppedError,
)
from keyhole.engine.gpt2 import LONGEST_SPAN, Span
from keyhole.engine.text import Vocabulary
from keyhole.engine.weights import Floats

log = logging.getLogger(__name__)

MAX_RUNNING = 16
MAX_WAITING = 112
"""With those running, TGI's default of 128 concurrent requests."""
PROMPT_ROWS_PER_TICK = LONGEST_SPAN
CLOSED = "The engine is shutting down"
CRASHED = "Request failed during generation: the model crashed"

Delivery: TypeAlias = tuple[Generation, Sequence[Token], End | None]
"""What a step made for a generation; the last token and the outcome arrive together."""


class Model(Protocol):
    """What the scheduler needs of a model."""

    shape: Architecture

    def forward(self, spans: Sequence[Span]) -> Floats:
        """The logits after each span, as GPT2.forward."""
        ...


class _Entry:
    """A generation and where it stands."""

    def __init__(self, generation: Generation, job: Job, now: float) -> None:
        self.generation = generation
        self.job = job
        self.submitted_at = now
        self.started_at = now
        self.continuation: Continuation | None = None

    @property
    def generated(self) -> int:
        return 0 if self.continuation is None else self.continuation.generated


class Scheduler:
    """Runs the jobs of one model on a thread of its own."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        loop: asyncio.AbstractEventLoop,
        *,
        max_running: int = MAX_RUNNING,
        max_waiting: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._loop = loop
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._clock = clock
        self._waiting: deque[_Entry] = deque()
        self._running: list[_Entry] = []
        self._cancelled: set[Generation] = set()
        self._stopped: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "open"
        return f"<Scheduler {state}: {len(self._running)} running, {len(self._waiting)} waiting>"

    @property
    def is_open(self) -> bool:
        """Whether it takes jobs."""
        return self._stopped is None

    def submit(self, job: Job) -> Generation:
        """Queue a job; raises OverloadedError or StoppedError."""
        generation = Generation(self._cancel)
        with self._changed:
            if self._stopped is not None:
                raise StoppedError(self._stopped)
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError
            self._waiting.append(_Entry(generation, job, self._clock()))
            self._changed.notify()
        return generation

    def close(self) -> None:
        """Fail what is not finished and wait for the thread to end (one tick at most)."""
        with self._changed:
            self._stopped = self._stopped or CLOSED
            self._changed.notify()
        self._thread.join()

    def _cancel(self, generation: Generation) -> None:
        with self._changed:
            self._cancelled.add(generation)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._admit():
                self._tick()
        except Exception:
            # Nobody awaits this thread: what it does not tell would leave its clients waiting.
            log.exception("The model's thread crashed; its requests fail.")
            with self._changed:
                self._stopped = CRASHED
        self._fail_all()

    def _admit(self) -> bool:
        """Drop the cancelled, let the waiting in, wait if there is nobody; False to end."""
        with self._changed:
            while self._stopped is None:
                self._drop_cancelled()
                while self._waiting and len(self._running) < self._max_running:
                    self._running.append(self._waiting.popleft())
                if self._running:
                    return True
                self._changed.wait()
            return False

    def _drop_cancelled(self) -> None:
        if not self._cancelled:
            return
        gone = [e for e in (*self._running, *self._waiting) if e.generation in self._cancelled]
        self._cancelled.clear()
        for entry in gone:
            (self._running if entry in self._running else self._waiting).remove(entry)
        self._send([(e.generation, (), CancelledGenerationError(e.generated)) for e in gone])

    def _tick(self) -> None:
        budget = PROMPT_ROWS_PER_TICK
        spans: list[Span] = []
        moved: list[tuple[_Entry, Continuation]] = []
        for entry in self._running:
            continuation = entry.continuation or self._start(entry)
            is_prompt = continuation.generated == 0
            if is_prompt and budget == 0:
                continue
            span = continuation.take(budget if is_prompt else 1)
            budget -= len(span.tokens) if is_prompt else 0
            spans.append(span)
            moved.append((entry, continuation))
        deliveries: list[Delivery] = []
        try:
            for logits, (entry, moved_on) in zip(self._model.forward(spans), moved, strict=True):
                if moved_on.waiting == 0:
                    deliveries.append(self._advance(entry, moved_on, logits))
        finally:
            # A crash fails those that run, and one that has just ended runs no more.
            self._send(deliveries)

    def _advance(self, entry: _Entry, continuation: Continuation, logits: Floats) -> Delivery:
        tokens = continuation.advance(logits)
        if continuation.finish_reason is None:
            return entry.generation, tokens, None
        self._running.remove(entry)
        return entry.generation, tokens, self._outcome(entry, continuation)

    def _start(self, entry: _Entry) -> Continuation:
        entry.continuation = Continuation(entry.job, self._model.shape, self._vocabulary)
        entry.started_at = self._clock()
        return entry.continuation

    def _outcome(self, entry: _Entry, ended: Continuation) -> Outcome:
        if ended.finish_reason is None:
            raise RuntimeError("an outcome was asked for before the end")
        return Outcome(
            finish_reason=ended.finish_reason,
            generated_tokens=ended.generated,
            queue_s=entry.started_at - entry.submitted_at,
            inference_s=self._clock() - entry.started_at,
        )

    def _fail_all(self) -> None:
        with self._changed:
            left = [*self._running, *self._waiting]
            self._running.clear()
            self._waiting.clear()
            error = StoppedError(self._stopped or CLOSED)
        self._send([(entry.generation, (), error) for entry in left])

    def _send(self, deliveries: list[Delivery]) -> None:
        if not deliveries:
            return
        try:
            self._loop.call_soon_threadsafe(_deliver, deliveries)
        except RuntimeError:
            log.warning("The event loop is gone; %d deliveries were dropped.", len(deliveries))


def _deliver(deliveries: list[Delivery]) -> None:
    for generation, tokens, end in deliveries:
        if tokens or end is not None:
            generation.deliver(tokens, end)
