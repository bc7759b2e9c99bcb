"""How fast the embedded engine generates, for one client and for many at once.

It writes GPT-2s with random weights to a temporary folder, starts the engine on a Unix socket
and asks it over HTTP, sampling on, as a gateway would. Rounds of all client counts take turns,
so that a noisy machine is noisy for each of them; the best round counts.

    python bench/engine.py [--rounds N] [--sizes demo,gpt2]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "engine"))

from random_gpt2 import write_model  # noqa: E402  # the tests' own random models

SIZES = {
    "demo": {"layers": 5, "width": 160, "heads": 5, "context": 512, "vocabulary": 2048},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "context": 1024, "vocabulary": 50257},
}
CLIENTS = (1, 2, 4, 8, 16)
PROMPT = "The fox kept a key under the door and nobody knew where it led."
NEW_TOKENS = 64
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the embedded engine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="demo,gpt2")
    arguments = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}  {cpu()}, {os.cpu_count()} cores, {platform.platform()}")
    print(
        f"Python {platform.python_version()}; random weights, {NEW_TOKENS} new tokens, {SAMPLING}"
    )
    with tempfile.TemporaryDirectory(prefix="keyhole-bench-") as directory:
        for size in arguments.sizes.split(","):
            path = write_model(Path(directory) / size, **SIZES[size], config={"eos_token_id": None})
            megabytes = (path / "model.safetensors").stat().st_size / 1e6
            print(f"\n{size}: {SIZES[size]}, {megabytes:.0f} MB of fp32")
            with engine(Path(directory), size) as ask:
                measure(ask, arguments.rounds)


def measure(ask: Ask, rounds: int) -> None:
    ask.generate()
    best: dict[int, Round] = {}
    for _ in range(rounds):
        for clients in CLIENTS:
            took = run_round(ask, clients)
            if clients not in best or took.tokens_per_s > best[clients].tokens_per_s:
                best[clients] = took
    print(f"{'clients':>8} {'prompt':>8} {'tokens/s':>9} {'ratio':>6} {'slowest s':>10}")
    for clients, took in best.items():
        ratio = took.tokens_per_s / best[1].tokens_per_s
        print(
            f"{clients:>8} {took.prompt_tokens:>8} {took.tokens_per_s:>9.0f} {ratio:>6.2f} "
            f"{took.slowest_s:>10.2f}"
        )
    prompt_tokens, took_s = min((first_token(ask) for _ in range(rounds)), key=lambda pair: pair[1])
    print(f"first token of a prompt of {prompt_tokens} tokens: {took_s * 1000:.0f} ms")
    print(f"memory: {ask.memory()}")


def first_token(ask: Ask) -> tuple[int, float]:
    """Prompt tokens and seconds."""
    _, prompt_tokens, took_s = ask.generate(" ".join([PROMPT] * 12), new_tokens=1)
    return prompt_tokens, took_s


class Round:
    """What one round of simultaneous requests took."""

    def __init__(self, tokens: int, prompt_tokens: int, elapsed_s: float, slowest_s: float) -> None:
        self.tokens_per_s = tokens / elapsed_s
        self.prompt_tokens = prompt_tokens
        self.slowest_s = slowest_s


def run_round(ask: Ask, clients: int) -> Round:
    """Every client asks twice, one request after the other."""
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        answers = [
            answer
            for pair in pool.map(lambda _: (ask.generate(), ask.generate()), range(clients))
            for answer in pair
        ]
        elapsed_s = time.perf_counter() - began
    tokens = sum(tokens for tokens, _, _ in answers)
    return Round(tokens, answers[0][1], elapsed_s, max(took for _, _, took in answers))


class Ask:
    """A client of a running engine."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path = path
        self._pid = pid

    def generate(
        self, prompt: str = PROMPT, new_tokens: int = NEW_TOKENS
    ) -> tuple[int, int, float]:
        """Generated tokens, prompt tokens, seconds."""
        parameters = SAMPLING | {"max_new_tokens": new_tokens}
        body = json.dumps({"inputs": prompt, "parameters": parameters})
        began = time.perf_counter()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._path))
            client = http.client.HTTPConnection("engine")
            client.sock = connection
            client.request("POST", "/generate", body, {"content-type": "application/json"})
            response = client.getresponse()
            text = response.read()
        if response.status != 200:
            raise SystemExit(f"the engine answered {response.status}: {text.decode()}")
        counts = (int(response.headers[f"x-{kind}-tokens"]) for kind in ("generated", "prompt"))
        return *counts, time.perf_counter() - began

    def memory(self) -> str:
        """The engine's peak, and what of its memory is not pages of the weights' file."""
        status = Path(f"/proc/{self._pid}/status")
        if not status.exists():
            return "unknown on this system"
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        peak, anonymous = (int(lines[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon"))
        return f"peak {peak} MB; now {anonymous} MB besides the mapped file"


@contextlib.contextmanager
def engine(directory: Path, name: str) -> Iterator[Ask]:
    """A running engine with one model."""
    path = directory / f"{name}.sock"
    command = [sys.executable, "-m", "keyhole.engine", "--socket", str(path)]
    process = subprocess.Popen(
        [*command, "--models", str(directory), "--default", name, "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    try:
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        yield Ask(path, process.pid)
    finally:
        process.terminate()
        process.communicate()


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
