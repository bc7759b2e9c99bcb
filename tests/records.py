"""Access records, as dialects are given them."""

from __future__ import annotations

from keyhole.wire.records import AccessRecord


def record(request_id: str, unix_s: int, model: str) -> AccessRecord:
    """Of a request that began at that second and asked for that model."""
    return AccessRecord(request_id, unix_s * 1000, "POST", "/", public_model=model)
