"""What is there: tries each configured upstream, and looks for an Ollama on this machine.

It generates no text, so it costs nothing; a token is tried only where a kind of upstream has a
page that needs one.
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import msgspec
from msgspec import Struct

from keyhole import main
from keyhole.backends import faults
from keyhole.backends.base import Backend
from keyhole.catalog import AS_ASKED, Target, is_model_name
from keyhole.config import Settings
from keyhole.errors import UpstreamError
from keyhole.greeting import Ollama
from keyhole.policy.access import is_loopback
from keyhole.ports import Transport
from keyhole.wire.call import Call
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse

OLLAMA_HOST, OLLAMA_PORT = "127.0.0.1", 11434
OLLAMA_PATIENCE_S = 0.3
PATIENCE_S = 10.0


class Finding(Struct, frozen=True, kw_only=True):
    """What trying one upstream showed."""

    upstream: str
    """Its name; with the model behind it where an upstream has a page for each."""
    is_good: bool
    words: str


async def try_upstreams(settings: Settings) -> list[Finding]:
    """Ask each upstream that a route names for its state, all at once."""
    kinds = main.backends()
    by_page: dict[tuple[str, str], list[Target]] = {}
    for route in settings.catalog.routes:
        for target in route.targets:
            path = kinds[target.upstream.kind].probe_path(target)
            by_page.setdefault((target.upstream.name, path), []).append(target)
    async with main.open_runtime(settings, observers=()) as runtime:
        return await asyncio.gather(
            *(
                _try(targets, path, kinds[targets[0].upstream.kind], runtime.transport)
                for (_, path), targets in by_page.items()
            )
        )


async def _try(targets: list[Target], path: str, backend: Backend, transport: Transport) -> Finding:
    target = targets[0]
    upstream = target.upstream
    has_page_per_model = path != backend.probe_path(Target(upstream, "another"))
    name = str(target) if has_page_per_model else upstream.name
    if has_page_per_model and target.model == AS_ASKED:
        return Finding(upstream=name, is_good=True, words="not tried: clients name the model.")
    request = UpstreamRequest(upstream=upstream, method="GET", path=path, body=b"")
    timeouts = Timeouts(
        connect_s=upstream.connect_timeout_s, first_byte_s=PATIENCE_S, total_s=PATIENCE_S
    )
    try:
        response = await transport.send(request, request_id="check", timeouts=timeouts)
        if response.status != 200:
            raise backend.fault(Call(model=None, input=""), target, response)
        if not _is_json(response.body):
            raise faults.bad_answer(target, response)
    except UpstreamError as error:
        return Finding(upstream=name, is_good=False, words=error.explained)
    return Finding(upstream=name, is_good=True, words=_what_it_has(response, targets))


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _what_it_has(response: UpstreamResponse, targets: list[Target]) -> str:
    listed = _model_names(response.body)
    if not listed:
        return "answers."
    missing = [target.model for target in targets if not _is_listed(target.model, listed)]
    words = f"answers, with {len(listed)} {'model' if len(listed) == 1 else 'models'}."
    if missing:
        words += f" It does not list {', '.join(missing)}."
    return words


def _is_listed(model: str, listed: tuple[str, ...]) -> bool:
    """Whether a list has the model: `owner/name:provider` is listed without its provider at
    Hugging Face, and `llama3.2` with its tag by Ollama."""
    names = {model, model.partition(":")[0], f"{model}:latest"}
    return model == AS_ASKED or not names.isdisjoint(listed)


def _model_names(body: bytes) -> tuple[str, ...]:
    """The ids in an OpenAI-style list of models; none where the body is anything else."""
    try:
        value: Any = msgspec.json.decode(body)
        return tuple(str(row["id"]) for row in value["data"])
    except (msgspec.DecodeError, RecursionError, LookupError, TypeError):
        return ()


def find_ollama(environ: Mapping[str, str]) -> Ollama | None:
    """The Ollama at OLLAMA_HOST or on its own port, if that is on this machine and answers."""
    host, port = _ollama_address(environ.get("OLLAMA_HOST", ""))
    if not is_loopback(host):
        return None
    with closing(http.client.HTTPConnection(host, port, timeout=OLLAMA_PATIENCE_S)) as there:
        try:
            there.request("GET", "/v1/models")
            response = there.getresponse()
            if response.status != 200:
                return None
            names = filter(is_model_name, _model_names(response.read(1 << 20)))
        except (OSError, ValueError, OverflowError, http.client.HTTPException):
            return None
    return Ollama(f"{host}:{port}", tuple(names))


def _ollama_address(given: str) -> tuple[str, int]:
    """Host and port as Ollama reads OLLAMA_HOST; where it listens everywhere, it is here too."""
    host, _, port = given.strip().removeprefix("http://").rstrip("/").partition(":")
    if host in {"", "0.0.0.0"}:  # noqa: S104  # nothing is bound to it here
        host = OLLAMA_HOST
    return host, int(port) if port.isascii() and port.isdigit() else OLLAMA_PORT
