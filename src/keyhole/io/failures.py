"""What went wrong between us and an upstream, in words: every UpstreamError that `io` raises.

It decides nothing and knows no socket. No text holds an address, a header or a byte of what was
sent or received: they go to clients and to logs.
"""

from __future__ import annotations

import socket
import ssl

from keyhole.errors import Code, GatewayError, UpstreamError

_CHECK = "Check that it runs and that its url is right: keyhole check --live."

# X509_V_ERR_* of OpenSSL's x509_vfy.h, as SSLCertVerificationError.verify_code has them. Its
# own words are not repeated, for they hold the host's name.
_UNTRUSTED = "nobody whom this machine trusts has signed it"
_BY_VERIFY_CODE = {
    9: "it is not valid yet",
    10: "it has expired",
    **dict.fromkeys((18, 19, 20, 21), _UNTRUSTED),
    62: "it is for another host",
    64: "it is for another host",
}


class BadResponseError(Exception):
    """What an upstream sent is no response that we take; `what` follows its name."""

    def __init__(
        self, what: str, code: Code = Code.UPSTREAM_ERROR, *, hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.hint = hint

    def blame(self, name: str) -> UpstreamError:
        """The error, with the upstream of that name as the culprit."""
        return UpstreamError(self.code, f"{culprit(name)} {self.what}.", hint=self.hint)


def culprit(name: str) -> str:
    """An upstream's name at the beginning of a sentence."""
    return f"Upstream '{name}'"


def not_http(why: str) -> BadResponseError:
    """The bytes are not a response in HTTP/1.1."""
    return BadResponseError(f"answered with something that is not HTTP ({why})")


def answer_too_large(max_bytes: int) -> BadResponseError:
    """The body is longer than the upstream's limit."""
    return BadResponseError(
        f"answered with more than {max_bytes} bytes",
        Code.UPSTREAM_ANSWER_TOO_LARGE,
        hint="A larger answer is allowed with max_response_bytes of the upstream.",
    )


def no_answer() -> BadResponseError:
    """The connection ended before the first byte of a response."""
    return BadResponseError("closed the connection without an answer", Code.UPSTREAM_UNREACHABLE)


def broke_off() -> BadResponseError:
    """The connection ended before the response did."""
    return BadResponseError("broke off in mid-answer", Code.UPSTREAM_UNREACHABLE)


def no_head_in_time(name: str, first_byte_s: float) -> UpstreamError:
    """The first-byte deadline has passed."""
    return UpstreamError(
        Code.UPSTREAM_TIMEOUT,
        f"{culprit(name)} sent no answer within {first_byte_s:.3g} s.",
        hint="A longer wait is set with first_byte_timeout_s of the route.",
    )


def no_end_in_time(name: str, total_s: float) -> UpstreamError:
    """The total deadline has passed."""
    return UpstreamError(
        Code.UPSTREAM_TIMEOUT,
        f"{culprit(name)} did not finish its answer within {total_s:g} s.",
        hint="A longer wait is set with total_timeout_s of the upstream.",
    )


def fell_silent(name: str, idle_s: float) -> UpstreamError:
    """The idle deadline, between two pieces of a body, has passed."""
    return UpstreamError(
        Code.UPSTREAM_TIMEOUT,
        f"{culprit(name)} fell silent in mid-answer for {idle_s:g} s.",
        hint="A longer silence is allowed with silence_timeout_s of the upstream.",
    )


def no_free_connection(name: str, waited_s: float, cap: int) -> UpstreamError:
    """The first-byte deadline has passed in the queue for a connection."""
    return UpstreamError(
        Code.UPSTREAM_TIMEOUT,
        f"{culprit(name)} had none of its {cap} connections free within {waited_s:.3g} s.",
        hint="More are allowed with max_connections of the upstream.",
    )


def not_connected_in_time(name: str, connect_s: float) -> UpstreamError:
    """The connect deadline has passed."""
    return UpstreamError(
        Code.UPSTREAM_UNREACHABLE,
        f"{culprit(name)} did not accept a connection within {connect_s:g} s.",
        hint=_CHECK,
    )


def unreachable(name: str, error: OSError) -> UpstreamError:
    """Connecting failed with the operating system's error, or with that of TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _BY_VERIFY_CODE.get(error.verify_code)
        text = "its TLS certificate was not accepted" + (f": {why}" if why else "")
    elif isinstance(error, ssl.SSLError):
        text = "it does not speak TLS as expected"
    elif isinstance(error, ConnectionRefusedError):
        text = "the connection was refused"
    elif isinstance(error, FileNotFoundError):
        text = "its socket is not there, so it is not running"
    elif isinstance(error, socket.gaierror):
        text = "its host name could not be resolved"
    else:
        text = "connecting failed"
    return UpstreamError(
        Code.UPSTREAM_UNREACHABLE, f"{culprit(name)} was not reached: {text}.", hint=_CHECK
    )


def unsendable(name: str, what: str) -> GatewayError:
    """A request that would break apart on the wire: a fault of ours, and nothing was sent."""
    return GatewayError(
        Code.INTERNAL_ERROR,
        f"The request to upstream '{name}' has {what} that cannot be sent.",
    )


def shutting_down() -> GatewayError:
    """The transport has been closed."""
    return GatewayError(Code.SHUTTING_DOWN, "Keyhole is shutting down.", status=503)
