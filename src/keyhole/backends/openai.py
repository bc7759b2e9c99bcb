"""Whatever serves the OpenAI format: OpenAI itself, vLLM, llama.cpp, Ollama, transformers serve.

By default a prompt becomes one user message of a chat, because every such server has chat. Of
an upstream with has_completions the text is continued instead, which is what clients of GPT-2
expect. Text completions always say how many tokens they want: left unsaid it would be 16 at
OpenAI and vLLM, without a bound at llama.cpp and 1024 at transformers serve, so a call that
says nothing, on a route that says nothing, asks for DEFAULT_COMPLETION_TOKENS.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from keyhole.backends import faults
from keyhole.backends.base import ask
from keyhole.backends.fanout import expand, gather, refuse_unaccepted
from keyhole.catalog import Target, Upstream
from keyhole.dialects import openai
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call, Parameters
from keyhole.wire.http import UpstreamRequest, UpstreamResponse

DEFAULT_COMPLETION_TOKENS = 256


class OpenAi:
    """Upstreams of kind `openai`."""

    kind = "openai"
    default_url: str | None = None

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """A completion for each text that is wanted."""
        refuse_unaccepted(call, target)
        upstream = target.upstream
        pieces = expand(call, target, max_output_tokens)
        if upstream.has_completions:
            return tuple(
                ask(
                    upstream,
                    "/completions",
                    openai.encode_completion(
                        target.model, piece.prompt, _with_maximum(piece.parameters)
                    ),
                )
                for piece in pieces
            )
        maximum = "max_completion_tokens" if _is_openai_itself(upstream) else "max_tokens"
        return tuple(
            ask(
                upstream,
                "/chat/completions",
                openai.encode_chat(target.model, piece.prompt, piece.parameters, maximum=maximum),
            )
            for piece in pieces
        )

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The first choice of each response."""
        if target.upstream.has_completions:
            return gather(
                call, target, responses, lambda response: openai.decode_completion(response.body)
            )
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
        return "/models"


def _with_maximum(parameters: Parameters) -> Parameters:
    if parameters.max_new_tokens is not None:
        return parameters
    return msgspec.structs.replace(parameters, max_new_tokens=DEFAULT_COMPLETION_TOKENS)


def _is_openai_itself(upstream: Upstream) -> bool:
    return urlsplit(upstream.url).hostname == "api.openai.com"
