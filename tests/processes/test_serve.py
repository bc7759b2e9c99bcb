"""`keyhole serve` as processes: what it says, how it ends, and what it survives."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import pytest

from processes.conftest import SLOW, STORY
from processes.driving import Answer, Server, command_lines, serving, wait_for

WORKER, ENGINE = "keyhole.worker", "keyhole.engine"
TAKES_SECONDS = {
    "input": "The fox",
    "model": SLOW,
    "parameters": {"max_new_tokens": 800},
}
TAKES_LONG = {"input": "The fox", "model": SLOW, "parameters": {"max_new_tokens": 16000}}


@pytest.fixture(scope="module")
def server(home: Path, data: Path):
    with serving(data=data, home=home) as running:
        running.ask({"input": "The fox", "model": SLOW, "parameters": {"max_new_tokens": 1}})
        yield running


@pytest.fixture
def fresh(home: Path, data: Path, tmp_path: Path):
    """A server for one test to end, with the models of the others."""
    own = tmp_path / "data"
    own.mkdir(mode=0o700)
    (own / "models").symlink_to(data / "models")
    with serving(data=own, home=home) as running:
        running.ask({"input": "The fox", "model": SLOW, "parameters": {"max_new_tokens": 1}})
        yield running


def ask_and_wait_until_in_flight(server: Server, body: dict[str, object]) -> Future[Answer]:
    """The answer to come; the thread that waits for it ends with it, or with the server."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(server.ask, body)
    pool.shutdown(wait=False)
    wait_for(lambda: server.in_flight() == 1 or future.done(), "a request in flight")
    return future


def was_lost(asked: Future[Answer]) -> bool:
    """Whether the connection broke off, or the engine did and there was time to say so."""
    try:
        return asked.result().status == 502
    except (OSError, http.client.HTTPException):
        return True


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_greeting_names_routes_state_and_a_curl_that_works(server: Server):
    log = server.log
    assert re.search(rf"default +engine/{STORY} +the embedded engine", log)
    assert "state   ~/data" in log
    assert "token   none" in log
    (line,) = (line for line in log.splitlines() if line.strip().startswith("curl"))
    done = subprocess.run([*shlex.split(line), "-sS"], capture_output=True, check=True)
    assert done.stdout.startswith(b'[{"generated_text":"Once upon a time')


def test_it_answers_and_says_which_model_did(server: Server):
    answer = server.ask({"input": "The fox", "parameters": {"max_new_tokens": 4}})
    assert answer.status == 200
    assert answer.headers["x-keyhole-model"] == STORY
    assert answer.json[0]["generated_text"].startswith("The fox")


def test_tgis_clients_hear_what_the_engine_says_of_itself_and_of_a_text(server: Server):
    info = server.get("/info")
    assert info.json["model_id"] == STORY
    assert info.json["router"] == "keyhole-engine"
    assert server.ask(method="HEAD", path="/info").headers == info.headers | {
        "x-request-id": ANY,
        "date": ANY,
    }
    for body in ({"inputs": "The fox é"}, {"inputs": "The fox é", "model": SLOW}):
        tokens = server.ask(body, path="/tokenize")
        assert tokens.status == 200
        assert tokens.json[0]["text"] == "The"
        assert tokens.json[-1]["stop"] == 9


def test_its_state_is_for_its_owner_alone(server: Server):
    mode = (server.data / "engine.sock").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE((server.data / "engine.lock").stat().st_mode) == 0o600


def test_a_state_directory_that_is_made_is_for_its_owner_alone(home: Path, tmp_path: Path):
    data = tmp_path / "new" / "data"
    with serving("--config", os.devnull, data=data, home=home):
        assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_a_worker_that_is_killed_is_started_again(server: Server):
    before = server.pid(WORKER)
    os.kill(before, signal.SIGKILL)
    began = time.monotonic()
    answer = server.ask({"input": "The fox", "parameters": {"max_new_tokens": 4}})
    print(f"answered {time.monotonic() - began:.2f} s after kill -9 of the worker")
    assert answer.status == 200
    assert server.pid(WORKER, other_than=before) != before
    assert "The worker ended (SIGKILL); starting it again." in server.log


def test_an_engine_that_is_killed_in_mid_answer_fails_that_request_alone(server: Server):
    before = server.pid(ENGINE)
    lost = ask_and_wait_until_in_flight(server, TAKES_LONG)
    time.sleep(0.5)  # it is at work by now; were it not, it would answer after its restart
    assert not lost.done()
    os.kill(before, signal.SIGKILL)
    began = time.monotonic()
    failed = lost.result()
    next_one = server.ask({"input": "The fox", "parameters": {"max_new_tokens": 4}})
    print(f"answered {time.monotonic() - began:.2f} s after kill -9 of the engine")

    assert failed.status == 502
    assert failed.json["error"] == "Could not connect to the text generation service."
    assert failed.json["code"] == "upstream_unreachable"
    assert next_one.status == 200
    assert server.pid(ENGINE, other_than=before) != before
    assert stat.S_IMODE((server.data / "engine.sock").stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_after_what_is_in_flight(fresh: Server, number: int):
    asked = ask_and_wait_until_in_flight(fresh, TAKES_SECONDS)
    fresh.signal(number)
    status = fresh.wait()

    assert asked.result().status == 200
    assert status == 0
    assert "Traceback" not in fresh.log
    assert "Fatal" not in fresh.log
    assert "starting it again" not in fresh.log
    assert not command_lines(holding=str(fresh.data))
    assert not (fresh.data / "engine.sock").exists()


def test_a_second_signal_ends_it_at_once(fresh: Server):
    asked = ask_and_wait_until_in_flight(fresh, TAKES_LONG)
    fresh.signal(signal.SIGINT)
    time.sleep(0.3)
    assert not asked.done()
    fresh.signal(signal.SIGINT)
    assert fresh.wait() == 1
    fresh.family_ends(within_s=10)
    assert was_lost(asked)


def test_a_second_signal_ends_a_worker_that_waits_for_somebody_else(home: Path, tmp_path: Path):
    """The drain takes up to 30 s; a remote model that hangs does not hold the second Ctrl-C."""
    with silent_server() as port:
        config = tmp_path / "keyhole.toml"
        config.write_text(
            f'[upstream.slow]\nkind = "tgi"\nurl = "http://127.0.0.1:{port}"\n'
            '[route.default]\ntargets = ["slow/any"]\n[server]\nbuiltin_routes = false\n'
        )
        with serving("--config", config, data=tmp_path / "data", home=home) as server:
            asked = ask_and_wait_until_in_flight(server, {"input": "The fox"})
            server.signal(signal.SIGINT)
            time.sleep(0.3)
            server.signal(signal.SIGINT)
            assert server.wait() == 1
            server.family_ends(within_s=10)
    assert was_lost(asked)
    assert "Traceback" not in server.log


def test_what_does_not_finish_in_time_is_told_so(home: Path, tmp_path: Path):
    with silent_server() as port:
        config = tmp_path / "keyhole.toml"
        config.write_text(
            f'[upstream.slow]\nkind = "tgi"\nurl = "http://127.0.0.1:{port}"\n'
            '[route.default]\ntargets = ["slow/any"]\n'
            "[server]\nbuiltin_routes = false\ndrain_timeout_s = 0.5\n"
        )
        with serving("--config", config, data=tmp_path / "data", home=home) as server:
            asked = ask_and_wait_until_in_flight(server, {"input": "The fox"})
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
    answer = asked.result()
    assert (answer.status, answer.json["code"]) == (503, "shutting_down")
    assert '"status":503' in server.log
    assert "Traceback" not in server.log


def test_children_whose_parent_is_killed_end_by_themselves(fresh: Server):
    children = {*fresh.pids(WORKER), *fresh.pids(ENGINE)}
    assert len(children) == 2
    fresh.signal(signal.SIGKILL)
    fresh.wait()
    fresh.family_ends(within_s=10)


def test_a_stale_socket_is_no_obstacle(fresh: Server, home: Path):
    """After kill -9 of everything the socket's file is still there."""
    for pid in (fresh.process.pid, *fresh.pids(ENGINE), *fresh.pids(WORKER)):
        os.kill(pid, signal.SIGKILL)
    fresh.wait()
    fresh.family_ends()
    assert (fresh.data / "engine.sock").exists()
    with serving(data=fresh.data, home=home) as again:
        assert again.ask({"input": "The fox"}).status == 200


def test_two_servers_share_one_engine_and_the_second_takes_over(fresh: Server, home: Path):
    with serving(data=fresh.data, home=home) as second:
        assert second.ask({"input": "The fox"}).status == 200
        (first_engine,) = second.pids(ENGINE)
        fresh.signal(signal.SIGKILL)
        fresh.wait()
        wait_for(lambda: first_engine not in second.pids(ENGINE), "the first engine's end")
        second.pid(ENGINE, other_than=first_engine)
        assert second.ask({"input": "The fox"}).status == 200


def test_no_engine_runs_where_no_route_needs_one(home: Path, tmp_path: Path):
    config = tmp_path / "keyhole.toml"
    config.write_text(
        '[upstream.far]\nkind = "tgi"\nurl = "http://127.0.0.1:9"\n'
        '[route.default]\ntargets = ["far/any"]\n[server]\nbuiltin_routes = false\n'
    )
    data = tmp_path / "data"
    with serving("--config", config, data=data, home=home) as server:
        assert server.ask({"input": "The fox"}).status == 502
        assert server.pids(ENGINE) == []
        assert not (data / "engine.lock").exists()


def test_a_model_that_is_not_pulled_is_a_502_that_says_what_to_run(
    home: Path, data: Path, tmp_path
):
    config = tmp_path / "keyhole.toml"
    config.write_text('[route.gpt2]\ntargets = ["engine/openai-community/gpt2"]\n')
    with serving("--config", config, data=data, home=home) as server:
        answer = server.ask({"input": "The fox", "model": "gpt2"})
    assert answer.status == 502
    assert answer.json["code"] == "model_not_pulled"
    assert "keyhole model pull openai-community/gpt2" in answer.json["detail"]


def test_it_gives_up_on_a_worker_that_cannot_start(home: Path, tmp_path: Path):
    """One whose configuration has been broken meanwhile ends the server, with the reason."""
    config = tmp_path / "keyhole.toml"
    config.write_text("[server]\nbuiltin_routes = true\n")
    with serving("--config", config, data=tmp_path / "data", home=home) as server:
        config.write_text("[server]\nbuiltin_routes = maybe\n")
        os.kill(server.pid(WORKER), signal.SIGKILL)
        assert server.wait() == 1
        server.family_ends()
    assert "keyhole.toml:2: not valid TOML" in server.log
    assert "keyhole: The worker ended" in server.log
    assert "Traceback" not in server.log


def test_start_up_time(home: Path, tmp_path: Path, data: Path):
    """From the command to the first answer, printed for whoever wonders."""
    own = tmp_path / "data"
    own.mkdir()
    (own / "models").symlink_to(data / "models")
    began = time.monotonic()
    with serving(data=own, home=home) as server:
        assert server.ask({"input": "The fox"}).status == 200
        print(f"first answer {time.monotonic() - began:.2f} s after the start")
