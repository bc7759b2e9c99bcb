"""text-generation-inference, and Keyhole's own engine, which speaks the same.

A TGI server runs one model, and its path is /generate whatever the model is called. The engine
runs many and has each under its name: /openai-community/gpt2/generate.

A request in TGI's own format goes on as it came, and its answer comes back so. So does the hosted
API's, which TGI was behind in its last years, but for what that means otherwise: there sampling
is on unless it is turned off, and a list or several choices are several requests here.

`details` are asked of every stream, for they tell how many tokens it took, and kept from a client
that did not ask; of a whole answer, whose headers tell that, only for who has to know why the
text ended.

A call may also ask for the tokens of a text or about the server; both pass as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from keyhole.backends import faults
from keyhole.backends.base import EVENT_STREAM, Stream, ask, quote_model
from keyhole.backends.fanout import ReplyReader, as_reply, expand, gather, only_piece
from keyhole.backends.originals import names_no_maximum, refuse_beyond
from keyhole.catalog import Target
from keyhole.dialects import tgi
from keyhole.dialects.base import NotThisFormatError
from keyhole.dialects.tgi_stream import TgiReader, withhold_details
from keyhole.errors import Code, UpstreamError
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Original
from keyhole.wire.events import Reason
from keyhole.wire.http import JSON, UpstreamRequest, UpstreamResponse

BEGINNING = "<|endoftext|>"

_OWN, _HOSTED = "tgi", "huggingface"
_ALSO_OPENAI = frozenset({"frequency_penalty"})
"""What TGI and the OpenAI format have under one name and with one meaning."""
_ONLY_IN_DETAILS = frozenset({"best_of", "decoder_input_details", "top_n_tokens"})
"""What is answered in the details of one answer, and would be lost from several."""


class Tgi:
    """Upstreams of kind `tgi`."""

    kind = "tgi"
    default_url: str | None = None

    def requests(
        self, call: Call, target: Target, *, max_output_tokens: int | None
    ) -> tuple[UpstreamRequest, ...]:
        """A request for each text that is wanted."""
        path = self.path(target.model)
        original = self._passing(call)
        if original is not None:
            body = _own_body(call, original, target, max_output_tokens)
            return (ask(target.upstream, path, body),)
        if question := _question(call):
            is_info = question.format == tgi.INFO
            body = tgi.encode_original(question, {})
            return (self.info(target) if is_info else self.tokenize(target, body),)
        more = _more(call, target)
        if _tells_reasons(call):
            more["details"] = True
        return tuple(
            ask(
                target.upstream,
                path,
                tgi.encode_request(self.prompt(piece.prompt), piece.parameters, more=more),
            )
            for piece in expand(call, target, max_output_tokens)
        )

    def stream(self, call: Call, target: Target, *, max_output_tokens: int | None) -> Stream:
        """Tokens as they come; TGI's own frames to clients that expect them."""
        original = self._passing(call)
        if original is not None:
            wants_prompt = call.parameters.return_full_text is not False
            body = _own_body(call, original, target, max_output_tokens, details=True)
            return Stream(
                request=self._ask_stream(target, body),
                reader=TgiReader(prompt=str(call.input) if wants_prompt else ""),
                is_passed_on=True,
                edit=None if call.wants_usage else withhold_details,
            )
        more = _more(call, target) | {"details": True}
        piece = only_piece(call, target, max_output_tokens)
        body = tgi.encode_request(self.prompt(piece.prompt), piece.parameters, more=more)
        is_chat = bool(call.messages)
        return Stream(
            request=self._ask_stream(target, body),
            reader=ReplyReader(TgiReader()) if is_chat else TgiReader(),
            is_chat=is_chat,
            is_rendered=is_chat,
        )

    def prompt(self, text: str) -> str:
        """What is sent for a prompt; TGI refuses an empty one."""
        return text

    def path(self, model: str) -> str:  # noqa: ARG002  # the engine's depends on it
        """Where text is generated; with `_stream` behind it, where it is streamed."""
        return "/generate"

    def answer(self, call: Call, target: Target, responses: Sequence[UpstreamResponse]) -> Answer:
        """The generated text of each response; the usage is in their headers."""
        if self._passing(call) is not None:
            return _passed(call, target, responses[0])
        if question := _question(call):
            return _told(question, target, responses[0])
        answer = gather(call, target, responses, _read)
        return as_reply(answer) if call.messages else answer

    def fault(self, call: Call, target: Target, response: UpstreamResponse) -> UpstreamError:
        """As the protocol says; a server may generate and yet not have the path of a question."""
        error = faults.explain(call, target, response)
        is_missing = response.status in (404, 405) and error.code != Code.MODEL_NOT_PULLED
        if is_missing and (question := _question(call)):
            return faults.no_such_path(target, question.beyond[0], response.status)
        return error

    def probe_path(self, target: Target) -> str:  # noqa: ARG002  # the same for every model
        """What the server says about itself."""
        return "/info"

    def info(self, target: Target) -> UpstreamRequest:
        """The request for what the server says about the model; its answer is a client's, too."""
        headers = (("accept", JSON),)
        path = self.probe_path(target)
        return UpstreamRequest(
            upstream=target.upstream, path=path, body=b"", headers=headers, method="GET"
        )

    def tokenize(self, target: Target, body: bytes) -> UpstreamRequest:
        """The request for the tokens of a text, with a client's body; its answer is theirs."""
        path = self.path(target.model).removesuffix("generate") + "tokenize"
        return ask(target.upstream, path, body)

    def _passing(self, call: Call) -> Original | None:
        """The request as its client wrote it, if it is sent and answered so."""
        original = call.original
        if original is None or not isinstance(call.input, str):
            return None
        is_hosted = original.format == _HOSTED
        is_one = call.choices == 1 and self.prompt(call.input) == call.input
        return original if original.format == _OWN or (is_hosted and is_one) else None

    def _ask_stream(self, target: Target, body: bytes) -> UpstreamRequest:
        path = f"{self.path(target.model)}_stream"
        return ask(target.upstream, path, body, accept=EVENT_STREAM)


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


def _question(call: Call) -> Original | None:
    """What the client asks that is no wish for a text."""
    original = call.original
    return original if original and original.format in (tgi.TOKENS, tgi.INFO) else None


def _told(question: Original, target: Target, response: UpstreamResponse) -> Answer:
    """The answer to a question; it goes to the client as it came."""
    try:
        tgi.check_told(question.format, response.body)
    except NotThisFormatError:
        raise faults.bad_answer(target, response) from None
    return Answer(verbatim=response.body, format=_OWN)


def _tells_reasons(call: Call) -> bool:
    """Whether the client is told why a text of a whole answer ended."""
    if call.original is None:
        return False
    return call.wants_usage or call.original.format not in (_OWN, _HOSTED)


def _own_body(
    call: Call,
    original: Original,
    target: Target,
    max_output_tokens: int | None,
    *,
    details: bool = False,
) -> bytes:
    """The body of a request that passes, with what its client left to be understood."""
    wanted = call.parameters
    more: dict[str, Any] = {"details": True} if details and not call.wants_usage else {}
    if wanted.return_full_text is not False:  # at this path TGI's default is false
        more["return_full_text"] = True
    if original.format == _OWN:
        if max_output_tokens is not None and names_no_maximum(call):
            more["max_new_tokens"] = max_output_tokens
        return tgi.encode_original(original, more)
    refuse_beyond(call, target, carried=tgi.BEYOND)
    parameters = replace(wanted, max_new_tokens=wanted.max_new_tokens or max_output_tokens)
    more |= _said(call, original, tgi.BEYOND)
    if call.wants_usage:
        more["details"] = True
    return tgi.encode_request(str(call.input), parameters, more=more)


def _more(call: Call, target: Target) -> dict[str, Any]:
    """The parameters beyond the Hugging Face names that go on; raises ClientError."""
    if call.original is None:
        return {}
    is_hosted = call.original.format == _HOSTED
    carried = tgi.BEYOND - _ONLY_IN_DETAILS if is_hosted else _ALSO_OPENAI
    refuse_beyond(call, target, carried=carried)
    return _said(call, call.original, carried)


def _said(call: Call, original: Original, names: frozenset[str]) -> dict[str, Any]:
    """Those of the names that the client said, each with its value.

    `typical_p` would turn sampling on where greedy decoding is wanted, and TGI refuses a 1.
    """
    if original.format == _HOSTED:
        raw = original.fields.get("parameters", b"null")
        values = msgspec.json.decode(raw, type=dict[str, Any] | None) or {}
        if call.parameters.is_greedy or values.get("typical_p") == 1:
            values.pop("typical_p", None)
    else:
        beyond = names.intersection(original.beyond)
        values = {name: msgspec.json.decode(original.fields[name]) for name in beyond}
    return {name: values[name] for name in sorted(names) if values.get(name) is not None}


def _passed(call: Call, target: Target, response: UpstreamResponse) -> Answer:
    """An answer that goes to the client as it came."""
    try:
        text, usage, reason = _read(response)
    except NotThisFormatError:
        raise faults.bad_answer(target, response) from None
    if call.parameters.return_full_text is not False:
        text = text.removeprefix(str(call.input))
    return Answer(
        texts=((text,),),
        finishes=() if reason is None else ((reason,),),
        usage=usage,
        verbatim=response.body,
        format=_OWN,
    )


def _read(response: UpstreamResponse) -> tuple[str, Usage | None, Reason | None]:
    text, reason = tgi.decode_response(response.body)
    return text, tgi.read_usage_headers(response.headers), reason
