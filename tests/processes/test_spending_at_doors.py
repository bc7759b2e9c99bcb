"""Keys, limits and books at the doors that have no supervisor, and beside a running server."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import spending
from processes.driving import PYTHON, Server, free_port, keyhole, serving, started, wait_for
from processes.spending import (
    CHAT,
    PROMPT_TOKENS,
    are_booked,
    ask_for,
    configure,
    load,
    make_key,
    showing,
)
from standins import StandIn

GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
APP = "keyhole.server.flask:create_app()"
DOORS = {
    "flask": (PYTHON, "-m", "flask", "--app", "keyhole.server.flask", "run", "--port"),
    "uvicorn": (PYTHON, "-m", "uvicorn", "--factory", "keyhole.server.app:create_app", "--port"),
    "gunicorn": (GUNICORN, "-w", 1, "--threads", 8, APP, "--bind"),
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[StandIn]:
    with spending.upstream() as running:
        yield running


def spend(server: Server, secret: str | None) -> int:
    return server.ask(ask_for(3), path=CHAT, headers=showing(secret)).status


@pytest.mark.parametrize("door", list(DOORS))
def test_a_door_of_its_own_asks_for_keys_and_keeps_books(
    upstream: StandIn, tmp_path: Path, door: str
):
    data = configure(tmp_path, upstream.url)
    secret = make_key(tmp_path, "ann", "--rpm", "30")
    port = free_port()
    at = f"127.0.0.1:{port}" if door == "gunicorn" else port
    with started((*DOORS[door], at), data=data, home=tmp_path, port=port) as server:
        assert spend(server, None) == 401
        assert spend(server, "kh_wrong") == 401
        spent = load(server, secret, 24)
        assert {one.status for one in spent} == {200}
        wait_for(lambda: are_booked(spending.ledger(data), spent), "booked", 15)
        server.signal(signal.SIGTERM)
        server.wait()
        server.family_ends(within_s=20)
    assert "Traceback" not in server.log


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who holds a lock is Linux's to tell")
def test_one_of_two_workers_counts_and_the_other_takes_over(upstream: StandIn, tmp_path: Path):
    """However the requests fall to them, no key has anything twice."""
    data = configure(tmp_path, upstream.url)
    limited = make_key(tmp_path, "ann", "--budget", "1ktok")
    free = make_key(tmp_path, "bob")
    port = free_port()
    command = (GUNICORN, "-w", 2, "--threads", 4, APP, "--bind", f"127.0.0.1:{port}")
    with started(command, data=data, home=tmp_path, port=port) as server:

        def refusal() -> str | None:
            answer = server.ask(ask_for(3), path=CHAT, headers=showing(limited))
            if answer.status == 200:
                return None
            assert answer.status == 503, answer
            assert spend(server, free) == 200
            return str(answer.json["error"]["code"])

        assert wait_for(refusal, "both are at work") == "limits_elsewhere"
        assert server.log.count("counts its limits") == 1
        wait_for(lambda: spend(server, limited) == 200, "the one that counts is asked, too")
        told = wait_for(lambda: uses(server, limited), "it is told by the one that counts")
        os.kill(holder(data), signal.SIGKILL)
        wait_for(lambda: spend(server, limited) == 200, "the other takes over", 20)
        again = wait_for(lambda: uses(server, limited), "it is told")
        assert again == told + PROMPT_TOKENS + 3


def uses(server: Server, secret: str) -> int:
    told = server.ask(None, method="GET", path="/v1/key", headers=showing(secret))
    return int(told.json["limits"][0]["used"]) if told.status == 200 else 0


def holder(data: Path) -> int:
    """The process that has the lock, which Linux tells."""
    inode = (data / "serving.lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[5].endswith(f":{inode}"):
            return int(fields[4])
    raise AssertionError("nobody has it")


def test_a_second_server_of_a_state_directory(upstream: StandIn, tmp_path: Path):
    data = configure(tmp_path, upstream.url)
    limited, free = make_key(tmp_path, "ann", "--rpm", "100"), make_key(tmp_path, "bob")
    with (
        serving(data=data, home=tmp_path) as first,
        serving(data=data, home=tmp_path) as second,
    ):
        assert [spend(first, limited), spend(second, limited)] == [200, 503]
        assert [spend(first, free), spend(second, free)] == [200, 200]
        said = keyhole("generate", "Hm", "--data", data, home=tmp_path)
        assert said.status == 0, said


def test_usage_beside_a_server_has_what_ended_a_moment_before(upstream: StandIn, tmp_path: Path):
    data = configure(tmp_path, upstream.url)
    secret = make_key(tmp_path, "ann", "--budget", "5/day", "--rpm", "50")
    with serving(data=data, home=tmp_path) as server:
        for number in range(1, 4):
            answer = server.ask(ask_for(3), path=CHAT, headers=showing(secret))
            began_s = time.monotonic()
            ran = keyhole("usage", "--rows", "--json", "--data", data, home=tmp_path)
            rows = [json.loads(line) for line in ran.out.splitlines()]
            print(f"usage took {time.monotonic() - began_s:.2f} s")
            assert len(rows) == number
            assert rows[-1]["exchange_id"] == answer.headers["x-request-id"]
            assert ran.err == ""
        told = server.ask(None, method="GET", path="/v1/key", headers=showing(secret)).json
        used = {one["limit"]: one["used"] for one in told["limits"]}
        assert used == {"budget": 3 * (PROMPT_TOKENS + 3), "rpm": 3}
        assert server.get("/v1/key").status == 401
