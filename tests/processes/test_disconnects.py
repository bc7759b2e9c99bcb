"""A client that leaves is billed for what its upstream made until then, and no longer.

How soon the upstream's connection is closed is measured and printed; what is asserted leaves room
for a machine that has other things to do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keyhole.ledger.usage import Attempt
from processes import spending
from processes.driving import PYTHON, Server, free_port, serving, started, wait_for
from processes.spending import (
    CHAT,
    MODEL,
    PROMPT_TOKENS,
    Piece,
    asking,
    configure,
    frames,
    last_frames,
    read_pieces,
)
from standins import Gate, Seen, StandIn, Streamed
from standins.upstream import Answer

CHUNKS = 20
PAUSE_S = 0.004
"""Between two chunks of the upstream's."""
CLOSED_WITHIN_S = 0.1
AT_MOST_S = 2.0
"""On a machine that is busy."""

CHAT_BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Say it."}]}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (CHAT, {**CHAT_BODY, "stream": True}),
    "tgi": ("/generate_stream", {"inputs": "Say it.", "model": MODEL}),
}
"""Where a stream is asked for, in the upstream's own format and in another."""


def slowly(seen: Seen) -> Answer:
    """A chunk every few milliseconds, and then nothing; a whole answer never ends."""
    never = Gate()
    if not seen.json.get("stream"):
        return Streamed((b"{", never), headers={"content-type": "application/json"})
    pieces: list[Piece] = []
    for frame in frames(CHUNKS):
        pieces += [PAUSE_S, frame]
    return Streamed((*pieces, never, *last_frames(CHUNKS)))


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandIn]:
    with spending.upstream(slowly) as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("left")
    data = configure(home, upstream.url)
    with serving(data=data, home=home) as running:
        yield running


@dataclass(frozen=True)
class Left:
    """A client that left."""

    read: int
    """How many pieces it had read."""
    sent: int
    """How many its upstream had sent."""
    noticed_s: float
    """After how long the upstream's connection was closed."""
    exchange_id: str


def leave_after(
    server: Server,
    upstream: StandIn,
    place: str,
    body: Mapping[str, Any],
    pieces: int,
    secret: str | None = None,
) -> Left:
    """Ask, read so many pieces of the stream, and hang up."""
    count = len(upstream.requests)
    with asking(server, place, body, secret) as client:
        found = read_pieces(client, pieces)
        seen = wait_for(lambda: next(iter(upstream.requests[count:]), None), "asked", 10)
        assert seen is not None
        left_s = time.monotonic()
    assert upstream.wait_for_departure(seen, 10), "it was not told"
    departure = next(one for one in upstream.departures if one.seen is seen)
    exchange_id = seen.header("x-request-id")
    assert exchange_id is not None
    return Left(found, departure.sent, departure.at_s - left_s, exchange_id)


def booked(data: Path, left: list[Left]) -> list[Attempt]:
    """The rows of those who left, in their order, once all of them are there."""

    def find() -> list[Attempt]:
        found = {row.exchange_id: row for row in spending.ledger(data)}
        rows = [found.get(one.exchange_id) for one in left]
        return [row for row in rows if row is not None] if all(rows) else []

    return wait_for(find, "all is booked", 15)


def tell(what: str, left: list[Left]) -> None:
    noticed_ms = [one.noticed_s * 1000 for one in left]
    median, worst = statistics.median(noticed_ms), max(noticed_ms)
    print(f"{what}: the upstream was left after {median:.1f} ms (median), {worst:.1f} (worst)")


@pytest.mark.parametrize("dialect", list(STREAMS))
def test_a_client_may_leave_after_any_chunk(server: Server, upstream: StandIn, dialect: str):
    place, body = STREAMS[dialect]
    left = [
        leave_after(server, upstream, place, body, pieces)
        for pieces in range(CHUNKS + 1)
        for _ in range(2)
    ]
    tell(dialect, left)
    for one, row in zip(left, booked(server.data, left), strict=True):
        assert row.outcome == "client_gone", (one, row)
        assert one.read <= row.completion_tokens <= one.sent, (one, row)
        assert row.prompt_tokens > 0
        if one.read:
            assert (row.basis, row.status) == ("counted", 200), (one, row)
    assert statistics.median(one.noticed_s for one in left) < CLOSED_WITHIN_S
    assert max(one.noticed_s for one in left) < AT_MOST_S


def test_a_client_may_leave_before_an_answer(server: Server, upstream: StandIn):
    """What it does not wait for is billed for its prompt: the upstream was at work on it."""
    left = [leave_after(server, upstream, CHAT, CHAT_BODY, 0) for _ in range(10)]
    tell("without a stream", left)
    for row in booked(server.data, left):
        assert (row.outcome, row.status, row.basis) == ("client_gone", 0, "estimated")
        assert row.prompt_tokens > 0
        assert row.completion_tokens == 0
    assert max(one.noticed_s for one in left) < AT_MOST_S


def test_nothing_is_held_for_those_who_left(server: Server, upstream: StandIn):
    """The last of this server: from here on it asks for keys."""
    secret = spending.make_key(
        server.data.parent, "one-at-a-time", "--concurrency", "1", "--budget", "1ktok"
    )
    for stream in (True, False):
        body = {**CHAT_BODY, "max_tokens": 100, "stream": stream}
        for _ in range(12):
            leave_after(server, upstream, CHAT, body, 5 if stream else 0, secret)


def test_on_request_an_upstream_is_read_to_its_end(tmp_path: Path):
    """With `on_client_gone = "drain"` what it reports is booked."""

    def script(_: Seen) -> Answer:
        pieces: list[Piece] = []
        for frame in frames(CHUNKS):
            pieces += [PAUSE_S, frame]
        return Streamed((*pieces, *last_frames(CHUNKS)))

    with spending.upstream(script) as up:
        data = configure(tmp_path, up.url, '[stream]\non_client_gone = "drain"\n')
        with serving(data=data, home=tmp_path) as server:
            body = {**CHAT_BODY, "stream": True}
            with asking(server, CHAT, body) as client:
                read_pieces(client, 3)
            (row,) = wait_for(lambda: spending.ledger(data), "it is booked", 15)
    assert not up.departures
    assert (row.outcome, row.basis) == ("client_gone", "reported")
    assert (row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, CHUNKS)


DOORS = {
    "uvicorn": ("-m", "uvicorn", "--factory", "keyhole.server.app:create_app", "--port"),
    "flask": ("-m", "flask", "--app", "keyhole.server.flask", "run", "--port"),
}


@pytest.mark.parametrize("door", list(DOORS))
def test_other_doors_notice_it_too(upstream: StandIn, tmp_path: Path, door: str):
    """A WSGI server notices when it writes."""
    data = configure(tmp_path, upstream.url, "[stream]\nheartbeat_s = 0.2\n")
    port = free_port()
    command = (PYTHON, *DOORS[door], port)
    with started(command, data=data, home=tmp_path, port=port) as server:
        place, body = STREAMS["openai"]
        left = [leave_after(server, upstream, place, body, pieces) for pieces in (1, 5, 12, 20)]
        tell(door, left)
        for one, row in zip(left, booked(data, left), strict=True):
            assert (row.outcome, row.basis) == ("client_gone", "counted"), (one, row)
            assert one.read <= row.completion_tokens <= one.sent, (one, row)
    assert "Traceback" not in server.log
