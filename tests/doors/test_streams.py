"""Every door streams alike: the same bytes, the same ends, the same records."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from typing import Any

import pytest

from doors.client import Answer, Replies, ask, connect, read_answer, request_bytes
from doors.composed import HEARTBEAT_S, MAX_FRAME_BYTES, SECRET
from doors.frames import (
    DONE,
    WORDS,
    Raw,
    chunk,
    frame,
    generate,
    openai,
    openai_frames,
    parted,
    tgi,
    tgi_frames,
    token,
    values,
    without_comments,
)
from doors.leaks import eventually
from doors.servers import Door
from doors.upstream import CUT, HANG, Script, Upstream

WSGI_DOORS = {"werkzeug", "blueprint", "gunicorn"}
"""They hear that a client has left when they write to it, not before."""
OLD_DOORS = {"werkzeug", "blueprint"}
"""Whose server speaks HTTP/1.0."""
EVENT_STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    "x-keyhole-model": "m",
    "vary": "Origin",
}
PIECES = [{"text": word} for word in WORDS]
TEXT = "".join(WORDS)


def stream(door: Door, asked: tuple[str, dict[str, Any]]) -> Answer:
    path, value = asked
    return ask(
        door, "POST", path, [("Content-Type", "application/json")], json.dumps(value).encode()
    )


def record_of(door: Door, request_id: str) -> dict[str, Any]:
    """The one log line of a request, once it is written."""
    wanted = f'"id":"{request_id}"'
    eventually(lambda: wanted in door.written())
    lines = [line for line in door.written().splitlines() if wanted in line and '"method"' in line]
    assert len(lines) == 1, "every request has one record"
    told: dict[str, Any] = json.loads(lines[0])
    return told


def id_in(received: bytes) -> str:
    return parted(received)[0][b"x-request-id"].decode()


def error_code(body: bytes) -> str:
    """Of the last frame, in any dialect that has codes."""
    last = values(body)[-1]
    error = last["error"]
    code: str = error["code"] if isinstance(error, dict) else last["code"]
    return code


class TestGood:
    def test_a_translated_stream_comes_piece_by_piece_and_then_whole(
        self, door: Door, upstream: Upstream
    ) -> None:
        upstream.plays(*tgi_frames())
        answer = stream(door, generate("live-tgi"))
        assert answer.status == 200
        assert dict(answer.headers) == EVENT_STREAM_HEADERS
        *pieces, last = values(answer.body)
        assert pieces == PIECES
        usage = {"prompt_tokens": 2, "completion_tokens": 3}
        assert last["done"]
        assert last["generated_text"].endswith(TEXT)
        assert last["usage"] == usage
        told = record_of(door, answer.request_id)
        assert (told["status"], told["bytes_out"]) == (200, answer.length)

    def test_a_stream_of_the_clients_own_format_is_handed_on_untouched(
        self, door: Door, upstream: Upstream
    ) -> None:
        script = upstream.plays(*openai_frames())
        answer = stream(door, openai("live-openai"))
        assert without_comments(answer.body) == b"".join(openai_frames())
        assert script.path == "/v1/chat/completions"
        assert script.asked["model"] == "m"

    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_however_the_upstreams_bytes_are_split(
        self, door: Door, upstream: Upstream, size: int
    ) -> None:
        whole = b"".join(openai_frames())
        upstream.plays(*[whole[at : at + size] for at in range(0, len(whole), size)])
        assert without_comments(stream(door, openai("live-openai")).body) == whole

    def test_openai_to_tgi_and_back(self, door: Door, upstream: Upstream) -> None:
        upstream.plays(*openai_frames())
        *pieces, last = values(stream(door, tgi("live-openai")).body)
        assert "".join(piece["token"]["text"] for piece in pieces) == TEXT
        assert last["generated_text"] == TEXT
        upstream.plays(*tgi_frames())
        *chunks, done = values(stream(door, openai("live-tgi")).body)
        deltas = [told["choices"][0]["delta"] for told in chunks]
        assert "".join(delta.get("content", "") for delta in deltas) == TEXT.lstrip()
        assert done == "[DONE]"

    def test_each_piece_comes_at_once(self, door: Door, upstream: Upstream) -> None:
        """The upstream sends the next one only when the client has the one before."""
        first, *rest, last = tgi_frames()
        gates = [threading.Event() for _ in (*rest, last)]
        steps = [first]
        for gate, piece in zip(gates, (*rest, last), strict=True):
            steps += [gate, piece]
        upstream.plays(*steps)
        with Raw(door, generate("live-tgi")) as raw:
            for gate, word in zip(gates, WORDS, strict=False):
                raw.until(
                    json.dumps({"text": word}, ensure_ascii=False, separators=(",", ":")).encode()
                )
                gate.set()
            raw.until(b'"done":true')

    def test_an_upstream_that_answers_whole_is_told_as_a_stream(
        self, door: Door, upstream: Upstream
    ) -> None:
        whole = json.dumps({"generated_text": TEXT}).encode()
        upstream.plays(whole, content_type="application/json")
        answer = stream(door, generate("live-tgi"))
        piece, last = values(answer.body)
        assert (answer.status, piece, last["done"]) == (200, {"text": TEXT}, True)
        assert record_of(door, answer.request_id)["status"] == 200

    def test_the_second_target_answers_where_the_first_fails_before_its_first_frame(
        self, door: Door, upstream: Upstream
    ) -> None:
        for failing in (
            [frame({"error": "no memory", "error_type": "generation"})],
            [CUT],
            [b'data: {"tok'],
        ):
            upstream.plays(*failing)
            script = upstream.plays(*openai_frames())
            answer = stream(door, generate("either"))
            assert values(answer.body)[:-1] == PIECES
            assert script.path == "/v1/chat/completions"
            assert record_of(door, answer.request_id)["attempts"] == 2


class TestFailing:
    def test_an_error_in_the_first_frame_is_a_status(self, door: Door, upstream: Upstream) -> None:
        overloaded = frame({"error": "Model is overloaded", "error_type": "overloaded"})
        for asked in (generate("live-tgi"), openai("live-tgi"), tgi("live-tgi")):
            upstream.plays(overloaded)
            answer = stream(door, asked)
            assert answer.status in {429, 502, 503}
            assert answer.header("content-type") == "application/json"
            assert record_of(door, answer.request_id)["code"] == "upstream_rate_limited"

    @pytest.mark.parametrize("is_at_once", [True, False])
    def test_an_error_behind_it_is_told_in_the_clients_words(
        self, door: Door, upstream: Upstream, is_at_once: bool
    ) -> None:
        """What stood in front of it goes out, even where both came in one packet."""
        failed = frame({"error": "Model is overloaded", "error_type": "overloaded"})
        first = token(WORDS[0])
        script = upstream.plays(first + failed) if is_at_once else upstream.plays(first, failed)
        answer = stream(door, generate("live-tgi"))
        assert script.has_left.wait(60)
        assert answer.status == 200
        assert values(answer.body)[0] == PIECES[0]
        assert error_code(answer.body) == "upstream_rate_limited"
        told = record_of(door, answer.request_id)
        assert (told["status"], told["code"]) == (200, "upstream_rate_limited")
        upstream.plays(first, failed)
        answer = stream(door, openai("live-tgi"))
        assert answer.status == 200
        assert "error" in values(answer.body)[-1]

    @pytest.mark.parametrize("end", [(), (CUT,), (b'data: {"token', CUT)])
    def test_a_stream_without_its_last_frame_is_never_a_good_one(
        self, door: Door, upstream: Upstream, end: tuple[bytes | str, ...]
    ) -> None:
        upstream.plays(*tgi_frames()[:-1], *end)
        answer = stream(door, generate("live-tgi"))
        assert values(answer.body)[:-1] == PIECES[:-1]
        assert error_code(answer.body) == "upstream_unreachable"
        assert record_of(door, answer.request_id)["code"] == "upstream_unreachable"
        upstream.plays(*openai_frames()[:-2], *end)
        answer = stream(door, openai("live-openai"))
        assert "error" in values(answer.body)[-1]
        assert b"[DONE]" not in answer.body

    def test_a_frame_over_the_bound_is_an_error(self, door: Door, upstream: Upstream) -> None:
        large = b"data: " + b" " * (MAX_FRAME_BYTES + 1)
        script = upstream.plays(token(WORDS[0]), large, HANG)
        answer = stream(door, generate("live-tgi"))
        assert values(answer.body)[0] == PIECES[0]
        assert error_code(answer.body) == "upstream_answer_too_large"
        assert script.has_left.wait(60)
        upstream.plays(large, HANG)
        assert stream(door, generate("live-tgi")).status == 502

    @pytest.mark.parametrize("is_split", [False, True])
    def test_a_secret_in_a_frame_is_withheld(
        self, door: Door, upstream: Upstream, is_split: bool
    ) -> None:
        telling = chunk(f"you sent Bearer {SECRET}")
        middle = telling.index(SECRET.encode()) + 5
        pieces = (telling[:middle], telling[middle:]) if is_split else (telling,)
        upstream.plays(chunk(WORDS[0]), *pieces, HANG)
        answer = stream(door, openai("live-openai"))
        assert SECRET.encode() not in answer.body
        assert "error" in values(answer.body)[-1]
        assert record_of(door, answer.request_id)["code"] == "upstream_error"
        upstream.plays(*pieces, HANG)
        answer = stream(door, openai("live-openai"))
        assert answer.status == 502
        assert SECRET.encode() not in answer.body

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
    def test_another_method_is_refused(self, door: Door, method: str) -> None:
        for path in ("/generate_stream", "/v1/chat/completions"):
            assert ask(door, method, path).status == 405


class TestLeaving:
    def test_who_leaves_takes_the_upstream_along(self, door: Door, upstream: Upstream) -> None:
        stop = threading.Event()
        steps = self._ticking(stop) if door.name in WSGI_DOORS else (token(WORDS[0]), HANG)
        script = upstream.plays(*steps)
        raw = Raw(door, generate("live-tgi"))
        received = raw.until(b'"text"')
        left_s = time.monotonic()
        raw.leave()
        assert script.has_left.wait(60)
        if door.name not in WSGI_DOORS:
            # It is heard of at once; a busy machine alone may take longer than this.
            assert script.left_at_s - left_s < 5
        assert record_of(door, id_in(received))["status"] == 499

    def test_who_leaves_before_the_first_frame_too(self, door: Door, upstream: Upstream) -> None:
        if door.name in WSGI_DOORS:
            pytest.skip("WSGI cannot tell")
        script = upstream.plays(b": nothing yet\n\n", HANG)
        raw = Raw(door, generate("live-tgi"))
        eventually(lambda: script.sent_bytes > 0)
        raw.leave()
        assert script.has_left.wait(60)
        eventually(
            lambda: all(
                composed.memory.began_count == len(composed.memory.records)
                for composed in door.composed
            )
        )

    @staticmethod
    def _ticking(stop: threading.Event) -> list[bytes | threading.Event]:
        """Frames for as long as they are taken, a moment apart."""

        class Tick(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                time.sleep(0.005)
                return True

        return [step for _ in range(10_000) for step in (token("x"), Tick())]


class TestPace:
    SIZE, COUNT = 32_000, 1200
    """More than the sockets on the way take by themselves: up to 6 MB each on Linux."""

    def test_a_slow_reader_makes_the_upstream_wait_and_loses_nothing(
        self, door: Door, upstream: Upstream
    ) -> None:
        filling = [chunk("y" * self.SIZE) for _ in range(self.COUNT)]
        script = upstream.plays(*filling, chunk(None, "stop"), DONE)
        with Raw(door, openai("live-openai")) as raw:
            raw.until(b"data: ")
            _until_it_stands_still(script)
            assert script.sent_bytes < len(filling) * len(filling[0])
            assert not script.has_left.is_set()
            raw.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
            parts = [raw.received]
            while not (b"[DONE]" in parts[-1] or b"[DONE]" in b"".join(parts[-2:])):
                parts.append(raw.connection.recv(1 << 20))
                assert parts[-1]
            whole = re.sub(rb"\r\n(?:[0-9a-f]+\r\n)?", b"", b"".join(parts))
            assert whole.count(b"y" * self.SIZE) == self.COUNT
            assert record_of(door, id_in(raw.received))["status"] == 200

    def test_a_silent_upstream_is_covered_by_comments(self, door: Door, upstream: Upstream) -> None:
        first, *rest = tgi_frames()
        gate = threading.Event()
        upstream.plays(first, gate, *rest)
        with Raw(door, generate("live-tgi")) as raw:
            raw.until(b'"text"')
            began_s = time.monotonic()
            raw.until(b":\n\n")
            gate.set()
            assert time.monotonic() - began_s > HEARTBEAT_S / 2
            received = raw.until(b'"done":true')
        assert parted(received)[0][b"content-type"] == b"text/event-stream"


class TestConnection:
    def test_http_1_0_gets_no_chunks_and_the_connection_ends(
        self, door: Door, upstream: Upstream
    ) -> None:
        if door.name in OLD_DOORS:
            pytest.skip("werkzeug's server sends chunks to whomever")
        upstream.plays(*openai_frames())
        with Raw(door, openai("live-openai"), http=b"1.0") as raw:
            headers, body = parted(raw.to_the_end())
        assert b"transfer-encoding" not in headers
        assert without_comments(body) == b"".join(openai_frames())

    def test_the_connection_goes_on_behind_a_stream(self, door: Door, upstream: Upstream) -> None:
        if door.name in OLD_DOORS:
            pytest.skip("werkzeug's server speaks HTTP/1.0")
        path, value = openai("live-openai")
        asked = request_bytes(door, "POST", path, (), json.dumps(value).encode())
        probe = request_bytes(door, "POST", "/generate", (), b'{"input": "odd"}')
        with connect(door) as connection:
            for _ in range(3):
                upstream.plays(*openai_frames())
                connection.sendall(asked)
                answer = read_answer(connection)
                assert without_comments(answer.body) == b"".join(openai_frames())
                connection.sendall(probe)
                assert read_answer(connection).status == 200

    def test_a_request_behind_a_stream_waits_for_its_end(
        self, door: Door, upstream: Upstream
    ) -> None:
        if door.name in OLD_DOORS:
            pytest.skip("werkzeug's server speaks HTTP/1.0")
        first, *rest = openai_frames()
        gate = threading.Event()
        upstream.plays(first, gate, *rest)
        path, value = openai("live-openai")
        asked = request_bytes(door, "POST", path, (), json.dumps(value).encode())
        behind = request_bytes(door, "POST", "/generate", (), b"{}")
        with connect(door) as connection:
            connection.sendall(asked + behind)
            time.sleep(0.05)  # so that the second one is there; nothing depends on it
            gate.set()
            replies = Replies(connection)
            assert without_comments(read_answer(replies).body) == b"".join(openai_frames())
            assert read_answer(replies).status == 400
            replies.end()

    def test_many_streams_at_once_do_not_mix(self, door: Door, upstream: Upstream) -> None:
        gates = [threading.Event() for _ in range(8)]
        for gate in gates:
            upstream.plays(*openai_frames()[:2], gate, *openai_frames()[2:])
        raws = [Raw(door, openai("live-openai")) for _ in gates]
        for raw in raws:
            raw.until(WORDS[0].encode())
        for gate in gates:
            gate.set()
        for raw in raws:
            raw.until(DONE)
            raw.connection.close()


def _until_it_stands_still(script: Script) -> None:
    """Until the upstream has not got rid of anything for a while."""
    sent = -1
    while sent != script.sent_bytes:
        sent = script.sent_bytes
        time.sleep(0.5)
