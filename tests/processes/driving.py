"""Starts Keyhole's processes for tests, asks them, and ends every one of them by its id.

A started server writes its output into a file, so nothing waits on a pipe that nobody reads.
Which processes belong to it is told by the state directory, which is in their command lines.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

PATIENCE_S = 60.0
KEYHOLE = str(Path(sys.executable).with_name("keyhole"))
PYTHON = sys.executable

T = TypeVar("T")


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a process of a test gets: no token, no proxy, no Ollama but what the test names."""
    kept = {
        name: os.environ[name] for name in ("PATH", "TMPDIR", "PYTHONPATH") if name in os.environ
    }
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {
        **kept,
        **coverage,
        "HOME": str(home),
        "OLLAMA_HOST": "127.0.0.1:1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **more,
    }


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error of a command that failed as it should."""
        assert self.status == 1, self
        assert "Traceback" not in self.err, self.err
        (line,) = self.err.splitlines()
        return line


def keyhole(*arguments: object, home: Path, stdin: str | bytes = "", **env: str) -> Ran:
    """Run a command to its end."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [KEYHOLE, *map(str, arguments)],
        cwd=home,
        env=environment(home, **env),
        input=given,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def wait_for(look: Callable[[], T], what: str, within_s: float = PATIENCE_S) -> T:
    """What `look` returns once that is truthy."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command_lines(*, holding: str) -> dict[int, str]:
    """The processes of this machine whose command line holds a text, by their ids."""
    listed = subprocess.run(
        ["ps", "-axww", "-o", "pid=,stat=,command="], capture_output=True, check=True
    )
    found = {}
    for line in listed.stdout.decode(errors="replace").splitlines():
        pid, state, command = line.split(None, 2) if line.count(" ") > 1 else ("0", "Z", "")
        if holding in command and not state.startswith("Z"):
            found[int(pid)] = command
    return found


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A running server, whatever program it is."""

    process: subprocess.Popen[bytes]
    port: int
    data: Path
    log_path: Path
    answered: int = 0
    """How many answers it has given so far."""

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ask(
        self,
        body: Any = None,
        *,
        method: str = "POST",
        path: str = "/generate",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            given = {"Content-Type": "application/json", **(headers or {})}
            content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            connection.request(method, path, content, given)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, named, response.read())
        self.answered += 1
        return answer

    def get(self, path: str) -> Answer:
        return self.ask(method="GET", path=path)

    def in_flight(self) -> int:
        """How many requests it works on, this question not among them."""
        return self.counted("keyhole_requests_in_flight") - 1

    def counted(self, name: str) -> int:
        """A metric of the process that answers, summed over its labels."""
        page = self.get("/metrics").body.decode()
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
        return int(sum(map(float, found)))

    def wait_until_ready(self) -> Server:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.get("/health/ready").status == 200
            return False

        wait_for(is_ready, "ready")
        return self

    def pids(self, module: str) -> list[int]:
        """The processes of one of our modules that serve this state directory."""
        found = command_lines(holding=str(self.data))
        return sorted(pid for pid, command in found.items() if module in command)

    def pid(self, module: str, *, other_than: int | None = None) -> int:
        """The only such process, once there is one."""

        def look() -> list[int]:
            return [pid for pid in self.pids(module) if pid != other_than]

        (found,) = wait_for(look, f"a process of {module}")
        return found

    def parent_of(self, pid: int) -> int:
        command = ["ps", "-o", "ppid=", "-p", str(pid)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """Its exit status."""
        return self.process.wait(within_s)

    def family_ends(self, within_s: float = PATIENCE_S) -> None:
        """Wait until no process is left that names the state directory."""
        wait_for(
            lambda: not command_lines(holding=str(self.data)),
            f"no process left: {command_lines(holding=str(self.data))}",
            within_s,
        )


@contextlib.contextmanager
def started(
    arguments: Sequence[object],
    *,
    data: Path,
    home: Path,
    port: int | None = None,
    **env: str,
) -> Iterator[Server]:
    """A server that is ready; with its whole family it is gone afterwards.

    Without a port, the one that its greeting names.
    """
    number = len(list(home.glob("server-*.log")))
    log_path = home / f"server-{number}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*map(str, arguments)],
            cwd=home,
            env=environment(home, KEYHOLE_DATA=str(data), **env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = Server(process, port or 0, data, log_path)
    try:
        if port is None:
            server.port = wait_for(lambda: _greeted_port(server), "greeting")
        yield server.wait_until_ready()
    finally:
        process.kill()
        process.wait()
        for pid in command_lines(holding=str(data)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.family_ends()


def serving(*options: object, data: Path, home: Path, **env: str) -> Any:
    """`keyhole serve` on any free port."""
    command = [KEYHOLE, "serve", "--listen", "127.0.0.1:0", "--data", data, *options]
    return started(command, data=data, home=home, **env)


def _greeted_port(server: Server) -> int:
    assert server.process.poll() is None, server.log
    found = re.search(r"serves http://127\.0\.0\.1:(\d+)", server.log)
    return int(found[1]) if found else 0
