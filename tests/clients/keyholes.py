"""One `keyhole serve` for each kind of upstream, in front of that kind's stand-in.

Each has the model as its default too, because the clients of TGI name none. There are two over
the engine: one of them has a model that the engine has not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clients.cases import Case, Kind
from clients.running import ABSENT, MODEL
from processes.driving import serving
from standins.models import Scene

TOKEN = "upstream-secret"
"""What every upstream's request has to carry, and no client's."""


PATIENCE_S = 5
"""With a model that loads: more than enough for one that wants a second, twice."""
AddressOf = Callable[[Case], str]


@contextlib.contextmanager
def keyholes(kinds: Iterable[Kind], standin_url: str, home: Path) -> Iterator[AddressOf]:
    """The addresses of the servers, by the call that is to be made."""
    with contextlib.ExitStack() as stack:

        def start(name: str, text: str) -> str:
            own = home / name
            own.mkdir()
            (own / "keyhole.toml").write_text(text)
            server = serving(data=own / "data", home=own, UPSTREAM_TOKEN=TOKEN)
            return f"http://127.0.0.1:{stack.enter_context(server).port}"

        addresses = {kind: start(kind.name, configuration(kind, standin_url)) for kind in kinds}
        without = start("without", routes(f"engine/{ABSENT}"))

        def address_of(case: Case) -> str:
            is_absent = case.scene is Scene.MISSING and case.way.format != "models"
            return without if is_absent and not case.kind.upstream else addresses[case.kind]

        yield address_of


def configuration(kind: Kind, standin_url: str) -> str:
    """A keyhole.toml with that upstream behind every model."""
    if kind.upstream is None:
        return routes("engine/keyhole-demo")
    settings = {**kind.upstream, "url": f"{standin_url}/{kind}{kind.upstream['url']}"}
    lines = ["[upstream.models]", 'token = { env = "UPSTREAM_TOKEN" }']
    lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return routes(f"models/{MODEL}") + "\n".join(lines) + "\n"


def routes(target: str) -> str:
    """What stands in every file: the target behind every model."""
    lines = ["[server]", f"loading_patience_s = {PATIENCE_S}"]
    for name in ("default", MODEL):
        lines += [f'[route."{name}"]', f'targets = ["{target}"]']
    return "\n".join(lines) + "\n"
