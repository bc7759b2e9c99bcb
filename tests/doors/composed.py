"""A real gateway over a transport that is a table: what the doors are tested in front of.

What an upstream does is told by the input, so that a test can ask for it through any door, in
this process or another. Streams alone come over a real transport, from the stand-in (upstream.py)
whose address is in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TextIO

from books import no_keys
from keyhole.backends.hf_inference import HfInference
from keyhole.backends.openai import OpenAi
from keyhole.backends.tgi import Tgi
from keyhole.catalog import Access, Catalog, Route, Target, Upstream
from keyhole.dialects.generate import GenerateDialect
from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.dialects.tgi_client import GENERATE_PATH, TgiDialect, is_tgi
from keyhole.errors import Code, UpstreamError
from keyhole.exchange import Gateway, Parts
from keyhole.io.clock import SystemClock
from keyhole.io.deadlines import DeadlineWheel
from keyhole.io.transport import OpenResponse, PooledTransport
from keyhole.policy.paths import Paths
from keyhole.ports import Timed
from keyhole.secret import Secret
from keyhole.server.health import Readiness
from keyhole.server.log import AccessLog, Observers
from keyhole.server.metrics import Metrics
from keyhole.wire.http import Head, Reply, Timeouts, UpstreamRequest, UpstreamResponse
from keyhole.wire.keys import Key
from keyhole.wire.records import AccessRecord

ALLOWED_ORIGIN = "https://app.example.org"
MAX_BODY_BYTES = 256 * 1024
MAX_FRAME_BYTES = 64 * 1024
HEARTBEAT_S = 0.4
SECRET = "hf_operators_own"
STANDIN = "KEYHOLE_TEST_STANDIN"
"""The environment variable with the URL that streams come from."""
ODD_JSON = b'{"z": 1,\n  "a": "\xc3\xa9"}\n'
"""Bytes that any decoding and encoding would change."""

_TABLE = {
    "odd": UpstreamResponse(status=200, headers={}, body=ODD_JSON),
    "html": UpstreamResponse(status=200, headers={"content-type": "text/html"}, body=b"<html>"),
    "nan": UpstreamResponse(status=200, headers={}, body=b'{"a": NaN}'),
}
_HEADERS = {
    "busy": {"retry-after": "7"},
    "dated": {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"},
    "evil": {"retry-after": "7\r\nset-cookie: a=b"},
    "moved": {"location": "http://127.0.0.1:1/elsewhere"},
    "latin": {"retry-after": "d\xe9s que possible"},
}


class TableTransport:
    """The Transport port, answering by what the input says.

    `status 503 busy`   that status, with the headers of that name
    `unreachable`, `crash`, `wait`, `together N` (all answer once N are there)
    anything else       a text that tells what the transport was given
    """

    def __init__(self) -> None:
        self.inside = 0
        self.is_inside = threading.Event()
        """Set by the first request that waits, for who looks on from another thread."""
        self.cancelled = 0
        self.asked: list[object] = []
        """The inputs, in their order."""
        self._gate = asyncio.Event()
        self._pooled: PooledTransport | None = None

    async def send(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        self.inside += 1
        try:
            return await self._answer(request, request_id, timeouts)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1

    async def open(
        self, request: UpstreamRequest, *, request_id: str, timeouts: Timeouts
    ) -> OpenResponse:
        if self._pooled is None:
            self._pooled = PooledTransport()
        return await self._pooled.open(request, request_id=request_id, timeouts=timeouts)

    async def aclose(self) -> None:
        if self._pooled is not None:
            await self._pooled.aclose()

    async def _answer(
        self, request: UpstreamRequest, request_id: str, timeouts: Timeouts
    ) -> UpstreamResponse:
        asked = json.loads(request.body)
        self.asked.append(asked["inputs"])
        wanted = asked["inputs"] if isinstance(asked["inputs"], str) else ""
        if wanted in _TABLE:
            return _TABLE[wanted]
        if status := re.match(r"status (\d+) ?(\w*)", wanted):
            headers = _HEADERS.get(status[2], {})
            return UpstreamResponse(status=int(status[1]), headers=headers, body=b'{"a": 1}')
        if wanted == "unreachable":
            raise UpstreamError(Code.UPSTREAM_UNREACHABLE, "Upstream 'hf' cannot be reached.")
        if wanted == "crash":
            raise RuntimeError("a text that holds a SECRET-IN-AN-EXCEPTION")
        if wanted == "wait":
            self.is_inside.set()
            await asyncio.Event().wait()
        if together := re.match(r"together (\d+)", wanted):
            await self._gather(int(together[1]))
        return _tell(request, request_id, timeouts)

    async def _gather(self, count: int) -> None:
        if self.inside >= count:
            self._gate.set()
        await asyncio.wait_for(self._gate.wait(), 60)


class LateWheel:
    """ports.Alarms on whichever loop first asks: a gateway may be made before its loop runs."""

    def __init__(self) -> None:
        self._made: DeadlineWheel | None = None

    @property
    def _wheel(self) -> DeadlineWheel:
        if self._made is None:
            self._made = DeadlineWheel(asyncio.get_running_loop())
        return self._made

    def now_s(self) -> float:
        return self._wheel.now_s()

    def watch(self, timed: Timed) -> None:
        self._wheel.watch(timed)

    def forget(self, timed: Timed) -> None:
        self._wheel.forget(timed)


class Memory:
    """An Observer that keeps what it hears."""

    def __init__(self) -> None:
        self.began_count = 0
        self.records: list[AccessRecord] = []
        self.crashes: list[Exception] = []

    def began(self, record: AccessRecord) -> None:
        self.began_count += 1

    def ended(self, record: AccessRecord) -> None:
        self.records.append(record)

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        self.crashes.append(error)


class Composed:
    """A gateway with its fakes in reach."""

    def __init__(self, log: TextIO) -> None:
        self.log = log
        self.transport = TableTransport()
        self.memory = Memory()
        self.readiness = Readiness()
        metrics, generate, tgi = Metrics(), GenerateDialect(), TgiDialect()
        pages = {**self.readiness.pages(), **metrics.pages(), "/broken-page": _broken_page}
        self.gateway = Gateway(
            Parts(
                catalog=_catalog(),
                access=Access(allowed_origins=(ALLOWED_ORIGIN,)),
                paths=Paths(
                    [generate, tgi, HuggingFaceDialect(), OpenAiDialect()],
                    pages,
                    generate,
                    others={GENERATE_PATH: (is_tgi, tgi)},
                ),
                **no_keys(),
                backends={"hf-inference": HfInference(), "tgi": Tgi(), "openai": OpenAi()},
                transport=self.transport,
                clock=SystemClock(),
                observer=Observers(metrics, self.memory, AccessLog("json", log)),
                alarms=LateWheel(),
                max_body_bytes=MAX_BODY_BYTES,
                max_frame_bytes=MAX_FRAME_BYTES,
                heartbeat_s=HEARTBEAT_S,
            )
        )


@asynccontextmanager
async def lifespan() -> AsyncIterator[Gateway]:
    """What a door opens in another process."""
    yield Composed(sys.stderr).gateway


def _catalog() -> Catalog:
    hf = Upstream(
        name="hf",
        kind="hf-inference",
        url="https://hf.example/hf-inference",
        secret=Secret(SECRET),
    )
    gpu = Upstream(name="gpu", kind="tgi", url="http://gpu.example")
    at = os.environ.get(STANDIN, "http://127.0.0.1:9")
    secret, most = Secret(SECRET), 100 * 1024 * 1024
    tgi = Upstream(name="live-tgi", kind="tgi", url=at, secret=secret, max_response_bytes=most)
    openai = Upstream(
        name="live-openai", kind="openai", url=f"{at}/v1", secret=secret, max_response_bytes=most
    )
    routes = {
        "live-tgi": Route(name="live-tgi", targets=(Target(tgi, "m"),)),
        "live-openai": Route(name="live-openai", targets=(Target(openai, "m"),)),
        "either": Route(name="either", targets=(Target(tgi, "m"), Target(openai, "m"))),
        "default": Route(name="default", targets=(Target(hf, "gpt2"),)),
        "continued": Route(name="continued", targets=(Target(gpu, "gpt2"),)),
        "two": Route(name="two", targets=(Target(hf, "first"), Target(hf, "second"))),
    }
    upstreams = {upstream.name: upstream for upstream in (hf, gpu, tgi, openai)}
    return Catalog(upstreams=upstreams, exact=routes)


def _tell(request: UpstreamRequest, request_id: str, timeouts: Timeouts) -> UpstreamResponse:
    if request.upstream.kind == "tgi":
        body = b'{"generated_text": " and so on"}'
        return UpstreamResponse(status=200, headers={}, body=body)
    told = {
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "body": json.loads(request.body),
        "request_id": request_id,
        "first_byte_s": timeouts.first_byte_s,
    }
    body = json.dumps([{"generated_text": json.dumps(told)}]).encode()
    return UpstreamResponse(status=200, headers={}, body=body)


def _broken_page(_: Head, __: Key | None) -> Reply:
    raise RuntimeError("a text that holds a SECRET-IN-AN-EXCEPTION")
