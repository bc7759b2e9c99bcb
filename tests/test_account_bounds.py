"""What a request is held to, and what its targets are asked for because of that."""

from __future__ import annotations

import pytest

from books import accounts
from keyhole.catalog import Route, Target, Upstream
from keyhole.wire.call import Call
from keyhole.wire.keys import Budget, Key, Limits
from records import record


def target(kind: str) -> Target:
    return Target(Upstream(name=kind, kind=kind, url="http://127.0.0.1:9"), "m")


@pytest.mark.parametrize(("kind", "asked_for"), [("tgi", 1024), ("engine", None)])
def test_the_engine_is_not_asked_for_more_than_its_context(
    kind: str, asked_for: int | None
) -> None:
    """It would refuse: a prompt and 1024 tokens are more than GPT-2 takes."""
    limits = Limits(budget=Budget(amount=10**9, per="month"))
    key = Key(id="key_1", name="ann", digest=b"d", limits=limits, created_at_ms=1)
    where = target(kind)
    route = Route(name="default", targets=(where,))
    call = Call(model=None, input="Once upon a time")
    account = accounts().open(
        record("r", 1_763_863_600, "m"), key, "generate", call, route, [where]
    )
    assert account.maximum(where) == asked_for
    assert account.hold is not None
    assert account.hold.completion_tokens == 1024
    account.close()
