"""What takes more than one request and reply to show, at every door."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from doors.client import ask, chunked, connect, generate, read_answer, request_bytes
from doors.composed import MAX_BODY_BYTES, ODD_JSON
from doors.leaks import eventually
from doors.servers import Door

LLHTTP_DOORS = {"fastlane", "asgi-strict", "asgi-httptools"}
"""Whose parser takes no method that it does not know."""


def told(door: Door, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    """What the transport was given for a request."""
    answer = generate(door, value, headers)
    assert answer.status == 200
    told = json.loads(answer.json[0]["generated_text"])
    assert told.pop("request_id") == "ID", "the upstream gets the id that the client gets"
    return told


def test_nothing_of_the_clients_headers_reaches_the_transport(door: Door) -> None:
    secretive = (
        ("Authorization", "Bearer hf_theirs"),
        ("Cookie", "session=theirs"),
        ("X-Api-Key", "theirs"),
        ("X-Request-Id", "theirs"),
        ("X-Forwarded-Host", "theirs"),
        ("User-Agent", "theirs"),
        ("X-Use-Cache", "theirs"),
    )
    seen = told(door, {"input": "Once", "theirs": "theirs"}, secretive)
    assert "theirs" not in json.dumps(seen)
    json_only = [["accept", "application/json"], ["content-type", "application/json"]]
    assert sorted(seen["headers"]) == json_only


def test_the_upstream_gets_the_scripts_own_request(door: Door) -> None:
    for wanted in (
        "Once upon a time",
        ["a", {"b": None}],
        [],
        "",
        'quo"te \\ \n \u2028 \U0001f600',
    ):
        seen = told(door, {"input": wanted})
        assert seen["body"] == {"inputs": wanted}
        assert (seen["method"], seen["path"]) == ("POST", "/models/gpt2")


def test_parameters_go_on_under_their_names(door: Door) -> None:
    parameters = {"max_new_tokens": 5, "temperature": 0.5, "return_full_text": False}
    seen = told(door, {"input": "Once", "parameters": parameters})
    assert seen["body"] == {"inputs": "Once", "parameters": parameters}


def test_every_reply_has_an_id_of_its_own(door: Door) -> None:
    answers = [generate(door, {"input": text}) for text in ("odd", "crash", "odd", "status 503")]
    assert len({answer.request_id for answer in answers}) == len(answers)


def test_32_requests_are_served_at_once(door: Door) -> None:
    with ThreadPoolExecutor(32) as pool:
        asked = {"input": "together 32"}
        answers = list(pool.map(lambda _: generate(door, asked), range(32)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.request_id for answer in answers}) == 32


def test_a_connection_serves_one_request_after_the_other(door: Door) -> None:
    if door.name in {"werkzeug", "blueprint"}:
        pytest.skip("werkzeug's server speaks HTTP/1.0")
    good = request_bytes(door, "POST", "/generate", body=b'{"input": "odd"}')
    bad = request_bytes(door, "POST", "/generate", body=b"{}")
    lost = request_bytes(door, "POST", "/nowhere", body=b'{"input": "odd"}')
    head = request_bytes(door, "HEAD", "/health/live")
    with connect(door) as connection:
        for sent, method, status in (
            *((good, "POST", 200), (bad, "POST", 400), (lost, "POST", 404), (head, "HEAD", 200)),
            *((lost, "POST", 404), (head, "HEAD", 200), (good, "POST", 200)),
        ):
            connection.sendall(sent)
            assert read_answer(connection, method).status == status


def test_a_body_that_comes_in_pieces_is_read_whole(door: Door) -> None:
    body = json.dumps({"input": "odd", "filling": "x" * 100_000}).encode()
    sent = request_bytes(door, "POST", "/generate", body=body)
    with connect(door) as connection:
        for start in range(0, len(sent), 30_011):
            connection.sendall(sent[start : start + 30_011])
            time.sleep(0.01)  # so that they arrive apart; nothing depends on it
        assert read_answer(connection).body == ODD_JSON


def test_a_body_of_exactly_the_limit_is_taken(door: Door) -> None:
    body = b'{"input": "odd"}'.ljust(MAX_BODY_BYTES)
    assert ask(door, "POST", "/generate", body=body).body == ODD_JSON
    framed = (("Transfer-Encoding", "chunked"),)
    half = MAX_BODY_BYTES // 2
    answer = ask(door, "POST", "/generate", framed, chunked(body[:half], body[half:]))
    assert answer.body == ODD_JSON


def test_a_post_without_length_has_no_body(door: Door) -> None:
    answer = ask(door, "POST", "/generate")
    assert (answer.status, answer.json["code"]) == (400, "invalid_json")


def test_who_asks_for_100_continue_gets_it_before_the_body_is_sent(door: Door) -> None:
    body = b'{"input": "odd"}'
    headers = (("Expect", "100-continue"), ("Content-Length", str(len(body))))
    with connect(door) as connection:
        connection.sendall(request_bytes(door, "POST", "/generate", headers))
        interim = b""
        while not interim.endswith(b"\r\n\r\n"):
            interim += connection.recv(1)
        assert interim.startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_answer(connection).body == ODD_JSON


def test_the_metrics_tell_of_the_requests_and_name_nothing_of_the_clients(door: Door) -> None:
    generate(door, {"input": "odd"})
    generate(door, {"input": "x", "model": "theirs"})
    ask(door, "PURGE" if door.name in LLHTTP_DOORS else "THEIRS", "/theirs")
    with connect(door) as connection:
        connection.sendall(request_bytes(door, "GET", "/metrics"))
        page = read_answer(connection, "GET")
    assert (page.header("content-type") or "").startswith("text/plain; version=")
    text = page.body.decode()
    assert 'keyhole_requests_total{model="default",status="200",upstream="hf"}' in text
    assert 'keyhole_errors_total{code="model_not_found"}' in text
    assert "keyhole_requests_in_flight 1.0" in text, "the one that asks"
    assert "theirs" not in text.lower()


def test_the_log_has_a_line_for_each_request_and_no_prompt(door: Door) -> None:
    prompt = "a prompt that is nowhere else"
    answers = [
        generate(door, {"input": prompt}),
        generate(door, {"input": "crash", "also": prompt}),
        ask(door, "POST", f"/{'x' * 3000}", body=prompt.encode()),
    ]
    lines = [f'"id":"{answer.request_id}","method"' for answer in answers]
    eventually(lambda: all(line in door.written() for line in lines))
    text = door.written()
    assert prompt not in text
    assert "SECRET-IN-AN-EXCEPTION" not in text
    assert "RuntimeError" in text, "the crash is told, without its words"
    assert "x" * 300 not in text
