"""The Hugging Face router: chat completions, passed on to whichever provider runs the model.

The model's name may carry a provider or a policy behind a colon (`owner/name:cheapest`); it
goes on as it was asked for. A prompt becomes one user message, so the answer replies to it
and does not continue it: the router has no text completions (hub-docs, August 2026).
"""

from __future__ import annotations

from keyhole.backends.chat import OpenAiFormat


class HuggingFaceRouter(OpenAiFormat):
    """Upstreams of kind `huggingface`."""

    kind = "huggingface"
    default_url: str | None = "https://router.huggingface.co"
    prefix = "/v1"
