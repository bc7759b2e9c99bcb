"""The errors of requests that do not get as far as the core: their framing, size or time."""

from __future__ import annotations

from keyhole.errors import ClientError, Code

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
"""As in Apache and gunicorn."""


def refused(message: str) -> ClientError:
    """Of a request that is not taken as it stands."""
    return ClientError(Code.MALFORMED_REQUEST, message, status=400)


def malformed() -> ClientError:
    """Of bytes that are no request."""
    return refused("This is not an HTTP/1.1 request.")


def head_too_large() -> ClientError:
    """Of a head that is longer than one may be."""
    return ClientError(
        Code.HEAD_TOO_LARGE,
        f"The head is longer than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers.",
        status=431,
    )


def too_slow(timeout_s: float) -> ClientError:
    """Of a request that took too long to arrive."""
    return ClientError(
        Code.REQUEST_TOO_SLOW,
        f"The request did not arrive within {timeout_s:g} s.",
        status=408,
        hint="The operator sets the time with server.read_timeout_s.",
    )
