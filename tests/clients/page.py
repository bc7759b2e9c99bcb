"""Makes docs/clients.md of a run: which client works with which kind of upstream, and how."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from clients.cases import HERE, Case, Client, Group, Kind, Rules, Tables, Way
from clients.judging import complaints
from clients.programs import ROOT
from clients.running import Result
from standins.models import Scene

PAGE = ROOT / "docs" / "clients.md"
Results = Callable[[Case], Result]

_INTRO = """\
# Clients

Which clients work with Keyhole as they are, given its address, and with which kinds of upstream.
This page is made by `make clients-page` from a run of `tests/clients`: the real packages, against
a live `keyhole serve`, over the engine and over a stand-in of each other kind. A test fails where
it no longer tells what that run found.

## What works

The first mark is for whole answers, the second for streams. `✓` stands for every scene of that kind
having come out as it should, the errors below among them; `=` for an upstream that is asked in the
client's own format, `→` for a translation, and into what: `chat` and `text` are OpenAI's two
formats, `TGI` is text-generation-inference's, `hosted` the retired Inference API's. Keyhole tells
of its models by itself.
"""
_ERRORS = """
## What a client hears

Of each failure of an upstream of kind `openai`: the exception, and how many requests the client
sent in all. What came before a stream broke is the client's, and an error after it.

A model that loads is waited for: Keyhole holds the call for `server.loading_patience_s` (five
seconds in this run) and asks again by itself, so the client gets the text, or learns after that
time that there is none yet. @huggingface/inference, which sends a 503 again at once and without
end, asks Keyhole once in that time; here the test gave up for it after five requests. With
`loading_patience_s = 0` it would ask without a pause.

What remains: a Keyhole that is stopping says 503 to what did not finish in time, with
`Retry-After: 1`, and closes the connection; whoever comes back at once is refused by the system, or
taken by the process that follows. A Keyhole whose memory for requests is full says 429 with
`Retry-After: 1`, which @huggingface/inference raises; nothing is held there, for what is held
would need the memory.
"""
_REAL = """
## Real servers

`tests/real` runs `transformers serve` (transformers 5.23.0) behind Keyhole, with a tiny model that
the test makes: chats and texts, whole and streaming, for clients of OpenAI, TGI and `/generate`.
What is peculiar to it goes on to clients of its own format as it is: the usage stands beside the
finish though nobody asked, there is no `[DONE]`, and `n`, `logprobs`, `response_format` and the
like are ignored there without a word. It takes one prompt at a time, no field that OpenAI has not,
and the model under the very name that it was started with; its `/v1/models` does not list that.
"""
_HEARD = (
    *("openai.chat", "huggingface_hub.chat", "huggingface_hub.text", "langchain-openai.chat"),
    *("litellm.openai", "openai-npm.openai_chat", "@huggingface/inference.hub_chat"),
)
_FAILURES = (
    *(Scene.REFUSED, Scene.UNAUTHORIZED, Scene.MISSING, Scene.INVALID, Scene.LIMITED),
    *(Scene.LOADING, Scene.WAKING, Scene.UNAVAILABLE, Scene.BREAKS_OFF),
    *(Scene.FAILS_MIDWAY, Scene.ENDS_EARLY),
)
_FORMATS = {"tgi": "TGI"}


def render(tables: Tables, rules: Rules, results: Results) -> str:
    """The page."""
    kinds = list(tables.kinds.values())
    rows = [
        [client_title(way.client), way.call, *(_cell(way, kind, rules, results) for kind in kinds)]
        for way in tables.ways
    ]
    works = _table(["client", "call", *(kind.label for kind in kinds)], _without_repeats(rows))
    ways = [way for way in tables.ways if str(way) in _HEARD]
    heard = [
        [scene.meaning, *(_heard(way, tables.kinds["openai"], scene, results) for way in ways)]
        for scene in _FAILURES
    ]
    heads = [f"{client_name(way.client)}: {way.call}" for way in ways]
    return f"{_INTRO}\n{works}{_ERRORS}\n{_table(['upstream', *heads], heard)}{_REAL}"


def client_name(client: Client) -> str:
    """A package, told from one of the same name elsewhere."""
    return f"{client.package} (npm)" if client.environment == "node" else client.package


def client_title(client: Client) -> str:
    """A package with its version, as it is pinned."""
    if client.environment == "machine":
        return "curl"
    if client.environment == "node":
        package = json.loads((HERE / "node" / "package.json").read_text())
        version = package["dependencies"][client.package].rpartition("@")[2]
        name = client.package.removesuffix("-before-completions")
        return f"{name} {version} (npm)"
    lock = (ROOT / "requirements" / f"{client.environment}.txt").read_text()
    found = re.search(rf"^{re.escape(client.package)}==(\S+)", lock, re.MULTILINE)
    assert found is not None, f"{client.package} is in no lock"
    return f"{client.package} {found[1]}"


def _cell(way: Way, kind: Kind, rules: Rules, results: Results) -> str:
    marks, asked = "", set()
    for group in (Group(way, kind, mode) for mode in way.modes):
        told = {case: results(case) for case in group.cases}
        is_good = not any(
            complaints(result, rules.expectation(case)) for case, result in told.items()
        )
        marks += "✓" if is_good else "✗"
        asked |= {_format(path) for result in told.values() for path in result.paths}
    if way.scenes is not None:
        return marks
    if kind.upstream is None:
        asked = {"TGI"}
    own = _FORMATS.get(way.format, way.format)
    return f"{marks} =" if asked == {own} else f"{marks} → {', '.join(sorted(asked))}"


def _format(path: str) -> str:
    if path.startswith("/models/"):
        return "hosted"
    return {"/v1/chat/completions": "chat", "/v1/completions": "text"}.get(path, "TGI")


def _heard(way: Way, kind: Kind, scene: Scene, results: Results) -> str:
    mode = "stream" if scene.is_only_streamed else "whole"
    result = results(Case(way, kind, mode, scene))
    sent = f"{result.sent} requests" if result.sent > 1 else ""
    if result.error is None:
        said = "the text"
    else:
        status = result.error["status"]
        said = f"`{result.error['kind']}`" + (f" {status}" if status else "")
    return ", ".join(part for part in (said, sent) if part)


def _without_repeats(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows, a client's name only in its first."""
    return [
        ["", *row[1:]] if number and rows[number - 1][0] == row[0] else row
        for number, row in enumerate(rows)
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
