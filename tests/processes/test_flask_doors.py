"""The Flask application as the original script was run: python, flask, gunicorn.

Each runs a copy of app.py and gunicorn.conf.py in a folder of its own, on a port of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from processes.conftest import STORY
from processes.driving import PYTHON, Server, free_port, started, wait_for

ROOT = Path(__file__).parents[2]
ENGINE = "keyhole.engine"
REQUEST = {"input": "The fox", "parameters": {"max_new_tokens": 4}}
GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
FLASK = str(Path(sys.executable).with_name("flask"))


@pytest.fixture
def folder(home: Path, data: Path, tmp_path: Path) -> Path:
    """A working directory with the two files, and a state directory of its own."""
    shutil.copy(ROOT / "app.py", tmp_path)
    shutil.copy(ROOT / "gunicorn.conf.py", tmp_path)
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "models").symlink_to(data / "models")
    return tmp_path


def run(*arguments: object, folder: Path, home: Path, port: int):
    config = str(home / "keyhole.toml")
    data = folder / "data"
    return started(arguments, data=data, home=folder, port=port, KEYHOLE_CONFIG=config)


def answers(server: Server) -> bool:
    answer = server.ask(REQUEST)
    return answer.status == 200 and answer.headers["x-keyhole-model"] == STORY


def is_shared(server: Server) -> bool:
    """Whether more answers were given than the worker that is asked has counted."""
    return server.counted("keyhole_requests_total") < server.answered - 1


def test_python_app_py(folder: Path, home: Path):
    port = free_port()
    app = folder / "app.py"
    app.write_text(app.read_text().replace("port=5000", f"port={port}"))
    with run(PYTHON, "app.py", folder=folder, home=home, port=port) as server:
        assert answers(server)
        assert server.ask({}).json["error"] == "Invalid request. 'input' key is required."
        server.signal(signal.SIGINT)
        server.wait()
        server.family_ends(within_s=10)
    assert "Traceback" not in server.log


def test_flask_run(folder: Path, home: Path):
    port = free_port()
    command = (FLASK, "run", "--port", port)
    with run(*command, folder=folder, home=home, port=port) as server:
        assert answers(server)
        server.signal(signal.SIGTERM)
        server.wait()
        server.family_ends(within_s=10)


def test_gunicorn_with_one_worker_and_threads(folder: Path, home: Path):
    port = free_port()
    command = (GUNICORN, "-w", 1, "--threads", 32, "--bind", f"127.0.0.1:{port}", "app:app")
    with run(*command, folder=folder, home=home, port=port) as server:
        assert answers(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        server.family_ends(within_s=10)
    assert "Traceback" not in server.log


def test_gunicorn_workers_share_an_engine_and_the_other_takes_it_over(folder: Path, home: Path):
    port = free_port()
    command = (GUNICORN, "-w", 2, "--bind", f"127.0.0.1:{port}", "app:app")
    with run(*command, folder=folder, home=home, port=port) as server:
        wait_for(lambda: is_shared(server), "both workers at work")
        (engine,) = server.pids(ENGINE)
        keeper = server.parent_of(engine)
        assert keeper != server.process.pid
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: engine not in server.pids(ENGINE), "the engine's end")
        wait_for(lambda: answers(server), "an answer")
        (successor,) = server.pids(ENGINE)
        assert server.parent_of(successor) != keeper
        assert answers(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        server.family_ends(within_s=10)
