"""Makes the calls of a run and keeps what became of each.

All calls that the chosen tests want are handed out at the beginning, because clients sleep
between their tries; a test then waits for its own.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.cases import Case, Client, Group
from clients.programs import Curl, Program, command_of
from standins import Seen, StandIn
from standins.models import STOP, ModelServers, Scene, prompt_of
from standins.models.servers import split

MODEL = "tiny/model"
ABSENT = "tiny/absent"
MAX_TOKENS = 64
MOST_TRIES = 5
"""How often a client that would try again without end is let."""
WITHIN_S = 300.0
_TOKENS = {Scene.REFUSED: -2, Scene.INVALID: 100_000}
"""What is asked of the engine, which has no scenes: Keyhole refuses the one, it the other."""


@dataclass(frozen=True)
class Result:
    """What the client saw of a call, and what the server saw of it."""

    case: Case
    call_id: int
    prompt: str
    text: str
    pieces: int
    finish: str | None
    usage: list[int | None] | None
    error: dict[str, Any] | None
    requests: tuple[Seen, ...]
    has_left: bool
    """Whether the server saw its client leave in the middle of a stream."""

    @property
    def paths(self) -> set[str]:
        """Where the upstream was asked."""
        return {split(seen.path)[1] for seen in self.requests}

    @property
    def asked(self) -> list[int]:
        """How often the upstream was asked for each of the client's requests, behind a gateway."""
        return list(Counter(seen.header("x-request-id") for seen in self.requests).values())

    @property
    def sent(self) -> int:
        """How many requests the client sent, behind a gateway."""
        return len(self.asked)

    @property
    def gaps_s(self) -> list[float]:
        """The time between one request and the next."""
        arrived = [seen.arrived_s for seen in self.requests]
        return [later - earlier for earlier, later in itertools.pairwise(arrived)]

    @property
    def lasted_s(self) -> float:
        """The time between the first request and the last."""
        return sum(self.gaps_s)


class Run:
    """The calls to one set of addresses."""

    def __init__(
        self, servers: ModelServers, standin: StandIn, address_of: Callable[[Case], str], home: Path
    ) -> None:
        self._servers = servers
        self._standin = standin
        self._address_of = address_of
        self._home = home
        self._programs: dict[tuple[str, str], Program | Curl] = {}
        self._made: dict[Case, tuple[int, str, Future[dict[str, Any]]]] = {}

    def begin(self, groups: Iterable[Group]) -> None:
        """Hand out every call of these tests that has not been yet."""
        for group in groups:
            for case in group.cases:
                if case not in self._made:
                    self._made[case] = self._make(case)

    def result(self, case: Case) -> Result:
        """What became of a call; it is waited for."""
        call_id, prompt, future = self._made[case]
        said = future.result(WITHIN_S)
        return Result(
            case=case,
            call_id=call_id,
            prompt=prompt,
            **said,
            requests=tuple(self._servers.requests(call_id)),
            has_left=case.scene is Scene.LEFT and self._wait_for_departure(call_id),
        )

    def end(self) -> None:
        for program in self._programs.values():
            program.end()

    def _make(self, case: Case) -> tuple[int, str, Future[dict[str, Any]]]:
        call_id = next(_call_ids)
        prompt = prompt_of(case.scene, call_id)
        gate = self._servers.gate(call_id)
        is_absent = case.scene is Scene.MISSING and case.way.format == "models"
        max_tokens = MAX_TOKENS if case.kind.upstream else _TOKENS.get(case.scene, MAX_TOKENS)
        asked = {
            "call": call_id,
            "way": case.way.name,
            "url": self._address_of(case),
            "model": ABSENT if is_absent else MODEL,
            "prompt": prompt,
            "wants_stream": case.mode == "stream",
            "stop": [STOP] if case.scene is Scene.STOPPED else None,
            "max_tokens": max_tokens,
            "leaves": case.scene is Scene.LEFT,
            "most_tries": MOST_TRIES,
        }
        if case.scene is Scene.LEFT:
            return call_id, prompt, self._program(case.way.client).make(asked, lambda: None)
        return call_id, prompt, self._program(case.way.client).make(asked, gate.open)

    def _program(self, client: Client) -> Program | Curl:
        key = (client.environment, client.program)
        if key not in self._programs:
            is_curl = client.program == "curl"
            self._programs[key] = (
                Curl(self._home) if is_curl else Program(command_of(client), self._home)
            )
        return self._programs[key]

    def _wait_for_departure(self, call_id: int) -> bool:
        """Whether the server saw the client leave; it may take the client a moment."""
        seen = self._servers.requests(call_id)
        return bool(seen) and self._standin.wait_for_departure(seen[-1])


_call_ids = itertools.count(1)
