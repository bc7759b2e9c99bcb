"""A small Hugging Face Hub on loopback: what huggingface_hub 2.4 asks for when it pulls a model.

    GET  /api/models/REPO/revision/REV       the commit that a revision is
    GET  /api/models/REPO/tree/COMMIT        its files
    HEAD, GET /REPO/resolve/COMMIT/FILE      a file, whole or from an offset

Files are those of a folder. It remembers every request, and can break off in a file.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A model on the Hub."""

    folder: Path
    commit: str = COMMIT
    token: str | None = None
    """Whoever sends another is told that there is no such repository."""
    is_gated: bool = False


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    token: str | None
    range: str | None


@dataclass
class Hub:
    """The server; `with` starts it, and leaves no thread behind."""

    repositories: dict[str, Repository]
    requests: list[Asked] = field(default_factory=list)
    break_off_after: int | None = None
    """Bytes of the next large file after which its connection is closed, once."""
    status: int | None = None
    """Answered to everything, where set."""

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloads(self) -> list[str]:
        """The names of the files that were fetched, in their order."""
        return [
            asked.path.rpartition("/")[2]
            for asked in self.requests
            if asked.method == "GET" and "/resolve/" in asked.path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Say nothing."""

    def do_HEAD(self) -> None:  # the base's name
        self._serve()

    def do_GET(self) -> None:  # the base's name
        self._serve()

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        token = (self.headers["authorization"] or "").removeprefix("Bearer ") or None
        self.hub.requests.append(Asked(self.command, path, token, self.headers["range"]))
        if self.hub.status is not None:
            self._send(self.hub.status, {"error": "the Hub is unwell"})
            return
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None or repository.token not in (None, token):
            self._refuse(404 if token else 401, "RepoNotFound")
        elif is_api and parts[2] == "revision":
            self._tell_commit(repository, parts[3])
        elif is_api:
            self._send(200, [_entry(file) for file in sorted(repository.folder.iterdir())])
        elif repository.is_gated:
            self._refuse(403, "GatedRepo")
        else:
            self._send_file(repository, repository.folder / parts[4])

    def _tell_commit(self, repository: Repository, revision: str) -> None:
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
            return
        names = [{"rfilename": file.name} for file in sorted(repository.folder.iterdir())]
        self._send(200, {"id": "x/y", "sha": repository.commit, "siblings": names})

    def _send_file(self, repository: Repository, file: Path) -> None:
        if not file.exists():
            self._refuse(404, "EntryNotFound")
            return
        content = file.read_bytes()
        start = int((self.headers["range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": repository.commit}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._begin(206 if start else 200, len(content) - start, headers)
        if self.command == "HEAD":
            return
        limit = self.hub.break_off_after
        if limit is not None and len(content) > limit:
            self.hub.break_off_after = None
            self.wfile.write(content[start:limit])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"error": code}, {"X-Error-Code": code})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._begin(status, len(body), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(file: Path) -> dict[str, Any]:
    return {
        "type": "file",
        "path": file.name,
        "size": file.stat().st_size,
        "oid": _digest(file),
    }


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
