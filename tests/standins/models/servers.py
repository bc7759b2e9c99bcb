"""Every kind of model server behind one port: the first part of the path says which.

    servers = ModelServers()
    with in_a_thread(StandIn(servers)) as upstream:
        ...                       # f"{upstream.url}/tgi", servers.requests(call_id)

It keeps the requests of each call, and the gate that holds its streams.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping

from standins.models import hosted_server, openai_server, tgi_server
from standins.models.scenes import Cue, mark_in
from standins.upstream import Answer, Gate, Reply, Seen

_Answers = Callable[[Seen, str, Cue], Answer]


def _flavoured(flavour: openai_server.Flavour) -> _Answers:
    return functools.partial(openai_server.answer, flavour=flavour)


KINDS: Mapping[str, _Answers] = {
    "hf-inference": hosted_server.hosted,
    "huggingface": hosted_server.routed,
    "tgi": tgi_server.answer,
    "openai": _flavoured(openai_server.OPENAI),
    "vllm": _flavoured(openai_server.VLLM),
    "llama.cpp": _flavoured(openai_server.LLAMA_CPP),
    "transformers": _flavoured(openai_server.TRANSFORMERS),
}


class ModelServers:
    """Answers a StandIn's requests; which kind and which scene is in the request."""

    def __init__(self) -> None:
        self._requests: dict[int, list[Seen]] = defaultdict(list)
        self._gates: dict[int, Gate] = defaultdict(Gate)

    def __call__(self, seen: Seen) -> Answer:
        kind, path = split(seen.path)
        scene, call_id = mark_in(seen.body)
        before = self._requests[call_id]
        cue = Cue(scene, call_id, len(before), self.gate(call_id))
        before.append(seen)
        answers = KINDS.get(kind)
        return Reply(404) if answers is None else answers(seen, path, cue)

    def requests(self, call_id: int) -> list[Seen]:
        """What came in for a call so far."""
        return self._requests[call_id]

    def gate(self, call_id: int) -> Gate:
        """What holds a call's stream back until its client has its beginning."""
        return self._gates[call_id]


def split(target: str) -> tuple[str, str]:
    """The kind, and the path at that kind's server."""
    kind, _, path = target.partition("?")[0].lstrip("/").partition("/")
    return kind, f"/{path}"
