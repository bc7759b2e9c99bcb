"""A real `keyhole serve` with a state directory of its own: started, killed, started again.

Every process that is killed or ended here has this state directory in its command line, or was
started by us; nothing is ended by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asking import get

KEPT = {"PATH", "TMPDIR", "LANG", "PYTHONPATH", "VIRTUAL_ENV"}
VICTIMS = {"worker": 50, "supervisor": 14, "both": 12, "everything": 7, "clerk": 17}
"""What is killed, and how often of a hundred. `both` is a worker and its supervisor."""
LOOK_EVERY_S = 0.02
GIVES_UP_S = 30.0

CONFIG = """
[server]
builtin_routes = false
{ledger}
[upstream.chat]
kind = "openai"
url = "{url}/chat/v1"
budget = "100000"
[upstream.mute]
kind = "openai"
url = "{url}/mute/v1"
[upstream.broken]
kind = "openai"
url = "{url}/broken/v1"
[upstream.tgi]
kind = "tgi"
url = "{url}/tgi"
concurrency = 500
[upstream.old]
kind = "hf-inference"
url = "{url}/old"
[price."chat/m"]
input = 1.5
output = 6
[price."mute/m"]
input = 2
output = 2
[price."tgi/m"]
input = 0.5
output = 0.7
[price."old/m"]
input = 1
output = 1
[price."broken/m"]
input = 9
output = 9
[route.default]
targets = ["tgi/m"]
[route.chat]
targets = ["chat/m"]
[route.mute]
targets = ["mute/m"]
[route.old]
targets = ["old/m"]
[route.fallback]
targets = ["broken/m", "chat/m"]
"""


class ProveError(Exception):
    """The run cannot go on."""


@dataclass(frozen=True)
class Key:
    """A key that was made for a client."""

    name: str
    secret: str


@dataclass(frozen=True)
class Process:
    """One of ours that runs."""

    pid: int
    parent: int
    what: str


class Gateway:
    """Keyhole's processes."""

    def __init__(self, place: Path, upstream_url: str, ledger_url: str | None) -> None:
        self.data = place / "data"
        self.port = _free_port()
        self._place = place
        self._config = place / "keyhole.toml"
        ledger = "" if ledger_url is None else f'[ledger]\nurl = "{ledger_url}"\n'
        self._config.write_text(CONFIG.format(url=upstream_url, ledger=ledger))
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._log = place / "serve-0.log"
        self.fell: list[str] = []
        """What supervisors said that ended although nobody had killed them."""

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in KEPT}
        if "PYTHONPATH" in kept:  # they have another working directory
            folders = kept["PYTHONPATH"].split(os.pathsep)
            kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
        return kept | {"HOME": str(self._place), "OLLAMA_HOST": "127.0.0.1:1"}

    def run(self, *arguments: str) -> str:
        """What a command of Keyhole's prints; raises ProveError."""
        done = subprocess.run(
            self._command(*arguments),
            env=self.environ,
            cwd=self._place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise ProveError(f"keyhole {arguments[0]} failed: {done.stderr.strip()[-500:]}")
        return done.stdout

    def make_keys(self, count: int) -> list[Key]:
        """So many keys of one group, with every limit, and one that is too narrow for its use."""
        self.run("group", "set", "lab", "--concurrency", "400", "--budget", "100000")
        wide = (
            "--rpm",
            "1000000",
            "--tpm",
            "1000000000",
            "--concurrency",
            "50",
            "--budget",
            "10000",
        )
        self.run("key", "create", "early", "--group", "lab", *wide)
        made = self.run(
            "key", "create", "ann", "--count", str(count), "--group", "lab", *wide, "--csv"
        )
        made += self.run(
            "key", "create", "narrow", "--concurrency", "1", "--budget", "500", "--csv"
        )
        rows = [row for row in csv.reader(made.splitlines()) if row[0] != "name"]
        return [Key(name, secret) for name, _, secret in rows]

    def rows(self) -> list[dict[str, Any]]:
        """The ledger, as the command prints it."""
        told = self.run("usage", "--rows", "--json", "--since", "1d")
        return [json.loads(line) for line in told.splitlines()]

    def start(self) -> None:
        """Start the supervisor, which starts the rest."""
        self._starts += 1
        self._log = self._place / f"serve-{self._starts}.log"
        with self._log.open("wb") as log:
            self._supervisor = subprocess.Popen(
                self._command("serve", "--listen", f"127.0.0.1:{self.port}"),
                env=self.environ,
                cwd=self._place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ensure_started(self) -> bool:
        """Start it again where it has ended by itself; whether it had."""
        supervisor = self._supervisor
        if supervisor is None or supervisor.poll() is None:
            return False
        self.fell.append(f"exit status {supervisor.returncode}: {self._last_words()}")
        self.start()
        return True

    async def kill(self, victim: str) -> bool:
        """End with SIGKILL whoever is meant; whether anybody was there."""
        supervisor = self._supervisor
        assert supervisor is not None
        running = await self._processes()
        meant: list[int] = []
        if victim in {"supervisor", "both", "everything"}:
            meant.append(supervisor.pid)
        for process in running:
            is_child = process.parent == supervisor.pid
            is_worker = process.what == "worker" and victim in {"worker", "both"} and is_child
            is_clerk = process.what == "clerk" and victim == "clerk"
            if is_worker or is_clerk or (victim == "everything" and process.pid not in meant):
                meant.append(process.pid)
        random.shuffle(meant)
        for pid in meant:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if supervisor.pid in meant:
            supervisor.wait()
            self.start()
        return bool(meant)

    async def answered(self) -> None:
        """Return when the present server answers: the id of its reply is in its own log."""
        gives_up_s = time.monotonic() + GIVES_UP_S
        while time.monotonic() < gives_up_s:
            self.ensure_started()
            with contextlib.suppress(OSError, TimeoutError):
                asked, _ = await get(self.port, "/health/live", within_s=1)
                for _ in range(3):
                    if asked.status == 200 and asked.exchange_id in self._log.read_text():
                        return
                    await asyncio.sleep(LOOK_EVERY_S / 4)
            await asyncio.sleep(LOOK_EVERY_S)
        raise ProveError(f"Keyhole does not answer any more: {self._last_words()}")

    async def stop(self) -> None:
        """End all of it, by asking first."""
        supervisor = self._supervisor
        if supervisor is not None and supervisor.poll() is None:
            supervisor.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(supervisor.wait, 20)
        for process in await self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    async def _processes(self) -> list[Process]:
        """Those that have our state directory in their command line."""
        asking = await asyncio.create_subprocess_exec(
            *("ps", "-axww", "-o", "pid=,ppid=,stat=,command="),
            stdout=asyncio.subprocess.PIPE,
        )
        listed, _ = await asking.communicate()
        found = []
        for line in listed.decode(errors="replace").splitlines():
            pid, parent, state, command = line.split(None, 3)
            if f"--data={self.data}" in command and not state.startswith("Z"):
                what = "worker" if "keyhole.worker" in command else ""
                what = "clerk" if "keyhole.clerk" in command else what or "serve"
                found.append(Process(int(pid), int(parent), what))
        return found

    def _command(self, *arguments: str) -> list[str]:
        # Options come behind the command and its subcommand.
        return [
            *(sys.executable, "-P", "-m", "keyhole.cli", *arguments),
            *(f"--data={self.data}", f"--config={self._config}"),
        ]

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text().splitlines() if not line.startswith("{")]
        return " ".join(lines[-3:])[-400:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
