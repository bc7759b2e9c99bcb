"""What the core needs from the world, as Protocols; `io` and `server` make them real.

The contract of a port stands here, not on each implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from keyhole.errors import KeyholeError, UpstreamError
from keyhole.policy.limits import Bound, Hold, Scopes
from keyhole.wire.books import Intent, Progress, Receipt
from keyhole.wire.http import Timeouts, UpstreamRequest, UpstreamResponse
from keyhole.wire.keys import Key, Limits, LiveKey
from keyhole.wire.records import AccessRecord, Refusal


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

    async def open(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> Incoming:
        """The same, but return with the head of the answer; the body's total timeout goes on."""
        ...

    async def aclose(self) -> None:
        """Close every connection; no request may follow.

        What is under way fails with GatewayError (shutting down).
        """
        ...


class Receiver(Protocol):
    """Whom a body is pushed to."""

    def piece(self, chunk: bytes) -> None:
        """Some of it has come; never empty."""
        ...

    def ended(self, error: KeyholeError | None) -> None:
        """It has ended, well or with an error; nothing follows."""
        ...


class Incoming(Protocol):
    """A response whose head is there, and whose body comes.

    Its owner reads it to the end or calls `close`.
    """

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises UpstreamError or GatewayError."""
        ...

    async def read_all(self) -> bytes:
        """The rest at once; raises as `read` does."""
        ...

    def relay(self, receiver: Receiver) -> None:
        """Push what comes from now on, in the call that brings it; maybe before this returns."""
        ...

    def pause(self) -> None:
        """Push nothing until `resume`: the upstream is made to wait."""
        ...

    def resume(self) -> None:
        """Push again."""
        ...

    def give_up(self, error: UpstreamError) -> None:
        """End with an error for whoever reads."""
        ...

    def close(self) -> None:
        """Give up what is still to come, and push nothing more; nothing where it has ended."""
        ...


class Timed(Protocol):
    """Who may be late. Both numbers are times of the loop's clock, in seconds."""

    due_s: float
    """When; its owner sets it, to infinity for no deadline at all."""
    watched_s: float
    """When it will be looked at, infinity at first; whoever watches sets it."""

    def expire(self, now_s: float) -> None:
        """Be told that `due_s` has passed. Must not raise; may set a new `due_s`."""
        ...


class Alarms(Protocol):
    """Tells whoever is late, up to a twentieth of a second afterwards."""

    def now_s(self) -> float:
        """The loop's clock."""
        ...

    def watch(self, timed: Timed) -> None:
        """Look at it when its `due_s` has come: to be called where that is before `watched_s`."""
        ...

    def forget(self, timed: Timed) -> None:
        """Never look at it again, unless it is watched anew."""
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

    async def sleep(self, seconds: float) -> None:
        """Let that time pass."""
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


class Refusals(Protocol):
    """Where refused requests are remembered, for `keyhole explain`."""

    def append(self, refusal: Refusal) -> None:
        """Write one down; leave it out where that cannot be. Must not raise or wait."""
        ...


class Journal(Protocol):
    """The append-only record of attempts. A line is the kernel's when the call returns."""

    def intend(self, intent: Intent) -> None:
        """Write down an attempt before a byte of it goes out, and keep room for its receipt.

        Raises GatewayError (journal_full, 503) where there is no room: the attempt must not be
        made then. Each intent is followed by one `settle`, whatever happens.
        """
        ...

    def progress(self, progress: Progress) -> None:
        """Write down how far a stream is; left out where there is no room. Must not raise."""
        ...

    def settle(self, receipt: Receipt) -> None:
        """Write down how an attempt ended; the room was kept. Must not raise."""
        ...

    @property
    def is_slow(self) -> bool:
        """Whether what was written is on the disk only after `synced` (journal.fsync "always")."""
        ...

    async def synced(self) -> None:
        """Wait until all that has been written is on the disk; GatewayError if it cannot be."""
        ...


class Keys(Protocol):
    """The virtual keys, from a copy on this machine: no database is asked."""

    @property
    def have_existed(self) -> bool:
        """Whether there ever was a key; from then on callers without one are refused.

        Raises GatewayError (keys_unavailable, 503) where that cannot be known.
        """
        ...

    @property
    def without_key(self) -> LiveKey:
        """What lets in while there never was one: good until the first is made."""
        ...

    @property
    def held(self) -> Mapping[bytes, LiveKey]:
        """Keys in memory, by digest; one that is good there needs no `find`."""
        ...

    def find(self, digest: bytes) -> LiveKey | None:
        """The key with this digest, revoked and expired ones too; None for an unknown one.

        It is kept up to date for as long as anybody holds it. Raises GatewayError
        (keys_unavailable, 503) where the copy cannot be read or is too old: that is never taken
        for an unknown key.
        """
        ...


class Counters(Protocol):
    """What keys, groups and upstreams have left. Nothing here waits, so nothing can be raced."""

    def scopes(self, key: Key | None) -> Scopes:
        """Where a request of this key counts: the key's own limits and its group's; maybe nowhere.

        To be asked right before `hold`, without awaiting in between, and not kept: what nobody
        uses is forgotten.
        """
        ...

    def upstream_scopes(self, upstream: str, limits: Limits) -> Scopes:
        """The same for an attempt at the upstream of this name."""
        ...

    def hold(self, scopes: Scopes, bound: Bound, now_ms: int) -> Hold:
        """Take the most that a request may use, in all scopes or in none; `now_ms` is UTC's.

        Raises ClientError: 400 (over_limit) where it never fits, 429 where it does not fit now.
        Each hold is followed by `settle` or `release`; a second of them does nothing.
        """
        ...

    def settle(
        self, hold: Hold, prompt_tokens: int, completion_tokens: int, cost_microusd: int
    ) -> None:
        """Correct a hold to what was used, more than was held included. Must not raise."""
        ...

    def release(self, hold: Hold) -> None:
        """Give back a hold whose request no upstream has seen. Must not raise."""
        ...

    @property
    def credits_gone(self) -> Mapping[str, int]:
        """The upstreams that said so, and when in milliseconds; nearly always none."""
        ...

    def out_of_credits(self, upstream: str, now_ms: int) -> None:
        """Remember that an upstream said that its payer's credits are gone (402)."""
        ...

    def check_credits(self, upstream: str, now_ms: int) -> None:
        """Raise UpstreamError (upstream_out_of_credits) for one that said so this month."""
        ...

    def clear_credits(self, upstream: str) -> None:
        """Ask it again: the operator says that it has been paid."""
        ...
