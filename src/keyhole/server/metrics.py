"""What is counted of every request, and the page that shows it in Prometheus's text format.

Counting is a few additions; Prometheus's own objects are made when the page is asked for,
because each of their operations takes a lock, which a request would pay for seven times.
The registry is ours alone: an application that Keyhole is mounted in has one too. Label values
are configured names, statuses and error codes, never what a client sent, so their number is
bounded. The counts are this process's; under several workers each has its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from keyhole import __version__
from keyhole.wire.http import Head, Page, Reply
from keyhole.wire.keys import Key
from keyhole.wire.records import AccessRecord

# From a cached page to the longest patience that a route is likely to have.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_BOUNDS = (*map(str, map(float, _BUCKETS_S)), "+Inf")
_NAMES = ("model", "upstream")
_NONE = ""
"""The label of a request that never reached a route or an upstream."""


class _Sums(Struct):
    """What is added up for one model, upstream and status."""

    in_bucket: list[int]
    """Requests by the bucket that their duration falls into, the last without a bound."""
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: _Sums) -> None:
        """Add another one's sums to these."""
        self.in_bucket = [a + b for a, b in zip(self.in_bucket, other.in_bucket, strict=True)]
        self.seconds += other.seconds
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


class Metrics:
    """An Observer that counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self._in_flight = 0
        self._crashes = 0
        self._errors: Counter[str] = Counter()
        self._sums: dict[tuple[str | None, str | None, int], _Sums] = {}

    def pages(self) -> Mapping[str, Page]:
        """The page by its path."""
        return {"/metrics": self._page}

    def began(self, record: AccessRecord) -> None:  # noqa: ARG002  # the port's signature
        """Count it in."""
        self._in_flight += 1

    def ended(self, record: AccessRecord) -> None:
        """Count it out, under its model, upstream and status."""
        self._in_flight -= 1
        key = (record.model, record.upstream, record.status)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = _Sums([0] * len(_BOUNDS))
        if record.code is not None:
            self._errors[record.code] += 1
        seconds = record.duration_ms / 1000
        sums.in_bucket[bisect_left(_BUCKETS_S, seconds)] += 1
        sums.seconds += seconds
        sums.bytes_in += record.bytes_in
        sums.bytes_out += record.bytes_out
        if record.usage is not None:
            sums.prompt_tokens += record.usage[0]
            sums.completion_tokens += record.usage[1]

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        """Nothing: texts are not counted."""

    def crashed(self, record: AccessRecord, error: Exception) -> None:  # noqa: ARG002
        """Count an exception that nobody expected."""
        self._crashes += 1

    def collect(self) -> Iterator[Metric]:
        """Everything, as prometheus-client asks for it."""
        requests = CounterMetricFamily(
            "keyhole_requests", "Requests that have ended.", labels=(*_NAMES, "status")
        )
        for (model, upstream, status), sums in self._sums.items():
            labels = (model or _NONE, upstream or _NONE, str(status))
            requests.add_metric(labels, sum(sums.in_bucket))
        errors = CounterMetricFamily(
            "keyhole_errors", "Requests that ended with an error.", labels=("code",)
        )
        for code, count in self._errors.items():
            errors.add_metric((code,), count)
        info = GaugeMetricFamily("keyhole_build_info", "Always 1.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield requests
        yield errors
        yield CounterMetricFamily(
            "keyhole_crashes", "Unexpected exceptions; each is in the log.", self._crashes
        )
        yield GaugeMetricFamily(
            "keyhole_requests_in_flight", "Requests that have not ended.", self._in_flight
        )
        yield from self._sum_metrics()
        yield info

    def _sum_metrics(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "keyhole_request_duration_seconds",
            "From a request's head to its reply.",
            labels=_NAMES,
        )
        bodies = CounterMetricFamily(
            "keyhole_bytes", "Bytes of bodies.", labels=(*_NAMES, "direction")
        )
        tokens = CounterMetricFamily(
            "keyhole_tokens", "Tokens, where the upstream said how many.", labels=(*_NAMES, "kind")
        )
        pairs: dict[tuple[str, str], _Sums] = {}
        for (model, upstream, _), sums in self._sums.items():
            named = (model or _NONE, upstream or _NONE)
            pairs.setdefault(named, _Sums([0] * len(_BOUNDS))).add(sums)
        for pair, sums in pairs.items():
            buckets, total = [], 0
            for bound, count in zip(_BOUNDS, sums.in_bucket, strict=True):
                total += count
                buckets.append((bound, total))
            seconds.add_metric(pair, buckets, sums.seconds)
            bodies.add_metric((*pair, "in"), sums.bytes_in)
            bodies.add_metric((*pair, "out"), sums.bytes_out)
            tokens.add_metric((*pair, "prompt"), sums.prompt_tokens)
            tokens.add_metric((*pair, "completion"), sums.completion_tokens)
        yield from (seconds, bodies, tokens)

    def _page(self, _: Head, __: Key | None) -> Reply:
        return Reply(
            status=200,
            headers=[("content-type", CONTENT_TYPE_LATEST), ("cache-control", "no-store")],
            body=generate_latest(self._registry),
        )
