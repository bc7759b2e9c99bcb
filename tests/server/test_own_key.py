"""What a key's holder is told of it."""

from __future__ import annotations

import json

from keyhole.server.own_key import Use, show_key
from keyhole.wire.keys import Group
from keys import BEGAN_MS, key, secret

HOLDER = key(
    1,
    name="ada",
    group=Group(name="class-a"),
    models=("gpt2",),
    labels={"note": "watch this one"},
    expires_at_ms=BEGAN_MS + 1000,
    rotated_to="key_00000000000000ff",
)
SPENT = Use(
    scope="group",
    limit="budget",
    unit="microusd",
    amount=100,
    used=130,
    per="month",
    resets_at_ms=BEGAN_MS + 60_000,
)


def test_limits_use_rest_and_resets_are_told() -> None:
    reply = show_key(HOLDER, [SPENT], unix_ms=BEGAN_MS)
    assert json.loads(reply.body) == {
        "object": "key",
        "id": HOLDER.id,
        "name": "ada",
        "group": "class-a",
        "models": ["gpt2"],
        "created_at": "2026-09-21T14:13:20Z",
        "expires_at": "2026-09-21T14:13:21Z",
        "replaced": True,
        "limits": [
            {
                "scope": "group",
                "limit": "budget",
                "unit": "microusd",
                "per": "month",
                "amount": 100,
                "used": 130,
                "remaining": 0,
                "resets_at": "2026-09-21T14:14:20Z",
            }
        ],
        "now": "2026-09-21T14:13:20Z",
    }
    assert dict(reply.headers)["cache-control"] == "no-store"


def test_neither_digest_nor_secret_nor_labels_nor_the_successor_is_told() -> None:
    body = show_key(HOLDER, [SPENT], unix_ms=BEGAN_MS).body
    for kept in (HOLDER.digest, HOLDER.digest.hex().encode(), secret(1).encode(), b"watch", b"0ff"):
        assert kept not in body


def test_times_out_of_all_calendars_are_none() -> None:
    told = json.loads(show_key(key(1, expires_at_ms=2**62), [], unix_ms=BEGAN_MS).body)
    assert (told["expires_at"], told["limits"]) == (None, [])
