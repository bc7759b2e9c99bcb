"""What all upstreams of the OpenAI format are: a call passed on as it came, or made from texts.

A call in the same format is one request with every field that its client sent, and its answer
and frames go back so, but for the model's name (`dialects.openai.reader.FrameEditor`). Any other
call is a request for each text. Where such an upstream has its paths and what it takes is for
`openai` and `huggingface` to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from keyhole.backends import faults
from keyhole.backends.base import EVENT_STREAM, Stream, ask
from keyhole.backends.fanout import (
    Piece,
    expand,
    gather,
    in_rows,
    only_piece,
    refuse_unaccepted,
)
from keyhole.backends.originals import refuse_beyond
from keyhole.catalog import DEFAULT_ROUTE, Target
from keyhole.dialects.base import NotThisFormatError
from keyhole.dialects.openai import CHAT, COMPLETION, FORMATS, upstream
from keyhole.dialects.openai.reader import ChunkReader, FrameEditor
from keyhole.errors import UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call, Original, Parameters
from keyhole.wire.http import UpstreamRequest, UpstreamResponse

DEFAULT_COMPLETION_TOKENS = 256
_CARRIED = frozenset({"frequency_penalty"})
"""What the Hugging Face formats have under this one's name and with its meaning, too."""


class OpenAiFormat:
    """Upstreams that speak chat completions, and perhaps text completions."""

    prefix = ""
    """What stands before `/chat/completions` in the upstream's paths."""

    def has_completions(self, target: Target) -> bool:  # noqa: ARG002  # the target's to say
        """Whether a text can be continued there."""
        return False

    def maximum(self, target: Target) -> str:  # noqa: ARG002  # the target's to say
        """What its chat calls the most tokens that it may generate."""
        return "max_tokens"

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """The client's own request, or a completion for each text that is wanted."""
        original = self._same(call, target)
        if original is not None:
            body = self._again(original, target, max_output_tokens, is_stream=False)
            return (ask(target.upstream, self._path(original.format), body),)
        self._refuse(call, target)
        return tuple(
            ask(target.upstream, *self._translate(call, target, piece, is_stream=False))
            for piece in expand(_unrendered(call), target, max_output_tokens)
        )

    def stream(self, call: Call, target: Target, *, max_output_tokens: int | None) -> Stream:
        """The client's own stream, or one of its only text."""
        original = self._same(call, target)
        if original is None:
            self._refuse(call, target)
            piece = only_piece(_unrendered(call), target, max_output_tokens)
            path, body = self._translate(call, target, piece, is_stream=True)
            edit = None
        else:
            path = self._path(original.format)
            body = self._again(original, target, max_output_tokens, is_stream=True)
            edit = FrameEditor(call.model or DEFAULT_ROUTE, keeps_usage=call.wants_usage)
        return Stream(
            request=ask(target.upstream, path, body, accept=EVENT_STREAM),
            reader=ChunkReader(),
            is_passed_on=original is not None,
            recurs=original is not None,
            edit=edit,
            is_chat=self._is_chat(call, target),
        )

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The upstream's own answer, or the first choice of each response."""
        original = self._same(call, target)
        if original is not None:
            (response,) = responses
            return _whole(call, target, response, original.format)
        is_chat = self._is_chat(call, target)
        decode = upstream.decode_chat if is_chat else upstream.decode_completion
        return gather(
            call, target, responses, lambda response: decode(response.body), is_chat=is_chat
        )

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """As the protocol says."""
        is_same = self._same(call, target) is not None
        return faults.explain(call, target, response, is_same_format=is_same)

    def probe_path(self, target: Target) -> str:  # noqa: ARG002  # the same for every model
        """The list of models that are served."""
        return f"{self.prefix}/models"

    def _same(self, call: Call, target: Target) -> Original | None:
        """The client's own body, if this upstream takes it as it is."""
        original = call.original
        if original is None:
            return None
        is_taken = original.format == CHAT or (
            original.format == COMPLETION and self.has_completions(target)
        )
        return original if is_taken else None

    def _is_chat(self, call: Call, target: Target) -> bool:
        return bool(call.messages) or not self.has_completions(target)

    def _path(self, format_: str) -> str:
        return self.prefix + ("/chat/completions" if format_ == CHAT else "/completions")

    def _refuse(self, call: Call, target: Target) -> None:
        """Raise ClientError for what a translated call cannot say."""
        refuse_beyond(call, target, carried=frozenset(_carried(call)))
        refuse_unaccepted(call, target)

    def _again(
        self, original: Original, target: Target, max_output_tokens: int | None, *, is_stream: bool
    ) -> bytes:
        maximum = self.maximum(target) if original.format == CHAT else "max_tokens"
        return upstream.encode_again(
            original.fields,
            target.model,
            maximum=maximum,
            max_output_tokens=max_output_tokens,
            is_stream=is_stream,
        )

    def _translate(
        self, call: Call, target: Target, piece: Piece, *, is_stream: bool
    ) -> tuple[str, bytes]:
        """The path and the body that ask for one text."""
        more = _carried(call)
        if not self._is_chat(call, target):
            wanted = _with_maximum(piece.parameters)
            return self._path(COMPLETION), upstream.encode_completion(
                target.model, piece.prompt, wanted, is_stream=is_stream, more=more
            )
        return self._path(CHAT), upstream.encode_chat(
            target.model,
            call.messages or piece.prompt,
            piece.parameters,
            maximum=self.maximum(target),
            is_stream=is_stream,
            more=more,
        )


def _carried(call: Call) -> dict[str, Raw]:
    """What the client said of `_CARRIED`, as it said it."""
    original = call.original
    if original is None or _CARRIED.isdisjoint(original.beyond):
        return {}
    fields = original.fields
    if original.format not in FORMATS:  # the Hugging Face formats, which have it one level down
        raw = fields.get("parameters", b"null")
        fields = msgspec.json.decode(raw, type=dict[str, Raw] | None) or {}
    said = {name: fields[name] for name in sorted(_CARRIED) if name in fields}
    return {name: raw for name, raw in said.items() if bytes(raw) != b"null"}


def _whole(call: Call, target: Target, response: UpstreamResponse, format_: str) -> Answer:
    """An answer that goes to the client as it came, read for the books."""
    decode = upstream.decode_whole_chat if format_ == CHAT else upstream.decode_whole_completion
    try:
        whole = decode(response.body)
    except NotThisFormatError:
        raise faults.bad_answer(target, response) from None
    return Answer(
        texts=in_rows(whole.texts, call),
        finishes=in_rows(whole.finishes, call),
        is_chat=format_ == CHAT,
        usage=whole.usage,
        verbatim=response.body,
        format=format_,
    )


def _unrendered(call: Call) -> Call:
    """The call to be split into requests: a conversation goes into each of them as it is."""
    return msgspec.structs.replace(call, input="", messages=()) if call.messages else call


def _with_maximum(parameters: Parameters) -> Parameters:
    if parameters.max_new_tokens is not None:
        return parameters
    return msgspec.structs.replace(parameters, max_new_tokens=DEFAULT_COMPLETION_TOKENS)
