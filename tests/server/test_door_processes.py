"""The doors as they are really started: `python app.py`, `flask run`, gunicorn, uvicorn."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from standins import Reply, StandIn

REPOSITORY = Path(__file__).parents[2]
ANSWER = b'[{"generated_text": "Once upon a time"}]'
DEBUGGER = "/?__debugger__=yes&cmd=resource&f=debugger.js"
PATIENCE_S = 90

# app.py serves on port 5000, which may be taken here; only the port differs.
PYTHON_APP_PY = "import app; app.app.run(port=0, use_reloader=False)"
STARTS = {
    "python app.py": ("-c", PYTHON_APP_PY),
    "flask run": ("-m", "flask", "--app", "app", "run", "--port", "0"),
    "gunicorn": ("-m", "gunicorn", "app:app", "--bind", "127.0.0.1:0", "--no-control-socket"),
    "uvicorn": ("-m", "uvicorn", "--factory", "keyhole.server.app:create_app", "--port", "0"),
}


@pytest.fixture
async def environ(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Of a process whose default route is a stand-in for Hugging Face."""
    async with StandIn(Reply(body=ANSWER)) as upstream:
        config = tmp_path / "keyhole.toml"
        config.write_text(
            f'[upstream.up]\nkind = "hf-inference"\nurl = "{upstream.url}"\n'
            '[route.default]\ntargets = ["up/gpt2"]\n'
        )
        yield {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "KEYHOLE_CONFIG": str(config),
            "KEYHOLE_DATA": str(tmp_path / "data"),
            "PYTHONUNBUFFERED": "1",
        }


@contextmanager
def served(start: tuple[str, ...], environ: dict[str, str]) -> Iterator[str]:
    """The address that the process says it serves at."""
    output = Path(environ["HOME"]) / "output"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, *start], cwd=REPOSITORY, env=environ, stdout=written, stderr=written
        )
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", output.read_text())):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    for complaint in ("Traceback", "Unclosed", "never awaited", "was destroyed"):
        assert complaint not in output.read_text()


def generate(address: str) -> bytes:
    request = urllib.request.Request(f"{address}/generate", data=b'{"input": "Once"}')
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return bytes(response.read())


def ask_often(address: str) -> set[bytes]:
    with ThreadPoolExecutor(16) as pool:
        return set(pool.map(lambda _: generate(address), range(16)))


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
async def test_it_serves_many_at_once_and_ends_quietly(
    start: tuple[str, ...], environ: dict[str, str]
) -> None:
    def ask() -> set[bytes]:
        with served(start, environ) as address:
            return ask_often(address)

    assert await asyncio.to_thread(ask) == {ANSWER}


async def test_python_app_py_runs_without_the_debugger(environ: dict[str, str]) -> None:
    """Its script would come in place of what stands there."""

    def ask() -> bool:
        with (
            served(STARTS["python app.py"], environ | {"FLASK_DEBUG": "1"}) as address,
            urllib.request.urlopen(address + DEBUGGER, timeout=PATIENCE_S) as response,
        ):
            return "x-request-id" in response.headers

    assert await asyncio.to_thread(ask)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_configuration_that_is_wrong_is_told_and_ends_it(
    start: tuple[str, ...], environ: dict[str, str]
) -> None:
    Path(environ["KEYHOLE_CONFIG"]).write_text("[upstream.up]\nkind = 'nobody'\n")
    done = subprocess.run(
        [sys.executable, *start],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != 0
    assert re.search(r"keyhole\.toml:2: .*nobody", done.stdout + done.stderr)


def test_gunicorn_serves_on_port_5000_of_this_machine_by_default() -> None:
    command = [sys.executable, "-m", "gunicorn", "--print-config", "doors.gunicorn_app:app"]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=True
    )
    settings = dict(re.findall(r"^(\w+)\s+= (.*)$", done.stdout, re.MULTILINE))
    assert settings["bind"] == "['127.0.0.1:5000']"
    assert settings["threads"] == "32"


def test_without_flask_one_line_says_what_to_do() -> None:
    program = "import sys; sys.modules['flask'] = None; import keyhole.server.flask"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("pip install 'keyhole[flask]'")
