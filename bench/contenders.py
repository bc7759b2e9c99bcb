"""What bench/proxy.py and bench/idle.py measure: the upstream and each server in front of it.

bench/stream.py starts its own contenders with what is here.

Every contender does the same work: take a POST, attach the upstream's token, ask the upstream on
a connection, hand its answer back, write a line about it to a file. A new door is one more row
in `contenders()`. Everything listens on loopback, on ports that were free.

Facts (nginx 1.22, https://nginx.org/en/docs/, 2026-11): `return` answers a POST too; a connection
ends after `keepalive_requests`, 1000 unless told otherwise; proxying keeps upstream connections
only with HTTP/1.1 and without `Connection: close`.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from process_tree import BenchError, Running, running

ROOT = Path(__file__).parent.parent
MODEL = "gpt2"
TOKEN = "hf_made_up_for_the_benchmark"
PROMPT = "The fox kept a key under the door and nobody knew where it led."
BODY = json.dumps({"input": PROMPT, "parameters": {"max_new_tokens": 20}})
ANSWER = [
    {
        "generated_text": f"{PROMPT} In the morning it had gone, and with it the lamp, the map and "
        "the two chairs by the fire that its mother had made."
    }
]
THREADS = 32
START_WITHIN_S = 30.0
_GUNICORN = ("python", "-m", "gunicorn", "-w", "1", "--threads", str(THREADS))
_UVICORN = ("python", "-m", "uvicorn", "--no-access-log", "--log-level", "warning")
_GUNICORN_OPTIONS = ("--no-control-socket", "--bind", "127.0.0.1:{port}")

_NGINX = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 16384; }}
http {{
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp;
  uwsgi_temp_path tmp; scgi_temp_path tmp;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
{http}
}}
"""
_UPSTREAM = """
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    location = /models/{model} {{ default_type application/json; return 200 '{answer}'; }}
    location = /status {{ stub_status; }}
  }}
"""
_PROXY = """
  access_log access.log;
  upstream bench {{
    server 127.0.0.1:{upstream}; keepalive 128;
    keepalive_requests 1000000000; keepalive_timeout 300s;
  }}
  server {{
    listen 127.0.0.1:{port};
    location = /generate {{
      proxy_pass http://bench/models/{model};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
"""
_KEYHOLE = """
[server]
builtin_routes = false

[upstream.bench]
kind = "hf-inference"
url = "http://127.0.0.1:{upstream}"
token = {{ env = "BENCH_TOKEN" }}

[route.default]
targets = ["bench/{model}"]
"""

_NO_BOOKS = """
[journal]
keep = false
"""
"""The proxy alone: with id, routing, translation, metrics and log, and no keys or books."""
_PRICE = """
[price."bench/{model}"]
input = 1.0
output = 2.0
"""
_LIMITS = (
    *("--rpm", "1000000000", "--tpm", "1000000000000"),
    *("--concurrency", "1000000", "--budget", "1000000000/month"),
)
"""Every limit, and none that is ever reached."""


@dataclass(frozen=True)
class Contender:
    """One server to be measured. `{{port}}` in its command is where it is to listen."""

    name: str
    title: str
    command: tuple[str, ...]
    log: str
    """The file in its folder where a line is written for every request."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What stands in its folder before it starts; `{{port}}` and `{{upstream}}` are filled in."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Beside what every contender gets."""
    at_root: bool = False
    """Whether it runs in the repository's root, as its users would start it."""
    packages: tuple[str, ...] = ()
    """Python packages that it needs beside what the tests need."""
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that are run in its folder before each start. What the last one prints is the key
    that its clients send, as `keyhole key create --json` prints it."""


def contenders() -> list[Contender]:
    """All of them; the first is what the others are compared with."""
    return [
        Contender(
            name="nginx",
            title="nginx",
            command=("nginx", "-p", ".", "-e", "error.log", "-c", "nginx.conf"),
            log="access.log",
            files={"nginx.conf": nginx_config(_PROXY)},
        ),
        Contender(
            name="fastlane",
            title="Keyhole, fast lane, no books (keyhole serve)",
            command=("keyhole", "serve", "--listen", "127.0.0.1:{port}"),
            log="output",
            files={"keyhole.toml": _KEYHOLE + _NO_BOOKS},
        ),
        Contender(
            name="keys",
            title="Keyhole, everything on (keys, limits, books)",
            command=("keyhole", "serve", "--listen", "127.0.0.1:{port}"),
            log="output",
            files={"keyhole.toml": _KEYHOLE + _PRICE},
            before=(
                ("keyhole", "group", "set", "everybody", *_LIMITS),
                ("keyhole", "key", "create", "bench", "--group", "everybody", *_LIMITS, "--json"),
            ),
        ),
        Contender(
            name="asgi",
            title="Keyhole, ASGI door, no books (uvicorn)",
            command=(*_UVICORN, "--port", "{port}", "--factory", "keyhole.server.app:create_app"),
            log="output",
            files={"keyhole.toml": _KEYHOLE + _NO_BOOKS},
        ),
        Contender(
            name="flask",
            title="Keyhole, Flask door, no books (gunicorn)",
            command=(*_GUNICORN, *_GUNICORN_OPTIONS, "app:app"),
            log="output",
            files={"keyhole.toml": _KEYHOLE + _NO_BOOKS},
            at_root=True,
        ),
        Contender(
            name="original",
            title="the original script (gunicorn)",
            command=(*_GUNICORN, *_GUNICORN_OPTIONS, "bench.original:app"),
            log="output",
            environ={"API_URL": f"http://127.0.0.1:{{upstream}}/models/{MODEL}"},
            at_root=True,
            packages=("requests",),
        ),
    ]


def missing(
    chosen: Sequence[Contender],
    *,
    programs: Sequence[str] = ("nginx", "wrk"),
    packages: Sequence[str] = ("gunicorn", "keyhole"),
) -> list[str]:
    """A line for everything that a run needs and this machine does not have."""
    lines = []
    if not sys.platform.startswith("linux"):
        lines.append("This reads /proc and pins processes to cores: it needs Linux.")
    elif len(os.sched_getaffinity(0)) < 2:
        lines.append("Two cores are needed: one for the contender, one for load and upstream.")
    absent = [name for name in programs if find_program(name) is None]
    if absent:
        lines.append(
            f"{' and '.join(absent)} not found. On Debian: apt-get install {' '.join(absent)}"
        )
    how_to = dict.fromkeys(packages, "make test")
    how_to |= {name: f"pip install {name}" for contender in chosen for name in contender.packages}
    lines += [
        f"The Python package {name} is not installed: {how}"
        for name, how in how_to.items()
        if importlib.util.find_spec(name) is None
    ]
    return lines


def find_program(name: str) -> str | None:
    """Where a program is; beside this Python first, and where Debian keeps servers last."""
    if name == "python":
        return sys.executable
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def versions_of(names: Sequence[str]) -> str:
    """The versions of programs and Python packages, without those that are not there."""
    found = {name: _version(name) for name in names}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def _version(name: str) -> str | None:
    flags = {"nginx": "-v", "wrk": "-v"}
    if name not in flags:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None
    program = find_program(name) or name
    said = subprocess.run([program, flags[name]], capture_output=True, text=True, check=False)
    number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return number[0] if number else None


@dataclass(frozen=True)
class Upstream:
    """The running upstream."""

    port: int
    pid: int

    def requests(self) -> int:
        """How many it has answered so far, this one included."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_WITHIN_S)
        with contextlib.closing(connection):
            connection.request("GET", "/status")
            return parse_status(connection.getresponse().read().decode())


@dataclass(frozen=True)
class Started:
    """A contender that was just started."""

    port: int
    program: Running
    began_s: float
    """When, on the clock of time.perf_counter."""
    secrets: tuple[str, ...] = ()
    """The keys that its clients send."""


@dataclass(frozen=True)
class Server:
    """A running contender that has answered."""

    contender: Contender
    port: int
    program: Running
    log: Path
    start_s: float
    """From its start to its first answer."""
    secrets: tuple[str, ...] = ()
    """The keys that its clients send."""

    @property
    def url(self) -> str:
        """What to ask."""
        return f"http://127.0.0.1:{self.port}/generate"

    def take_log(self) -> int:
        """How many lines its log holds; then empties it."""
        return take_lines(self.log)


@contextlib.contextmanager
def serving(
    contender: Contender, folder: Path, *, upstream: Upstream, cores: set[int]
) -> Iterator[Server]:
    """Start a contender in a new folder and wait until it has passed an answer on."""
    with starting(contender, folder, upstream_port=upstream.port, cores=cores) as started:
        answer = await_answer(started.program, started.port, secrets=started.secrets)
        start_s = time.perf_counter() - started.began_s
        if answer != ANSWER:
            raise BenchError(f"{contender.name} did not hand the upstream's answer on: {answer}")
        log = folder / contender.log
        yield Server(contender, started.port, started.program, log, start_s, started.secrets)


@contextlib.contextmanager
def starting(
    contender: Contender, folder: Path, *, upstream_port: int, cores: set[int]
) -> Iterator[Started]:
    """Start a contender in a new folder, and end it; it need not answer yet."""
    port = free_port()
    _fill(folder, contender.files, port=port, upstream=upstream_port)
    values = {"port": str(port), "upstream": str(upstream_port)}
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "KEYHOLE_CONFIG": str(folder / "keyhole.toml"),
        "KEYHOLE_DATA": str(folder / "state"),
        "BENCH_TOKEN": TOKEN,
        "API_TOKEN": TOKEN,
    }
    if "PYTHONPATH" in os.environ:
        environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    environ |= {name: value.format(**values) for name, value in contender.environ.items()}
    secrets = _prepare(contender, folder, environ)
    command = _resolved([word.format(**values) for word in contender.command])
    began_s = time.perf_counter()
    with running(
        command,
        environ=environ,
        folder=ROOT if contender.at_root else folder,
        output=folder / "output",
        cores=cores,
    ) as program:
        yield Started(port, program, began_s, secrets)


def _prepare(contender: Contender, folder: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Run what comes before its start; the keys that its clients send."""
    said = ""
    for command in contender.before:
        ended = subprocess.run(
            _resolved(command), env=environ, cwd=folder, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            raise BenchError(f"{' '.join(command)} failed: {ended.stderr or ended.stdout}")
        said = ended.stdout
    return tuple(json.loads(line)["secret"] for line in said.splitlines())


def _resolved(command: Sequence[str]) -> list[str]:
    return [find_program(command[0]) or command[0], *command[1:]]


@contextlib.contextmanager
def upstream(folder: Path, *, cores: set[int]) -> Iterator[Upstream]:
    """Run nginx as an upstream that answers at once."""
    port = free_port()
    _fill(folder, {"nginx.conf": nginx_config(_UPSTREAM)}, port=port, upstream=port)
    with running(
        [find_program("nginx") or "nginx", "-p", ".", "-e", "error.log", "-c", "nginx.conf"],
        environ={"PATH": os.environ.get("PATH", os.defpath)},
        folder=folder,
        output=folder / "output",
        cores=cores,
    ) as program:
        await_answer(program, port, path=f"/models/{MODEL}")
        yield Upstream(port, program.pid)


def parse_status(text: str) -> int:
    """Read the number of requests from nginx's stub_status page."""
    counters = re.search(r"^\s*\d+ \d+ (\d+)\s*$", text, re.MULTILINE)
    if counters is None:
        raise BenchError(f"not a stub_status page: {text!r}")
    return int(counters[1])


def await_answer(
    program: Running, port: int, *, path: str = "/generate", secrets: Sequence[str] = ()
) -> object:
    """Ask a server that is just starting until it answers; its answer's JSON."""
    headers = {"content-type": "application/json"}
    if secrets:
        headers["authorization"] = f"Bearer {secrets[0]}"
    deadline_s = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline_s:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_WITHIN_S)
        try:
            connection.request("POST", path, BODY, headers)
            response = connection.getresponse()
            body = response.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            program.check()
            time.sleep(0.002)
            continue
        finally:
            connection.close()
        if response.status != 200:
            raise BenchError(f"{path} was answered with {response.status}: {body[:500]!r}")
        return json.loads(body)
    raise BenchError(f"no answer at port {port} within {START_WITHIN_S:g} s")


def take_lines(log: Path) -> int:
    """How many lines a file holds; then empties it."""
    with log.open("rb+") as file:
        lines = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
        file.truncate(0)
    return lines


def free_port() -> int:
    """A port on loopback that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def nginx_config(http_part: str) -> str:
    """A configuration of one worker, with this in its `http` block; not yet filled in."""
    # Its worker gives root up for a user who could not enter the temporary folder.
    user = "user root;" if os.getuid() == 0 else ""
    return _NGINX.replace("{user}", user).replace("{http}", http_part)


def _fill(folder: Path, files: Mapping[str, str], **ports: int) -> None:
    """Write a contender's files into a new folder."""
    folder.mkdir()
    (folder / "tmp").mkdir()
    answer = json.dumps(ANSWER)
    for name, text in files.items():
        filled = text.format(**ports, model=MODEL, token=TOKEN, answer=answer)
        (folder / name).write_text(filled)
