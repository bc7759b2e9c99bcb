"""The benchmarks' arithmetic: what is read from /proc, wrk and nginx, and what is made of it.

The streams' upstream and load are tested on each other: an error that they overlook would be a
figure that does not hold.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

import contenders
import idle
import machine
import process_tree
import proxy_report
import session
import stream_contenders
import stream_load
import stream_report
import stream_upstream
import wrk
from process_tree import BenchError, Stat
from proxy_report import Result, Round
from stream_contenders import CHAT
from stream_report import Setting, StreamResult, StreamRound

STAT = (
    "4711 (a (b) c) S 4000 4711 4711 0 -1 4194560 2391 0 0 0 150 25 7 3 20 0 1 0 900123 "
    "222298112 5000 18446744073709551615 1 1 0 0 0 0 0 16781312 16386 0 0 0 17 1 0 0 0 0 0\n"
)


def stat(pid: int, parent: int) -> Stat:
    return Stat(pid=pid, parent=parent, cpu_ticks=1, started_ticks=1, rss_bytes=1)


def a_round(rate: float, cpu_us: float) -> Round:
    return Round(rate, 1.0, 2.0, cpu_us, cpu_us / 2, 0.9, 0.05)


def test_a_process_is_read_whatever_its_name() -> None:
    read = process_tree.parse_stat(STAT)
    assert (read.pid, read.parent, read.cpu_ticks, read.started_ticks) == (4711, 4000, 175, 900123)
    assert read.rss_bytes == 5000 * process_tree.PAGE_BYTES


def test_a_tree_holds_children_of_children_and_nobody_else() -> None:
    """The order in which /proc lists them does not matter."""
    stats = [stat(5, 4), stat(9, 1), stat(4, 3), stat(3, 1), stat(6, 4)]
    assert {each.pid for each in process_tree.descendants(stats, 3)} == {3, 4, 5, 6}
    assert process_tree.descendants(stats, 77) == []


def test_a_core_is_busy_with_programs_and_other_machines() -> None:
    ticks = ["100", "20", "3", "9999", "50", "7", "7", "4", "0", "0"]
    assert process_tree.busy_ticks(ticks) == 127


def test_what_wrk_printed_is_read() -> None:
    measured = wrk.parse(
        "Running 5s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n"
        "result requests=50000 duration_us=5000000 p50_us=610 p99_us=1960 max_us=3000 "
        "connect=0 read=1 write=0 timeout=2 status=3\n"
    )
    assert measured.requests_per_s == 10_000
    assert (measured.p50_ms, measured.p99_ms, measured.max_ms) == (0.61, 1.96, 3.0)
    assert measured.errors == {"connect": 0, "read": 1, "write": 0, "timeout": 2, "status": 3}


def test_without_a_result_there_is_no_figure() -> None:
    with pytest.raises(BenchError, match="no result"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_only_a_limited_load_pauses() -> None:
    full = wrk.Load("http://127.0.0.1:1/", '{"input": "a"}', 32, 5)
    half = wrk.Load("http://127.0.0.1:1/", '{"input": "a"}', 32, 5, think_ms=4)
    assert "delay" not in wrk.lua(full)
    assert "math.random() * 8.000000 + 0.5" in wrk.lua(half)


@pytest.mark.parametrize(
    ("rate", "connections", "pause_ms"), [(5_000, 40, 8), (100, 8, 80), (100_000, 512, 5.12)]
)
def test_connections_and_pauses_come_to_the_rate(
    rate: float, connections: int, pause_ms: float
) -> None:
    found = wrk.spread_over(rate, pause_ms=8, fewest=8, most=512)
    assert found == (connections, pytest.approx(pause_ms))


def test_the_upstream_says_how_many_requests_it_had() -> None:
    page = (
        "Active connections: 2 \nserver accepts handled requests\n 5 6 70 \n"
        "Reading: 0 Writing: 1 Waiting: 1 \n"
    )
    assert contenders.parse_status(page) == 70
    with pytest.raises(BenchError, match="not a stub_status page"):
        contenders.parse_status("<html>")


def test_ratios_are_to_nginx() -> None:
    results = {
        "nginx": Result("nginx", "", rounds=[a_round(9, 20), a_round(8, 10), a_round(7, 12)]),
        "asgi": Result("Keyhole", "", rounds=[a_round(12_345, 30)], start_s=[0.5, 0.4, 0.9]),
    }
    nginx, keyhole = proxy_report.table(results)
    assert nginx[1] == "8"
    assert nginx[5:9] == ["12.0", "1.00", "6.0", "0.50"]
    assert keyhole[1] == "12,345"
    assert keyhole[5:9] == ["30.0", "2.50", "15.0", "1.25"]
    assert keyhole[-1] == "0.50"


def test_what_was_not_measured_is_a_dash() -> None:
    """Without nginx in the run there is nothing to divide by."""
    (row,) = proxy_report.table({"asgi": Result("Keyhole", "", rounds=[a_round(1, 30)])})
    assert row == ["Keyhole", "1", "1.00", "2.00", "-", "30.0", "-", "15.0", "-", "-", "-", "-"]


@pytest.mark.parametrize(("cpu_us", "verdict"), [(32, "met"), (32.1, "MISSED")])
def test_what_everything_may_cost_is_judged_beside_nginx(cpu_us: float, verdict: str) -> None:
    results = {
        "nginx": Result("nginx", "", rounds=[a_round(9, 10)]),
        "keys": Result("Keyhole", "", rounds=[a_round(9, cpu_us)]),
    }
    everything, worker = proxy_report.goals(results)
    assert everything.startswith(f"{verdict}: Keyhole: 3.2")
    assert worker.startswith("met: its worker alone: 1.6")
    assert proxy_report.goals({"keys": results["keys"]}) == []


def test_the_worker_is_who_used_most_meanwhile() -> None:
    """Not who has used most since its start; a process may be new."""
    before, after = (
        process_tree.Weight(frozenset(), sum(used.values()), 1, 1, used)
        for used in ({1: 50.0, 2: 3.0}, {1: 51.0, 2: 7.0, 3: 2.0})
    )
    assert process_tree.busiest_s(before, after) == 4


def test_the_load_shows_its_keys() -> None:
    load = wrk.Load("http://127.0.0.1:1/", "{}", 32, 5)
    assert "Authorization" not in wrk.lua(load)
    one = wrk.lua(replace(load, secrets=("kh_a",)))
    assert 'wrk.headers["Authorization"] = "Bearer kh_a"' in one
    assert "function request" not in one
    assert '{"kh_a", "kh_b"}' in wrk.lua(replace(load, secrets=("kh_a", "kh_b")))


def test_the_page_holds_every_contender_and_its_spread() -> None:
    result = Result("nginx", "nginx -c x", rounds=[a_round(9, 20), a_round(8, 10)])
    page = proxy_report.page(title="T", setting="- How.", results={"nginx": result})
    assert page.startswith("# T\n\n| ")
    assert "- nginx: `nginx -c x`" in page
    assert "15.0 (10.0 to 20.0)" in page
    assert page.endswith("\n")


def test_tables_are_as_wide_as_their_widest_cells() -> None:
    text = proxy_report.aligned(("", "n"), [("a", "100"), ("longer", "2")])
    assert text.splitlines() == ["          n", "a       100", "longer    2"]


def test_a_machine_is_named_by_its_processor() -> None:
    assert machine.model_name("processor\t: 0\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    assert machine.model_name("processor\t: 0\n") is None
    assert machine.as_slug("Intel(R) Core(TM) i7, 8 cores") == "intel-r-core-tm-i7-8-cores"


def test_a_connection_is_idle_until_the_other_side_closes_it() -> None:
    """An answer that nobody has read does not count as the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"the end of an answer")
        assert idle.is_open(ours)
        theirs.close()
        assert not idle.is_open(ours)


def test_an_unknown_contender_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert session.choose(["a", "b", "c"], "c,a") == ["a", "c"]
    with pytest.raises(SystemExit, match="2"):
        session.choose(["a", "b"], "a,x")
    assert capsys.readouterr().err == "No contender x; there are a, b.\n"


@pytest.mark.parametrize("with_usage", [True, False])
def test_the_streaming_upstream_sends_what_the_load_expects(with_usage: bool) -> None:
    pieces = stream_upstream.pieces(with_usage=with_usage)
    assert len(pieces) == stream_upstream.CHUNKS
    assert stream_load.fault(b"".join(pieces), CHAT.ending) is None
    assert (b'"usage"' in pieces[-1]) is with_usage


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda pieces: [pieces[0].replace(b"200", b"503", 1), *pieces[1:]], "status"),
        (lambda pieces: pieces[:30] + pieces[31:], "not the upstream's text"),
        (lambda pieces: [*pieces[:31], *pieces[30:]], "not the upstream's text"),
        (lambda pieces: [pieces[0], pieces[2], pieces[1], *pieces[3:]], "not the upstream's text"),
        (lambda pieces: pieces[:-1], "broken chunks"),
        (lambda pieces: [*pieces, b"x"], "broken chunks"),
        (lambda pieces: [*pieces[:-1], pieces[-1].replace(b"[DONE]", b"[GONE]")], "no right end"),
        (lambda pieces: [*pieces[:-1], b"0\r\n\r\n"], "not the upstream's text"),
    ],
)
def test_a_stream_that_is_not_whole_is_noticed(
    change: Callable[[list[bytes]], list[bytes]], why: str
) -> None:
    pieces = stream_upstream.pieces(with_usage=False)
    assert stream_load.fault(b"".join(change(pieces)), CHAT.ending) == why


def test_a_translated_stream_is_whole_as_well() -> None:
    """It ends with the whole text, which is not one of the pieces."""
    events = [f'{{"text":"{word}"}}' for word in stream_upstream.WORDS]
    events.append(f'{{"done":true,"generated_text":"{"".join(stream_upstream.WORDS)}"}}')
    frames = [f"data: {event}\n\n".encode() for event in events]
    body = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
    assert stream_load.fault(whole, stream_contenders.GENERATE.ending) is None


def test_a_chunked_body_is_whole_or_nothing() -> None:
    body = b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"
    assert stream_load.dechunk(body) == b"abc0123456789"
    for end in range(len(body)):
        assert stream_load.dechunk(body[:end]) is None


def test_a_request_is_read_when_it_has_come_whole() -> None:
    request = stream_load.Load(1, "/x", '{"a": 1}', b"", 1, 0, 0).request()
    assert stream_upstream.request_length(request + b"GET") == len(request)
    assert stream_upstream.request_length(request[:-1]) is None
    assert stream_upstream.request_length(request[:20]) is None
    assert stream_upstream.request_length(b"GET / HTTP/1.1\r\n\r\n") == 18


@contextlib.contextmanager
def streaming() -> Iterator[int]:
    """The upstream's port; it runs in a thread, a chunk each millisecond or two."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = stream_upstream.Upstream(listener, interval_ms=2)
        thread = threading.Thread(target=served.run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            served.is_closed = True
            thread.join()


def test_streams_are_counted_and_timed() -> None:
    with streaming() as port:
        load = CHAT.load(port, streams=5, ramp_s=0.1, seconds=1)
        opened: list[str] = []
        measured = stream_load.run(
            load, at_open=lambda: opened.append("open"), at_close=lambda: opened.append("close")
        )
    assert opened == ["open", "close"]
    assert measured.errors.total() == 0
    assert measured.streams >= 5
    assert 0 < measured.reads <= measured.chunks <= measured.streams * stream_upstream.CHUNKS
    assert stream_load.percentile(measured.first_byte_s, 0.5) > 0
    assert measured.gap_s(0.01) <= measured.gap_s(0.99)


def test_a_stream_that_is_refused_or_cut_is_an_error() -> None:
    """Nobody asks again after one."""
    pieces = stream_upstream.pieces(with_usage=False)
    answers = {
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n": "answered",
        b"".join(pieces[:7]): "closed",
    }
    for answer, why in answers.items():
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve(listener: socket.socket = listener, answer: bytes = answer) -> None:
                accepted, _ = listener.accept()
                with accepted:
                    accepted.recv(65536)
                    accepted.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            load = CHAT.load(listener.getsockname()[1], streams=1, ramp_s=0, seconds=0)
            measured = stream_load.run(load, at_open=lambda: None, at_close=lambda: None)
            thread.join()
        (found,) = [error for error, count in measured.errors.items() if count]
        assert found.startswith(why)
        assert measured.streams == 0


def a_stream_round(**values: float | None) -> StreamRound:
    fields: dict[str, float | None] = {
        "chunks_per_s": 10_000,
        "cpu_us": 10,
        "first_p50_ms": 1,
        "first_p99_ms": 2,
        "gap_p99_ms": 21,
        "stream_bytes": 16_000,
        "chunks_per_read": 1,
        "core_share": 0.1,
        "load_share": 0.2,
        "late_share": 0,
        "others_share": 0,
    }
    return StreamRound(**(fields | values))  # type: ignore[arg-type]


def stream_results() -> dict[str, StreamResult]:
    return {
        "direct": StreamResult(
            "direct", [a_stream_round(cpu_us=None, stream_bytes=None, first_p99_ms=0.5)]
        ),
        "nginx": StreamResult("nginx", [a_stream_round(cpu_us=cpu) for cpu in (8, 10, 30)], 7),
        "same": StreamResult("Same", [a_stream_round(cpu_us=16, first_p99_ms=3)], 5),
        "translated": StreamResult("Other", [a_stream_round(cpu_us=30, stream_bytes=26_000)], 5),
    }


def test_streams_are_compared_with_nginx_and_with_no_server() -> None:
    direct, _, same, _ = stream_report.table(stream_results())
    assert direct == ["direct", "10,000", "-", "-", "1.00", "0.50", "-", "-", "21.0", "-"]
    assert same == [
        "Same",
        "10,000",
        "16.0",
        "1.60",
        "1.00",
        "3.00",
        "0.00",
        "2.50",
        "21.0",
        "16.0",
    ]


def test_goals_are_judged() -> None:
    at_pace = Setting(streams=200, interval_ms=20, rounds=1, seconds=1)
    lines = stream_report.verdicts({at_pace: stream_results()})
    assert [line.rpartition(" ")[2] for line in lines] == [
        *("missed", "missed", "met", "met"),  # CPU, first byte, memory, errors
        *("met", "met", "missed", "met"),
    ]
    assert "Same, 200 streams, a chunk every 20 ms: 1.60 times nginx's CPU per chunk" in lines[0]
    too_much = Setting(streams=200, interval_ms=20, rounds=1, seconds=1, is_overload=True)
    assert "CPU" not in "".join(stream_report.verdicts({too_much: stream_results()}))


def test_it_is_said_what_was_full() -> None:
    setting = Setting(streams=2000, interval_ms=20, rounds=1, seconds=1)
    full = StreamResult("nginx", [a_stream_round(core_share=0.99, load_share=0.96)])
    disturbed = StreamResult("same", [a_stream_round(others_share=0.3)])
    lines = stream_report.limits({setting: {"nginx": full, "same": disturbed}})
    assert len(lines) == 3
    assert lines[0].endswith(
        "load and upstream filled their core; 10,000 of 100,000 chunks/s came through."
    )
    assert lines[2].endswith("programs outside the run had 30% of a core.")


def test_the_streams_page_holds_every_setting() -> None:
    settings = [
        Setting(streams=streams, interval_ms=20, rounds=1, seconds=1) for streams in (200, 2000)
    ]
    page = stream_report.page(
        title="T",
        setting="- How.",
        commands=["nginx: `nginx -c x`"],
        results={setting: stream_results() for setting in settings},
    )
    assert page.startswith("# T\n\n## 200 streams, a chunk every 20 ms\n\n| ")
    assert "## 2,000 streams, a chunk every 20 ms" in page
    assert "nginx, 2,000 at 20 ms | 3 | 7 | " in page
    assert "10.0 (8.0 to 30.0)" in page
    assert "- nginx: `nginx -c x`" in page
