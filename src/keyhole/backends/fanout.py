"""One call as one request for each text that is wanted, and their answers as one again.

For every kind of upstream whose requests bear one prompt and are answered with one text, or
are best treated so: TGI takes no list and gives no second choice, and most servers of the
OpenAI format ignore `n`. It knows no format; the dialects do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from keyhole.backends.faults import bad_answer
from keyhole.catalog import Target
from keyhole.dialects.base import NotThisFormatError
from keyhole.errors import ClientError, Code
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Parameters
from keyhole.wire.http import UpstreamResponse

MAX_REQUESTS = 32
"""What one call may become; about as many as one busy upstream runs at once."""

_SEEDS = 2**63

Read = Callable[[UpstreamResponse], tuple[str, Usage | None]]
"""The text of one response and its usage; raises NotThisFormatError."""


class Piece(Struct, frozen=True):
    """What one request asks for: a single text."""

    prompt: str
    parameters: Parameters
    """Without what is about several texts or about the prompt; with the maximum filled in."""


def expand(call: Call, target: Target, max_output_tokens: int | None) -> list[Piece]:
    """A piece for each choice of each prompt, prompt by prompt; raises ClientError.

    With a seed, the i-th choice has seed + i: one seed would give the same text every time.
    """
    prompts = _prompts(call, target)
    if len(prompts) * call.choices > MAX_REQUESTS:
        raise ClientError(
            Code.INVALID_PARAMETER,
            f"Prompts ({len(prompts)}) times 'num_return_sequences' ({call.choices}) are"
            f" {len(prompts) * call.choices} requests to '{target}'; at most {MAX_REQUESTS}"
            " are made for one call.",
            hint="Split the call.",
        )
    wanted = call.parameters
    common = msgspec.structs.replace(
        wanted,
        max_new_tokens=wanted.max_new_tokens or max_output_tokens,
        num_return_sequences=None,
        return_full_text=None,
    )
    by_choice = [
        msgspec.structs.replace(
            common, seed=None if wanted.seed is None else (wanted.seed + choice) % _SEEDS
        )
        for choice in range(call.choices)
    ]
    return [Piece(prompt, parameters) for prompt in prompts for parameters in by_choice]


def gather(
    call: Call,
    target: Target,
    responses: Sequence[UpstreamResponse],
    read: Read,
    *,
    is_chat: bool = False,
) -> Answer:
    """The responses to the pieces, in their order, as one answer; raises UpstreamError.

    The usage is their sum, and unknown as soon as one of them does not say.
    """
    texts: list[str] = []
    usages: list[Usage | None] = []
    for response in responses:
        try:
            text, usage = read(response)
        except NotThisFormatError:
            raise bad_answer(target, response) from None
        texts.append(text)
        usages.append(usage)
    starts = range(0, len(texts), call.choices)
    return Answer(
        texts=tuple(tuple(texts[start : start + call.choices]) for start in starts),
        is_chat=is_chat,
        usage=_sum(usages),
    )


def refuse_unaccepted(call: Call, target: Target) -> None:
    """Raise ClientError for what the OpenAI format lacks and the upstream is not said to take."""
    upstream = target.upstream
    for name in ("top_k", "repetition_penalty"):
        if getattr(call.parameters, name) is not None and name not in upstream.accepts:
            raise ClientError(
                Code.UNSUPPORTED_PARAMETER,
                f"'{name}' cannot be asked of '{target}': its format has no such parameter.",
                hint="Leave it out. If the server takes it all the same, as vLLM does, the"
                f' operator says so with accepts = ["{name}"] in [upstream.{upstream.name}].',
            )


def _prompts(call: Call, target: Target) -> list[str]:
    if isinstance(call.input, str):
        return [call.input]
    prompts = [item for item in call.input if isinstance(item, str)]
    if not prompts or len(prompts) != len(call.input):
        problem = "is an empty list" if not call.input else "holds something that is no string"
        raise ClientError(
            Code.INVALID_INPUT,
            f"The input {problem}, and '{target}' takes only text.",
            hint="Send a string or a list of strings.",
        )
    return prompts


def _sum(usages: Sequence[Usage | None]) -> Usage | None:
    known = [usage for usage in usages if usage is not None]
    if not known or len(known) != len(usages):
        return None
    return Usage(
        sum(usage.prompt_tokens for usage in known),
        sum(usage.completion_tokens for usage in known),
    )
