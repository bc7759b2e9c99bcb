"""What is there: tries each configured upstream, and looks for an Ollama on this machine.

It generates no text, so it costs nothing; a token is tried only where a kind of upstream has a
page that needs one.
"""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import msgspec
from msgspec import Struct

from keyhole import main
from keyhole.backends.base import Backend
from keyhole.catalog import Target
from keyhole.config import Settings
from keyhole.errors import UpstreamError
from keyhole.greeting import Ollama
from keyhole.policy.access import is_loopback
from keyhole.ports import Transport
from keyhole.wire.call import Call
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse

OLLAMA_ADDRESS = "127.0.0.1:11434"
OLLAMA_PATIENCE_S = 0.3
PATIENCE_S = 10.0


class Finding(Struct, frozen=True, kw_only=True):
    """What trying one upstream showed."""

    upstream: str
    is_good: bool
    words: str


async def try_upstreams(settings: Settings) -> list[Finding]:
    """Ask each upstream that a route names for its state."""
    kinds = main.backends()
    models: dict[str, list[Target]] = {}
    for route in settings.catalog.routes:
        for target in route.targets:
            models.setdefault(target.upstream.name, []).append(target)
    async with main.open_runtime(settings, observers=()) as runtime:
        return [
            await _try(targets, kinds[targets[0].upstream.kind], runtime.transport)
            for targets in models.values()
        ]


async def _try(targets: list[Target], backend: Backend, transport: Transport) -> Finding:
    target = targets[0]
    upstream = target.upstream
    request = UpstreamRequest(
        upstream=upstream, method="GET", path=backend.probe_path(target), body=b""
    )
    timeouts = Timeouts(
        connect_s=upstream.connect_timeout_s, first_byte_s=PATIENCE_S, total_s=PATIENCE_S
    )
    try:
        response = await transport.send(request, request_id="check", timeouts=timeouts)
        if response.status != 200:
            raise backend.fault(Call(model=None, input=""), target, response)
    except UpstreamError as error:
        return Finding(upstream=upstream.name, is_good=False, words=error.explained)
    return Finding(upstream=upstream.name, is_good=True, words=_what_it_has(response, targets))


def _what_it_has(response: UpstreamResponse, targets: list[Target]) -> str:
    listed = _model_names(response.body)
    if not listed:
        return "answers."
    missing = [target.model for target in targets if target.model not in (*listed, "*")]
    words = f"answers, with {len(listed)} models."
    if missing:
        words += f" It does not list {', '.join(missing)}."
    return words


def _model_names(body: bytes) -> tuple[str, ...]:
    """The ids in an OpenAI-style list of models; none where the body is anything else."""
    try:
        value: Any = msgspec.json.decode(body)
        return tuple(str(row["id"]) for row in value["data"])
    except (msgspec.DecodeError, RecursionError, LookupError, TypeError):
        return ()


def find_ollama(environ: Mapping[str, str]) -> Ollama | None:
    """The Ollama at OLLAMA_HOST or on its own port, if that is on this machine and answers."""
    address = (environ.get("OLLAMA_HOST") or OLLAMA_ADDRESS).removeprefix("http://")
    host, _, port = address.partition(":")
    if not is_loopback(host) or not port.isdigit():
        return None
    with closing(http.client.HTTPConnection(host, int(port), timeout=OLLAMA_PATIENCE_S)) as there:
        try:
            there.request("GET", "/v1/models")
            response = there.getresponse()
            if response.status != 200:
                return None
            return Ollama(address, _model_names(response.read(1 << 20)))
        except (OSError, http.client.HTTPException):
            return None
