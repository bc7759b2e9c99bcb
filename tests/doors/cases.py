"""What is asked at every door, and what must come back: status, all headers, all bytes."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass

from doors.client import chunked
from doors.composed import ALLOWED_ORIGIN, MAX_BODY_BYTES, ODD_JSON

Headers = tuple[tuple[str, str], ...]

MISSING = "Invalid request. 'input' key is required."
FAILED = "Could not connect to the text generation service."
ALLOW = ("allow", "OPTIONS, POST")
ALLOW_PAGE = ("allow", "GET, HEAD, OPTIONS")
SEND_JSON = (("Content-Type", "application/json"),)
MODEL = ("x-keyhole-model", "gpt2")
VARY = ("vary", "Origin")
SEND_OBJECT = 'Send an object such as {"input": "Once upon a time"} in UTF-8.'


@dataclass(frozen=True)
class Case:
    """One request and its reply."""

    name: str
    method: str = "POST"
    path: str = "/generate"
    headers: Headers = SEND_JSON
    body: bytes | None = None
    host: str | None = "127.0.0.1"

    status: int = 200
    reply_headers: Headers = ()
    """Beside content-type, content-length, x-request-id and vary."""
    reply: bytes | None = None
    """The exact bytes, with ID for the request's id; None: only that they are JSON."""
    code: str | None = None
    """The error's code, where the bytes are not given."""
    error: str | None = None
    """The error's text, where the bytes are not given."""
    row: str | None = None
    """The row of docs/from-the-flask-script.md that it proves."""
    refused_before: tuple[str, ...] = ()
    """The doors whose server answers with a 400 of its own, before the door hears of it."""

    def __str__(self) -> str:
        return self.name


def asked(value: object) -> bytes:
    return json.dumps(value).encode()


def error_bytes(error: str, code: str, detail: str | None = None) -> bytes:
    detailed = {} if detail is None else {"detail": detail}
    value = {"error": error} | detailed | {"code": code, "request_id": "ID"}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def refused(name: str, body: bytes, code: str, error: str | None = None, row: str = "") -> Case:
    """A body that is a 400."""
    return Case(name, body=body, status=400, code=code, error=error, row=row or None)


# What the script promised, and Keyhole keeps.
PROMISES = (
    Case("the upstream's JSON comes back", body=asked({"input": "odd"}), reply=ODD_JSON,
         reply_headers=(MODEL,), row="answer-bytes"),
    Case("an empty prompt is a prompt", body=asked({"input": ""}), reply_headers=(MODEL,)),
    Case("a list of prompts goes on", body=asked({"input": ["a", "b"]}), reply_headers=(MODEL,)),
    Case("unknown names are ignored", body=asked({"input": "a", "b": 1}), reply_headers=(MODEL,)),
    Case("of a name that comes twice the last counts", body=b'{"input": "crash", "input": "odd"}',
         reply=ODD_JSON, reply_headers=(MODEL,)),
    Case("a query is ignored", path="/generate?input=x", body=asked({"input": "odd"}),
         reply=ODD_JSON, reply_headers=(MODEL,)),
    Case("a charset is ignored", headers=(("Content-Type", "application/json; charset=utf-8"),),
         body=asked({"input": "odd"}), reply=ODD_JSON, reply_headers=(MODEL,)),
    Case("an object without input", body=b'{"prompt": "x"}', status=400,
         reply=error_bytes(MISSING, "missing_input"), row="error-members"),
    *(Case(f"nothing in it: {value.decode()}", body=value, status=400,
           reply=error_bytes(MISSING, "missing_input"))
      for value in (b"{}", b"[]", b"null", b"0", b'""', b"false")),
    *(Case(f"the upstream answers {status}", body=asked({"input": f"status {status}"}), status=502,
           code=code, error=FAILED, row=row)
      for status, code, row in (
          (400, "upstream_refused_request", None), (401, "upstream_token_refused", None),
          (402, "upstream_out_of_credits", None), (404, "upstream_model_not_found", None),
          (410, "upstream_gone", None), (429, "upstream_rate_limited", None),
          (500, "upstream_error", None), (503, "upstream_unavailable", None),
          (204, None, "success-status"), (201, None, "success-status"), (302, None, "redirects"),
      )),
    Case("the upstream answers HTML", body=asked({"input": "html"}), status=502,
         code="upstream_not_json", error=FAILED),
    Case("the upstream cannot be reached", body=asked({"input": "unreachable"}), status=502,
         reply=error_bytes(FAILED, "upstream_unreachable", "Upstream 'hf' cannot be reached.")),
    Case("GET", method="GET", status=405, code="method_not_allowed", reply_headers=(ALLOW,),
         row="json-404-405"),
    Case("a path with nothing there", path="/elsewhere", body=b"{}", status=404,
         code="path_not_found", row="json-404-405"),
    Case("a slash behind it", path="/generate/", body=b"{}", status=404, code="path_not_found"),
)  # fmt: skip

# Where Keyhole differs on purpose.
DIFFERENCES = (
    refused("broken JSON", b'{"input": ', "invalid_json", row="broken-json",
            error=f"The body is not valid JSON: Input data was truncated. {SEND_OBJECT}"),
    refused("an empty body", b"", "invalid_json", row="broken-json"),
    refused("something behind the object", b'{"input": "x"} {}', "invalid_json"),
    refused("a raw line break in a string", b'{"input": "a\nb"}', "invalid_json"),
    Case("no content type", headers=(), body=asked({"input": "odd"}), reply=ODD_JSON,
         reply_headers=(MODEL,), row="content-type"),
    Case("another content type", headers=(("Content-Type", "text/plain"),),
         body=asked({"input": "odd"}), reply=ODD_JSON, reply_headers=(MODEL,), row="content-type"),
    *(refused(f"not an object: {value.decode()}", value, "missing_input", MISSING, "not-an-object")
      for value in (b"5", b"true", b'"my input"', b'["input"]')),
    *(refused(f"strict JSON: {name}", value, "invalid_json", row="strict-json")
      for name, value in (
          ("NaN", b'{"input": "x", "n": NaN}'), ("Infinity", b'{"input": "x", "n": -Infinity}'),
          ("a number without end", b'{"input": "x", "n": 1e400}'),
          ("an integer without end", b'{"input": "x", "n": ' + b"9" * 5000 + b"}"),
          ("a lone surrogate", b'{"input": "\\ud800"}'),
          ("UTF-16", '{"input": "é"}'.encode("utf-16")),
          ("UTF-32", '{"input": "é"}'.encode("utf-32")),
          ("a BOM", b'\xef\xbb\xbf{"input": "x"}'), ("Latin-1", '{"input": "é"}'.encode("latin-1")),
          ("a surrogate in UTF-8", b'{"input": "\xed\xa0\x80"}'),
      )),
    refused("too deep", b'{"input": ' + b"[" * 100_000, "invalid_json", row="deep-json"),
    *(refused(f"an input of another type: {value}", asked({"input": value}), "invalid_input",
              "'input' must be a string or a list.", "input-type")
      for value in (None, 5, True, {"a": 1})),
    refused("a model that is no name", asked({"input": "x", "model": "../x"}), "invalid_parameter",
            row="model-and-parameters"),
    refused("parameters that are no object", asked({"input": "x", "parameters": [1]}),
            "invalid_parameter", row="model-and-parameters"),
    refused("a parameter that nobody knows", asked({"input": "x", "parameters": {"topk": 1}}),
            "unknown_parameter", row="model-and-parameters"),
    Case("a model without a route", body=asked({"input": "x", "model": "none"}), status=404,
         code="model_not_found", row="model-and-parameters"),
    Case("a model of one's choice", body=asked({"input": "Once", "model": "continued"}),
         reply=b'[{"generated_text":"Once and so on"}]', reply_headers=(MODEL,),
         row="model-and-parameters"),
    Case("a body over the limit", body=b"x" * (MAX_BODY_BYTES + 1), status=413,
         code="body_too_large", row="body-limit"),
    Case("a body far over the limit, sent to its end", body=b"x" * 3_000_000, status=413,
         code="body_too_large", row="body-limit"),
    Case("a body announced over the limit", headers=(("Content-Length", "9999999"),), status=413,
         code="body_too_large", row="body-limit"),
    Case("a length of absurd length", headers=(("Content-Length", "1" + "0" * 18),), status=413,
         code="body_too_large", row="body-limit"),
    Case("a chunked body over the limit", headers=(("Transfer-Encoding", "chunked"),), status=413,
         body=chunked(*[b"x" * 8192] * 33), code="body_too_large", row="body-limit"),
    Case("a chunked body", headers=(("Transfer-Encoding", "chunked"),),
         body=chunked(b'{"input"', b': "odd"', b"}"), reply=ODD_JSON, reply_headers=(MODEL,)),
    Case("a compressed body", headers=(("Content-Encoding", "gzip"),),
         body=gzip.compress(asked({"input": "x"})), status=415, code="unsupported_encoding",
         row="compressed-body"),
    Case("an unexpected exception", body=asked({"input": "crash"}), status=500,
         reply=error_bytes("Internal error.", "internal_error"), row="exception-texts"),
    Case("a page that breaks", method="GET", path="/broken-page", status=500,
         reply=error_bytes("Internal error.", "internal_error"), row="exception-texts"),
    *(Case(f"Retry-After: {name}", body=asked({"input": f"status 503 {name}"}), status=502,
           reply_headers=headers, code="upstream_unavailable", error=FAILED, row="retry-after")
      for name, headers in (
          ("busy", (("retry-after", "7"),)),
          ("dated", (("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"),)),
          ("evil", ()), ("latin", ()),
      )),
    Case("NaN from the upstream", body=asked({"input": "nan"}), status=502,
         code="upstream_not_json", error=FAILED, row="success-status"),
    Case("HEAD of a path that takes calls", method="HEAD", status=405, reply=b"",
         reply_headers=(ALLOW,), row="json-404-405"),
    Case("HEAD of a page", method="HEAD", path="/health/live", reply=b"",
         reply_headers=(("cache-control", "no-store"),)),
    Case("OPTIONS", method="OPTIONS", status=204, reply=b"", reply_headers=(ALLOW,), row="options"),
    Case("OPTIONS of a page", method="OPTIONS", path="/metrics", status=204, reply=b"",
         reply_headers=(ALLOW_PAGE,)),
    Case("OPTIONS where nothing is", method="OPTIONS", path="/x", status=404,
         code="path_not_found"),
    *(Case(f"the method {method}", method=method, status=405, reply_headers=(ALLOW,),
           code="method_not_allowed") for method in ("PUT", "DELETE", "PATCH", "TRACE")),
    Case("a method that nobody knows", method="FOO", status=405, reply_headers=(ALLOW,),
         code="method_not_allowed", refused_before=("fastlane", "asgi-strict", "asgi-httptools")),
    Case("a page takes no POST", path="/health/live", body=b"", status=405,
         reply_headers=(ALLOW_PAGE,), code="method_not_allowed"),
    Case("an escaped letter in the path", path="/%67enerate", body=asked({"input": "odd"}),
         status=404, code="path_not_found", row="escaped-path"),
    Case("an escaped slash in the path", path="/health%2Flive", method="GET", status=404,
         code="path_not_found", row="escaped-path"),
    Case("a line break in the path", path="/gener%0Aate", body=b"{}", status=404,
         code="path_not_found"),
    Case("a path that is not UTF-8", path="/%ff%fe", body=b"{}", status=404,
         code="path_not_found"),
    Case("two slashes within", path="/health//live", method="GET", status=404,
         code="path_not_found"),
    Case("dots in the path", path="/x/../generate", body=asked({"input": "odd"}), status=404,
         code="path_not_found"),
)  # fmt: skip

# Who may call.
_PAGE = {"method": "GET", "path": "/health/live"}
_FINE = {"reply": b'{"status":"ok"}', "reply_headers": (("cache-control", "no-store"),)}
_CORS = (
    ("access-control-allow-origin", ALLOWED_ORIGIN),
    (
        "access-control-expose-headers",
        (
            "x-request-id, x-keyhole-model, x-keyhole-translated, retry-after, x-should-retry,"
            " x-error-code, x-error-message, ratelimit, ratelimit-policy,"
            " x-ratelimit-limit-requests, x-ratelimit-remaining-requests,"
            " x-ratelimit-reset-requests, x-ratelimit-limit-tokens,"
            " x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
        ),
    ),
)


def _hosted(host: str | None) -> Case:
    return Case(f"Host: {host}", **_PAGE, host=host, status=403, code="host_not_allowed",
                row="host-check")  # fmt: skip


def _origin(origin: str) -> Case:
    return Case(f"Origin: {origin}", headers=(*SEND_JSON, ("Origin", origin)),
                body=asked({"input": "crash"}), status=403, code="origin_not_allowed",
                row="origin-check")  # fmt: skip


CALLERS = (
    *(Case(f"Host: {host}", **_PAGE, **_FINE, host=host)
      for host in ("localhost", "localhost:5000", "LOCALHOST", "[::1]:5000", "127.0.0.1:1")),
    *(_hosted(host) for host in (
        "rebound.example", "rebound.example:5000", "127.0.0.1.example", "0.0.0.0", "10.0.0.1",
        "localhost:5000:1", "localhost@evil.example", "", "127.0.0.1,evil.example")),
    Case("two Hosts", **_PAGE, headers=(("Host", "127.0.0.1"),), status=403,
         code="host_not_allowed", row="host-check",
         refused_before=("fastlane", "asgi-strict", "asgi-h11", "gunicorn")),
    Case("no Host", **_PAGE, host=None, status=403, code="host_not_allowed", row="host-check",
         refused_before=("fastlane", "asgi-strict", "asgi-h11")),
    *(_origin(origin) for origin in (
        "https://evil.example", "null", "http://127.0.0.1:9", "http://localhost",
        "https://app.example.org.evil.example", "", "https://app.example.org:8443")),
    Case("two Origins", headers=(("Origin", ALLOWED_ORIGIN), ("Origin", "https://evil.example")),
         body=asked({"input": "crash"}), status=403, code="origin_not_allowed"),
    Case("the page's own origin", headers=(("Origin", "http://127.0.0.1"),),
         body=asked({"input": "odd"}), reply=ODD_JSON, reply_headers=(MODEL,)),
    Case("an allowed origin", headers=(("Origin", ALLOWED_ORIGIN),), body=asked({"input": "odd"}),
         reply=ODD_JSON, reply_headers=(MODEL, *_CORS)),
    Case("an allowed origin may read errors", headers=(("Origin", ALLOWED_ORIGIN),), body=b"{}",
         status=400, reply_headers=_CORS, code="missing_input"),
    Case("a preflight", method="OPTIONS", status=204, reply=b"",
         headers=(("Origin", ALLOWED_ORIGIN), ("Access-Control-Request-Method", "POST"),
                  ("Access-Control-Request-Headers", "content-type")),
         reply_headers=(
             *_CORS, ALLOW, ("access-control-allow-methods", "OPTIONS, POST"),
             ("access-control-allow-headers",
              "authorization, content-type, x-api-key, x-request-id"),
             ("access-control-max-age", "600"))),
    Case("a preflight of a foreign page", method="OPTIONS", status=403, code="origin_not_allowed",
         headers=(("Origin", "https://evil.example"), ("Access-Control-Request-Method", "POST"))),
)  # fmt: skip

CASES = PROMISES + DIFFERENCES + CALLERS
