"""Starts the programs that make the calls, hands them calls, and ends them.

They run in environments of their own (`make test-clients` sets them up), with an empty home and
without the machine's tokens and proxies. A program ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clients.cases import HERE, Client

ROOT = HERE.parents[1]
AT_ONCE = 48
"""How many calls a program has at a time: those that sleep between tries cost nothing."""
HeardFirst = Callable[[], None]


def command_of(client: Client) -> list[str]:
    if client.environment == "node":
        return ["node", str(HERE / "node" / client.program)]
    python = ROOT / f".venv-{client.environment}" / "bin" / "python"
    assert python.exists(), f"{python} is not there: make test-clients sets it up"
    return [str(python), "-u", str(HERE / "python" / client.program)]


def environment_of(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "LANGCHAIN_TRACING_V2": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class Program:
    """One running program."""

    def __init__(self, command: list[str], home: Path) -> None:
        self._errors = home / f"{Path(command[-1]).stem}-{os.urandom(4).hex()}.err"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=home,
                env=environment_of(home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._free = threading.Semaphore(AT_ONCE)
        self._calls: dict[int, tuple[Future[dict[str, Any]], HeardFirst]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._reader.start()
        self._sender.start()

    def make(self, call: Mapping[str, Any], heard_first: HeardFirst) -> Future[dict[str, Any]]:
        """What the client saw, once the call is over."""
        future: Future[dict[str, Any]] = Future()
        self._calls[call["call"]] = (future, heard_first)
        self._waiting.put(dict(call))
        return future

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._waiting.put({})
        self._free.release()
        for thread in (self._reader, self._sender):
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self) -> None:
        assert self._process.stdin is not None
        while call := self._waiting.get():
            self._free.acquire()
            try:
                self._process.stdin.write(json.dumps(call).encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                return

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.startswith(b'{"call"'):
                continue  # litellm prints advice to standard output
            said = json.loads(line)
            future, heard_first = self._calls[said["call"]]
            if "first" in said:
                heard_first()
            else:
                self._free.release()
                future.set_result(said["outcome"])
        for future, _ in self._calls.values():
            if not future.done():
                future.set_exception(RuntimeError(self._errors.read_text()[-2000:]))


class Curl:
    """curl, run once for each call; it speaks Keyhole's own format."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._pool = ThreadPoolExecutor(8)

    def make(self, call: Mapping[str, Any], heard_first: HeardFirst) -> Future[dict[str, Any]]:
        return self._pool.submit(self._make, call, heard_first)

    def end(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _make(self, call: Mapping[str, Any], heard_first: HeardFirst) -> dict[str, Any]:
        body: dict[str, Any] = {
            "input": call["prompt"],
            "model": call["model"],
            "parameters": {"max_new_tokens": call["max_tokens"]},
        }
        if call["stop"]:
            body["parameters"]["stop"] = call["stop"]
        if call["wants_stream"]:
            body["stream"] = True
        command = ["curl", "-sSN", "-w", "\n%{http_code}", f"{call['url']}/generate"]
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        process = subprocess.Popen(
            command, env=environment_of(self._home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        lines, has_text = [], False
        for line in process.stdout:
            lines.append(line.decode())
            if not has_text and _piece(line):
                has_text = True
                heard_first()
                if call["leaves"]:
                    process.kill()
        complaint = process.stderr.read().decode().strip()
        status = process.wait()
        process.stdout.close()
        process.stderr.close()
        return _curl_outcome(lines, status, complaint, call)


def _piece(line: bytes) -> str:
    """The text that a frame of a generate stream brings."""
    if not line.startswith(b"data:"):
        return ""
    frame = json.loads(line[5:])
    text = frame.get("text", "") if isinstance(frame, dict) else ""
    return text if isinstance(text, str) else ""


def _curl_outcome(
    lines: list[str], exit_status: int, complaint: str, call: Mapping[str, Any]
) -> dict[str, Any]:
    http_status = int(lines.pop()) if lines and lines[-1].isdigit() else None
    pieces = [piece for line in lines if (piece := _piece(line.encode()))]
    usage, error = None, None
    frames = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
    if http_status == 200 and not frames:
        pieces = [json.loads("".join(lines))[0]["generated_text"].removeprefix(call["prompt"])]
    for frame in frames:
        if usage_told := frame.get("usage"):
            usage = [usage_told["prompt_tokens"], usage_told["completion_tokens"]]
        if "error" in frame:
            error = {"kind": "frame", "message": json.dumps(frame), "status": http_status}
    if http_status != 200:
        error = {"kind": "reply", "message": "".join(lines), "status": http_status}
    if exit_status and not call["leaves"]:
        error = {"kind": f"exit {exit_status}", "message": complaint, "status": http_status}
    elif frames and error is None and not any(frame.get("done") for frame in frames):
        error = {"kind": "no done", "message": "", "status": http_status}
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "finish": None,
        "usage": usage,
        "error": error,
    }
