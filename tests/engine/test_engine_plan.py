"""What a request, a model's folder and TGI together mean."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from keyhole.dialects.tgi import GenerateRequest, Limits, Parameters, RefusedError
from keyhole.engine.folder import Defaults
from keyhole.engine.plan import plan, plan_sampling
from keyhole.engine.sampling import Sampling

LIMITS = Limits(max_input_tokens=63, max_total_tokens=64, max_concurrent_requests=128)
TOO_MUCH = (
    "`inputs` tokens + `max_new_tokens` must be <= 64. "
    "Given: {} `inputs` tokens and {} `max_new_tokens`"
)
STORY = Defaults(temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.1)


@pytest.fixture
def planned(folder, vocabulary):
    def run(inputs="The fox", defaults=STORY, **parameters):
        request = GenerateRequest(inputs=inputs, parameters=Parameters(**parameters))
        return plan(request, replace(folder, defaults=defaults), vocabulary, LIMITS, seed=7)

    return run


def test_no_parameters_sample_as_the_folder_says():
    given = GenerateRequest(inputs="x").parameters

    assert plan_sampling(given, STORY, seed=7) == Sampling(
        do_sample=True, temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.1, seed=7
    )


def test_empty_parameters_are_greedy_and_the_folder_is_not_asked():
    assert plan_sampling(Parameters(), STORY, seed=7) == Sampling()


@pytest.mark.parametrize(
    "given", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"typical_p": 0.5}]
)
def test_naming_the_odds_turns_sampling_on(given):
    sampling = plan_sampling(Parameters(**given), STORY, seed=7)

    assert sampling.do_sample
    assert sampling.repetition_penalty == 1.1


def test_a_temperature_of_one_alone_does_not_turn_sampling_on():
    assert not plan_sampling(Parameters(temperature=1.0), STORY, seed=7).do_sample


def test_the_request_outranks_the_folder():
    given = Parameters(
        do_sample=True, temperature=1.0, top_k=1, top_p=0.1, repetition_penalty=1.0, seed=3
    )

    assert plan_sampling(given, STORY, seed=7) == Sampling(
        do_sample=True, temperature=1.0, top_k=1, top_p=0.1, repetition_penalty=1.0, seed=3
    )


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        (Defaults(), 62),
        (Defaults(max_new_tokens=9, max_length=30), 9),
        (Defaults(max_new_tokens=900), 62),
        (Defaults(max_length=30), 28),
        (Defaults(max_length=5), 20),
    ],
    ids=["128, capped", "folder", "folder, capped", "total length", "at least 20"],
)
def test_how_much_is_generated_by_default(planned, defaults, expected):
    job = planned(defaults=defaults)

    assert len(job.prompt.tokens) == 2
    assert job.max_new_tokens == expected


def test_truncate_keeps_the_end_of_the_prompt(planned):
    whole = planned("Once upon a time there was a fox").prompt.tokens

    assert planned("Once upon a time there was a fox", truncate=3).prompt.tokens == whole[-3:]


@pytest.mark.parametrize(
    ("inputs", "parameters", "text"),
    [
        (
            "The fox",
            {"max_new_tokens": 63},
            TOO_MUCH.format(2, 63),
        ),
        ("é" * 32, {}, "`inputs` must have less than 63 tokens. Given: 64"),
        (
            "é" * 40,
            {},
            TOO_MUCH.format(80, 0),
        ),
    ],
)
def test_what_does_not_fit_the_context_is_refused_in_tgis_words(planned, inputs, parameters, text):
    with pytest.raises(RefusedError) as caught:
        planned(inputs, **parameters)

    assert (caught.value.status, caught.value.error_type) == (422, "validation")
    assert caught.value.message == f"Input validation error: {text}"
