"""An error, as clients of the OpenAI format expect it: status, type, code, headers.

The statuses decide what the SDKs do. openai-python 3.54.0 and openai-node 7.57.0 (November
2026) send 408, 409, 429 and 5xx again, twice, unless `x-should-retry: false` says that it is no
use; they wait as long as Retry-After says, up to a minute. @huggingface/inference 4.13.30, which
speaks this format too, sends a 503 again at once and without end, whatever stands beside it: so
that is only what a model that loads is told with, once the core has held the call for a while,
and the last word of a server that stops. They show `message`, and give
programs `type`, `param` and `code`: OpenAI's word where it has one, or else the upstream's own
for a request that it refused, or else ours. A Retry-After beyond that minute they take for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from keyhole.dialects.base import limit_headers
from keyhole.errors import (
    SOON_OVER,
    ClientError,
    Code,
    GatewayError,
    KeyholeError,
    UpstreamError,
)
from keyhole.wire.http import JSON, Reply

_INVALID_REQUEST = "invalid_request_error"
_UPSTREAM = "upstream_error"
_LOADING_S = "20"
"""When to come back to a model that loads, where the upstream does not say; the hosted
Inference API mostly estimated so."""

_LONGEST_WAIT_S = 60


class _Word(Struct, frozen=True):
    """What one of our codes is in this format."""

    status: int
    type: str = _UPSTREAM
    code: str | None = None
    """OpenAI's own; None: ours."""
    is_worth_retrying: bool = True


_UPSTREAM_WORDS: Mapping[Code, _Word] = {
    Code.MODEL_NOT_PULLED: _Word(404, _INVALID_REQUEST, "model_not_found"),
    Code.UPSTREAM_ANSWER_TOO_LARGE: _Word(502, is_worth_retrying=False),
    Code.UPSTREAM_GONE: _Word(502, is_worth_retrying=False),
    Code.UPSTREAM_LOADING: _Word(503),
    Code.UPSTREAM_MODEL_NOT_FOUND: _Word(404, _INVALID_REQUEST, "model_not_found"),
    Code.UPSTREAM_NOT_JSON: _Word(502, is_worth_retrying=False),
    Code.UPSTREAM_OUT_OF_CREDITS: _Word(
        429, "insufficient_quota", "insufficient_quota", is_worth_retrying=False
    ),
    Code.UPSTREAM_RATE_LIMITED: _Word(429, "requests", "rate_limit_exceeded"),
    Code.UPSTREAM_REFUSED_REQUEST: _Word(400, _INVALID_REQUEST),
    Code.UPSTREAM_TIMEOUT: _Word(504),
    Code.UPSTREAM_TOKEN_REFUSED: _Word(502, is_worth_retrying=False),
}
_UPSTREAM_DEFAULT = _Word(502)
_REFUSALS = frozenset({400, 413, 415, 422})
"""Statuses of an upstream that are about the request, and are the client's to see."""

_LIMITS: Mapping[Code, _Word] = {
    Code.BUDGET_SPENT: _Word(429, "insufficient_quota", "insufficient_quota"),
    Code.CONCURRENCY_LIMITED: _Word(429, "requests", "rate_limit_exceeded"),
    Code.REQUESTS_LIMITED: _Word(429, "requests", "rate_limit_exceeded"),
    Code.TOKENS_LIMITED: _Word(429, "tokens", "rate_limit_exceeded"),
}
"""A client's own limits."""

_CLIENT_CODES: Mapping[int, str] = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
"""OpenAI's words that hold for a status whatever our code is."""


def encode_fault(error: KeyholeError, request_id: str) -> bytes:
    """The JSON object of an error; the same before a stream and within it."""
    return _encode(error, _word(error), request_id)


def refuse(error: KeyholeError, request_id: str) -> Reply:
    """The reply that tells an error."""
    word = _word(error)
    headers = [("content-type", JSON)]
    if not word.is_worth_retrying or _is_limit_that_stays(error):
        headers.append(("x-should-retry", "false"))
    if isinstance(error, UpstreamError):
        told = error.retry_after
        if told is None and error.code == Code.UPSTREAM_LOADING:
            told = _LOADING_S
        if told is not None:
            headers.append(("retry-after", _soon(told)))
    elif error.code in SOON_OVER:
        headers.append(("retry-after", "1"))
    if isinstance(error, ClientError):
        if error.allow:
            headers.append(("allow", ", ".join(error.allow)))
        headers += limit_headers(error)
    return Reply(status=word.status, headers=headers, body=_encode(error, word, request_id))


def _is_limit_that_stays(error: KeyholeError) -> bool:
    """Whether no waiting that an SDK does would help: it would ask in vain, twice."""
    if not isinstance(error, ClientError) or error.code not in _LIMITS:
        return False
    return error.retry_after_s is None


def _encode(error: KeyholeError, word: _Word, request_id: str) -> bytes:
    param, code = None, None
    if isinstance(error, ClientError):
        param = error.param
    elif isinstance(error, UpstreamError):
        param, code = error.upstream_param, error.upstream_code
    told: dict[str, Any] = {
        "message": error.explained,
        "type": word.type,
        "param": param,
        "code": word.code or code or error.code,
        "request_id": request_id,
    }
    return msgspec.json.encode({"error": told})


def _soon(told: str) -> str:
    """When to come back, as whole seconds that the SDKs take; a date is one that they read."""
    return str(min(int(told), _LONGEST_WAIT_S)) if told.isdigit() else told


def _word(error: KeyholeError) -> _Word:
    match error:
        case ClientError(code=Code.TOO_MUCH_BUFFERED):
            return _Word(429, "requests")
        case ClientError(status=429) if error.code in _LIMITS:
            return _LIMITS[error.code]
        case ClientError():
            kind = "requests" if error.status == 429 else _INVALID_REQUEST
            return _Word(error.status, kind, _CLIENT_CODES.get(error.status))
        case UpstreamError():
            word = _UPSTREAM_WORDS.get(error.code, _UPSTREAM_DEFAULT)
            status = error.upstream_status
            if error.code == Code.UPSTREAM_REFUSED_REQUEST and status in _REFUSALS:
                return msgspec.structs.replace(word, status=status)
            return word
        case GatewayError():
            return _Word(error.status, "server_error")
        case _:
            return _Word(500, "server_error")
