"""The bytes that come back on one connection, as one response after the other.

It reads nothing and closes nothing: it is told what was asked, fed what came, and says what it
makes of it, so that a test needs no network. Grammar is llhttp's, strictly; what llhttp takes
and we do not, where a response ends, and how much of it we take, are judged here.

Facts (httptools 0.9.0 with llhttp 9, tried out in November 2026):
- Refused by llhttp: Content-Length beside Transfer-Encoding in either order, twice (equal ones
  too), as a list, negative, signed, empty, over 64 bits; also in trailers; a chunk size that is
  no number or over 64 bits; bare CR or LF, NUL and control characters in headers, a line folded,
  a space before the colon; a status of two or four digits; versions but 0.9, 1.0, 1.1, 2.0; bytes
  behind a response with `Connection: close`.
- Taken by llhttp, refused here: a status under 100 or over 599; 101; HTTP/0.9 and 2.0; RTSP/ and
  ICE/ in place of HTTP/; empty lines before a status line; `chunked, gzip`, `gzip`, `identity`
  (the body is then all that comes until the end) and `gzip, chunked` (decoded as if it were
  only chunked).
- There is no call for the end of input: a body without length ends by what `end` is told.
- It does not know that a response answers a HEAD, and would wait for the body: such a response
  is over with its head, and its parser is not used again.
- 1xx responses come as whole messages of their own; trailers come as headers.
- A header is held back until its line ends, however long: only the bytes fed tell its size.
- Control characters in the reason phrase are let through; nothing here looks at it.
- What a callback raises ends up as the __context__ of an HttpParserCallbackError.
- Of the bytes behind a complete response only empty lines go unnoticed where they come in the
  same piece with its end; they cannot be taken for a response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httptools

from keyhole.io.failures import BadResponseError, answer_too_large, broke_off, no_answer, not_http
from keyhole.wire.http import UpstreamResponse

MAX_HEAD_BYTES = 64 * 1024
"""All heads of one response together, those of 1xx included; as much as we take of a client's."""
NO_LIMIT = 2**63
MAX_INTERIM = 8
"""1xx responses before the response; Go's net/http took 5, and servers send one or two."""

_CONTENT_LENGTH = b"content-length"
_MAX_DIGITS = 9
_TRANSFER_ENCODING = b"transfer-encoding"


class Headers(Mapping[str, str]):
    """A response's headers: names in lower case, of repeated ones the first.

    They are decoded when somebody looks, which for most good answers is never (1.2 us for five).
    """

    __slots__ = ("_decoded", "_raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._decoded: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"Headers({self._all()!r})"

    def _all(self) -> dict[str, str]:
        if self._decoded is None:
            self._decoded = {
                name.decode("latin-1").lower(): value.decode("latin-1").strip(" \t")
                for name, value in reversed(self._raw)
            }
        return self._decoded


class _KnownHead:
    """The bytes of a head that was parsed, around the digits of its Content-Length.

    An upstream that answers fast sends one head again and again, but for the length, and the date
    once in a second. A response with the same head that comes whole needs no parser: 2.5 us less.
    """

    __slots__ = ("after", "before", "headers", "status")

    def __init__(
        self, before: bytes, after: bytes, status: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        self.before = before
        self.after = after
        self.status = status
        self.headers = headers
        """Those but Content-Length."""


class ResponseReader:
    """Reads the responses of one connection; `begin` each, `feed` it, `end` it at end-of-file."""

    __slots__ = (
        *("status", "has_head", "is_complete", "may_reuse", "body_bytes"),
        *("_max_body_bytes", "_parser", "_is_parser_spent", "_raw_headers", "_body", "_fault"),
        *("_head_bytes", "_framing_bytes", "_interim", "_asked_head", "_is_until_close"),
        *("_is_old_chunked", "_known", "_limit_bytes"),
    )

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = self._limit_bytes = max_body_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._is_parser_spent = False
        self._known: _KnownHead | None = None
        self.begin()
        self.is_complete = True
        """Whether nothing more may come: at first, and then once a response has ended."""

    def begin(self, *, is_head_request: bool = False) -> None:
        """A request goes out: what comes from now on is its response."""
        if self._is_parser_spent:
            self._parser = httptools.HttpResponseParser(self)
            self._is_parser_spent = False
        self.status = 0
        self.has_head = False
        self.is_complete = False
        self.may_reuse = False
        """Whether the connection may carry another request; true only of complete responses."""
        self.body_bytes = 0
        """How much of the body has come, taken or not."""
        self._limit_bytes = self._max_body_bytes
        self._asked_head = is_head_request
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._fault: BadResponseError | None = None
        self._head_bytes = 0
        self._framing_bytes = 0
        self._interim = 0
        self._is_until_close = False
        self._is_old_chunked = False

    def unbound(self) -> None:
        """Set this response no limit: its body is taken as it comes, and never kept."""
        self._limit_bytes = NO_LIMIT

    @property
    def has_begun(self) -> bool:
        """Whether a single byte has come."""
        return self._head_bytes > 0

    @property
    def headers(self) -> Headers:
        """The headers, once `has_head`."""
        return Headers(self._raw_headers)

    @property
    def buffered_bytes(self) -> int:
        """How much of the body waits to be taken."""
        return len(self._body)

    def take(self) -> bytes:
        """What has come of the body and was not taken yet."""
        body, self._body = self._body, b""
        return body if type(body) is bytes else bytes(body)

    def take_whole(self) -> UpstreamResponse:
        """A response that has ended, nothing of which was taken."""
        return UpstreamResponse(self.status, Headers(self._raw_headers), self.take())

    def feed(self, chunk: bytes) -> bool:
        """Read on; whether the response `is_complete` now.

        Raises BadResponseError, after which this reader is of no more use.
        """
        if self.has_head:
            self._feed_body(chunk)
            return self.is_complete
        is_first = not self._head_bytes
        if is_first:
            if self._known is not None and self._take_known(self._known, chunk):
                return True
            if chunk[0] != 0x48:  # H of HTTP/
                raise not_http("it does not begin with HTTP/")
        room = MAX_HEAD_BYTES - self._head_bytes
        self._head_bytes += len(chunk)
        if len(chunk) <= room:
            self._parse(chunk)
            if is_first and self.may_reuse:
                self._known = self._learn(chunk)
        else:
            self._parse(chunk[:room])
            self._feed_beyond(chunk[room:])
        return self.is_complete

    def end(self) -> None:
        """The upstream has ended the connection; raises BadResponseError if that is too early."""
        if self.is_complete:
            return
        if self.has_head and self._is_until_close:
            self.is_complete = True
        elif self._head_bytes:
            raise broke_off()
        else:
            raise no_answer()

    def _take_known(self, known: _KnownHead, chunk: bytes) -> bool:
        """Take a whole response whose head is known; False for all else, which is parsed."""
        if self._asked_head or not chunk.startswith(known.before):
            return False
        begin = len(known.before)
        end = chunk.find(b"\r", begin, begin + _MAX_DIGITS + 1)
        digits = chunk[begin:end]
        if not chunk.startswith(known.after, end) or not digits.isdigit():
            return False
        body = chunk[end + len(known.after) :]
        if len(body) != int(digits) or len(body) > self._max_body_bytes:
            return False
        self.status = known.status
        self.has_head = self.is_complete = self.may_reuse = True
        self._head_bytes = len(chunk)
        self.body_bytes = len(body)
        self._body = body
        self._raw_headers = [*known.headers, (_CONTENT_LENGTH, digits)]
        return True

    def _learn(self, chunk: bytes) -> _KnownHead | None:
        """The head of a response that has come whole, if it is framed by Content-Length."""
        end = chunk.find(b"\r\n\r\n") + 4
        if self._asked_head or self._interim or len(chunk) != end + self.body_bytes:
            return None
        if self.status in (204, 304):  # whose Content-Length is not that of a body
            return None
        for at, (name, value) in enumerate(self._raw_headers):
            if len(name) == 14 and name.lower() == _CONTENT_LENGTH:
                begin = chunk.find(b"\r\n%b: %b\r\n" % (name, value), 0, end) + 4 + len(name)
                if begin < 4 + len(name) or len(value) > _MAX_DIGITS or not value.isdigit():
                    return None
                others = [*self._raw_headers[:at], *self._raw_headers[at + 1 :]]
                after = chunk[begin + len(value) : end]
                return _KnownHead(chunk[:begin], after, self.status, others)
        return None

    def _feed_beyond(self, chunk: bytes) -> None:
        """Read on behind MAX_HEAD_BYTES: there may be a body, but no head any more."""
        if not self.has_head:
            raise BadResponseError(f"answered with more than {MAX_HEAD_BYTES} bytes of headers")
        if self.is_complete:
            self.may_reuse = False
        else:
            self._feed_body(chunk)

    def _feed_body(self, chunk: bytes) -> None:
        before = self.body_bytes
        self._parse(chunk)
        # A chunk's extension or a trailer that never ends would be collected by the parser.
        self._framing_bytes = self._framing_bytes + len(chunk) if self.body_bytes == before else 0
        if self._framing_bytes > MAX_HEAD_BYTES and not self.is_complete:
            raise not_http("there is no end to a chunk's extension or the trailers")

    def _parse(self, chunk: bytes) -> None:
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._fault is not None:
                raise self._fault from None
            if not self.is_complete:
                raise not_http(str(error)) from None
            self.may_reuse = False  # the response was good; what came behind it is not
            self._is_parser_spent = True

    # What the parser calls

    def on_message_begin(self) -> None:
        """A byte has come that begins a message."""
        if self.is_complete:
            self.may_reuse = False
            raise not_http("it answered twice")  # ends the parsing, and goes no further

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or behind the body a trailer."""
        if not self.has_head:
            self._raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head has ended."""
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(not_http(f"its version is {version}"))
        if not 200 <= status <= 599:
            self._begin_interim(status)
            return
        length: int | None = None
        encoding: bytes | None = None
        for name, value in self._raw_headers:
            size = len(name)
            if size == 14 and name.lower() == _CONTENT_LENGTH:
                length = int(value)  # llhttp has made sure that it is digits, and one
            elif size == 17 and name.lower() == _TRANSFER_ENCODING:
                if encoding is not None or value.strip().lower() != b"chunked":
                    self._refuse(not_http("its Transfer-Encoding is not chunked"))
                encoding = value
        self.status = status
        self.has_head = True
        if self._asked_head:
            self.is_complete = self._is_parser_spent = True
            self.may_reuse = self._parser.should_keep_alive()
        elif length is None and encoding is None:
            self._is_until_close = True  # 204 and 304 are complete before anybody looks
        elif length is not None and length > self._max_body_bytes and status not in (204, 304):
            self._refuse(answer_too_large(self._max_body_bytes))
        # RFC 9112, section 6.1: such a message has faulty framing; take it, and close.
        self._is_old_chunked = encoding is not None and version == "1.0"

    def on_body(self, piece: bytes) -> None:
        """Some of the body."""
        if self.is_complete:  # a body for a HEAD
            self.may_reuse = False
            return
        self.body_bytes += len(piece)
        if self.body_bytes > self._limit_bytes:
            self._refuse(answer_too_large(self._limit_bytes))
        if not self._body:
            self._body = piece
        elif type(self._body) is bytearray:
            self._body += piece
        else:
            # Not a list of pieces: a million chunks of one byte would take 40 MB.
            self._body = bytearray(self._body)
            self._body += piece

    def on_message_complete(self) -> None:
        """A message has ended where its framing says so."""
        if self.has_head and not self.is_complete:
            self.is_complete = True
            self.may_reuse = self._parser.should_keep_alive() and not self._is_old_chunked

    def _begin_interim(self, status: int) -> None:
        """A 1xx response: the one that was asked for comes behind it."""
        if not 100 <= status < 200:
            self._refuse(not_http(f"its status is {status}"))
        if status == 101:
            self._refuse(BadResponseError("switched to another protocol, which nobody asked for"))
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self._refuse(
                BadResponseError(f"sent more than {MAX_INTERIM} answers with a 1xx status")
            )
        self._raw_headers = []

    def _refuse(self, fault: BadResponseError) -> None:
        self._fault = fault
        raise fault
