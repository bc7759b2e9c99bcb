"""What a backend is to the core, and the making of one request.

How one call becomes several requests is in `fanout`, the reading of an upstream's errors in
`faults`; formats are the dialects'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol
from urllib.parse import quote

from msgspec import Struct

from keyhole.catalog import Target, Upstream
from keyhole.dialects.base import EventReader
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call
from keyhole.wire.http import JSON, UpstreamRequest, UpstreamResponse

EVENT_STREAM = "text/event-stream"


class Stream(Struct, frozen=True, kw_only=True):
    """How one call is streamed from one upstream."""

    request: UpstreamRequest
    reader: EventReader
    """Reads the frames, for the books where they are passed on, and otherwise to translate them."""
    is_passed_on: bool = False
    """Whether the client speaks the same format: its frames are the upstream's."""
    recurs: bool = False
    """Whether frames that are passed on may come again but for their text, and a piece of text
    changes nothing in the reader: then they need not be read (wire.recurring)."""
    edit: Callable[[bytes], bytes] | None = None
    """What becomes of each frame that is passed on, blank line and all; None: nothing does."""
    is_chat: bool = False
    """As in Answer."""
    is_rendered: bool = False
    """As in Answer."""


class Backend(Protocol):
    """One kind of upstream."""

    kind: str
    default_url: str | None
    """Where it is when the configuration does not say; None: it must say."""

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """What to send for a call: one request, or one for each text that is wanted.

        Raises ClientError for what this kind of upstream cannot be asked; nothing is dropped.
        `max_output_tokens` is for a call that names no maximum; None leaves it to the upstream.
        """
        ...

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """What the good (200) responses to `requests` say together, in the same order.

        Raises UpstreamError where they are not what this kind of upstream should send.
        """
        ...

    def stream(self, call: Call, target: Target, *, max_output_tokens: int | None) -> Stream:
        """How to stream a call: one request, what reads its answer, and whether to pass it on.

        Raises ClientError as `requests` does, and for a call of several texts (several prompts,
        or choices of one) that is not in the upstream's own format: they are not interleaved.
        """
        ...

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """What a response that is not a 200 means, in plain words with its culprit."""
        ...

    def probe_path(self, target: Target) -> str:
        """Where a GET that costs nothing tells whether the upstream is there."""
        ...


def ask(upstream: Upstream, path: str, body: bytes, *, accept: str = JSON) -> UpstreamRequest:
    """A request with a JSON body; nothing of the client's but what the body holds."""
    headers = _headers(accept, upstream.bill_to)
    return UpstreamRequest(upstream=upstream, path=path, body=body, headers=headers)


@lru_cache(maxsize=64)
def _headers(accept: str, bill_to: str | None) -> tuple[tuple[str, str], ...]:
    headers = [("content-type", JSON), ("accept", accept)]
    if bill_to is not None:
        headers.append(("x-hf-bill-to", bill_to))
    return tuple(headers)


@lru_cache(maxsize=512)  # 0.8 us for each request otherwise
def quote_model(model: str) -> str:
    """A model's name as part of a path: its slashes stay, and what a path may hold."""
    return quote(model, safe="/:@+")
