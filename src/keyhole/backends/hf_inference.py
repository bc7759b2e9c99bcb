"""The hosted Inference API's shape: POST {url}/models/{model}, at Hugging Face or elsewhere.

What the client asked goes on under the names it used, lists and all, and the answer comes back
byte for byte: whoever runs the model knows what it takes. One call is one request.

The host of old, api-inference.huggingface.co, has answered 410 since November 2025 (seen until
May 2026); the address below took its place. It serves few text models, and gpt2 is none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from keyhole.backends import faults
from keyhole.backends.base import ask, quote_model
from keyhole.catalog import Target
from keyhole.dialects import huggingface
from keyhole.dialects.base import NotThisFormatError
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call
from keyhole.wire.http import UpstreamRequest, UpstreamResponse


class HfInference:
    """Upstreams of kind `hf-inference`."""

    kind = "hf-inference"
    default_url: str | None = "https://router.huggingface.co/hf-inference"

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """One request, with the input as it came."""
        wanted = call.parameters
        parameters = msgspec.structs.replace(
            wanted, max_new_tokens=wanted.max_new_tokens or max_output_tokens
        )
        body = huggingface.encode_request(call.input, parameters)
        return (ask(target.upstream, f"/models/{quote_model(target.model)}", body),)

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The JSON as it came, whatever it is."""
        (response,) = responses
        try:
            texts = huggingface.decode_response(response.body, call)
        except NotThisFormatError:
            raise faults.bad_answer(target, response) from None
        return Answer(texts=texts, verbatim=response.body, format="huggingface")

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """As the protocol says."""
        return faults.explain(call, target, response)

    def probe_path(self, target: Target) -> str:
        """The model itself, which tells about the token too."""
        return f"/models/{quote_model(target.model)}"
