"""A key that goes ends what runs with it, in a real server, within a second of the command."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes.driving import Server, command_lines, keyhole, serving, wait_for
from standins import Gate, Seen, StandIn, Streamed
from standins import Reply as Said

CONFIG = """
[server]
builtin_routes = false
[upstream.far]
kind = "openai"
url = "{url}"
[route.default]
targets = ["far/m"]
"""
WITHIN_S = 1.0


def piece(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**chunk, "choices": [choice]}).encode()


def play(gate: Gate) -> Callable[[Seen], Any]:
    """A stream of two pieces and silence, or an answer that does not come."""

    def answer(seen: Seen) -> Any:
        if seen.json.get("stream"):
            return Streamed((piece("one"), piece("two"), gate))
        return Said(200, b"{}", delay_s=60)

    return answer


def made(place: Path, name: str, *more: str) -> str:
    ran = keyhole("key", "create", name, "--json", "--data", place / "data", *more, home=place)
    assert ran.status == 0, ran
    return str(json.loads(ran.out)["secret"])


def asked(server: Server, secret: str, *, stream: bool) -> tuple[int, bytes, float]:
    """Status, body, and when the last of it came."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = {"messages": [{"role": "user", "content": "x"}], "stream": stream}
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, time.monotonic()


def rows(place: Path) -> list[dict[str, Any]]:
    ran = keyhole("usage", "--rows", "--json", "--data", place / "data", home=place)
    assert ran.status == 0, ran
    return [json.loads(line) for line in ran.out.splitlines()]


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_what_runs_ends_and_is_booked_as_cut(tmp_path: Path, how: str) -> None:
    gate = Gate()
    async with StandIn(play(gate)) as far:
        (tmp_path / "keyhole.toml").write_text(CONFIG.format(url=far.url))
        await asyncio.to_thread(_end_it, tmp_path, far, how)
        assert len(far.requests) == 2, "nothing of it was asked again"


def _end_it(place: Path, far: StandIn, how: str) -> None:
    data = place / "data"
    data.mkdir(mode=0o700)
    other = made(place, "other")
    with serving(data=data, home=place) as server, ThreadPoolExecutor(2) as pool:
        lives_s = 4
        began_s = time.time()
        more = ("--expires", f"{lives_s}s") if how == "expired" else ()
        secret = made(place, "ann", *more)
        wait_for(
            lambda: server.ask({}, headers={"x-api-key": secret}).status == 400, "the key is known"
        )
        stream = pool.submit(asked, server, secret, stream=True)
        whole = pool.submit(asked, server, secret, stream=False)
        wait_for(lambda: len(far.requests) == 2, "both are under way")
        if how == "revoked":
            assert keyhole("key", "revoke", "ann", "--data", data, home=place).status == 0
            ended_s = time.monotonic()
        else:
            ended_s = time.monotonic() + max(began_s + lives_s - time.time(), 0) + 1
        results = [stream.result(), whole.result()]
        for status, body, came_s in results:
            assert came_s - ended_s < WITHIN_S
            assert f"The key {'was revoked' if how == 'revoked' else 'expired'} on" in body.decode()
            assert status == (200 if body.startswith(b"data:") else 401)
        assert results[0][0] == 200
        assert results[0][1].count(b"data:") == 3, "two pieces, and the error"
        assert b"[DONE]" not in results[0][1]
        for seen in far.requests:
            if seen.json.get("stream"):
                assert far.wait_for_departure(seen, 5)
        assert server.ask({}, headers={"x-api-key": secret}).status == 401
        assert server.ask({}, headers={"x-api-key": other}).status == 400
        wait_for(lambda: server.get("/metrics").status == 200, "it serves")
        booked = rows(place)
        assert [row["outcome"] for row in booked] == ["cut", "cut"]
        assert {row["key"] for row in booked} == {"ann"}
        told = [server.log, *command_lines(holding=str(data)).values()]
        told += [path.read_bytes().decode("latin-1") for path in _files(data)]
        assert any("ann" in text for text in told)
        assert not any(secret[3:20] in text for text in told), "nobody keeps the secret"


def _files(data: Path) -> list[Path]:
    """The state: journal, mirror, ledger and all."""
    return [path for path in data.rglob("*") if path.is_file()]
