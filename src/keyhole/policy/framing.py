"""Which request heads are taken at all, however a parser reads them; what is left is unambiguous.

A gateway that takes a head which another reader would frame differently lets a request hide in
the body of another one. llhttp 9 (httptools 0.9) refuses Content-Length beside
Transfer-Encoding, differing lengths, a space before the colon, folded lines, bare CR or LF and
NUL; what it takes and should not is refused here: no or two Host, any Transfer-Encoding but
`chunked`, one in HTTP/1.0, other versions, targets in absolute form or with a fragment
(RFC 9112, sections 2.3, 3.2 and 6.1).
"""

from __future__ import annotations

from collections.abc import Sequence

from keyhole.errors import ClientError, Code

_VERSIONS = frozenset({"1.0", "1.1"})
_LOOKED_AT = frozenset({b"host", b"transfer-encoding", b"expect"})


def check_framing(
    method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]
) -> bool:
    """Whether the client waits for `100 Continue`; raises ClientError for a head that is not taken.

    Names of headers in lower case; they are gone through once for both, for every request pays.
    """
    _check_request_line(method, target, version)
    hosts = encodings = 0
    expects_continue = False
    for name, value in headers:
        if name not in _LOOKED_AT:
            continue
        if name == b"host":
            hosts += 1
        elif name == b"expect":  # HTTP/1.0 has no interim replies (RFC 9110, 10.1.1)
            expects_continue |= version == "1.1" and value.lower() == b"100-continue"
        elif name == b"transfer-encoding":
            encodings += 1
            if value.strip(b" \t").lower() != b"chunked":
                raise _refused("Only the transfer coding chunked is taken.", status=501)
    if encodings > 1 or (encodings and version == "1.0"):
        raise _refused("Transfer-Encoding must stand once, in HTTP/1.1.")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise _refused(f"There must be one Host header, not {hosts}.")
    return expects_continue


def _check_request_line(method: bytes, target: bytes, version: str) -> None:
    if version not in _VERSIONS:
        raise _refused(f"HTTP/{version} is not spoken here; HTTP/1.1 is.", status=505)
    if method == b"CONNECT":
        raise ClientError(
            Code.METHOD_NOT_ALLOWED, "CONNECT is not taken.", status=405, allow=("OPTIONS", "POST")
        )
    is_asterisk = target == b"*" and method == b"OPTIONS"
    if not (target.startswith(b"/") or is_asterisk) or b"#" in target:
        raise _refused("The request target must be a path, without a host and a fragment.")


def _refused(message: str, *, status: int = 400) -> ClientError:
    return ClientError(Code.MALFORMED_REQUEST, message, status=status)
