"""What the TGI and the hosted API's dialects have in common in their answers and refusals.

A refusal is {"error": TEXT}, with the text in `x-error-message` too (huggingface_hub reads it
there first) and our code for it in `x-error-code`.

Facts (huggingface_hub 2.4.0, @huggingface/inference 4.13.30, both of November 2026):
- @huggingface/inference sends a request again at once, without end, whenever it gets a 503:
  so that is only what a model that loads is told with, which both formats promise, once the
  core has held the call for a while; and the last word of a server that stops. Whatever else is
  not available now is 502, and a gateway that is full 429;
- huggingface_hub never sends anything again, but for a 400 that names `model_kwargs`.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyhole.dialects.base import limit_headers
from keyhole.errors import (
    SOON_OVER,
    ClientError,
    Code,
    GatewayError,
    KeyholeError,
    UpstreamError,
)
from keyhole.wire.answer import Answer
from keyhole.wire.http import JSON

_UPSTREAM: Mapping[Code, int] = {
    Code.MODEL_NOT_PULLED: 404,
    Code.UNSUPPORTED_BY_UPSTREAM: 404,
    Code.UPSTREAM_LOADING: 503,
    Code.UPSTREAM_MODEL_NOT_FOUND: 404,
    Code.UPSTREAM_OUT_OF_CREDITS: 402,
    Code.UPSTREAM_RATE_LIMITED: 429,
    Code.UPSTREAM_TIMEOUT: 504,
}
"""All others are 502."""

LOADING_S = 20
"""What the hosted API estimated of nearly every model, whatever its size."""

_REQUESTS_OWN = frozenset({400, 413, 415, 422})


def status_of(error: KeyholeError, *, invalid: int) -> int:
    """The status of a refusal; `invalid` is the dialect's own for a value that it cannot take."""
    match error:
        case UpstreamError(code=Code.UPSTREAM_REFUSED_REQUEST):
            told = error.upstream_status
            return told if told in _REQUESTS_OWN and told != 400 else invalid
        case UpstreamError(code=Code.UPSTREAM_ERROR, upstream_status=424):
            return 424
        case UpstreamError():
            return _UPSTREAM.get(error.code, 502)
        case ClientError(code=Code.TOO_MUCH_BUFFERED):
            return 429
        case ClientError(code=Code.INVALID_JSON | Code.MALFORMED_REQUEST):
            return error.status
        case ClientError(status=400):
            return invalid
        case ClientError() | GatewayError():
            return error.status
    return 500


def headers_of(error: KeyholeError) -> list[tuple[str, str]]:
    """The headers of a refusal."""
    headers = [
        ("content-type", JSON),
        ("x-error-code", error.code),
        ("x-error-message", error.explained),
    ]
    if isinstance(error, UpstreamError):
        after = error.retry_after
        if after is None and error.code == Code.UPSTREAM_LOADING:
            after = str(LOADING_S)
        if after is not None:
            headers.append(("retry-after", after))
    elif error.code in SOON_OVER:
        headers.append(("retry-after", "1"))
    if isinstance(error, ClientError):
        if error.allow:
            headers.append(("allow", ", ".join(error.allow)))
        headers += limit_headers(error)
    return headers


def only_text(answer: Answer) -> tuple[str, str | None]:
    """The text of an answer to one prompt, and why it ended; raises UpstreamError."""
    if len(answer.texts) != 1 or len(answer.texts[0]) != 1:
        raise UpstreamError(
            Code.UPSTREAM_NOT_JSON, "The upstream's answer is not one generated text."
        )
    return answer.texts[0][0], reason_of(answer, 0, 0)


def reason_of(answer: Answer, prompt: int, choice: int) -> str | None:
    """Why a text of an answer ended, where the upstream says."""
    try:
        return answer.finishes[prompt][choice]
    except IndexError:
        return None
