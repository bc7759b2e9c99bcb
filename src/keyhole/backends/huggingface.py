"""The Hugging Face router: chat completions, passed on to whichever provider runs the model.

The model's name may carry a provider or a policy behind a colon (`owner/name:cheapest`); it
goes on as it was asked for. The prompt becomes one user message, so the answer replies to it
and does not continue it: the router has no text completions (hub-docs, August 2026).
"""

from __future__ import annotations

from collections.abc import Sequence

from keyhole.backends import faults
from keyhole.backends.base import ask
from keyhole.backends.fanout import expand, gather, refuse_unaccepted
from keyhole.catalog import Target
from keyhole.dialects import openai
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call
from keyhole.wire.http import UpstreamRequest, UpstreamResponse


class HuggingFaceRouter:
    """Upstreams of kind `huggingface`."""

    kind = "huggingface"
    default_url: str | None = "https://router.huggingface.co"

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """A chat completion for each text that is wanted."""
        refuse_unaccepted(call, target)
        return tuple(
            ask(
                target.upstream,
                "/v1/chat/completions",
                openai.encode_chat(target.model, piece.prompt, piece.parameters),
            )
            for piece in expand(call, target, max_output_tokens)
        )

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The first choice of each response."""
        return gather(
            call,
            target,
            responses,
            lambda response: openai.decode_chat(response.body),
            is_chat=True,
        )

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """As the protocol says."""
        return faults.explain(call, target, response)

    def probe_path(self, target: Target) -> str:  # noqa: ARG002  # the same for every model
        """The list of models that are served."""
        return "/v1/models"
