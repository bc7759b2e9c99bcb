"""The admin interface over a ledger of its own, as the clerk serves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyhole.io.refusals import RefusalRing
from keyhole.ledger.books import Batch, Books
from keyhole.ledger.database import Database
from keyhole.ledger.keys import KeyStore
from keyhole.server.admin import OPERATIONS, ROOT, AdminApp, Ledgers, openapi
from keyhole.wire.records import Refusal
from standins.attempts import intent, receipt

NOW_MS = 1_763_863_600_000


class Asking:
    """Asks the application, in its own words."""

    def __init__(self, database: Database, data: Path) -> None:
        self.database = database
        self.data = data
        self.app = AdminApp(Ledgers(database, data, now_ms=lambda: NOW_MS))
        self.headers: dict[str, str] = {}

    async def __call__(
        self, method: str, path: str, body: object = None, *, query: str = "", status: int = 200
    ) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "raw_path": f"{ROOT}{path}".encode(),
            "query_string": query.encode(),
        }
        await self.app(scope, receive, send)
        assert sent[0]["status"] == status, sent
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return json.loads(sent[1]["body"])


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Asking]:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite", patience_s=0.2)
    database.migrate()
    yield Asking(database, tmp_path)
    database.close()


def book(database: Database, count: int) -> None:
    lines = [receipt(number) for number in range(count)]
    Books(database).post(Batch(node="n", segment="s", begins_at=0, ends_at=9, lines=lines))


async def test_a_key_from_its_making_to_its_end(ask: Asking):
    made = await ask("POST", "/keys", {"name": "ann", "group": "a", "rpm": 5}, status=201)
    (key,) = made["keys"]
    assert set(key) == {"secret", "id", "name", "key"}
    assert (await ask("GET", f"/keys/{key['id']}"))["limits"]["rpm"] == 5
    assert (await ask("GET", "/keys/ann"))["id"] == key["id"]
    rotated = await ask("POST", "/keys/ann/rotate", {"grace": "1h"}, status=201)
    assert rotated["keys"][0]["secret"] != key["secret"]
    assert (await ask("GET", f"/keys/{key['id']}"))["state"] == "replaced"
    assert (await ask("DELETE", "/keys/ann"))["state"] == "revoked"


async def test_many_keys_are_made_and_paged(ask: Asking):
    made = await ask("POST", "/keys", {"name": "s", "group": "a", "count": 5}, status=201)
    assert [key["name"] for key in made["keys"]] == [f"s-0{number}" for number in range(1, 6)]
    seen, after = [], ""
    for _ in range(3):
        page = await ask("GET", "/keys", query=f"limit=2&group=a{after}")
        seen += [key["id"] for key in page["keys"]]
        after = f"&after={page['next']}"
    assert page["next"] is None
    assert sorted(seen) == sorted(key["id"] for key in made["keys"])


async def test_no_digest_and_no_secret_is_in_any_reply_but_the_first(ask: Asking):
    made = await ask("POST", "/keys", {"name": "ann", "group": "a"}, status=201)
    secret = made["keys"][0]["secret"]
    digest = KeyStore(ask.database).get("ann").digest
    paths = ("/keys", "/keys/ann", "/groups", "/usage", "/usage/rows", "/openapi.json")
    told = [made["keys"][0]["key"], *[await ask("GET", path) for path in paths]]
    told.append(await ask("DELETE", "/keys/ann"))
    text = json.dumps(told)
    assert "ann" in text
    assert secret not in text
    assert digest.hex() not in text
    assert "digest" not in text


async def test_a_groups_limits_are_replaced(ask: Asking):
    await ask("PUT", "/groups/class%20a", {"budget": "20/month", "rpm": 1})
    told = await ask("PUT", "/groups/class%20a", {"budget": "10/month"})
    assert told["name"] == "class a"
    assert told["limits"]["rpm"] is None
    assert (await ask("GET", "/groups"))["groups"] == [told]


async def test_usage_is_summed_and_paged(ask: Asking):
    book(ask.database, 5)
    told = await ask("GET", "/usage", query="by=upstream")
    assert (told["total"]["requests"], told["sums"][0]["name"]) == (5, "hf")
    rows, after = [], ""
    for _ in range(3):
        page = await ask("GET", "/usage/rows", query=f"limit=2{after}")
        rows += page["rows"]
        after = f"&after={page['next']}"
    assert page["next"] is None
    assert [row["exchange_id"] for row in rows] == [intent(n).exchange_id for n in range(5)]


async def test_an_exchange_is_explained(ask: Asking):
    book(ask.database, 1)
    told = await ask("GET", f"/exchanges/{intent(0).exchange_id}")
    assert told["attempts"][0]["outcome"] == "ok"
    ring = RefusalRing(ask.data)
    ring.append(Refusal(exchange_id="refused", at_ms=1, status=429, code="c", message="m"))
    ring.close()
    assert (await ask("GET", "/exchanges/refused"))["refusal"]["status"] == 429
    told = await ask("GET", "/exchanges/unknown", status=404)
    assert told["error"]["code"] == "exchange_not_found"


async def test_an_upstreams_mark_is_cleared(ask: Asking):
    Books(ask.database).mark("hf", reason="402", now_ms=1)
    assert (await ask("POST", "/upstreams/hf/clear"))["was_marked"] is True
    assert (await ask("POST", "/upstreams/hf/clear"))["was_marked"] is False


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "status", "code"),
    [
        ("GET", "/nothing", None, "", 404, "path_not_found"),
        ("GET", "/keys/a/b", None, "", 404, "path_not_found"),
        ("PATCH", "/keys", None, "", 405, "method_not_allowed"),
        ("GET", "/keys/nobody", None, "", 404, "key_not_found"),
        ("GET", "/keys/%27%20OR%201%3D1--", None, "", 404, "key_not_found"),
        ("GET", "/keys/%00", None, "", 404, "key_not_found"),
        ("GET", "/keys/" + "x" * 100_000, None, "", 404, "key_not_found"),
        ("POST", "/keys", b"{", "", 400, "invalid_json"),
        ("POST", "/keys", b"\xff", "", 400, "invalid_json"),
        ("POST", "/keys", {"name": 5}, "", 400, "invalid_parameter"),
        ("POST", "/keys", {"name": "a", "colour": "red"}, "", 400, "invalid_parameter"),
        ("POST", "/keys", {"name": "a", "budget": "x"}, "", 400, "invalid_parameter"),
        ("POST", "/keys", {"name": "a", "rpm": -1}, "", 400, "invalid_parameter"),
        ("POST", "/keys", {"name": "a", "rpm": 10**30}, "", 400, "invalid_parameter"),
        ("POST", "/keys", {"name": "a\0b"}, "", 400, "invalid_parameter"),
        ("POST", "/keys", {"name": "a", "count": 10**9}, "", 400, "invalid_parameter"),
        ("GET", "/keys", None, "limit=0", 400, "invalid_parameter"),
        ("GET", "/keys", None, "colour=red", 400, "invalid_parameter"),
        ("GET", "/usage", None, "by=digest", 400, "invalid_parameter"),
        ("GET", "/usage", None, "since=soon", 400, "invalid_parameter"),
        ("GET", "/usage", None, "after=-1", 400, "invalid_parameter"),
        ("GET", "/usage/rows", None, "after=%00", 400, "invalid_parameter"),
        ("PUT", "/groups/%00", {}, "", 400, "invalid_parameter"),
        ("POST", "/keys/x/rotate", {"grace": "x"}, "", 400, "invalid_parameter"),
    ],
)
async def test_what_is_wrong_is_said_and_nothing_is_made(
    ask: Asking, *, method: str, path: str, body: object, query: str, status: int, code: str
):
    told = await ask(method, path, body, query=query, status=status)
    assert told["error"]["code"] == code
    assert told["error"]["message"]
    assert KeyStore(ask.database).list_keys() == []


async def test_a_ledger_that_is_away_is_503(ask: Asking):
    with ask.database.writing():
        told = await ask("POST", "/keys", {"name": "a"}, status=503)
    assert told["error"]["code"] == "ledger_unavailable"


async def test_every_operation_is_described(ask: Asking):
    told = await ask("GET", "/openapi.json")
    assert told == json.loads(json.dumps(openapi()))
    described = {
        (method.upper(), path) for path, methods in told["paths"].items() for method in methods
    }
    assert described == {(it.method, ROOT + it.path) for it in OPERATIONS}
    text = json.dumps(told)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in told["components"]["schemas"]
    assert all(
        methods[method]["summary"] for methods in told["paths"].values() for method in methods
    )
