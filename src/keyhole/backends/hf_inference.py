"""The hosted Inference API's shape: POST {url}/models/{model}, at Hugging Face or elsewhere.

What the client asked goes on under the names it used, lists and all, and the answer comes back
byte for byte: whoever runs the model knows what it takes. One call is one request. TGI's format
goes on in the same way, for TGI was behind that API; what the two mean otherwise is said.

A stream is asked for with `stream: true` and comes in TGI's frames. `details` are only asked for
where the client did, for what is not TGI refuses them.

The host of old, api-inference.huggingface.co, has answered 410 since November 2025 (seen until
May 2026); the address below took its place. It serves few text models, and gpt2 is none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from keyhole.backends import faults
from keyhole.backends.base import EVENT_STREAM, Stream, ask, quote_model
from keyhole.backends.fanout import ReplyReader, as_reply, refuse_several, render_chat
from keyhole.backends.originals import names_no_maximum, refuse_beyond
from keyhole.catalog import Target
from keyhole.dialects import huggingface
from keyhole.dialects.base import NotThisFormatError
from keyhole.dialects.tgi_stream import TgiReader
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call, Original
from keyhole.wire.http import UpstreamRequest, UpstreamResponse

_OWN, _TGI = "huggingface", "tgi"


class HfInference:
    """Upstreams of kind `hf-inference`."""

    kind = "hf-inference"
    default_url: str | None = "https://router.huggingface.co/hf-inference"

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """One request, with the input as it came."""
        body = _body(call, target, max_output_tokens)
        return (ask(target.upstream, f"/models/{quote_model(target.model)}", body),)

    def stream(self, call: Call, target: Target, *, max_output_tokens: int | None) -> Stream:
        """Frames as they come to clients that expect TGI's."""
        body = _body(call, target, max_output_tokens, stream=True)
        path, passes = f"/models/{quote_model(target.model)}", _passes(call)
        if not passes:
            refuse_several(call, target)
        has_prompt = passes and call.parameters.return_full_text is not False
        reader = TgiReader(prompt=str(call.input) if has_prompt else "")
        return Stream(
            request=ask(target.upstream, path, body, accept=EVENT_STREAM),
            reader=ReplyReader(reader) if call.messages else reader,
            is_passed_on=passes,
            is_chat=bool(call.messages),
            is_rendered=bool(call.messages),
        )

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The JSON as it came, unless it tells an error; a text, for clients of other formats."""
        (response,) = responses
        asked = _completed(call)
        try:
            texts = huggingface.decode_response(response.body, asked)
        except NotThisFormatError:
            raise faults.bad_answer(target, response) from None
        is_verbatim = call.original is None or call.original.format == _OWN
        if not texts and not (is_verbatim and _may_pass(call, response)):
            raise faults.bad_answer(target, response)
        reason = huggingface.decode_reason(response.body) if call.wants_usage else None
        answer = Answer(
            texts=texts,
            finishes=() if reason is None else ((reason,),),
            verbatim=response.body if is_verbatim else None,
            format=_OWN if is_verbatim else "",
        )
        return as_reply(answer) if call.messages else answer

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """As the protocol says."""
        return faults.explain(call, target, response)

    def probe_path(self, target: Target) -> str:
        """The model itself, which tells about the token too."""
        return f"/models/{quote_model(target.model)}"


def _passes(call: Call) -> bool:
    """Whether the request is sent as its client wrote it."""
    return call.original is not None and call.original.format in (_OWN, _TGI)


def _may_pass(call: Call, response: UpstreamResponse) -> bool:
    """Whether JSON without a text goes to its client; to the original script's even an error."""
    return call.original is None or not huggingface.tells_error(response.body)


def _body(
    call: Call, target: Target, max_output_tokens: int | None, *, stream: bool = False
) -> bytes:
    if call.original is not None and _passes(call):
        return _own_body(call, call.original, max_output_tokens, stream=stream)
    refuse_beyond(call, target)
    call = _completed(call)
    parameters = call.parameters
    most = parameters.max_new_tokens or max_output_tokens
    if most != parameters.max_new_tokens:
        parameters = replace(parameters, max_new_tokens=most)
    if stream:  # the text comes without its prompt, and so should the whole of it
        parameters = replace(parameters, return_full_text=False)
    return huggingface.encode_request(call.input, parameters, stream=stream)


def _own_body(
    call: Call, original: Original, max_output_tokens: int | None, *, stream: bool
) -> bytes:
    """The body of a request that passes, with what its client left to be understood."""
    wanted = call.parameters
    more: dict[str, Any] = {}
    if original.format == _TGI:
        if wanted.do_sample is not None:
            more["do_sample"] = wanted.do_sample
        if wanted.return_full_text is not None:
            more["return_full_text"] = wanted.return_full_text
    if max_output_tokens is not None and names_no_maximum(call):
        more["max_new_tokens"] = max_output_tokens
    return huggingface.encode_original(original, more, stream=stream)


def _completed(call: Call) -> Call:
    """A call with a text to be continued, which comes without it, whatever the client's format.

    The original script's clients get the JSON as it came, and so what they said goes on. No stop
    sequence of ours is added to a conversation: a model that transformers runs refuses any
    (`model_kwargs`), and the reply is cut where it ends all the same.
    """
    if call.original is None or _passes(call):
        return call
    only = call.input[0] if isinstance(call.input, list) and len(call.input) == 1 else call.input
    parameters = replace(call.parameters, return_full_text=False)
    if parameters.temperature == 0:  # that API refuses it: it samples, or it is told not to
        parameters = replace(parameters, temperature=None, do_sample=False)
    return replace(
        call,
        input=render_chat(call.messages) if call.messages else only,
        messages=(),
        parameters=parameters,
    )
