"""Prometheus counters of every request, and the page that shows them.

They live in a registry of their own: an application that Keyhole is mounted in has one too.
Label values are configured names, statuses and error codes, never what a client sent, so their
number is bounded. The counts are this process's; under several workers each has its own.

A kept child costs a tenth of a call to `labels()`, hence the caches.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from keyhole import __version__
from keyhole.wire.http import Head, Page, Reply
from keyhole.wire.records import AccessRecord

# From a cached page to the longest patience that a route is likely to have.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_NONE = ""
"""The label of a request that never reached a route or an upstream."""


class _Children(Struct, frozen=True):
    """What one combination of model and upstream is counted in."""

    seconds: Histogram
    bytes_in: Counter
    bytes_out: Counter
    prompt_tokens: Counter
    completion_tokens: Counter


class Metrics:
    """An Observer that counts."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        names = ["model", "upstream"]
        self._requests = Counter(
            "keyhole_requests", "Requests that have ended.", [*names, "status"], registry=registry
        )
        self._errors = Counter(
            "keyhole_errors", "Requests that ended with an error.", ["code"], registry=registry
        )
        self._crashes = Counter(
            "keyhole_crashes", "Unexpected exceptions; each is in the log.", registry=registry
        )
        self._in_flight = Gauge(
            "keyhole_requests_in_flight", "Requests that have not ended.", registry=registry
        )
        self._seconds = Histogram(
            "keyhole_request_duration_seconds",
            "From a request's head to its reply.",
            names,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._bytes = Counter(
            "keyhole_bytes", "Bytes of bodies.", [*names, "direction"], registry=registry
        )
        self._tokens = Counter(
            "keyhole_tokens",
            "Tokens, where the upstream said how many.",
            [*names, "kind"],
            registry=registry,
        )
        info = Gauge("keyhole_build_info", "Always 1.", ["version"], registry=registry)
        info.labels(__version__).set(1)
        self._by_pair: dict[tuple[str, str], _Children] = {}
        self._by_status: dict[tuple[str, str, int], Counter] = {}

    def pages(self) -> Mapping[str, Page]:
        """The page by its path."""
        return {"/metrics": self._page}

    def began(self, record: AccessRecord) -> None:  # noqa: ARG002  # the port's signature
        """Count it in."""
        self._in_flight.inc()

    def ended(self, record: AccessRecord) -> None:
        """Count it out, under its model, upstream and status."""
        self._in_flight.dec()
        model, upstream = record.model or _NONE, record.upstream or _NONE
        self._status_child(model, upstream, record.status).inc()
        if record.code is not None:
            self._errors.labels(record.code).inc()
        children = self._children(model, upstream)
        children.seconds.observe(record.duration_ms / 1000)
        children.bytes_in.inc(record.bytes_in)
        children.bytes_out.inc(record.bytes_out)
        if record.usage is not None:
            children.prompt_tokens.inc(record.usage[0])
            children.completion_tokens.inc(record.usage[1])

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        """Nothing: texts are not counted."""

    def crashed(self, record: AccessRecord, error: Exception) -> None:  # noqa: ARG002
        """Count an exception that nobody expected."""
        self._crashes.inc()

    def _status_child(self, model: str, upstream: str, status: int) -> Counter:
        key = (model, upstream, status)
        if (child := self._by_status.get(key)) is None:
            child = self._by_status[key] = self._requests.labels(model, upstream, str(status))
        return child

    def _children(self, model: str, upstream: str) -> _Children:
        key = (model, upstream)
        if (children := self._by_pair.get(key)) is None:
            children = self._by_pair[key] = _Children(
                seconds=self._seconds.labels(*key),
                bytes_in=self._bytes.labels(*key, "in"),
                bytes_out=self._bytes.labels(*key, "out"),
                prompt_tokens=self._tokens.labels(*key, "prompt"),
                completion_tokens=self._tokens.labels(*key, "completion"),
            )
        return children

    def _page(self, _: Head) -> Reply:
        return Reply(
            status=200,
            headers=[("content-type", CONTENT_TYPE_LATEST), ("cache-control", "no-store")],
            body=generate_latest(self._registry),
        )
