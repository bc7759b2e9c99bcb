"""text-generation-inference, and Keyhole's own engine, which speaks the same.

A TGI server runs one model, and its path is /generate whatever the model is called. The engine
runs many and has each under its name: /openai-community/gpt2/generate.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyhole.backends import faults
from keyhole.backends.base import ask, quote_model
from keyhole.backends.fanout import expand, gather
from keyhole.catalog import Target
from keyhole.dialects import tgi
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call
from keyhole.wire.http import UpstreamRequest, UpstreamResponse

BEGINNING = "<|endoftext|>"


class Tgi:
    """Upstreams of kind `tgi`."""

    kind = "tgi"
    default_url: str | None = None

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """A request for each text that is wanted."""
        return tuple(
            ask(
                target.upstream,
                self.path(target.model),
                tgi.encode_request(self.prompt(piece.prompt), piece.parameters),
            )
            for piece in expand(call, target, max_output_tokens)
        )

    def prompt(self, text: str) -> str:
        """What is sent for a prompt; TGI refuses an empty one."""
        return text

    def path(self, model: str) -> str:  # noqa: ARG002  # the engine's depends on it
        """Where text is generated."""
        return "/generate"

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The generated text of each response; the usage is in their headers."""
        return gather(call, target, responses, _read)

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """As the protocol says."""
        return faults.explain(call, target, response)

    def probe_path(self, target: Target) -> str:  # noqa: ARG002  # the same for every model
        """What the server says about itself."""
        return "/info"


class Engine(Tgi):
    """Upstreams of kind `engine`: Keyhole's own, or one of another machine."""

    kind = "engine"

    def prompt(self, text: str) -> str:
        """The same; and for an empty one GPT-2's mark between texts, so that a text begins.

        The hosted API did so (transformers' text-generation pipeline starts an empty prompt
        there), and TGI's format has no other word for it.
        """
        return text or BEGINNING

    def path(self, model: str) -> str:
        """Where that model generates."""
        return f"/{quote_model(model)}/generate"

    def probe_path(self, target: Target) -> str:
        """What the engine says about that model."""
        return f"/{quote_model(target.model)}/info"


def _read(response: UpstreamResponse) -> tuple[str, Usage | None]:
    return tgi.decode_response(response.body), tgi.read_usage_headers(response.headers)
