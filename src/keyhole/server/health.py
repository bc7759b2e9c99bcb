"""The pages that say whether this process lives and whether it takes requests.

They tell nothing of upstreams: one that is down is the operator's to see in the metrics, and a
gateway that is taken out of service because of it serves nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from keyhole.wire.http import JSON, Head, Page, Reply
from keyhole.wire.keys import Key


class Readiness:
    """Whether new requests are welcome; a process that stops says so here first."""

    def __init__(self) -> None:
        self.is_draining = False
        """Set before the last requests are finished, so that a balancer sends no more."""

    def pages(self) -> Mapping[str, Page]:
        """The pages by their path."""
        return {"/health/live": self._live, "/health/ready": self._ready}

    def _live(self, _: Head, __: Key | None) -> Reply:
        return _status(200, "ok")

    def _ready(self, _: Head, __: Key | None) -> Reply:
        return _status(503, "draining") if self.is_draining else _status(200, "ready")


def _status(status: int, word: str) -> Reply:
    return Reply(
        status=status,
        headers=[("content-type", JSON), ("cache-control", "no-store")],
        body=msgspec.json.encode({"status": word}),
    )
