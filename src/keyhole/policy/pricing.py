"""What tokens cost: whole micro-dollars per million tokens, and every bill rounded up.

Where a price is from, in this order: the configuration, the Hugging Face router's own list of
models, the package genai-prices (`keyhole.prices`), and else nobody knows it. Our own engine
costs nothing. Lists are fetched by others, when a process starts; here they are read.

Fact (Hugging Face, hub-docs `hub-api.md`, November 2026): `GET /v1/models` of the router gives
each model its providers, each with `status` and, where it is billed by tokens, `pricing`
(`input` and `output`, in dollars per million tokens). Which of them serves a model is chosen when
it is called, so a name without a provider is booked at the dearest of those that are live.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from keyhole.catalog import AS_ASKED, Target
from keyhole.errors import ClientError, Code
from keyhole.wire.amounts import NotAnAmountError, parse_usd

_TOKENS = 1_000_000
ENGINE_KIND = "engine"
_MAX_REMEMBERED = 10_000


class Price(Struct, frozen=True):
    """Micro-dollars per million tokens."""

    prompt: int
    completion: int

    def cost_microusd(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many tokens cost, rounded up."""
        cost = prompt_tokens * self.prompt + completion_tokens * self.completion
        return -(-cost // _TOKENS)


FREE = Price(0, 0)


class Prices:
    """The price of every target; what was found for a target is remembered.

    `configured` is by UPSTREAM/MODEL, or UPSTREAM/* for all others of an upstream; `listed` is
    what upstreams or genai-prices say, by UPSTREAM/MODEL.
    """

    def __init__(
        self, configured: Mapping[str, Price], listed: Mapping[str, Price], *, refuses_unknown: bool
    ) -> None:
        self._configured = configured
        self._listed = listed
        self._refuses_unknown = refuses_unknown
        self._found: dict[str, Price | None] = {}

    def find(self, target: Target) -> Price | None:
        """The price of a target; None where nobody knows it.

        Raises ClientError (price_unknown, 403) where the operator has such targets refused.
        """
        label = target.label
        if label in self._found:
            price = self._found[label]
        else:
            price = self._look_up(target)
            if len(self._found) < _MAX_REMEMBERED:
                self._found[label] = price
        if price is None and self._refuses_unknown:
            raise ClientError(
                Code.PRICE_UNKNOWN,
                f"Nobody knows what '{label}' costs, and the operator has such models refused.",
                status=403,
                hint=f'The operator can set [price."{label}"].',
                model=target.model,
            )
        return price

    def learn(self, listed: Mapping[str, Price]) -> None:
        """Take in a list that came later; what it does not name stays as it was."""
        self._listed = {**self._listed, **listed}
        self._found.clear()

    def unknown(self, targets: Iterable[Target]) -> list[str]:
        """The targets that nobody knows a price of, for the operator to be told."""
        named = {t.label: t for t in targets if t.model != AS_ASKED}
        return [label for label, target in named.items() if self._look_up(target) is None]

    def _look_up(self, target: Target) -> Price | None:
        label, upstream = target.label, target.upstream
        if found := self._configured.get(label):
            return found
        if found := self._configured.get(f"{upstream.name}/{AS_ASKED}"):
            return found
        if upstream.kind == ENGINE_KIND:
            return FREE
        return self._listed.get(label) or self._listed.get(label.lower())


def read_router_prices(body: bytes, upstream: str) -> dict[str, Price]:
    """The prices of a router's list of models, by UPSTREAM/MODEL and UPSTREAM/MODEL:PROVIDER.

    What is not as it should be is left out: a list that cannot be read is empty.
    """
    try:
        models = msgspec.json.decode(body)["data"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return {}
    found: dict[str, Price] = {}
    for model in models if isinstance(models, list) else ():
        if isinstance(model, dict) and isinstance(name := model.get("id"), str):
            found |= _model_prices(f"{upstream}/{name}", model.get("providers"))
    return found


def _model_prices(label: str, providers: object) -> dict[str, Price]:
    found: dict[str, Price] = {}
    live: list[Price | None] = []
    for provider in providers if isinstance(providers, list) else ():
        if not isinstance(provider, dict):
            continue
        price = _provider_price(provider)
        if provider.get("status") == "live":
            live.append(price)
        if price is not None and isinstance(name := provider.get("provider"), str):
            found[f"{label}:{name}"] = price
    known = [price for price in live if price is not None]
    if not known:
        return found
    cheapest = min(known, key=lambda price: price.prompt + price.completion)
    dearest = Price(max(price.prompt for price in known), max(price.completion for price in known))
    by_policy = {"": dearest, ":fastest": dearest, ":preferred": dearest}
    if len(known) == len(live):
        by_policy[":cheapest"] = cheapest
    return found | {f"{label}{policy}": price for policy, price in by_policy.items()}


def _provider_price(provider: Mapping[str, Any]) -> Price | None:
    pricing = provider.get("pricing")
    if isinstance(pricing, dict):
        prompt, completion = (usd_per_million(pricing.get(key)) for key in ("input", "output"))
        if prompt is not None and completion is not None:
            return Price(prompt, completion)
    return FREE if provider.get("is_free") is True else None


def usd_per_million(value: object) -> int | None:
    """Micro-dollars of a number of dollars, rounded up; None for what is no credible price."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**6:
        return None
    digits = f"{value:.12f}".rstrip("0").rstrip(".")
    whole, _, fraction = digits.partition(".")
    try:
        exact = parse_usd(f"{whole}.{fraction[:6]}" if fraction else whole)
    except NotAnAmountError:
        return None
    return exact + 1 if len(fraction) > 6 else exact
