"""The pages that the server has of its own."""

from __future__ import annotations

import json

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from keyhole.server.health import Readiness
from keyhole.server.metrics import Metrics
from keyhole.wire.http import Head, Page, Reply
from keyhole.wire.records import AccessRecord


def read(page: Page) -> Reply:
    return page(Head(method="GET", path="/"), None)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and the values of its labels, in the order of their names."""
    text = read(metrics.pages()["/metrics"]).body.decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def record(**fields: object) -> AccessRecord:
    made = AccessRecord(
        request_id="id", began_unix_ms=0, method="POST", path="/generate", status=200
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_a_process_is_alive_while_it_drains() -> None:
    readiness = Readiness()
    pages = readiness.pages()
    assert read(pages["/health/ready"]).status == 200
    readiness.is_draining = True
    drained, alive = read(pages["/health/ready"]), read(pages["/health/live"])
    assert (drained.status, json.loads(drained.body)) == (503, {"status": "draining"})
    assert (alive.status, json.loads(alive.body)) == (200, {"status": "ok"})
    assert dict(drained.headers)["cache-control"] == "no-store"


def test_each_page_is_made_anew() -> None:
    """The core adds headers to a reply; they may not pile up."""
    pages = {**Readiness().pages(), **Metrics().pages()}
    for page in pages.values():
        assert read(page).headers is not read(page).headers


def test_requests_are_counted_by_model_upstream_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 502):
        served = record(model="m", upstream="u", status=status, bytes_in=3, bytes_out=5)
        served.duration_ms, served.usage = 1500, (2, 7)
        metrics.began(served)
        metrics.ended(served)
    found = samples(metrics)
    labels = ("m", "u")
    assert found["keyhole_requests_total", ("m", "200", "u")] == 2
    assert found["keyhole_requests_total", ("m", "502", "u")] == 1
    assert found["keyhole_request_duration_seconds_count", labels] == 3
    assert found["keyhole_request_duration_seconds_sum", labels] == pytest.approx(4.5)
    assert found["keyhole_bytes_total", ("in", *labels)] == 9
    assert found["keyhole_bytes_total", ("out", *labels)] == 15
    assert found["keyhole_tokens_total", ("prompt", *labels)] == 6
    assert found["keyhole_tokens_total", ("completion", *labels)] == 21
    assert found["keyhole_requests_in_flight", ()] == 0


def test_what_has_not_ended_is_in_flight() -> None:
    metrics = Metrics()
    metrics.began(record())
    metrics.began(record())
    metrics.ended(record())
    assert samples(metrics)["keyhole_requests_in_flight", ()] == 1


def test_errors_are_counted_by_code_and_crashes_by_themselves() -> None:
    metrics = Metrics()
    refused = record(code="missing_input", status=400)
    metrics.began(refused)
    metrics.crashed(refused, ValueError())
    metrics.ended(refused)
    found = samples(metrics)
    assert found["keyhole_errors_total", ("missing_input",)] == 1
    assert found["keyhole_crashes_total", ()] == 1
    assert found["keyhole_requests_total", ("", "400", "")] == 1


def test_what_a_client_sent_is_no_label() -> None:
    metrics = Metrics()
    sent = AccessRecord(
        began_unix_ms=0,
        request_id="THEIRS",
        method="THEIRS",
        path="/THEIRS",
        client_request_id="THEIRS",
    )
    metrics.began(sent)
    metrics.ended(sent)
    assert b"THEIRS" not in read(metrics.pages()["/metrics"]).body


def test_the_registry_is_its_own() -> None:
    """Two gateways in one process do not collide, and the application's metrics stay clean."""
    Metrics()
    Metrics()
    assert b"keyhole" not in generate_latest(REGISTRY)
