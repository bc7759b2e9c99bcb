"""A server that is told to stop lets its streams come to their end."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from doors import servers
from doors.client import ask
from doors.frames import Raw, openai, openai_frames
from doors.leaks import no_leaks
from doors.servers import ASGI_DOORS
from doors.upstream import Upstream


@pytest.mark.parametrize("name", ASGI_DOORS)
def test_what_streams_is_sent_to_its_end(name: str, upstream: Upstream) -> None:
    first, *rest = openai_frames()
    gate = threading.Event()
    upstream.plays(first, gate, *rest)
    opened = servers.strict(name) if name in servers.STRICT_DOORS else servers.asgi(name[5:])
    with no_leaks(), ExitStack() as stack:
        door = stack.enter_context(opened)
        with Raw(door, openai("live-openai")) as raw:
            raw.until(b"data: ")
            stopping = threading.Thread(target=stack.pop_all().close)
            stopping.start()
            stopping.join(0.3)
            assert stopping.is_alive(), "it waits for the stream"
            gate.set()
            assert raw.to_the_end().rstrip().endswith(b"0")
            assert b"data: [DONE]\n\n" in raw.received
        stopping.join()
    (composed,) = door.composed
    assert [record.status for record in composed.memory.records] == [200]


def test_gunicorn_too(tmp_path: Path, upstream: Upstream) -> None:
    first, *rest = openai_frames()
    gate = threading.Event()
    upstream.plays(first, gate, *rest)
    with servers.gunicorn(tmp_path) as door:
        ask(door, "GET", "/health/live")
        with Raw(door, openai("live-openai")) as raw:
            raw.until(b"data: ")
            os.kill(door.pid, signal.SIGTERM)
            gate.set()
            raw.to_the_end()
            assert b"data: [DONE]\n\n" in raw.received
