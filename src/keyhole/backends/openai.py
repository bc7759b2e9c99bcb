"""Whatever serves the OpenAI format: OpenAI itself, vLLM, llama.cpp, Ollama, transformers serve.

By default a prompt becomes one user message of a chat, because every such server has chat. Of
an upstream with has_completions the text is continued instead, which is what clients of GPT-2
expect; a conversation goes to its chat all the same. Translated text completions always say how
many tokens they want: left unsaid it would be 16 at OpenAI and vLLM, without a bound at
llama.cpp and 1024 at transformers serve, so a call that says nothing, on a route that says
nothing, asks for chat.DEFAULT_COMPLETION_TOKENS.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from keyhole.backends.chat import OpenAiFormat
from keyhole.catalog import Target


class OpenAi(OpenAiFormat):
    """Upstreams of kind `openai`."""

    kind = "openai"
    default_url: str | None = None

    def has_completions(self, target: Target) -> bool:
        """Whether the configuration says so."""
        return target.upstream.has_completions

    def maximum(self, target: Target) -> str:
        """OpenAI's reasoning models take only the newer name, other servers only the older."""
        is_openai_itself = urlsplit(target.upstream.url).hostname == "api.openai.com"
        return "max_completion_tokens" if is_openai_itself else "max_tokens"
