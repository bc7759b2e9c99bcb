"""Which bodies are taken, by what a request's head says of them. It reads none."""

from __future__ import annotations

from keyhole.errors import ClientError, Code
from keyhole.wire.http import Head


def body_too_large(max_body_bytes: int) -> ClientError:
    """The error of a body that is longer than allowed, announced or not."""
    return ClientError(
        Code.BODY_TOO_LARGE,
        f"The body is longer than {max_body_bytes} bytes.",
        status=413,
        hint="The operator sets the limit with server.max_body_bytes.",
    )


def check_body(head: Head, max_body_bytes: int) -> None:
    """Raise ClientError (413, 415) for a body that is announced as too long, or compressed."""
    announced = head.first(b"content-length")
    if announced is not None and announced.isdigit():
        is_absurd = len(announced) > 18  # more digits than int() takes at once raise ValueError
        if is_absurd or int(announced) > max_body_bytes:
            raise body_too_large(max_body_bytes)
    encoding = head.first(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"", b"identity"}:
        raise ClientError(
            Code.UNSUPPORTED_ENCODING,
            "Compressed bodies are not taken.",
            status=415,
            hint="Send the body as it is, without Content-Encoding.",
        )
