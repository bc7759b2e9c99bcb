"""The benchmarks' arithmetic: what is read from /proc, wrk and nginx, and what is made of it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))

import contenders
import idle
import machine
import process_tree
import proxy_report
import wrk
from process_tree import BenchError, Stat
from proxy_report import Result, Round

STAT = (
    "4711 (a (b) c) S 4000 4711 4711 0 -1 4194560 2391 0 0 0 150 25 7 3 20 0 1 0 900123 "
    "222298112 5000 18446744073709551615 1 1 0 0 0 0 0 16781312 16386 0 0 0 17 1 0 0 0 0 0\n"
)


def stat(pid: int, parent: int) -> Stat:
    return Stat(pid=pid, parent=parent, cpu_ticks=1, started_ticks=1, rss_bytes=1)


def a_round(rate: float, cpu_us: float) -> Round:
    return Round(rate, 1.0, 2.0, cpu_us, 0.9, 0.05)


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
    assert nginx[5:7] == ["12.0", "1.00"]
    assert keyhole[1] == "12,345"
    assert keyhole[5:7] == ["30.0", "2.50"]
    assert keyhole[-1] == "0.50"


def test_what_was_not_measured_is_a_dash() -> None:
    """Without nginx in the run there is nothing to divide by."""
    (row,) = proxy_report.table({"asgi": Result("Keyhole", "", rounds=[a_round(1, 30)])})
    assert row == ["Keyhole", "1", "1.00", "2.00", "-", "30.0", "-", "-", "-", "-"]


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
