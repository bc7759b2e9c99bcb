"""What one request to an upstream costs on our side, beside the least that it can.

A bare uvloop server in a process of its own answers every request at once with the same small
JSON; this process sends with so many requests at a time. Rounds of all contestants take turns,
so that a noisy machine is noisy for each of them; the best round counts. `floor` writes the
same bytes and waits for the answer's bytes, without pool, deadlines, parser or limits: what the
kernel, the event loop and one future cost by themselves.

    python bench/transport.py [--rounds N] [--requests N] [--at-once N,N] [--loop uvloop|asyncio]

With --profile one contestant runs under cProfile, to see where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import multiprocessing
import os
import platform
import pstats
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any

import uvloop

from keyhole.catalog import Upstream
from keyhole.io.transport import PooledTransport
from keyhole.secret import Secret
from keyhole.wire.http import Timeouts, UpstreamRequest

ANSWER = b'{"generated_text":", there was a fox with a key."}'
RESPONSE = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 20:00:00 GMT\r\nserver: bare\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
)
BODY = b'{"inputs":"Once upon a time","parameters":{"max_new_tokens":20}}'
HEADERS = (("content-type", "application/json"), ("accept", "application/json"))
TIMEOUTS = Timeouts(connect_s=5.0, first_byte_s=20.0, total_s=600.0)
REQUEST_ID = "019ac2f0-7c1e-7a51-b3a5-0d6a3f1c2b4e"

Ask = Callable[[], Awaitable[Any]]


class InstantServer(asyncio.Protocol):
    """Answers each piece that comes: every contestant writes a request in one piece."""

    def connection_made(self, transport: Any) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # it is a whole request
        self.write(RESPONSE)


def serve(pipe: Pipe) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(InstantServer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(run())


@asynccontextmanager
async def pooled(upstream: Upstream) -> AsyncIterator[Ask]:
    transport = PooledTransport()
    try:
        yield sender(transport, upstream)
    finally:
        await transport.aclose()


def sender(transport: Any, upstream: Upstream) -> Ask:
    async def ask() -> None:
        request = UpstreamRequest(
            upstream=upstream, path="/generate", body=BODY, headers=(*HEADERS,)
        )
        response = await transport.send(request, request_id=REQUEST_ID, timeouts=TIMEOUTS)
        assert response.body == ANSWER

    return ask


class BareClient(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.waiter.set_result(data)


@asynccontextmanager
async def floor(upstream: Upstream) -> AsyncIterator[Ask]:
    loop = asyncio.get_running_loop()
    host, _, port = upstream.url.removeprefix("http://").partition(":")
    idle: list[BareClient] = []
    opened: list[BareClient] = []
    message = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b" % (
        len(BODY),
        b"x-as-long-as-the-others: %b\r\n" % (b"x" * 150),
        BODY,
    )

    async def ask() -> None:
        if idle:
            client = idle.pop()
        else:
            _, client = await loop.create_connection(BareClient, host, int(port))
            opened.append(client)
        client.waiter = loop.create_future()
        client.transport.write(message)
        assert (await client.waiter).endswith(ANSWER)
        idle.append(client)

    try:
        yield ask
    finally:
        for client in opened:
            client.transport.close()
        await asyncio.sleep(0.01)


CONTESTANTS = {"floor": floor, "pooled": pooled}


async def measure(
    name: str, upstream: Upstream, requests: int, at_once: int
) -> tuple[float, float]:
    """Requests per second, and microseconds of this process's CPU for each."""

    async def client(ask: Ask, count: int) -> None:
        for _ in range(count):
            await ask()

    async with CONTESTANTS[name](upstream) as ask:
        await asyncio.gather(*(client(ask, 20) for _ in range(at_once)))
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(client(ask, requests // at_once) for _ in range(at_once)))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    sent = requests // at_once * at_once
    return sent / wall_s, cpu_s / sent * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a request to an upstream.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--at-once", default="1,32")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    parser.add_argument("--only", default=",".join(CONTESTANTS))
    parser.add_argument("--profile", choices=CONTESTANTS)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    upstream = Upstream(
        name="bench",
        kind="tgi",
        url=f"http://127.0.0.1:{ours.recv()}",
        secret=Secret("not-a-real-token-but-as-long-as-one"),
    )
    run: Callable[[Any], Any] = uvloop.run if arguments.loop == "uvloop" else asyncio.run
    try:
        if arguments.profile:
            profile(run, arguments.profile, upstream, arguments.requests)
        else:
            compare(run, upstream, arguments)
    finally:
        server.terminate()
        server.join()


def compare(run: Callable[[Any], Any], upstream: Upstream, arguments: argparse.Namespace) -> None:
    print(f"{time.strftime('%Y-%m-%d')}  {os.cpu_count()} cores, {platform.platform()}")
    print(
        f"Python {platform.python_version()}, {arguments.loop}; best of {arguments.rounds} rounds"
    )
    print(f"{'at once':>8}  {'':8} {'requests/s':>12} {'CPU us each':>12} {'over floor':>11}")
    names = arguments.only.split(",")
    for at_once in map(int, arguments.at_once.split(",")):
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(arguments.rounds):
            for name in names:
                found[name].append(run(measure(name, upstream, arguments.requests, at_once)))
        least = min(cpu for _, cpu in found[names[0]])
        for name in names:
            rate = max(rate for rate, _ in found[name])
            cpu = min(cpu for _, cpu in found[name])
            print(f"{at_once:>8}  {name:8} {rate:>12,.0f} {cpu:>12.1f} {cpu - least:>11.1f}")


def profile(run: Callable[[Any], Any], name: str, upstream: Upstream, requests: int) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    run(measure(name, upstream, requests, 32))
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
