"""What a stand-in of a model server does with a request, told by the request's prompt.

The prompt is the one thing that every client sends and every translation keeps, so it names the
scene and the call: "Tell me of a fox. (limited #17)". It holds no format of any server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from standins.upstream import Gate

PIECES = (" There", " was", " a", " f", "ox", " 🦊", ",", " na", "ï", "ve", " and", " brave", ".")
TEXT = "".join(PIECES)
PROMPT_TOKENS = 9
EOS = "</s>"
"""The special token that ends a text, where the server shows tokens."""
STOP = "THE END"
STOP_PIECES = ("THE", " E", "ND")
"""The stop sequence, in pieces that look harmless one by one."""
HELD_AFTER = 3
"""How many pieces of a held stream go out before its gate."""
RETRY_AFTER_S = 1
_MARK = re.compile(rb"\(([a-z-]+) #(\d+)\)")


class Scene(StrEnum):
    """What happens; the statuses are those of the server, before any gateway changes them."""

    OK = "ok"
    LENGTH = "length"
    STOPPED = "stopped"
    REFUSED = "refused"
    UNAUTHORIZED = "unauthorized"
    MISSING = "missing"
    INVALID = "invalid"
    LIMITED = "limited"
    LOADING = "loading"
    WAKING = "waking"
    UNAVAILABLE = "unavailable"
    FAILS_MIDWAY = "fails-midway"
    ENDS_EARLY = "ends-early"
    BREAKS_OFF = "breaks-off"
    LEFT = "left"
    LISTED = "listed"

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]

    @property
    def is_only_streamed(self) -> bool:
        return self in {Scene.FAILS_MIDWAY, Scene.ENDS_EARLY, Scene.LEFT}


_MEANINGS = {
    Scene.OK: "a text that the model ends by itself",
    Scene.LENGTH: "a text that is cut at the most tokens",
    Scene.STOPPED: "a text that a stop sequence ends",
    Scene.REFUSED: "400",
    Scene.UNAUTHORIZED: "401",
    Scene.MISSING: "404",
    Scene.INVALID: "422",
    Scene.LIMITED: "429 with Retry-After",
    Scene.LOADING: "503 while the model loads",
    Scene.WAKING: "503 twice, then a text",
    Scene.UNAVAILABLE: "502 with a web page",
    Scene.FAILS_MIDWAY: "an error in the middle of a stream",
    Scene.ENDS_EARLY: "a stream without its final frame",
    Scene.BREAKS_OFF: "a connection that breaks off in mid-answer",
    Scene.LEFT: "a stream whose client leaves",
    Scene.LISTED: "a list of the models, and one of them",
}


@dataclass(frozen=True)
class Cue:
    """What one request is to be answered with."""

    scene: Scene
    call_id: int
    attempt: int
    """How many requests of the same call came before it."""
    gate: Gate

    @property
    def is_text(self) -> bool:
        """Whether a whole text is the answer."""
        return self.scene in {Scene.OK, Scene.LENGTH, Scene.STOPPED} or (
            self.scene is Scene.WAKING and self.attempt >= 2
        )

    @property
    def is_partial(self) -> bool:
        """Whether a text begins and does not come to its end."""
        return self.scene in {
            *(Scene.FAILS_MIDWAY, Scene.ENDS_EARLY, Scene.BREAKS_OFF, Scene.LEFT),
        }

    @property
    def completion_tokens(self) -> int:
        return completion_tokens(self.scene)


def completion_tokens(scene: Scene) -> int:
    """What the servers count: the end-of-text token too, where one was generated."""
    more = {Scene.LENGTH: 0, Scene.STOPPED: len(STOP_PIECES)}
    return len(PIECES) + more.get(scene, 1)


def prompt_of(scene: Scene, call_id: int) -> str:
    """A prompt that asks for a scene."""
    return f"Tell me of a fox. ({scene} #{call_id})"


def mark_in(body: bytes) -> tuple[Scene, int]:
    """The scene and the call that a body names; without any it is an ordinary text."""
    found = _MARK.search(body)
    return (Scene(found[1].decode()), int(found[2])) if found else (Scene.OK, 0)
