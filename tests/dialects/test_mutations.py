"""Mutated inputs, a hundred thousand over all dialects, raise nothing but their own errors."""

from __future__ import annotations

from fuzz.mutations import run


def test_nothing_but_the_dialects_own_errors() -> None:
    run(100_000, seed=1)
