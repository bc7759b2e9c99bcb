"""What the books say of an attempt: Intent before it, Progress during it, Receipt after it.

These are the values of the journal's lines and, as Receipts, of the ledger's rows. They hold no
prompt, no answer and no secret: names, numbers and times. None can be in a cycle, so the garbage
collector need not know of them (`gc=False`): the clerk makes thousands at a time.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Outcome = Literal["ok", "client_error", "upstream_error", "client_gone", "cut", "interrupted"]
"""How an attempt ended. `client_error`: the upstream refused what the client asked;
`upstream_error`: it failed otherwise; `client_gone`: the client left first; `cut`: ended at a
budget or by a revocation; `interrupted`: Keyhole died, and nobody saw the end."""

Basis = Literal["reported", "counted", "estimated"]
"""How tokens are known: the upstream said them, Keyhole counted pieces of a stream, or it could
only bound them."""


OUT_OF_CREDITS = 402
"""The status of an attempt whose upstream said that its payer's credits are gone, however it said
so: such a receipt marks the upstream."""


class Intent(Struct, frozen=True, array_like=True, gc=False, tag="i"):
    """An attempt that is about to reach an upstream. New fields go to the end, with a default."""

    exchange_id: str
    """The request's id, a UUIDv7."""
    attempt: int
    """1 for the first target that was asked."""
    started_at_ms: int
    """Milliseconds since 1970, UTC."""
    key_id: str | None
    """None for a local caller without a key."""
    key: str | None
    """The key's name."""
    group: str | None
    dialect: str
    model: str
    """The route's public name."""
    upstream: str
    target: str
    """UPSTREAM/MODEL."""
    prompt_estimate: int
    """About how many tokens the prompt has; what an interrupted attempt is booked with."""
    prompt_price: int | None
    """Micro-dollars per million tokens; None where no price is known."""
    completion_price: int | None


class Progress(Struct, frozen=True, array_like=True, gc=False, tag="p"):
    """How far a long stream is."""

    exchange_id: str
    attempt: int
    completion_tokens: int
    """Since its beginning, counted."""


class Receipt(Struct, frozen=True, array_like=True, gc=False, tag="r"):
    """An attempt that has ended. It repeats the intent, so that each line stands alone."""

    intent: Intent
    status: int
    """The upstream's, or the one that its failure became; 0 where nobody saw it."""
    outcome: Outcome
    prompt_tokens: int
    completion_tokens: int
    basis: Basis
    cost_microusd: int
    """Rounded up; 0 where no price is known."""
    ttft_ms: float | None
    """From the attempt's start to the first byte of the answer; None where none came."""
    duration_ms: float
