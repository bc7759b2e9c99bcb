"""An upstream that is paid for, clients that spend there, and the ledger as it stands afterwards.

The upstream speaks OpenAI's format. It answers as many words as `max_tokens` asks for, each of them
a token, and tells so.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyhole.ledger.database import Database, ledger_url
from keyhole.ledger.usage import MAX_ROWS, Attempt, UsageReader
from processes.driving import PATIENCE_S, Server, keyhole
from standins import Gate, Reply, Seen, StandIn, Streamed
from standins.threaded import in_a_thread
from standins.upstream import Answer

PROMPT_TOKENS = 7
WORDS = 5
CHAT = "/v1/chat/completions"
MODEL = "m"

Piece = bytes | float | Gate


def frames(count: int) -> list[bytes]:
    """So many pieces of a text, a frame each."""
    return [_frame({"index": 0, "delta": {"content": f" w{n}"}}) for n in range(count)]


def last_frames(words: int) -> list[bytes]:
    """The end of a stream of so many words, with its usage."""
    return [
        _frame({"index": 0, "delta": {}, "finish_reason": "stop"}),
        _frame(None, usage=_usage(words)),
        b"data: [DONE]\n\n",
    ]


def _frame(choice: Any, **more: Any) -> bytes:
    value = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [] if choice is None else [choice],
        **more,
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _usage(words: int) -> dict[str, int]:
    total = PROMPT_TOKENS + words
    counts = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": words}
    return {**counts, "total_tokens": total}


def answer(seen: Seen) -> Answer:
    """All the words at once, as a stream where one is asked for."""
    words = seen.json.get("max_tokens", WORDS)
    if seen.json.get("stream"):
        return Streamed((*frames(words), *last_frames(words)))
    message = {"role": "assistant", "content": " word" * words}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    value = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL}
    return Reply.json({**value, "choices": [choice], "usage": _usage(words)})


@contextlib.contextmanager
def upstream(script: Callable[[Seen], Answer] = answer) -> Iterator[StandIn]:
    """One that listens, in a thread."""
    with in_a_thread(StandIn(script)) as running:
        yield running


def configure(home: Path, upstream_url: str, more: str = "") -> Path:
    """Write the configuration of a gateway in front of it; the state directory, made."""
    (home / "keyhole.toml").write_text(
        f"""
[server]
builtin_routes = false
[upstream.up]
kind = "openai"
url = "{upstream_url}/v1"
[route.default]
targets = ["up/{MODEL}"]
[route.{MODEL}]
targets = ["up/{MODEL}"]
[price."up/{MODEL}"]
input = 1.0
output = 1.0
{more}
"""
    )
    data = home / "data"
    data.mkdir(mode=0o700)
    return data


def make_key(home: Path, name: str, *options: str) -> str:
    """A new key's secret."""
    made = keyhole("key", "create", name, *options, "--json", "--data", home / "data", home=home)
    assert made.status == 0, made
    return str(json.loads(made.out)["secret"])


def ask_for(words: int, *, stream: bool = False, model: str = MODEL) -> dict[str, Any]:
    """A chat's body."""
    messages = [{"role": "user", "content": "Say it."}]
    return {"model": model, "messages": messages, "max_tokens": words, "stream": stream}


def showing(secret: str | None) -> dict[str, str]:
    """The headers of whoever has that key."""
    return {} if secret is None else {"Authorization": f"Bearer {secret}"}


def asking(
    server: Server, place: str, body: Mapping[str, Any], secret: str | None = None
) -> socket.socket:
    """A connection with a request on it."""
    content = json.dumps(body).encode()
    fields = {"host": "127.0.0.1", "content-type": "application/json", **showing(secret)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(
        f"POST {place} HTTP/1.1\r\n{head}content-length: {len(content)}\r\n\r\n".encode() + content
    )
    return client


def read_pieces(client: socket.socket, pieces: int) -> int:
    """Read so many pieces of a stream, or a few more; how many there were."""
    read = b""
    while (found := _count(read)) < pieces:
        more = client.recv(65536)
        assert more, read
        read += more
    return found


def _count(read: bytes) -> int:
    """How many pieces of text there are in what came."""
    return len(re.findall(rb'" w\d+"', read))


@dataclass(frozen=True)
class Spent:
    """One request of a load, as its client saw it."""

    exchange_id: str
    status: int
    completion_tokens: int


def load(
    server: Server, secret: str | None, count: int, *, clients: int = 8, model: str = MODEL
) -> list[Spent]:
    """Requests by several clients at once, every third a stream."""

    def spend(client: int) -> list[Spent]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        spent = []
        with contextlib.closing(connection):
            for number in range(client, count, clients):
                words = 1 + number % 9
                body = ask_for(words, stream=number % 3 == 0, model=model)
                spent.append(_spend(connection, secret, body))
        return spent

    with ThreadPoolExecutor(clients) as pool:
        return [one for spent in pool.map(spend, range(clients)) for one in spent]


def _spend(
    connection: http.client.HTTPConnection, secret: str | None, body: Mapping[str, Any]
) -> Spent:
    headers = {"Content-Type": "application/json", **showing(secret)}
    connection.request("POST", CHAT, json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    if response.status == 200 and body["stream"]:
        assert content.endswith(b"data: [DONE]\n\n"), content
    return Spent(response.headers["x-request-id"], response.status, body["max_tokens"])


def ledger(data: Path, url: str | None = None) -> list[Attempt]:
    """Every row; raises LedgerUnavailable."""
    rows: list[Attempt] = []
    with Database(ledger_url(url, data)) as database:
        reader = UsageReader(database)
        while page := reader.rows(after=rows[-1].place if rows else None, limit=MAX_ROWS):
            rows += page
    return rows


def are_booked(rows: Sequence[Attempt], spent: Sequence[Spent]) -> bool:
    """Whether every request has its row; asserts that none has two, or other tokens."""
    expected: Mapping[str, Spent] = {one.exchange_id: one for one in spent}
    assert len(expected) == len(spent)
    found = {row.exchange_id: row for row in rows}
    assert len(found) == len(rows), "an attempt too many"
    if not expected.keys() <= found.keys():
        return False
    for exchange_id, one in expected.items():
        row = found[exchange_id]
        assert (row.outcome, row.basis) == ("ok", "reported"), row
        assert (row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, one.completion_tokens)
    return True
