"""The engine as a process: its socket, its signals, its parent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from asgi_client import read_frames
from random_gpt2 import write_model

from keyhole.engine.listener import LONGEST_PATH_BYTES, bind_tcp, bind_unix
from keyhole.engine.scheduler import MAX_RUNNING
from keyhole.errors import SetupError

PATIENCE_S = 60
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def run_dir(tmp_path_factory):
    """A folder whose path leaves room for a socket's name."""
    return tmp_path_factory.mktemp("run")


@contextlib.contextmanager
def running(*arguments, **options):
    process = subprocess.Popen(
        [sys.executable, "-m", "keyhole.engine", *map(str, arguments)],
        stderr=subprocess.PIPE,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def connected(path: Path):
    """A client of the engine, once that has come up."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            try:
                connection.connect(str(path))
            except OSError:
                assert time.monotonic() < deadline, "the engine did not come up"
                time.sleep(0.02)
                continue
            client = http.client.HTTPConnection("engine")
            client.sock = connection
            yield client
            return


def ask(path: Path, method="GET", target="/health", body=None):
    """Status and body, waiting for the engine to come up."""
    with connected(path) as client:
        client.request(method, target, body, {"content-type": "application/json"})
        response = client.getresponse()
        return response.status, response.read()


def begin_stream(client, inputs, **parameters):
    """The response whose frames can be read as they come."""
    body = json.dumps({"inputs": inputs, "parameters": parameters})
    client.request("POST", "/generate_stream", body, {"content-type": "application/json"})
    return client.getresponse()


def test_it_serves_on_a_socket_and_ends_well_at_sigterm(run_dir, models_dir):
    path = run_dir / "engine.sock"
    with running("--socket", path, "--models", models_dir, "--default", "acme/tiny") as process:
        body = json.dumps({"inputs": "The fox", "parameters": {"max_new_tokens": 4}})
        status, answer = ask(path, "POST", "/generate", body)
        mode = path.lstat().st_mode
        process.send_signal(signal.SIGTERM)
        exit_status = process.wait(PATIENCE_S)
        log = process.stderr.read().decode()

    assert status == 200
    assert json.loads(answer).keys() == {"generated_text"}
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert exit_status == 0
    assert not path.exists()
    assert "acme/tiny prompt_tokens=2 generated_tokens=4" in log
    assert "fox" not in log


def test_streams_over_the_socket_tell_what_whole_answers_tell(run_dir, models_dir):
    """Eight at once, each with a seed of its own; a connection can go on after its stream."""
    path = run_dir / "engine.sock"

    def tell(seed):
        asked = {"max_new_tokens": 40, "do_sample": True, "seed": seed, "details": True}
        with connected(path) as client:
            response = begin_stream(client, "The fox \N{FOX FACE}", **asked)
            frames = read_frames(response.read())
            body = json.dumps({"inputs": "The fox \N{FOX FACE}", "parameters": asked})
            client.request("POST", "/generate", body, {"content-type": "application/json"})
            return response, frames, json.loads(client.getresponse().read())

    options = ("--models", models_dir, "--default", "acme/tiny", "--quiet")
    with running("--socket", path, *options), ThreadPoolExecutor(8) as pool:
        told = list(pool.map(tell, range(8)))

    for response, frames, answer in told:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["transfer-encoding"] == "chunked"
        assert frames[-1]["generated_text"] == answer["generated_text"]
        assert len(frames) == answer["details"]["generated_tokens"]


def test_a_stream_whose_client_leaves_ends(run_dir):
    """The first frame comes long before the last; after a hang-up there are no more."""
    path, models = run_dir / "engine.sock", run_dir / "models"
    write_model(models / "long", context=50_000, config={"eos_token_id": None})
    with running("--socket", path, "--models", models, "--default", "long") as process:
        with connected(path) as client:
            response = begin_stream(client, "The fox", max_new_tokens=49_000)
            line = response.readline()
            response.close()
        log = process.stderr.readline().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0

    assert line.startswith(b'data: {"index":1,')
    assert "finish=cancelled" in log


def test_the_end_of_its_parent_ends_it(run_dir, models_dir):
    """However the parent goes, the kernel closes its end of the pipe."""
    path = run_dir / "engine.sock"
    engine = (sys.executable, "-m", "keyhole.engine", "--socket", path, "--models", models_dir)
    options = ("--default", "acme/tiny", "--exit-with-parent")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *map(str, engine), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert ask(path)[0] == 200
        parent.kill()

    deadline = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        assert time.monotonic() < deadline, "the engine outlived its parent"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process runs; an orphan that nobody has reaped yet does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def test_watching_its_parent_it_still_ends_well_at_sigterm(run_dir, models_dir):
    path = run_dir / "engine.sock"
    options = ("--models", models_dir, "--default", "acme/tiny", "--exit-with-parent")
    with running("--socket", path, *options, stdin=subprocess.PIPE) as process:
        assert ask(path)[0] == 200
        process.send_signal(signal.SIGTERM)

        assert process.wait(PATIENCE_S) == 0


def test_without_a_parent_to_watch_the_end_of_input_means_nothing(run_dir, models_dir):
    path = run_dir / "engine.sock"
    with running(
        *("--socket", path, "--models", models_dir, "--default", "acme/tiny"),
        stdin=subprocess.DEVNULL,
    ):
        assert ask(path)[0] == 200


def test_quiet_logs_no_request_and_takes_as_many_waiting_as_it_is_told(run_dir, models_dir):
    """What a supervisor's log line says already is not said again; its bound is the engine's."""
    path = run_dir / "engine.sock"
    options = ("--models", models_dir, "--default", "acme/tiny", "--quiet", "--max-waiting", "3")
    with running("--socket", path, *options) as process:
        body = json.dumps({"inputs": "Once", "parameters": {"max_new_tokens": 2}})
        assert ask(path, "POST", "/generate", body)[0] == 200
        info = json.loads(ask(path, "GET", "/info")[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == b""

    assert info["max_concurrent_requests"] == MAX_RUNNING + 3


def test_it_says_in_one_line_why_it_cannot_listen(run_dir):
    with running("--socket", run_dir / ("x" * 200)) as process:
        assert process.wait(PATIENCE_S) == 1
        log = process.stderr.read().decode()

    assert log.count("\n") == 1
    assert f"but the system allows {LONGEST_PATH_BYTES}" in log


def test_a_socket_nobody_answers_at_is_replaced(run_dir):
    path = run_dir / "engine.sock"
    bind_unix(path).close()

    with bind_unix(path) as listener:
        assert listener.getsockname() == str(path)


def test_a_socket_somebody_answers_at_is_left_alone(run_dir):
    path = run_dir / "engine.sock"
    with bind_unix(path), pytest.raises(SetupError, match="Another engine is listening"):
        bind_unix(path)


def test_a_file_that_is_no_socket_is_left_alone(run_dir):
    path = run_dir / "notes.txt"
    path.write_text("mine")

    with pytest.raises(SetupError, match="is no socket"):
        bind_unix(path)
    assert path.read_text() == "mine"


def test_a_path_of_the_greatest_length_works(run_dir):
    room = LONGEST_PATH_BYTES - len(os.fsencode(run_dir)) - 1
    with bind_unix(run_dir / ("s" * room)):
        pass
    with pytest.raises(SetupError):
        bind_unix(run_dir / ("s" * (room + 1)))


def test_binding_leaves_the_umask_as_it_was(run_dir):
    before = os.umask(0o022)
    try:
        bind_unix(run_dir / "engine.sock").close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("address", ["", "localhost", ":5000", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(SetupError):
        bind_tcp(address)


def test_a_tcp_address_works():
    with bind_tcp("127.0.0.1:0") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
