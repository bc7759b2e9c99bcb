"""A disk that fills up: nothing is served that could not be booked, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import spending
from processes.driving import Answer, Server, serving, wait_for
from processes.spending import (
    CHAT,
    Spent,
    are_booked,
    ask_for,
    asking,
    configure,
    frames,
    last_frames,
    load,
    make_key,
    read_pieces,
    showing,
)
from standins import Answer as Script
from standins import Gate, Seen, Streamed

DISK_MB = 40
LONG = "/".join(["m" * 90] * 2)
"""A model whose name fills the journal sooner."""
RUNNING = 5
"""Streams that are under way while the disk is full."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk"
)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of its own at a folder; skips where none may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "none", str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all that is left of the disk."""
    path = place / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


def test_a_full_disk_refuses_loses_nothing_and_recovers(tmp_path: Path):
    """The streams that run end in the books, and requests are served again when there is room."""
    gate = Gate()

    def script(seen: Seen) -> Script:
        if seen.json["messages"][0]["content"] == "Slowly.":
            return Streamed((*frames(2), gate, *frames(7)[2:], *last_frames(7)))
        return spending.answer(seen)

    with spending.upstream(script) as up:
        routed = f'[route."{LONG}"]\ntargets = ["up/{LONG}"]\n'
        data = configure(tmp_path, up.url, routed)
        with small_disk(data):
            secret = make_key(tmp_path, "ann", "--budget", "5/day")
            with serving(data=data, home=tmp_path) as server, contextlib.ExitStack() as stack:
                spent = load(server, secret, 60)
                slow = {**ask_for(7, stream=True), "messages": [_said("Slowly.")]}
                running = [
                    stack.enter_context(asking(server, CHAT, slow, secret)) for _ in range(RUNNING)
                ]
                for client in running:
                    read_pieces(client, 2)
                filler = fill(data)
                spent += until_refused(server, secret)
                # A receipt is shorter than what is kept for it: now and then another one fits.
                more = load(server, secret, 40)
                assert {one.status for one in more} <= {200, 503}
                spent += [one for one in more if one.status == 200]
                assert len(up.requests) == len(spent) + RUNNING, "no other was asked for"
                refused = wait_for(lambda: refusal(server, secret, spent), "refused", 15)
                assert (refused.status, refused.json["error"]["code"]) == (503, "journal_full")
                gate.open()
                for client in running:
                    assert read_to_end(client).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                filler.unlink()
                began_s = time.monotonic()
                wait_for(lambda: is_served(server, secret, spent), "all served again", 15)
                print(f"served again {time.monotonic() - began_s:.2f} s after there was room")
                spent += [
                    Spent(str(seen.header("x-request-id")), 200, 7)
                    for seen in up.requests
                    if seen.json["messages"][0]["content"] == "Slowly."
                ]
                print(f"{len(spent)} requests")
                wait_for(lambda: len(spending.ledger(data)) >= len(spent), "booked", 30)
                assert are_booked(spending.ledger(data), spent)
                assert len(spending.ledger(data)) == len(spent) == len(up.requests)


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def is_served(server: Server, secret: str, spent: list[Spent]) -> bool:
    """Whether thirty others are, all of them; those that are, are remembered."""
    more = load(server, secret, 30)
    spent += [one for one in more if one.status == 200]
    return all(one.status == 200 for one in more)


def refusal(server: Server, secret: str, spent: list[Spent]) -> Answer | None:
    """A refused request; one that is served is remembered among what was spent."""
    answer = server.ask(ask_for(1), path=CHAT, headers=showing(secret))
    if answer.status != 200:
        return answer
    spent.append(Spent(answer.headers["x-request-id"], 200, 1))
    return None


def until_refused(server: Server, secret: str) -> list[Spent]:
    """What is served until the journal's segment is full, too."""
    served: list[Spent] = []
    while True:
        more = load(server, secret, 100, model=LONG)
        served += [one for one in more if one.status == 200]
        if len(more) != len([one for one in more if one.status == 200]):
            return served
        assert len(served) < 10_000


def read_to_end(client: socket.socket) -> bytes:
    read = b""
    while not read.endswith(b"0\r\n\r\n"):
        more = client.recv(65536)
        assert more, read
        read += more
    return read
