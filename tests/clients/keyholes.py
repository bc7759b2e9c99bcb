"""One `keyhole serve` for each kind of upstream, in front of that kind's stand-in.

Each has the model as its default too, because the clients of TGI name none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clients.cases import Kind
from clients.running import MODEL
from processes.driving import serving

TOKEN = "upstream-secret"
"""What every upstream's request has to carry, and no client's."""


@contextlib.contextmanager
def keyholes(kinds: Iterable[Kind], standin_url: str, home: Path) -> Iterator[Mapping[Kind, str]]:
    """The addresses of the servers, by the kind of their upstream."""
    with contextlib.ExitStack() as stack:
        addresses = {}
        for kind in kinds:
            own = home / kind.name
            own.mkdir()
            (own / "keyhole.toml").write_text(configuration(kind, standin_url))
            server = serving(data=own / "data", home=own, UPSTREAM_TOKEN=TOKEN)
            port = stack.enter_context(server).port
            addresses[kind] = f"http://127.0.0.1:{port}"
        yield addresses


def configuration(kind: Kind, standin_url: str) -> str:
    """A keyhole.toml with that upstream behind every model."""
    target, lines = "engine/keyhole-demo", []
    if kind.upstream is not None:
        target = f"models/{MODEL}"
        settings = {**kind.upstream, "url": f"{standin_url}/{kind}{kind.upstream['url']}"}
        lines = ["[upstream.models]", 'token = { env = "UPSTREAM_TOKEN" }']
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    for name in ("default", MODEL):
        lines += [f'[route."{name}"]', f'targets = ["{target}"]']
    return "\n".join(lines) + "\n"
