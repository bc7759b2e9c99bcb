"""What the backend tests share: the goldens, and a target for each kind of upstream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from keyhole.backends.base import Backend
from keyhole.backends.hf_inference import HfInference
from keyhole.backends.huggingface import HuggingFaceRouter
from keyhole.backends.openai import OpenAi
from keyhole.backends.tgi import Engine, Tgi
from keyhole.catalog import Target, Upstream
from keyhole.secret import Secret
from keyhole.wire.call import Call, Parameters
from keyhole.wire.http import UpstreamResponse

TOKEN = "hf_planted_token_0123456789"
PROMPT = "Once upon a time"

BACKENDS: dict[str, Backend] = {
    backend.kind: backend
    for backend in (HfInference(), HuggingFaceRouter(), Tgi(), Engine(), OpenAi())
}
KINDS = tuple(BACKENDS)

_GOLDEN = Path(__file__).parent.parent / "golden" / "upstreams"


class Golden(Struct, kw_only=True):
    """One recorded shape of an answer, and what is made of it."""

    kind: str
    about: str
    status: int
    headers: dict[str, str]
    content: bytes
    target: Target
    call: Call
    expect: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}"

    @property
    def response(self) -> UpstreamResponse:
        return UpstreamResponse(status=self.status, headers=self.headers, body=self.content)


USUAL_URLS = {
    "hf-inference": "https://router.huggingface.co/hf-inference",
    "huggingface": "https://router.huggingface.co",
    "engine": "unix:/run/engine.sock",
}


def make_target(
    kind: str, model: str = "gpt2", *, url: str | None = None, **upstream: Any
) -> Target:
    """A target whose upstream is called `hf` or `gpu`, is where it usually is, and has a token."""
    url = url or USUAL_URLS.get(kind, "http://stand-in")
    name = "hf" if kind in ("hf-inference", "huggingface") else "gpu"
    fields = {"name": name, "kind": kind, "url": url, "secret": Secret(TOKEN)} | upstream
    return Target(Upstream(**fields), model)


def make_call(text: str | list[Any] = PROMPT, **parameters: Any) -> Call:
    """A call for the default route."""
    return Call(model=None, input=text, parameters=Parameters(**parameters))


def read_goldens() -> list[Golden]:
    """Every golden of every kind."""
    found = []
    for path in sorted(_GOLDEN.glob("*.json")):
        for case in json.loads(path.read_text("utf-8")):
            fields = case.get("upstream", {}) | (
                {} if case.get("has_secret", True) else {"secret": None}
            )
            text = case["text"] if "text" in case else json.dumps(case["body"])
            golden = Golden(
                kind=path.stem,
                about=case["about"],
                status=case["status"],
                headers=case["headers"],
                content=text.encode(),
                target=make_target(path.stem, case["model"], **fields),
                call=make_call(case.get("input", PROMPT), **case.get("parameters", {})),
                expect=case["expect"],
            )
            found.append(golden)
    return found
