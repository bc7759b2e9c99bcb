"""A stream in each door, step by step: started or cancelled, paused and resumed."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doors.composed import Composed
from doors.leaks import eventually, no_leaks
from keyhole.errors import GatewayError
from keyhole.exchange import Admission, Gateway
from keyhole.server.app import AsgiDoor
from keyhole.server.flask import app_over
from keyhole.server.loop import Body, ThreadedGateway
from keyhole.server.pulled import HIGH_WATER_BYTES, Pulled
from keyhole.wire.http import Head, Reply, Sink
from server.lanes import HIGH_WATER, Lane
from server.test_asgi_door import GONE, WHOLE, Exchange, scope

HALF = b"x" * (HIGH_WATER_BYTES // 2)
CALL = Head(method="POST", path="/generate", headers=((b"host", b"localhost"),), peer="127.0.0.1")


class Stream:
    """A wire.http.ReplyStream that the test pushes into."""

    def __init__(self, gateway: StreamingGateway, admission: Admission) -> None:
        self._gateway = gateway
        self._admission = admission
        self.sink: Sink | None = None
        self.steps: list[str] = []

    def start(self, sink: Sink, first: bytes) -> None:
        self.steps.append("start")
        self.sink = sink
        sink.send(first)

    def pause(self) -> None:
        self.steps.append("pause")

    def resume(self) -> None:
        self.steps.append("resume")

    def cancel(self) -> None:
        if self.steps[-1:] not in (["cancel"], ["end"]):
            self.steps.append("cancel")
            self._gateway.real.left(self._admission)

    def send(self, data: bytes) -> None:
        assert self.sink is not None
        self.sink.send(data)

    def end(self, data: bytes = b"") -> None:
        assert self.sink is not None
        self.steps.append("end")
        self._gateway.real.left(self._admission)
        self.sink.end(data)


class StreamingGateway:
    """A gateway whose every call is answered with a stream."""

    def __init__(self, composed: Composed) -> None:
        self.real = composed.gateway
        self.streams: list[Stream] = []
        self.has_run = threading.Event()
        self.gate: asyncio.Event | None = None
        self.admit, self.left, self.is_hot = self.real.admit, self.real.left, self.real.is_hot

    async def run(self, admission: Admission, body: bytes) -> Reply:
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.left(admission)
            raise
        stream = Stream(self, admission)
        self.streams.append(stream)
        self.has_run.set()
        return Reply(status=200, headers=[], body=b"first", stream=stream)

    @property
    def stream(self) -> Stream:
        (only,) = self.streams
        return only


@pytest.fixture
def composed() -> Composed:
    return Composed(io.StringIO())


@pytest.fixture
def gateway(composed: Composed) -> Iterator[Any]:
    yield StreamingGateway(composed)
    assert composed.memory.began_count == len(composed.memory.records)


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


class TestPulled:
    async def test_what_waits_is_taken_at_once_and_bounded(self, gateway: Any) -> None:
        stream = (await reply_of(gateway)).stream
        pulled = Pulled(stream, b"first")
        assert stream.steps == []
        assert await pulled.take() == b"first"
        stream.send(HALF)
        stream.send(HALF)
        assert stream.steps == ["start"]
        stream.send(b"y")
        stream.send(b"z")
        assert stream.steps == ["start", "pause"]
        assert await pulled.take() == HALF + HALF + b"yz"
        assert stream.steps == ["start", "pause", "resume"]
        waiting = asyncio.ensure_future(pulled.take())
        await settle()
        stream.end(b"last")
        assert await waiting == b"last"
        assert await pulled.take() == b""
        pulled.cancel()
        assert stream.steps[-1] == "end"

    async def test_cancelled_it_wakes_who_waits_and_never_looks_whole(self, gateway: Any) -> None:
        for started in (False, True):
            stream = (await reply_of(gateway)).stream
            pulled = Pulled(stream, b"first")
            waiting = None
            if started:
                await pulled.take()
                waiting = asyncio.ensure_future(pulled.take())
                await settle()
            pulled.cancel()
            pulled.cancel()
            assert stream.steps == ["start", "cancel"][not started :]
            for taking in filter(None, (waiting, pulled.take())):
                with pytest.raises(ConnectionError):
                    await taking

    async def test_an_end_that_nobody_takes_is_no_end(self, gateway: Any) -> None:
        stream = (await reply_of(gateway)).stream
        pulled = Pulled(stream, b"first")
        await pulled.take()
        stream.end(b"last")
        pulled.cancel()
        with pytest.raises(ConnectionError):
            await pulled.take()


async def reply_of(gateway: Any) -> Any:
    admission = gateway.admit(CALL)
    return await gateway.run(admission, b"")


class TestAsgi:
    def begin(self, gateway: Any, **fields: Any) -> tuple[asyncio.Task[None], Exchange]:
        happened = Exchange(WHOLE)
        door = AsgiDoor(gateway)(scope(**fields), happened.receive, happened.send)
        return asyncio.ensure_future(door), happened

    async def test_each_piece_is_sent_as_it_comes(self, gateway: Any) -> None:
        task, happened = self.begin(gateway)
        await settle()
        assert [message.get("body") for message in happened.sent] == [None, b"first"]
        gateway.stream.send(b"second")
        await settle()
        assert happened.sent[-1]["body"] == b"second"
        assert happened.sent[-1]["more_body"]
        gateway.stream.end(b"last")
        await task
        assert happened.body == b"firstsecondlast"
        assert not happened.sent[-1].get("more_body")
        assert b"content-length" not in happened.headers

    async def test_who_leaves_cancels_it(self, gateway: Any) -> None:
        leaving = asyncio.Event()
        happened = Exchange(WHOLE)

        async def receive() -> Any:
            if happened.incoming:
                return await happened.receive()
            await leaving.wait()
            return GONE

        task = asyncio.ensure_future(AsgiDoor(gateway)(scope(), receive, happened.send))
        await settle()
        leaving.set()
        await settle()
        assert task.done()
        await task
        assert gateway.stream.steps == ["start", "cancel"]
        assert happened.sent[-1]["more_body"], "it is not told that it ended"
        assert len(asyncio.all_tasks()) == 1

    async def test_who_left_as_it_began_cancels_it(self, gateway: Any) -> None:
        """The server may say so once, in the turn in which the reply is there."""
        for turns in range(8):
            happened = Exchange(WHOLE)

            async def receive(happened: Exchange = happened, turns: int = turns) -> Any:
                if happened.incoming:
                    return await happened.receive()
                for _ in range(turns):
                    await asyncio.sleep(0)
                if not happened.is_waiting.is_set():
                    happened.is_waiting.set()
                    return GONE
                return await asyncio.Event().wait()

            await AsgiDoor(gateway)(scope(), receive, happened.send)
            assert all(stream.steps[-1] == "cancel" for stream in gateway.streams)

    async def test_a_server_that_gives_up_cancels_it_whenever(self, gateway: Any) -> None:
        for turns in range(12):
            task, _ = self.begin(gateway)
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert len(asyncio.all_tasks()) == 1
            assert all(stream.steps[-1] == "cancel" for stream in gateway.streams)
        assert gateway.streams

    async def test_a_server_that_says_by_an_error_that_it_has_gone(self, gateway: Any) -> None:
        happened = Exchange(WHOLE)

        async def send(_: Any) -> None:
            raise ConnectionResetError

        await AsgiDoor(gateway)(scope(), happened.receive, send)
        assert gateway.stream.steps[-1] == "cancel"

    async def test_a_server_that_waits_makes_the_upstream_wait(self, gateway: Any) -> None:
        happened, gate = Exchange(WHOLE), asyncio.Event()

        async def send(message: Any) -> None:
            happened.sent.append(message)
            if len(happened.sent) > 1:
                await gate.wait()

        task = asyncio.ensure_future(AsgiDoor(gateway)(scope(), happened.receive, send))
        await settle()
        for _ in range(3):
            gateway.stream.send(HALF)
        assert gateway.stream.steps == ["start", "pause"]
        gate.set()
        await settle()
        assert gateway.stream.steps == ["start", "pause", "resume"]
        gateway.stream.end()
        await task
        assert happened.body == b"first" + HALF * 3

    async def test_http_1_0_gets_it_whole(self, gateway: Any) -> None:
        task, happened = self.begin(gateway, http_version="1.0")
        await settle()
        assert happened.sent == []
        gateway.stream.end(b"last")
        await task
        assert happened.headers[b"content-length"] == b"9"
        assert happened.body == b"firstlast"


class TestFastLane:
    SENT = b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"

    def lane(self, composed: Composed, gateway: Any) -> Lane:
        return Lane("fastlane", composed, gateway=gateway)

    async def test_it_is_paused_and_resumed_with_the_client(
        self, composed: Composed, gateway: Any
    ) -> None:
        here = self.lane(composed, gateway)
        await here.send(self.SENT)
        here.transport.is_read = False
        gateway.stream.send(b"x" * (HIGH_WATER + 1))
        assert gateway.stream.steps == ["start", "pause"]
        here.transport.take()
        gateway.stream.end(b"last")
        assert gateway.stream.steps == ["start", "pause", "resume", "end"]
        await here.settle()
        assert bytes(here.transport.written).endswith(b"4\r\nlast\r\n0\r\n\r\n")
        assert here.is_open
        await here.end()

    async def test_who_leaves_before_the_reply_could_be_written_cancels_it(
        self, composed: Composed, gateway: Any
    ) -> None:
        """Its turn comes while the reply before it is not taken; then the client resets."""
        for how in ("reset", "drained too long"):
            here = self.lane(composed, gateway)
            gateway.streams.clear()
            gateway.gate = asyncio.Event()
            await here.send(self.SENT)
            here.transport.is_read = False
            here.transport.write(b"x" * (HIGH_WATER + 1))
            gateway.gate.set()
            await here.settle()
            assert gateway.stream.steps == []
            if how == "reset":
                here.transport.lose()
            else:
                for task in here.state.tasks:
                    task.cancel()
            await here.settle()
            assert gateway.stream.steps == ["cancel"]
            if how != "reset":
                await here.end()

    async def test_who_leaves_cancels_it_once(self, composed: Composed, gateway: Any) -> None:
        here = self.lane(composed, gateway)
        await here.send(self.SENT)
        here.transport.lose()
        await here.settle()
        assert gateway.stream.steps == ["start", "cancel"]

    async def test_a_bad_request_behind_it_is_refused_in_its_turn(
        self, composed: Composed, gateway: Any
    ) -> None:
        here = Lane("fastlane", composed, gateway=_with_refusals(gateway))
        await here.send(self.SENT, b"\0\r\n\r\n")
        gateway.stream.send(b"second")
        assert b" 400 " not in here.transport.written
        gateway.stream.end()
        await here.settle()
        _, _, behind = bytes(here.transport.written).partition(b"0\r\n\r\n")
        assert behind.startswith(b"HTTP/1.1 400 ")
        assert not here.is_open
        await here.end()


def _with_refusals(gateway: Any) -> Any:
    gateway.turn_away = gateway.real.turn_away
    return gateway


class TestThreads:
    @pytest.fixture
    def threaded(self, gateway: Any) -> Iterator[ThreadedGateway]:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            yield gateway

        with no_leaks():
            made = ThreadedGateway(lifespan)
            yield made
            made.close()

    def ask(self, threaded: ThreadedGateway) -> Body:
        admission = threaded.admit(CALL)
        assert isinstance(admission, Admission)
        reply, body = threaded.run(admission, b"")
        assert (reply.stream, reply.body) == (None, b"")
        assert body is not None
        return body

    def on_loop(self, threaded: ThreadedGateway, function: Any) -> None:
        threaded.end(lambda _: function())

    def test_pieces_are_taken_as_they_come(self, threaded: ThreadedGateway, gateway: Any) -> None:
        body = self.ask(threaded)
        assert gateway.stream.steps == []
        assert next(body) == b"first"
        self.on_loop(threaded, lambda: gateway.stream.send(b"second"))
        assert next(body) == b"second"
        self.on_loop(threaded, lambda: gateway.stream.end(b"last"))
        assert list(body) == [b"last"]
        body.close()
        assert list(body) == []
        assert gateway.stream.steps == ["start", "end"]

    def test_who_does_not_read_makes_the_upstream_wait(
        self, threaded: ThreadedGateway, gateway: Any
    ) -> None:
        body = self.ask(threaded)
        next(body)
        for _ in range(3):
            self.on_loop(threaded, lambda: gateway.stream.send(HALF))
        assert gateway.stream.steps == ["start", "pause"]
        assert next(body) == HALF * 3
        assert gateway.stream.steps == ["start", "pause", "resume"]
        body.close()
        eventually(lambda: gateway.stream.steps[-1] == "cancel")

    @pytest.mark.parametrize("how", ["close", "drop"])
    @pytest.mark.parametrize("started", [False, True])
    def test_closed_or_dropped_it_is_cancelled(
        self, threaded: ThreadedGateway, gateway: Any, how: str, started: bool
    ) -> None:
        body = self.ask(threaded)
        if started:
            next(body)
        if how == "close":
            body.close()
        del body
        eventually(lambda: gateway.stream.steps[-1:] == ["cancel"])

    def test_who_waits_as_it_closes_is_told_so(
        self, threaded: ThreadedGateway, gateway: Any
    ) -> None:
        body = self.ask(threaded)
        next(body)
        idle = self.ask(threaded)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, body)
            eventually(lambda: gateway.streams[0].sink._wakeup.resume is not None)
            threaded.close()
            with pytest.raises(GatewayError, match="shutting down"):
                waiting.result()
        assert [stream.steps[-1] for stream in gateway.streams] == ["cancel", "cancel"]
        idle.close()

    def test_flask_hands_each_piece_on_and_closes(
        self, threaded: ThreadedGateway, gateway: Any
    ) -> None:
        client = app_over(threaded).test_client()
        asked = {"data": b"{}", "base_url": "http://localhost"}
        response = client.post("/generate", **asked)
        pieces = response.iter_encoded()
        assert next(pieces) == b"first"
        self.on_loop(threaded, lambda: gateway.stream.send(b"second"))
        assert next(pieces) == b"second"
        assert "content-length" not in response.headers
        response.close()
        eventually(lambda: gateway.stream.steps == ["start", "cancel"])
