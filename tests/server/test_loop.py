"""The gateway's own thread: begun late, closed at the end, begun anew after a fork."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from doors.composed import Composed
from doors.leaks import no_leaks
from keyhole.errors import GatewayError, SetupError
from keyhole.exchange import Admission, Gateway
from keyhole.server.loop import ThreadedGateway
from keyhole.wire.http import Head, Reply

TESTS = Path(__file__).parents[1]
CALL = Head(method="POST", path="/generate", headers=((b"host", b"localhost"),), peer="127.0.0.1")


class Opened:
    """A lifespan that tells what happened to it."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.composed: list[Composed] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Gateway]:
        self.steps.append("open")
        self.composed.append(Composed(io.StringIO()))
        yield self.composed[-1].gateway
        self.steps.append(f"closed with {self.composed[-1].transport.inside} inside")


@pytest.fixture
def opened() -> Opened:
    return Opened()


@pytest.fixture
def gateway(opened: Opened) -> Iterator[ThreadedGateway]:
    with no_leaks():
        made = ThreadedGateway(opened)
        yield made
        made.close()
    assert "keyhole" not in {thread.name for thread in threading.enumerate()}


def ask(gateway: ThreadedGateway, wanted: str) -> Reply:
    admission = gateway.admit(CALL)
    assert isinstance(admission, Admission)
    reply, _ = gateway.run(admission, json.dumps({"input": wanted}).encode())
    return reply


def test_nothing_begins_before_the_first_request(opened: Opened, gateway: ThreadedGateway) -> None:
    assert opened.steps == []
    assert ask(gateway, "odd").status == 200
    assert opened.steps == ["open"]


def test_many_threads_at_once_open_it_once(opened: Opened, gateway: ThreadedGateway) -> None:
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: ask(gateway, "together 16"), range(16)))
    assert {reply.status for reply in replies} == {200}
    assert opened.steps == ["open"]


def test_closing_ends_what_runs_before_it_closes_the_gateway(
    opened: Opened, gateway: ThreadedGateway
) -> None:
    ask(gateway, "odd")
    composed = opened.composed[0]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, gateway, "wait")
        assert composed.transport.is_inside.wait(60)
        gateway.close()
        with pytest.raises(GatewayError, match="shutting down"):
            waiting.result()
    assert opened.steps == ["open", "closed with 0 inside"]
    assert [record.status for record in composed.memory.records] == [200, 499]


def test_who_comes_as_it_closes_is_told_so(gateway: ThreadedGateway) -> None:
    ask(gateway, "odd")
    admission = gateway.admit(CALL)
    assert isinstance(admission, Admission)
    loop = gateway._loop
    assert loop is not None
    loop.stop()
    for _ in range(2):
        with pytest.raises(GatewayError, match="shutting down"):
            gateway.run(admission, b"{}")


def test_a_later_request_opens_it_anew(opened: Opened, gateway: ThreadedGateway) -> None:
    for _ in range(2):
        ask(gateway, "odd")
        gateway.close()
        gateway.close()
    assert opened.steps == ["open", "closed with 0 inside"] * 2


def test_what_keeps_it_from_opening_is_raised_each_time() -> None:
    attempts = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Gateway]:
        attempts.append(1)
        raise SetupError("The disk is gone.")
        yield

    gateway = ThreadedGateway(lifespan)
    with no_leaks():
        for _ in range(2):
            with pytest.raises(SetupError, match="disk"):
                gateway.admit(CALL)
    assert len(attempts) == 2


PROGRAM = """
import io, os, sys, threading
from contextlib import asynccontextmanager
from doors.composed import Composed
from keyhole.server.loop import ThreadedGateway
from keyhole.wire.http import Head

@asynccontextmanager
async def lifespan():
    os.write(1, b"open\\n")
    yield Composed(io.StringIO()).gateway
    os.write(1, b"closed\\n")

gateway = ThreadedGateway(lifespan)
head = Head(method="POST", path="/generate", headers=((b"host", b"localhost"),), peer="127.0.0.1")

def ask():
    reply, _ = gateway.run(gateway.admit(head), b'{"input": "odd"}')
    os.write(1, b"%d\\n" % reply.status)
"""


def run(program: str) -> list[str]:
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    # Python 3.12 and later warn of any fork beside threads, which is what is tested here.
    quiet = ("-X", "dev", "-W", "ignore::DeprecationWarning")
    command = [sys.executable, *quiet, "-c", PROGRAM + program]
    done = subprocess.run(
        command, check=False, env=environ, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_the_interpreters_exit_closes_it() -> None:
    assert run("ask(); ask()") == ["open", "200", "200", "closed"]


def test_an_interpreter_that_never_asked_opens_nothing() -> None:
    assert run("") == []


def test_a_forked_process_opens_its_own() -> None:
    program = """
ask()
child = os.fork()
ask()
if child:
    assert os.waitpid(child, 0)[1] == 0
    ask()
"""
    steps = run(program)
    assert steps.count("open") == steps.count("closed") == 2
    assert steps.count("200") == 4
    assert steps[-1] == "closed"


def test_a_fork_while_the_lock_is_held_does_not_block_the_child() -> None:
    program = """
with gateway._lock:
    child = os.fork()
    if not child:
        ask()
        sys.exit()
assert os.waitpid(child, 0)[1] == 0
"""
    assert run(program) == ["open", "200", "closed"]
