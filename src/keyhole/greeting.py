"""What `keyhole serve` says at the start: what answers which model and why, and what to try.

It says no secret: only where a token was found.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from keyhole import __version__
from keyhole.backends.faults import is_hugging_face, is_our_engine
from keyhole.catalog import AS_ASKED, Route, Upstream
from keyhole.config import Settings

DEMO_TARGET = "engine/keyhole-demo"
_KIND_WORDS = {
    "engine": "the embedded engine",
    "huggingface": "Hugging Face",
    "hf-inference": "Hugging Face's older API",
    "tgi": "a TGI server",
    "openai": "an OpenAI-style server",
}
_ELSEWHERE_WORDS = {
    "engine": "another Keyhole's engine",
    "huggingface": "a server like Hugging Face's router",
    "hf-inference": "a server like Hugging Face's older API",
}


class Ollama(Struct, frozen=True):
    """An Ollama that runs on this machine."""

    address: str
    """HOST:PORT."""
    models: tuple[str, ...]


class Surroundings(Struct, frozen=True, kw_only=True):
    """What was found beside the configuration."""

    engine_models: tuple[str, ...]
    ollama: Ollama | None
    home: Path


def greeting(settings: Settings, *, address: str, found: Surroundings) -> str:
    """The start-up text, several lines."""
    return "\n".join(_lines(settings, address, found))


def curl(address: str, body: Mapping[str, str]) -> str:
    """The command that asks for text."""
    return (
        f"curl -X POST {address}/generate"
        f" -H \"Content-Type: application/json\" -d '{json.dumps(body)}'"
    )


def route_rows(settings: Settings, engine_models: Collection[str]) -> list[tuple[str, str, str]]:
    """For each route: its name, its targets, and in words who answers."""
    return [
        (route.name, " then ".join(map(str, route.targets)), _why(route, settings, engine_models))
        for route in settings.catalog.routes
    ]


def ollama_lines(ollama: Ollama) -> list[str]:
    """The configuration that adds an Ollama; the lines go before a file's first section."""
    model = ollama.models[0] if ollama.models else "MODEL"
    return [
        'upstream.ollama.kind = "openai"',
        f'upstream.ollama.url = "http://{ollama.address}/v1"',
        f'route."{model}".targets = ["ollama/{model}"]',
    ]


def _lines(settings: Settings, address: str, found: Surroundings) -> Iterator[str]:
    yield f"Keyhole {__version__} serves {address}"
    yield ""
    rows = route_rows(settings, found.engine_models)
    widths = [max(len(row[column]) for row in rows) if rows else 0 for column in range(2)]
    for name, targets, why in rows:
        yield f"  {name:<{widths[0]}}  {targets:<{widths[1]}}  {why}"
    if not rows:
        yield "  No route is configured: every request gets 404."
    yield ""
    yield f"  state   {_short(settings.data, found.home)}"
    config = settings.config_path
    yield f"  config  {_short(config, found.home) if config else 'none, these are the defaults'}"
    if settings.hf_token_from is None:
        yield "  token   none; HF_TOKEN or `hf auth login` opens the models of Hugging Face"
    ollama = found.ollama
    if ollama is not None and "ollama" not in settings.catalog.upstreams:
        yield ""
        yield "  Ollama is running. To serve its models, put at the top of keyhole.toml:"
        yield from (f"    {line}" for line in ollama_lines(ollama))
    if (ask := _first_ask(settings)) is not None:
        yield ""
        yield "  Try:"
        yield f"    {curl(address, ask)}"
        yield f"  Or open {address}/ in a browser."


def _first_ask(settings: Settings) -> dict[str, str] | None:
    """A request that some route answers; None where only the operator knows a model's name."""
    ask = {"input": "Once upon a time"}
    if settings.catalog.find(None) is not None:
        return ask
    name = next(iter(settings.catalog.exact), None)
    return None if name is None else ask | {"model": name}


def _why(route: Route, settings: Settings, engine_models: Collection[str]) -> str:
    target = route.targets[0]
    if is_our_engine(target.upstream) and target.model not in engine_models:
        return f"not here yet; run: keyhole model pull {target.model}"
    if str(target) == DEMO_TARGET:
        return "the story model that Keyhole carries"
    words = _words(target.upstream)
    if target.model == AS_ASKED:
        words = f"any such model at {words}"
    return words + _with_token(target.upstream, settings)


def _words(upstream: Upstream) -> str:
    """What the upstream is; by where it is, where only one place is meant by its kind."""
    kind = upstream.kind
    is_elsewhere = (kind in _ELSEWHERE_WORDS) and not (
        is_hugging_face(upstream) or is_our_engine(upstream)
    )
    return (_ELSEWHERE_WORDS if is_elsewhere else _KIND_WORDS).get(kind, kind)


def _with_token(upstream: Upstream, settings: Settings) -> str:
    if upstream.secret is None:
        return ""
    if upstream.name == "hf" and settings.hf_token_from:
        return f", with the token from {settings.hf_token_from}"
    return ", with its token"


def _short(path: Path, home: Path) -> str:
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
