"""What a request means for one model: every choice made, or refused in TGI's words.

It reads nothing and draws nothing at random; both are arguments.

For each value the request outranks generation_config.json, that outranks config.json, and last
come TGI's own defaults. The folder speaks on sampling only when sampling is on: a request whose
`parameters` do not ask for it gets plain greedy decoding, as from TGI.
"""

from __future__ import annotations

from keyhole.dialects.tgi import (
    GenerateRequest,
    Limits,
    Parameters,
    invalid,
    validate,
    validate_lengths,
)
from keyhole.engine.continuation import Job
from keyhole.engine.folder import Defaults, ModelFolder
from keyhole.engine.sampling import Sampling
from keyhole.engine.text import Prompt, Vocabulary

FALLBACK_NEW_TOKENS = 128
LEAST_NEW_TOKENS = 20
"""What a text may have when `max_length` leaves less after the prompt."""


def plan(
    request: GenerateRequest,
    folder: ModelFolder,
    vocabulary: Vocabulary,
    limits: Limits,
    *,
    seed: int,
) -> Job:
    """The job that a request asks for; `seed` is for one that brings none. Raises RefusedError."""
    validate(request, limits)
    given = request.parameters
    prompt = _truncated(vocabulary.encode(request.inputs), given.truncate)
    if not prompt.tokens:
        raise invalid("`inputs` cannot be empty")
    new_tokens = given.max_new_tokens
    if new_tokens is None:
        new_tokens = _new_tokens(folder.defaults, len(prompt.tokens), limits.max_total_tokens)
    validate_lengths(len(prompt.tokens), new_tokens, limits)
    return Job(
        prompt=prompt,
        sampling=plan_sampling(given, folder.defaults, seed=seed),
        max_new_tokens=new_tokens,
        stop=given.stop,
        eos_token_ids=folder.eos_token_ids,
    )


def plan_sampling(given: Parameters, defaults: Defaults, *, seed: int) -> Sampling:
    """How tokens are chosen for these parameters."""
    penalty, frequency_penalty = given.repetition_penalty, given.frequency_penalty or 0.0
    if not given.is_sampling:
        return Sampling(
            repetition_penalty=1.0 if penalty is None else penalty,
            frequency_penalty=frequency_penalty,
        )
    return Sampling(
        do_sample=True,
        temperature=_first(given.temperature, defaults.temperature, 1.0),
        top_k=given.top_k if given.top_k is not None else defaults.top_k,
        top_p=given.top_p if given.top_p is not None else defaults.top_p,
        typical_p=given.typical_p if given.typical_p is not None else defaults.typical_p,
        repetition_penalty=_first(penalty, defaults.repetition_penalty, 1.0),
        frequency_penalty=frequency_penalty,
        seed=seed if given.seed is None else given.seed,
    )


def _first(given: float | None, default: float | None, neutral: float) -> float:
    if given is not None:
        return given
    return neutral if default is None else default


def _truncated(prompt: Prompt, most: int | None) -> Prompt:
    if most is None or len(prompt.tokens) <= most:
        return prompt
    return Prompt(prompt.tokens[-most:], lost_space=prompt.lost_space)


def _new_tokens(defaults: Defaults, prompt_tokens: int, context: int) -> int:
    wanted = FALLBACK_NEW_TOKENS
    if defaults.max_new_tokens is not None:
        wanted = defaults.max_new_tokens
    elif defaults.max_length is not None:
        wanted = max(defaults.max_length - prompt_tokens, LEAST_NEW_TOKENS)
    return max(min(wanted, context - prompt_tokens), 0)
