"""The sections [route.NAME] to Routes, and the routes that are there without being written.

A target that names a model which the engine does not have yet is no problem: the route works
once the model is pulled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyhole.catalog import AS_ASKED, DEFAULT_ROUTE, Route, Target
from keyhole.config.document import Document
from keyhole.config.upstreams import ENGINE, HUGGING_FACE, Upstreams
from keyhole.config.values import (
    Check,
    Wrong,
    check_route_name,
    list_of,
    meant,
    seconds,
    shown,
    target,
    text,
    whole,
)

DEMO_MODEL = "keyhole-demo"
"""The model that Keyhole carries."""

ROUTE: Mapping[str, Check] = {
    "targets": list_of(text, at_least=1, example='["engine/keyhole-demo"]'),
    "first_byte_timeout_s": seconds(0.001, 86400),
    "max_output_tokens": whole(1, 10_000_000, unit="tokens"),
}
"""The keys of [route.NAME]."""


def read_routes(document: Document, upstreams: Upstreams) -> dict[str, Route]:
    """The document's routes by name; what is wrong becomes its problems."""
    routes = {}
    for name, table in document.named("route").items():
        path = ("route", name)
        try:
            check_route_name(name)
        except Wrong as wrong:
            document.blame_wrong(path, wrong)
        values = document.section(path, table, ROUTE)
        if "targets" not in table:
            hint = f'such as targets = ["{ENGINE}/{DEMO_MODEL}"]'
            document.blame_missing(path, "targets", hint)
        targets: list[Target] = []
        for index, given in enumerate(values.pop("targets", ())):
            found = _target(document, name, index, given, upstreams)
            if found in targets:
                document.blame((*path, "targets", index), f"{shown(given)} stands here twice")
            elif found is not None:
                targets.append(found)
        routes[name] = Route(name=name, targets=tuple(targets), **values)
    return routes


def builtin_routes(
    upstreams: Upstreams, engine_models: Sequence[str], taken: Mapping[str, Route]
) -> dict[str, Route]:
    """What is served without being configured, except for names that are taken."""
    routes = []
    engine = upstreams.get(ENGINE)
    if engine is not None and engine.kind == "engine":
        names = {DEFAULT_ROUTE: DEMO_MODEL} | {model: model for model in engine_models}
        routes = [
            Route(name=name, targets=(Target(engine, model),)) for name, model in names.items()
        ]
    hugging_face = upstreams.get(HUGGING_FACE)
    if hugging_face is not None and hugging_face.secret is not None:
        routes.append(Route(name="*/*", targets=(Target(hugging_face, AS_ASKED),)))
    return {route.name: route for route in routes if route.name not in taken}


def _target(
    document: Document, route: str, index: int, given: str, upstreams: Upstreams
) -> Target | None:
    path = ("route", route, "targets", index)
    try:
        name, model = target(given)
    except Wrong as wrong:
        document.blame_wrong(path, wrong)
        return None
    if model == AS_ASKED and "*" not in route:
        message = f"{shown(given)} asks for the model by the client's name for it"
        document.blame(path, message, 'only in a pattern such as [route."*/*"]')
    if name not in upstreams:
        hint = f"a target begins with an upstream's name; {meant(name, upstreams)}"
        if name == HUGGING_FACE:
            hint = "hf is there once a Hugging Face token is: set HF_TOKEN or run 'hf auth login'"
        document.blame(path, f"there is no upstream {shown(name)}", hint)
        return None
    upstream = upstreams[name]
    return Target(upstream, model) if upstream else None
