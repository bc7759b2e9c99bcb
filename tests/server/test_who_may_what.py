"""Every route, and whatever anybody may show: default is deny (../shared/field.md, section 4).

The table says for each route what it needs, and so for each credential the exact status. A route
that is new belongs into it; one that is forgotten is refused without a key all the same.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import keys
from doors.servers import STRICT_DOORS
from keyed import Answer, Keyed, keyed, now_ms, request_bytes
from keyhole import main
from keyhole.config import Inputs, load
from keyhole.exchange import Gateway
from keyhole.server.flask import app_over
from keyhole.server.loop import ThreadedGateway
from keyhole.wire.keys import ALPHABET, checksum
from standins import Reply, StandIn

GOOD, GOOD_SECRET = keys.key(1, created_at_ms=1), keys.secret(1)
ANOTHERS = keys.key(2, name="another's", models=("other",), created_at_ms=1)
EXPIRED = keys.key(3, expires_at_ms=10, created_at_ms=1)
REVOKED = keys.key(4, revoked_at_ms=10, created_at_ms=1)
HELD = [GOOD, ANOTHERS, EXPIRED, REVOKED]
ADMIN = "ka_" + "a" * 49
HF_TOKEN = "hf_" + "A1b2C3d4" * 5
ALL_BUT_THE_LAST = GOOD_SECRET[:-1] + ALPHABET[ALPHABET.index(GOOD_SECRET[-1]) - 1]
BODY = GOOD_SECRET[:45] + ("a" if GOOD_SECRET[45] != "a" else "b")
NEIGHBOUR = BODY + checksum(BODY)
"""Typed as keys are, and the same but for one character and the checksum."""

REFUSED = {
    "no key": (None, "key_missing"),
    "wrong": (keys.secret(99), "key_unknown"),
    "a neighbour": (NEIGHBOUR, "key_unknown"),
    "all but the last character": (ALL_BUT_THE_LAST, "key_mistyped"),
    "mistyped": ("kh_" + GOOD_SECRET[3:].swapcase(), "key_mistyped"),
    "a part": (GOOD_SECRET[:40], "key_mistyped"),
    "twice": (GOOD_SECRET * 2, "key_mistyped"),
    "expired": (keys.secret(3), "key_expired"),
    "revoked": (keys.secret(4), "key_revoked"),
    "admin": (ADMIN, "not_a_key"),
    "hf_": (HF_TOKEN, "hf_token_sent"),
    "digest in hex": (GOOD.digest.hex(), "not_a_key"),
    "digest in base64": (base64.b64encode(GOOD.digest).decode(), "not_a_key"),
    "digest with our prefix": ("kh_" + GOOD.digest.hex()[:49], "key_mistyped"),
    "id": (GOOD.id, "not_a_key"),
    "name": (GOOD.name, "not_a_key"),
}
ASKED: dict[str, Any] = {
    "/generate": {"input": "x"},
    "/generate_stream": {"inputs": "x"},
    "/": {"inputs": "x"},
    "/tokenize": {"inputs": "x"},
    "/models/default": {"inputs": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
}
CALLS = [("POST", path) for path in ASKED]
NEED_A_KEY = {
    **dict.fromkeys(CALLS, 502),  # the upstream of this test says 500
    ("POST", "/tokenize"): 404,
    ("GET", "/v1/key"): 200,
    ("GET", "/v1/models"): 200,
    ("GET", "/v1/models/default"): 200,
    ("GET", "/info"): 200,
    ("GET", "/generate"): 405,
    ("PUT", "/generate"): 405,
    ("DELETE", "/v1/key"): 405,
    ("POST", "/key"): 405,
    ("POST", "/health/live"): 405,
    ("POST", "/metrics"): 405,
    ("GET", "/elsewhere"): 404,
    ("POST", "/elsewhere"): 404,
    ("GET", "/v1/"): 404,
    ("GET", "/v1/keys"): 404,
    ("GET", "/v1/key/"): 404,
    ("GET", "/V1/KEY"): 404,
    ("GET", "//v1/key"): 404,
    ("GET", "/page"): 404,
    ("GET", "/keys.mirror"): 404,
    ("GET", "/.env"): 404,
    ("GET", "/config"): 404,
    ("POST", "/config/update"): 404,
    ("GET", "/docs"): 404,
    ("GET", "/openapi.json"): 404,
}
"""And what one that may use everything gets."""
OPEN = {
    ("GET", "/"): 200,
    ("GET", "/key"): 200,
    ("GET", "/health"): 200,
    ("GET", "/health/live"): 200,
    ("GET", "/health/ready"): 200,
    ("GET", "/page/nothing"): 404,
    ("OPTIONS", "/generate"): 204,
    ("OPTIONS", "/v1/key"): 204,
    ("OPTIONS", "/v1/chat/completions"): 204,
    ("OPTIONS", "/elsewhere"): 404,
}
_DEFAULT = "/v1/models/default"
ADMINS = [
    (method, path)
    for path in (
        *("/admin/v1/keys", "/admin/v1/keys/key-1", "/admin/v1/usage", "/admin/v1/usage/rows"),
        *(
            "/admin/v1/groups",
            "/admin/v1/openapi.json",
            "/admin/v1/exchanges/x",
            "/admin/",
            "/admin",
        ),
        *("/admin/v1/upstreams/far/clear", "/admin/v1/nothing", "/admin/v1/keys/../keys"),
    )
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS")
]


@asynccontextmanager
async def world(place: Path) -> AsyncIterator[tuple[Keyed, StandIn]]:
    socket = main.clerk_socket(place / "data")
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with (
        StandIn(Reply(500, b"{}")) as far,
        StandIn(Reply(200, b"{}"), socket_path=socket) as clerk,
        keyed(place, far.url, HELD, admin_key=ADMIN) as here,
    ):
        yield here, far
        assert all(seen.header("authorization") is None for seen in clerk.requests)
        here.clerk_was_asked = bool(clerk.requests)


def code_of(answer: Answer) -> str:
    told = answer.json
    if isinstance(told.get("error"), dict) and "message" in told["error"]:
        return str(told["error"]["code"])
    return str(told.get("code") or answer.headers.get("x-error-code"))


def assert_tells_nothing(answer: Answer) -> None:
    """Neither a digest nor what was shown."""
    head = "".join(f"{name}: {value}\n" for name, value in answer.headers.items()).encode()
    told = head + answer.body
    for key in HELD:
        for digest in (key.digest.hex().encode(), base64.b64encode(key.digest), key.digest):
            assert digest not in told
    for secret in (GOOD_SECRET, keys.secret(3), keys.secret(4), HF_TOKEN, ADMIN):
        assert secret.encode() not in told
        assert secret[3:20].encode() not in told


async def ask(
    here: Keyed, door: str, route: tuple[str, str], secret: str | None, **options: Any
) -> Answer:
    method, path = route
    body = ASKED.get(path, b"") if method == "POST" else b""
    answer = await here.call(path, body, secret, method=method, door=door, **options)
    assert_tells_nothing(answer)
    return answer


@pytest.mark.parametrize("door", STRICT_DOORS)
@pytest.mark.parametrize("shown", REFUSED)
async def test_what_lets_nobody_in(tmp_path: Path, door: str, shown: str) -> None:
    secret, code = REFUSED[shown]
    async with world(tmp_path) as (here, far):
        for route in NEED_A_KEY:
            answer = await ask(here, door, route, secret)
            assert answer.status == 401, (route, answer)
            assert answer.headers["www-authenticate"] == "Bearer"
            if not route[1].startswith("/v1/"):
                assert code in {code_of(answer), answer.headers.get("x-error-code")}, route
        for route, status in OPEN.items():
            assert (await ask(here, door, route, secret)).status == status, route
        for route in ADMINS:
            wanted = 200 if shown == "admin" else 401
            if shown == "admin" and route[0] == "OPTIONS":
                wanted = 405
            assert (await ask(here, door, route, secret)).status == wanted, route
        assert (await ask(here, door, ("GET", "/metrics"), secret)).status == 200, "it is local"
        assert far.requests == []
        assert here.refusals() == [], "what anybody can send fills no file"
    assert here.clerk_was_asked == (shown == "admin")


@pytest.mark.parametrize("door", STRICT_DOORS)
async def test_what_a_key_lets_do(tmp_path: Path, door: str) -> None:
    async with world(tmp_path) as (here, far):
        for route, status in NEED_A_KEY.items():
            assert (await ask(here, door, route, GOOD_SECRET)).status == status, route
        for route in ADMINS:
            assert (await ask(here, door, route, GOOD_SECRET)).status == 401, route
        for route, status in OPEN.items():
            assert (await ask(here, door, route, GOOD_SECRET)).status == status, route
        assert {seen.header("authorization") for seen in far.requests} == {None}


@pytest.mark.parametrize("door", STRICT_DOORS)
async def test_another_s_key_tells_of_that_one_alone(tmp_path: Path, door: str) -> None:
    async with world(tmp_path) as (here, far):
        for route in CALLS:
            answer = await ask(here, door, route, keys.secret(2))
            assert answer.status == 403, route
        assert far.requests == []
        own = (await ask(here, door, ("GET", "/v1/key"), keys.secret(2))).body
        assert b"another's" in own
        assert b"key-1" not in own
        models = (await ask(here, door, ("GET", "/v1/models"), keys.secret(2))).json["data"]
        assert [model["id"] for model in models] == ["other"]


@pytest.mark.parametrize("door", STRICT_DOORS)
async def test_metrics_are_for_this_machine_and_the_admin(tmp_path: Path, door: str) -> None:
    async with world(tmp_path) as (here, _):
        for secret in (None, GOOD_SECRET, HF_TOKEN, ADMIN):
            connection = here.connect(door, peer="203.0.113.9")
            connection.send(request_bytes("/metrics", b"", secret, method="GET"))
            assert (await connection.answer()).status == (200 if secret == ADMIN else 401)
            await connection.end()


@pytest.mark.parametrize("door", STRICT_DOORS)
async def test_a_key_in_the_url_is_refused_wherever_one_is_needed(
    tmp_path: Path, door: str
) -> None:
    async with world(tmp_path) as (here, far):
        for query in (f"key={GOOD_SECRET}", f"a=b&api_key={GOOD_SECRET}", f"x={GOOD_SECRET}"):
            for method, path in (*CALLS, ("GET", "/v1/key"), ("GET", "/elsewhere")):
                for secret in (None, GOOD_SECRET):
                    route = (method, f"{path}?{query}")
                    answer = await ask(here, door, route, secret)
                    assert answer.status in {400, 422}, route
                    assert "URL" in answer.body.decode()
        assert far.requests == []
        assert GOOD_SECRET not in here.log.getvalue()


@pytest.mark.parametrize("door", STRICT_DOORS)
async def test_two_that_differ_are_refused_and_each_header_alone_lets_in(
    tmp_path: Path, door: str
) -> None:
    async with world(tmp_path) as (here, _):
        route = ("GET", "/v1/key")
        both = (("x-api-key", keys.secret(2)),)
        assert (await ask(here, door, route, GOOD_SECRET, headers=both)).status == 400
        assert (await ask(here, door, route, None, headers=both)).status == 200
        assert (await ask(here, door, route, GOOD_SECRET)).status == 200
        twice = (("Authorization", f"Bearer {GOOD_SECRET}"),)
        assert (await ask(here, door, route, GOOD_SECRET, headers=twice)).status == 400


HOSTILE = [
    "' OR '1'='1",
    "'; DROP TABLE keys; --",
    "x' UNION SELECT value FROM keys --",
    "%' OR digest LIKE '%",
    '"; SELECT 1; --',
    "{{7*7}}${7*7}<%= 7*7 %>",
    "../../../../etc/passwd",
    "\\x00\\u0000%00",
    "kh_' OR 1=1 --",
    f"{GOOD_SECRET}' --",
    "\x7f",
    "\xff\xfe",
]
HEADERS = ("Authorization", "x-api-key", "x-request-id", "Content-Type", "User-Agent", "Cookie")


@pytest.mark.parametrize("door", STRICT_DOORS)
@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_values_in_headers_are_words_and_nothing_else(
    tmp_path: Path, door: str, text: str
) -> None:
    async with world(tmp_path) as (here, far):
        for name in HEADERS:
            for value in (text, f"Bearer {text}"):
                for method, path in (("POST", "/generate"), ("GET", "/v1/key")):
                    headers = ((name, value),)
                    answer = await ask(here, door, (method, path), None, headers=headers)
                    assert answer.status in {400, 401}, (name, value)
                    told = answer.body.lower()
                    assert not any(word in told for word in (b"sqlite", b"syntax", b"traceback"))
        assert far.requests == []
        assert (await ask(here, door, ("GET", "/v1/key"), GOOD_SECRET)).status == 200
        assert '"code":"internal_error"' not in here.log.getvalue()


@pytest.mark.parametrize("door", STRICT_DOORS)
@pytest.mark.parametrize("value", [b"a\0b", b"x" * 1024 * 1024], ids=["NUL", "1 MB"])
async def test_what_no_header_may_hold_never_gets_as_far_as_a_key(
    tmp_path: Path, door: str, value: bytes
) -> None:
    async with world(tmp_path) as (here, far):
        for name in HEADERS:
            connection = here.connect(door)
            head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            connection.send(head + name.encode() + b": " + value + b"\r\n\r\n{}")
            assert (await connection.answer()).status in {400, 431}
            await connection.end()
        assert far.requests == []


FIELDS: dict[str, tuple[str, ...]] = {
    "/generate": ("input", "model", "parameters", "stream", "inputs"),
    "/models/default": ("inputs", "parameters", "options"),
    "/v1/chat/completions": ("messages", "model", "max_tokens", "n", "stop", "user", "tools"),
    "/v1/completions": ("prompt", "model", "max_tokens", "n", "best_of", "suffix"),
}
WORDS = [
    *HOSTILE[:9],
    "a\0b",
    "x" * 1024 * 1024,
    "\ud800",
    -1,
    2**63,
    10**30,
    1e308,
    [],
    {},
    [[[[[[]]]]]],
    None,
    {"$where": "1"},
]


@pytest.mark.parametrize("path", FIELDS)
async def test_hostile_values_in_bodies_are_refused_or_sent_on(tmp_path: Path, path: str) -> None:
    """Never a fault of ours, never the store's words, and no more than the limit holds."""
    async with world(tmp_path) as (here, _):
        for field in FIELDS[path]:
            for value in WORDS:
                body = json.dumps({**ASKED[path], field: value}).encode()
                answer = await here.call(path, body, GOOD_SECRET)
                assert answer.status in {400, 404, 413, 422, 502}, (field, value)
                assert b"internal_error" not in answer.body, (field, value)
                assert_tells_nothing(answer)
        assert all(receipt.cost_microusd >= 0 for receipt in here.receipts())


@pytest.mark.parametrize("shown", [*REFUSED, "good", "another's"])
async def test_the_flask_door_is_as_strict(tmp_path: Path, shown: str) -> None:
    secret = {"good": GOOD_SECRET, "another's": keys.secret(2)}.get(shown)
    if shown in REFUSED:
        secret = REFUSED[shown][0]
    async with world(tmp_path) as (here, far):
        given = Inputs(environ={"KEYHOLE_DATA": str(here.data)}, cwd=tmp_path, home=tmp_path)
        settings = load(given, backends=main.backends(), engine_models=lambda _: [])

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            async with main.open_runtime(
                settings, keeps_engine=False, role="server", observers=()
            ) as runtime:
                yield runtime.gateway

        door = ThreadedGateway(lifespan)
        client = app_over(door).test_client()

        def statuses() -> dict[tuple[str, str], int]:
            headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
            return {
                route: client.open(
                    route[1],
                    method=route[0],
                    headers=headers,
                    json=ASKED.get(route[1]) if route[0] == "POST" else None,
                ).status_code
                for route in (*NEED_A_KEY, *OPEN, *ADMINS)
                if not route[1].startswith("//") and ".." not in route[1] and route[1] != "/admin"
            }

        try:
            got = await asyncio.to_thread(statuses)
        finally:
            await asyncio.to_thread(door.close)
        for route, status in got.items():
            if route in OPEN:
                assert status == OPEN[route], route
            elif route in ADMINS:
                assert status == 401, (route, "it has no admin interface")
            elif shown == "good":
                assert status == NEED_A_KEY[route], route
            elif shown == "another's":
                wanted = {**NEED_A_KEY, **dict.fromkeys(CALLS, 403), ("GET", _DEFAULT): 404}[route]
                assert status == wanted, route
            else:
                assert status == 401, route
        if shown in REFUSED:
            assert far.requests == []


def test_the_table_knows_the_keys_it_speaks_of() -> None:
    assert now_ms() > 10
    assert len(ADMIN) == len(GOOD_SECRET) == len(NEIGHBOUR) == len(ALL_BUT_THE_LAST)
    assert NEIGHBOUR != GOOD_SECRET != ALL_BUT_THE_LAST
