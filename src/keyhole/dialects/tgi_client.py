"""TGI's format for clients: POST /generate, /generate_stream and /, and what is beside them.

POST /tokenize and GET /info are calls too: they are answered by a TGI upstream, as it says it.

What a request says beyond the Hugging Face names is carried to upstreams that speak this format
and refused for others; only TGI knows what `grammar` or `truncate` mean. `details` is none of
that: they are made of what any upstream tells, as far as it tells.

Facts (text-generation-inference db931fcf; more in `tgi` and `tgi_stream`):
- /generate never streams, whatever `stream` says; /generate_stream always does; / does as it is
  told, and answers with an array otherwise, with the prompt in front of the text unless told
  otherwise, as the other two do not;
- without `parameters` sampling is on; with them it is off unless they turn it on: so what is
  wanted is worked out here, for upstreams to which the names mean something else;
- of /info, `model_id` and the lengths are what clients read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from keyhole.dialects.base import decode_json, read_model
from keyhole.dialects.hf_body import EXAMPLE, Asked, read_body
from keyhole.dialects.hf_parameters import NAMES, full_text, read_stream
from keyhole.dialects.hf_replies import headers_of, only_text, status_of
from keyhole.dialects.tgi import (
    INFO,
    TOKENS,
    GenerateResponse,
    Info,
    encode_info,
    encode_response,
)
from keyhole.dialects.tgi_stream import TgiWriter, error_type, make_details
from keyhole.errors import ClientError, Code, KeyholeError, UpstreamError
from keyhole.wire.answer import Answer
from keyhole.wire.call import Call, Original
from keyhole.wire.http import JSON, Head, Reply
from keyhole.wire.records import AccessRecord

FORMAT = "tgi"
STREAM_PATH = "/generate_stream"
GENERATE_PATH = "/generate"
ROOT_PATH = "/"
TOKENIZE_PATH, INFO_PATH = "/tokenize", "/info"

_FIELDS = frozenset({"inputs", "parameters", "stream", "model"})
_NAMES = frozenset(NAMES) - {"num_return_sequences"}
_TURN_SAMPLING_ON = frozenset({"top_k", "top_p", "typical_p"})
_STATUSES_WITH_A_TYPE = frozenset({400, 413, 415, 422, 424, 429})
_NO_BOUND = 2**31 - 1


class TgiDialect:
    """POST /generate_stream; and POST /generate where the body `is_tgi`."""

    name = "tgi"
    paths = frozenset({STREAM_PATH})
    prefixes: tuple[str, ...] = ()
    first_byte_timeout_s = 300.0
    _prompt_in_front: bool | None = False
    """Whether the text has its prompt in front where nothing is said; None: if it continues it."""

    def decode(self, head: Head, body: bytes) -> Call:
        """Read `inputs`, `parameters`, `stream`, and `model`, which TGI's own clients leave out.

        The rest is kept for a TGI upstream.
        """
        asked = read_body(body, fields=_FIELDS, names=_NAMES)
        if not isinstance(asked.inputs, str):
            raise ClientError(Code.INVALID_INPUT, "'inputs' must be a string.")
        wanted = asked.parameters
        parameters = msgspec.structs.replace(
            wanted,
            do_sample=_samples(asked),
            return_full_text=self._prompt_in_front
            if wanted.return_full_text is None
            else wanted.return_full_text,
        )
        model, is_model_optional = read_model(asked.model)
        return Call(
            model=model,
            is_model_optional=is_model_optional,
            input=asked.inputs,
            parameters=parameters,
            wants_stream=self._streams(head, asked),
            wants_usage=asked.wants_details,
            original=Original(
                format=FORMAT,
                fields=asked.fields,
                beyond=asked.beyond,
                unreadable=asked.unreadable,
            ),
        )

    def encode(self, call: Call, answer: Answer, record: AccessRecord) -> bytes:  # noqa: ARG002
        """TGI's own JSON as it came, or one object made from the text."""
        if answer.verbatim is not None and answer.format == FORMAT:
            return answer.verbatim
        text, reason = only_text(answer)
        return encode_response(
            GenerateResponse(
                generated_text=full_text(call, str(call.input), text, is_chat=answer.is_chat),
                details=make_details(call, reason, answer.usage) if call.wants_usage else UNSET,
            )
        )

    def stream(self, call: Call, record: AccessRecord, *, is_chat: bool) -> TgiWriter:  # noqa: ARG002
        """A frame for each piece, then one with the whole text."""
        return TgiWriter(call, is_chat=is_chat)

    def refuse(self, error: KeyholeError, request_id: str) -> Reply:  # noqa: ARG002
        """{"error": TEXT, "error_type": WORD}; without the word where TGI has none.

        huggingface_hub hides the status behind an unknown error when it does not know the word.
        """
        status = status_of(error, invalid=422)
        body = {"error": error.explained}
        if status == 422 and not isinstance(error, UpstreamError):
            body["error"] = f"Input validation error: {error.explained}"
        if status in _STATUSES_WITH_A_TYPE:
            body["error_type"] = "overloaded" if status == 429 else error_type(error)
        return Reply(status=status, headers=headers_of(error), body=msgspec.json.encode(body))

    def _streams(self, head: Head, asked: Asked) -> bool:
        """Whether the answer is streamed; raises ClientError for a `stream` that is no boolean."""
        read_stream(asked.stream, asked.inputs, asked.parameters)
        return head.path == STREAM_PATH


class TgiRootDialect(TgiDialect):
    """POST /, which streams if told to, and otherwise answers with an array."""

    paths = frozenset({ROOT_PATH})
    _prompt_in_front = None

    def encode(self, call: Call, answer: Answer, record: AccessRecord) -> bytes:
        """The same in an array."""
        return b"[%b]" % super().encode(call, answer, record)

    def _streams(self, head: Head, asked: Asked) -> bool:  # noqa: ARG002  # one path for both
        return read_stream(asked.stream, asked.inputs, asked.parameters)


class TgiTokenizeDialect(TgiDialect):
    """POST /tokenize, with the body of /generate, or one that names the model."""

    paths = frozenset({TOKENIZE_PATH})

    def decode(self, head: Head, body: bytes) -> Call:
        """Read `inputs` and `model`; what else there is goes on."""
        value = decode_json(body, example=EXAMPLE)
        text = value.get("inputs") if isinstance(value, dict) else None
        if not isinstance(text, str):
            hint = f"Send an object such as {EXAMPLE}."
            raise ClientError(Code.MISSING_INPUT, "'inputs' must be a string.", hint=hint)
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        model, is_model_optional = read_model(value.get("model"))
        return Call(
            model=model,
            is_model_optional=is_model_optional,
            input=text,
            original=Original(format=TOKENS, fields=fields, beyond=(head.path,)),
        )


class TgiInfoDialect(TgiDialect):
    """GET /info, of the default route's upstream."""

    paths = frozenset({INFO_PATH})

    def decode(self, head: Head, body: bytes) -> Call:  # noqa: ARG002  # it has none
        """There is nothing to read."""
        original = Original(format=INFO, fields={}, beyond=(head.path,))
        return Call(model=None, original=original)


class _TopLevel(Struct, frozen=True):
    input: Raw | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET


def is_tgi(body: bytes) -> bool:
    """Whether a body at /generate is TGI's: it has `inputs`, and no `input`."""
    if b'"inputs"' not in body:
        return False
    try:
        found = msgspec.json.decode(body, type=_TopLevel)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return found.inputs is not UNSET and found.input is UNSET


def health() -> Reply:
    """The answer to GET /health and, of TGI's clients, GET /: an empty 200."""
    return Reply(status=200, headers=[])


def info(model: str, *, version: str) -> Reply:
    """GET /info of a model whose upstream tells nothing about itself: no bound is known."""
    told = Info(
        model_id=model,
        model_sha=None,
        max_concurrent_requests=_NO_BOUND,
        max_best_of=1,
        max_stop_sequences=_NO_BOUND,
        max_input_tokens=_NO_BOUND,
        max_total_tokens=_NO_BOUND,
        router="keyhole",
        version=version,
    )
    return Reply(status=200, headers=[("content-type", JSON)], body=encode_info(told))


def _samples(asked: Asked) -> bool | None:
    """Whether sampling is on by TGI's rules; None where nothing is said. 0 degrees is greedy."""
    given: Mapping[str, Any] | None = asked.given
    if given is None:
        return None
    temperature = given.get("temperature")
    if temperature == 0 and asked.parameters.temperature == 0:
        return False
    return (
        asked.parameters.do_sample is True
        or temperature not in (None, 1.0)
        or not _TURN_SAMPLING_ON.isdisjoint(given)
    )
