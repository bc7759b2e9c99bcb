"""What the core needs from the world, as Protocols; `io` and `server` make them real.

The contract of a port stands here, not on each implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse
from keyhole.wire.records import AccessRecord


class Transport(Protocol):
    """Carries one request to one upstream and brings the whole answer back."""

    async def send(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        """Send, and read the answer to its end, any status alike.

        Attaches the upstream's secret, `x-request-id`, and nothing of the client's; follows no
        redirect, decodes no content-encoding, sends nothing again that may have been read.
        Cancellation closes the connection. Raises UpstreamError (unreachable, timeout, answer
        too large), and nothing of any library's.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; no request may follow.

        What is under way fails with GatewayError (shutting down).
        """
        ...


class Clock(Protocol):
    """Time and randomness."""

    def monotonic(self) -> float:
        """Seconds that never go back, for durations."""
        ...

    def unix_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...

    def random_hex(self, count: int) -> str:
        """That many hexadecimal digits that nobody can guess."""
        ...


class Observer(Protocol):
    """Hears of every request: the log and the metrics. Must not raise, block or await."""

    def began(self, record: AccessRecord) -> None:
        """A request has come in; each `began` is followed by exactly one `ended`."""
        ...

    def ended(self, record: AccessRecord) -> None:
        """Its reply is ready, or its client has gone."""
        ...

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        """What was asked or answered; called only where the operator turned `log.texts` on."""
        ...

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        """Something unexpected was raised while it was served; `ended` follows."""
        ...
