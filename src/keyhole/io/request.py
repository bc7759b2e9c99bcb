"""Writes requests to one upstream as bytes: the one place where its secret is attached.

It sends nothing. The heads of requests that were asked for before stand ready, with all of their
headers checked: a line break in a header would be a second header, or a second request.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from keyhole import __version__
from keyhole.catalog import Upstream
from keyhole.io.failures import unsendable
from keyhole.wire.http import UpstreamRequest

# Of methods, paths and models there are a few; a pattern route takes any model's name, so that
# the number has to have an end.
_MAX_HEADS = 256

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(r"[\x21-\x7e]*")
_VALUE = re.compile(r"[\x20-\x7e]*")

# What only this module may say: it frames the request, names its host, carries the secret.
_OURS = frozenset(
    {
        *("host", "user-agent", "accept-encoding", "authorization", "x-request-id"),
        *(
            "connection",
            "content-length",
            "expect",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ),
    }
)


class Sealed:
    """A request's bytes, which hold the secret: a traceback with locals does not show them."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __repr__(self) -> str:
        """Its length."""
        return f"<a request of {len(self.content)} bytes>"


class RequestWriter:
    """The requests to one upstream, each as one bytes object."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        host, self._base_path = _host_and_path(upstream.url)
        self._always = [
            ("host", host),
            ("user-agent", f"keyhole/{__version__}"),
            ("accept-encoding", "identity"),
        ]
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], str] = {}

    def write(self, request: UpstreamRequest, request_id: str) -> bytes:
        """Head and body; raises GatewayError for what would not arrive as it was meant."""
        # Checked first: once the head is a local here, nothing may be raised.
        if not (request_id.isascii() and request_id.isprintable()):
            raise unsendable(self._upstream.name, "a request id")
        key = (request.method, request.path, request.headers)
        head = self._heads.get(key)
        if head is None:
            head = self._head(request)
        body = request.body
        if not body and request.method in ("GET", "HEAD"):
            return f"{head}{request_id}\r\n\r\n".encode("ascii")
        return f"{head}{request_id}\r\ncontent-length: {len(body)}\r\n\r\n".encode("ascii") + body

    def _head(self, request: UpstreamRequest) -> str:
        """The head up to the value of x-request-id, which is its last header but one."""
        name = self._upstream.name
        path = self._base_path + request.path or "/"
        if not _TOKEN.fullmatch(request.method):
            raise unsendable(name, "a method")
        if not path.startswith("/") or not _PATH.fullmatch(path):
            raise unsendable(name, "a path")
        for key, value in request.headers:
            if not _TOKEN.fullmatch(key) or key.lower() in _OURS or not _VALUE.fullmatch(value):
                raise unsendable(name, "a header")
        headers = [*self._always, *request.headers]
        if self._upstream.secret is not None:
            headers.append(("authorization", f"Bearer {self._upstream.secret.reveal()}"))
        lines = [f"{request.method} {path} HTTP/1.1"]
        lines += [f"{key}: {value}" for key, value in headers]
        head = "\r\n".join([*lines, "x-request-id: "])
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[request.method, request.path, request.headers] = head
        return head


def _host_and_path(url: str) -> tuple[str, str]:
    """The value of Host, and what stands before every path."""
    if url.startswith("unix:"):
        return "localhost", ""  # a socket has no host name; HTTP wants one all the same
    parts = urlsplit(url)
    usual_port = {"http": ":80", "https": ":443"}[parts.scheme]
    return parts.netloc.removesuffix(usual_port), parts.path.rstrip("/")
