"""Continuous batching, with models that do as they are told and with a real small one."""

from __future__ import annotations

import asyncio

import pytest
from fake_models import FakeModel

from keyhole.engine.continuation import Job
from keyhole.engine.generation import (
    CancelledGenerationError,
    OverloadedError,
    StoppedError,
)
from keyhole.engine.gpt2 import GPT2, Cache, Span
from keyhole.engine.models import load_model
from keyhole.engine.sampling import Sampling
from keyhole.engine.scheduler import PROMPT_ROWS_PER_TICK, Scheduler
from keyhole.engine.text import Prompt
from keyhole.engine.weights import load_weights


@pytest.fixture
def model(folder):
    return FakeModel(folder.architecture)


@pytest.fixture
async def scheduler(model, vocabulary):
    scheduler = Scheduler(
        model, vocabulary, asyncio.get_running_loop(), max_running=2, max_waiting=2
    )
    yield scheduler
    model.may_run.set()
    await asyncio.to_thread(scheduler.close)


def job(prompt=3, new_tokens=4, **options):
    return Job(
        prompt=Prompt(list(range(1, prompt + 1)), lost_space=False),
        sampling=options.pop("sampling", Sampling()),
        max_new_tokens=new_tokens,
        stop=options.pop("stop", ()),
        eos_token_ids=options.pop("eos_token_ids", frozenset()),
    )


async def begin(model, scheduler, wanted):
    """Submit while the model stands still, and return when the first pass has begun."""
    model.may_run.clear()
    generation = scheduler.submit(wanted)
    await asyncio.to_thread(model.has_begun.wait)
    return generation


async def test_tokens_come_one_by_one_and_then_the_outcome(scheduler):
    generation = scheduler.submit(job(new_tokens=3))

    tokens = [token.id async for token in generation]

    assert tokens == [65, 65, 65]
    assert generation.outcome.finish_reason == "length"
    assert generation.outcome.generated_tokens == 3


async def test_an_end_token_ends_the_text(scheduler):
    generation = scheduler.submit(job(eos_token_ids=frozenset({65})))

    assert len([token async for token in generation]) == 1
    assert generation.outcome.finish_reason == "eos_token"


async def test_a_stop_string_ends_the_text_and_stays_in_it(scheduler, vocabulary):
    stop = vocabulary.decode([65]) * 2
    generation = scheduler.submit(job(new_tokens=9, stop=(stop,)))

    assert "".join([token.text async for token in generation]) == stop
    assert generation.outcome.finish_reason == "stop_sequence"


async def test_prompts_that_arrive_together_start_together(model, scheduler):
    first = await begin(model, scheduler, job(new_tokens=1))
    others = [scheduler.submit(job(prompt=n, new_tokens=2)) for n in (5, 7)]
    model.may_run.set()

    for generation in (first, *others):
        assert [token async for token in generation]

    assert model.passes == [[3], [5, 7], [1, 1]]


async def test_a_long_prompt_goes_in_chunks_beside_the_running_text(model, scheduler):
    first = await begin(model, scheduler, job(new_tokens=5))
    second = scheduler.submit(job(prompt=2 * PROMPT_ROWS_PER_TICK + 10, new_tokens=2))
    model.may_run.set()

    for generation in (first, second):
        assert [token async for token in generation]

    rows = PROMPT_ROWS_PER_TICK
    assert model.passes == [[3], [1, rows], [1, rows], [1, 10], [1, 1]]


async def test_no_more_run_than_may_and_the_next_one_starts_when_one_ends(model, scheduler):
    first = await begin(model, scheduler, job(new_tokens=2))
    others = [scheduler.submit(job(new_tokens=2)) for _ in range(2)]
    model.may_run.set()

    for generation in (first, *others):
        assert len([token async for token in generation]) == 2

    assert max(len(rows) for rows in model.passes) == 2


async def test_a_full_queue_refuses_at_once(model, scheduler):
    running = await begin(model, scheduler, job())
    waiting = [scheduler.submit(job()) for _ in range(2)]

    with pytest.raises(OverloadedError):
        scheduler.submit(job())

    model.may_run.set()
    for generation in (running, *waiting):
        assert len([token async for token in generation]) == 4


async def test_a_cancelled_text_ends_and_its_place_is_free(model, scheduler):
    running = [await begin(model, scheduler, job()), scheduler.submit(job())]
    waiting = scheduler.submit(job(new_tokens=2))
    for generation in running:
        generation.cancel()
    model.may_run.set()

    assert len([token async for token in waiting]) == 2
    for generation in running:
        with pytest.raises(CancelledGenerationError):
            [token async for token in generation]


async def test_a_waiting_text_can_be_cancelled(model, scheduler):
    running = await begin(model, scheduler, job())
    waiting = [scheduler.submit(job()) for _ in range(2)]
    waiting[1].cancel()
    model.may_run.set()

    with pytest.raises(CancelledGenerationError):
        [token async for token in waiting[1]]
    assert len([token async for token in running]) == 4
    assert len([token async for token in waiting[0]]) == 4


async def test_a_crash_fails_every_request_and_takes_no_more(model, scheduler):
    model.error = MemoryError("no room")
    running = await begin(model, scheduler, job())
    waiting = [scheduler.submit(job()) for _ in range(2)]
    model.may_run.set()

    for generation in (running, *waiting):
        with pytest.raises(StoppedError, match="the model crashed"):
            [token async for token in generation]
    assert not scheduler.is_open
    with pytest.raises(StoppedError):
        scheduler.submit(job())


class DamagedModel(FakeModel):
    """Its logits are no numbers, but for the first text of a pass."""

    def forward(self, spans):
        logits = super().forward(spans)
        logits[1:] = float("nan")
        return logits


async def test_a_crash_does_not_take_the_end_of_a_text_that_ended_in_the_same_step(
    folder, vocabulary
):
    model = DamagedModel(folder.architecture)
    scheduler = Scheduler(model, vocabulary, asyncio.get_running_loop())
    first = await begin(model, scheduler, job(new_tokens=2))
    second = scheduler.submit(job())
    model.may_run.set()

    assert len([token async for token in first]) == 2
    with pytest.raises(StoppedError, match="the model crashed"):
        [token async for token in second]
    await asyncio.to_thread(scheduler.close)


async def test_what_nobody_has_taken_is_taken_at_once_with_the_end(scheduler):
    generation, longer = scheduler.submit(job(new_tokens=4)), scheduler.submit(job(new_tokens=9))
    assert len([token async for token in longer]) == 9

    assert generation.is_over
    assert len(await generation.take()) == 4
    assert generation.outcome.generated_tokens == 4


async def test_taking_can_be_woken_when_there_is_nothing(model, scheduler):
    generation = await begin(model, scheduler, job(new_tokens=1))
    generation.wake()

    assert await generation.take() == []
    model.may_run.set()
    assert len(await generation.take()) == 1


async def test_a_cancelled_text_tells_how_many_tokens_it_cost(model, scheduler):
    model.stops_before = 3
    generation = scheduler.submit(job(new_tokens=9))
    await model.stopped()
    generation.cancel()
    model.may_run.set()

    with pytest.raises(CancelledGenerationError) as caught:
        [token async for token in generation]
    assert caught.value.generated_tokens == 4


async def test_closing_fails_what_is_not_finished(model, scheduler):
    running = await begin(model, scheduler, job())
    waiting = [scheduler.submit(job()) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(scheduler.close))
        while scheduler.is_open:  # noqa: ASYNC110  # the thread has no event to wait for
            await asyncio.sleep(0)
        model.may_run.set()

    for generation in (running, *waiting):
        with pytest.raises(StoppedError, match="shutting down"):
            [token async for token in generation]


@pytest.fixture
async def loaded(folder):
    loaded = load_model(folder, asyncio.get_running_loop())
    yield loaded
    await asyncio.to_thread(loaded.scheduler.close)


async def test_a_seeded_text_is_the_same_alone_and_among_others(loaded):
    """Whoever runs beside it, and whenever they come, a seed means one text."""
    wanted = [
        job(prompt=3 + seed, new_tokens=20, sampling=Sampling(do_sample=True, seed=seed, top_k=50))
        for seed in range(8)
    ]

    async def text(one):
        return [token.id async for token in loaded.scheduler.submit(one)]

    alone = [await text(one) for one in wanted]
    together = await asyncio.gather(*(text(one) for one in wanted))

    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == 8


async def test_chunks_of_a_prompt_do_not_change_the_text(folder, loaded):
    """What the scheduler makes is what the model says, one token after the other."""
    model = GPT2(folder.architecture, load_weights(folder))
    tokens, cache = list(range(1, 31)), Cache(folder.architecture, 64)
    while len(tokens) < 50:
        tokens.append(int(model.forward([Span(cache, tokens[cache.length :])])[0].argmax()))

    generation = loaded.scheduler.submit(job(prompt=30, new_tokens=20))

    assert [token.id async for token in generation] == tokens[30:]
