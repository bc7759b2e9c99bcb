"""What models cost according to the package genai-prices, asked in a process of its own.

Importing the package takes a tenth of a second and 32 MB (0.2.3, November 2026: 1.6 MB of Python
values, and pydantic), which no process that stays should carry. So a child imports it, prints the
prices that were asked for, and ends: `python -m keyhole.prices`, JSON in and out. It asks nobody
on the network. Only upstreams whose address the package knows have a price here; where it has
steps by the length of the prompt, the dearest counts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from keyhole.catalog import AS_ASKED, Target
from keyhole.policy.pricing import Price, usd_per_million

_VARIABLES = {"PATH", "LANG", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"}
"""Of our environment those that Python may need to start: no secret is there for a library."""
_TIMEOUT_S = 10.0
_ASKED = ("openai",)
"""The kinds of upstream that are asked about: the others are our own, or list prices themselves."""


class Question(Struct, frozen=True):
    """A target whose price is wanted."""

    upstream: str
    url: str
    model: str
    """AS_ASKED for every model that the package knows there."""


def questions(targets: Iterable[Target]) -> list[Question]:
    """The targets that the package may know a price of."""
    found = {
        target.label: Question(target.upstream.name, target.upstream.url, target.model)
        for target in targets
        if target.upstream.kind in _ASKED and target.upstream.url.startswith("https://")
    }
    return list(found.values())


def look_up(asked: list[Question], environ: Mapping[str, str]) -> dict[str, Price]:
    """The prices that the package knows, by UPSTREAM/MODEL; empty where it cannot be asked.

    Blocks for as long as a child runs, a third of a second; nothing is asked, nothing is run.
    """
    if not asked:
        return {}
    try:
        done = subprocess.run(  # our own module, by our own interpreter
            [sys.executable, "-m", "keyhole.prices"],
            input=msgspec.json.encode(asked),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
            env={name: value for name, value in environ.items() if name in _VARIABLES},
        )
        return msgspec.json.decode(done.stdout, type=dict[str, Price])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return {}


def answer(asked: list[Question]) -> dict[str, Price]:
    """The same, by importing the package here; raises ImportError where it is not installed."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  # see above

    found: dict[str, Price] = {}
    for question in asked:
        models = [question.model]
        if question.model == AS_ASKED:
            try:
                provider = get_snapshot().find_provider(None, None, question.url)
            except LookupError:
                continue
            models = [model.id for model in provider.models]
        for model in models:
            price = _price(question.url, model)
            if price is not None:
                found[f"{question.upstream}/{model}"] = price
    return found


def _price(url: str, model: str) -> Price | None:
    """The price of one model, at the length of a prompt that makes it dearest."""
    from genai_prices import Usage, calc_price  # noqa: PLC0415  # see above

    million: Any = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    try:
        told = calc_price(million, model, provider_api_url=url)
        prompt, completion = float(told.input_price), float(told.output_price)
    except (LookupError, ValueError, TypeError):
        return None
    exact = usd_per_million(prompt), usd_per_million(completion)
    if exact[0] is None or exact[1] is None or not any(exact):
        return None
    return Price(exact[0], exact[1])


def main() -> None:
    """Answer on standard output what is asked on standard input."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Question])
    sys.stdout.buffer.write(msgspec.json.encode(answer(asked)))


if __name__ == "__main__":
    main()
