"""text-generation-inference's wire format: what `/generate` takes, answers and refuses with.

It neither generates nor connects: bytes to values and back, and the limits that TGI checks.
Streams are in `tgi_stream`; how TGI's clients are answered by Keyhole is in `tgi_client`.

Facts (huggingface/text-generation-inference, router/src at db931fcf, 2026-01-08):
- Leave `parameters` out and sampling is on; send `parameters: {}` and it is off. Whatever a
  request names of temperature, top_k, top_p or typical_p turns it on again.
- A body that is JSON but not a request is refused in text/plain; a request with a value that
  is out of bounds is refused in JSON, with texts that clients match on.
- `generated_text` ends with the stop sequence that ended it.
- `truncate` keeps the end of the prompt, not its beginning.
- /tokenize takes the body of /generate, whose parameters mean nothing there; no text is too long
  or too short for it. Its offsets are the tokenizers library's, into the input as it came; in
  Rust these count bytes, although TGI cuts the texts out by characters. Here both are characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from keyhole.dialects.base import decode_upstream_json, read_usage
from keyhole.wire.answer import Usage
from keyhole.wire.call import Original
from keyhole.wire.call import Parameters as HfParameters
from keyhole.wire.events import Reason

JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Meta(ge=0)]  # msgspec 0.22 cannot state the upper bound
FinishReason = Literal["length", "eos_token", "stop_sequence"]


# What both sides read and write


class Parameters(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """TGI's parameters; None means that the request said nothing."""

    adapter_id: str | None = None
    best_of: U32 | None = None
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float | None = None
    grammar: Any = None
    max_new_tokens: U32 | None = None
    repetition_penalty: float | None = None
    return_full_text: bool | None = None
    seed: U64 | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: U32 | None = None
    top_p: float | None = None
    truncate: U32 | None = None
    typical_p: float | None = None
    watermark: bool = False

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn by chance; a value that changes the odds asks for it too."""
        return (
            self.do_sample
            or self.temperature not in (None, 1.0)
            or self.top_k is not None
            or self.top_p is not None
            or self.typical_p is not None
        )


class GenerateRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `POST /generate`."""

    inputs: str
    parameters: Parameters = Parameters(do_sample=True)
    stream: bool = False


class Token(Struct, frozen=True):
    """One generated token; the texts of all of them joined are the generated text."""

    id: int
    text: str
    logprob: float
    special: bool


class Details(Struct, frozen=True, kw_only=True):
    """How the text came to be."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None = None
    prefill: tuple[Token, ...] = ()
    tokens: tuple[Token, ...] = ()


class GenerateResponse(Struct, frozen=True, kw_only=True):
    """The answer to `POST /generate`; `details` is there only when it was asked for."""

    generated_text: str
    details: Details | UnsetType = UNSET


class TextToken(Struct, frozen=True, gc=False):
    """One token of a given text; the array of them answers `POST /tokenize`."""

    id: int
    text: str
    """The part of the input that it stands for: a character of several tokens is in each."""
    start: int
    """Where that part begins, in characters of the input."""
    stop: int


class Limits(Struct, frozen=True, kw_only=True):
    """What a TGI server allows; `/info` publishes the same names."""

    max_input_tokens: int
    max_total_tokens: int
    """Prompt and generated tokens together."""
    max_concurrent_requests: int
    max_best_of: int = 1
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 0


class Info(Struct, frozen=True, kw_only=True):
    """The answer to `GET /info`."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None = "text-generation"
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int = 1
    max_client_batch_size: int = 1
    router: str
    version: str
    sha: str | None = None
    docker_label: str | None = None


# The server's half


class RefusedError(Exception):
    """A request that a TGI server turns down: status, text, and TGI's word for the kind."""

    def __init__(
        self, status: int, message: str, error_type: str | None = None, *, allow: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_type = error_type
        """None for the refusals that TGI writes as text/plain."""
        self.allow = allow
        """The methods for the `Allow` header of a 405."""


def decode_request(body: bytes) -> GenerateRequest:
    """The request that a body holds; raises RefusedError (400 not JSON, 422 not a request)."""
    try:
        request = msgspec.json.decode(body, type=GenerateRequest)
    except msgspec.ValidationError as error:
        raise _no_request(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RefusedError(400, "Failed to parse the request body as JSON") from None
    if (request.parameters.seed or 0) >= 2**64:
        raise _no_request("Expected `int` < 2**64 - at `$.parameters.seed`")
    return request


def invalid(text: str) -> RefusedError:
    """The refusal (422) of a request that has a value which it must not have."""
    return RefusedError(422, f"Input validation error: {text}", "validation")


def validate(request: GenerateRequest, limits: Limits) -> None:
    """Raise RefusedError (422) for the first value that TGI would refuse, with TGI's own text."""
    given = request.parameters
    stops, best_of, top_n = len(given.stop), given.best_of or 1, given.top_n_tokens or 0
    most = limits.max_input_tokens
    checks = (
        (best_of > 1 and not given.is_sampling, "you must use sampling when `best_of` is > 1"),
        (_at_most(given.temperature, 0), "`temperature` must be strictly positive"),
        (_at_most(given.repetition_penalty, 0), "`repetition_penalty` must be strictly positive"),
        (
            given.frequency_penalty is not None and abs(given.frequency_penalty) > 2,
            "`frequency_penalty` must be >= -2.0 and <= 2.0",
        ),
        (_is_no_fraction(given.top_p), "`top_p` must be > 0.0 and < 1.0"),
        (_is_no_fraction(given.typical_p), "`typical_p` must be > 0.0 and < 1.0"),
        (_at_most(given.top_k, 0), "`top_k` must be strictly positive"),
        (given.max_new_tokens == 0, "`max_new_tokens` must be strictly positive"),
        (
            stops > limits.max_stop_sequences,
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {stops}",
        ),
        (best_of > 1 and given.seed is not None, "`seed` must not be set when `best_of` > 1"),
        (given.best_of not in (None, 1), "`best_of` != 1 is not allowed for this endpoint"),
        (
            top_n > limits.max_top_n_tokens,
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top_n}",
        ),
        (not request.inputs, "`inputs` cannot be empty"),
        (
            given.truncate is not None and not 0 < given.truncate <= most,
            f"`truncate` must be strictly positive and less than {most}. Given: {given.truncate}",
        ),
        (given.grammar is not None, "grammar is not supported"),
        (given.watermark, "`watermark` is not supported"),
        (given.decoder_input_details, "`decoder_input_details` is not supported"),
        (given.adapter_id is not None, "`adapter_id` is not supported: there are no adapters"),
    )
    for is_wrong, text in checks:
        if is_wrong:
            raise invalid(text)


def validate_lengths(prompt_tokens: int, max_new_tokens: int, limits: Limits) -> None:
    """Raise RefusedError (422), in TGI's words, when prompt and answer do not fit the context."""
    if prompt_tokens + max_new_tokens > limits.max_total_tokens:
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {prompt_tokens} `inputs` tokens and {max_new_tokens} `max_new_tokens`"
        )
    if prompt_tokens > limits.max_input_tokens:
        raise invalid(
            f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {prompt_tokens}"
        )


def encode_response(response: GenerateResponse) -> bytes:
    """The JSON body of an answer."""
    return msgspec.json.encode(response)


def encode_tokens(tokens: Sequence[TextToken]) -> bytes:
    """The JSON body of the answer to `POST /tokenize`."""
    return msgspec.json.encode(tokens)


def encode_info(info: Info) -> bytes:
    """The JSON body of `/info`."""
    return msgspec.json.encode(info)


def encode_error(error: RefusedError) -> tuple[str, bytes]:
    """The content type and the body of a refusal."""
    if error.error_type is None:
        return PLAIN, error.message.encode()
    return JSON, msgspec.json.encode({"error": error.message, "error_type": error.error_type})


def _no_request(why: str) -> RefusedError:
    text = why.replace("Object missing required field", "missing field")
    return RefusedError(422, f"Failed to deserialize the JSON body into the target type: {text}")


def _at_most(value: float | None, bound: float) -> bool:
    return value is not None and value <= bound


def _is_no_fraction(value: float | None) -> bool:
    return value is not None and not 0 < value < 1


# The client's half

BEYOND = frozenset(
    {
        *("adapter_id", "best_of", "decoder_input_details", "frequency_penalty", "grammar"),
        *("top_n_tokens", "truncate", "typical_p", "watermark"),
    }
)
"""The parameters that TGI takes beyond the Hugging Face names."""

TOKENS, INFO = "tgi-tokens", "tgi-info"
"""The formats of calls that ask for no text: for the tokens of one, or about the server."""

_SHAPES: Mapping[str, Any] = {TOKENS: list[Any], INFO: dict[str, Any]}

_REASONS: Mapping[str, Reason] = {
    "length": "length",
    "eos_token": "eos",
    "stop_sequence": "stop",
}


class _Generated(Struct, frozen=True):
    """What every version answers with; more is not read, so that more may differ."""

    generated_text: str
    details: Any = None


def encode_request(
    prompt: str, wanted: HfParameters, *, more: Mapping[str, Any] | None = None
) -> bytes:
    """The body of `POST /generate` for one text; `more` are parameters of this format alone.

    Nothing of `parameters` is sent when nothing was wanted, for an empty object would turn
    sampling off; otherwise `do_sample` is always said, true unless greedy decoding is wanted,
    as it was on the hosted API. What is only about sampling is left out of a greedy request,
    because naming it would turn sampling on. top_p = 1 means no bound, which TGI refuses to be
    told. `return_full_text` is never sent: whoever wants the prompt puts it there.
    """
    parameters: dict[str, Any] = {
        "max_new_tokens": wanted.max_new_tokens,
        "repetition_penalty": wanted.repetition_penalty,
        "stop": wanted.stop or None,
    }
    if not wanted.is_greedy:
        parameters |= {
            "temperature": wanted.temperature,
            "top_k": wanted.top_k,
            "top_p": None if wanted.top_p == 1 else wanted.top_p,
            "seed": wanted.seed,
        }
    named = {name: value for name, value in parameters.items() if value is not None}
    named |= more or {}
    if not named and not wanted.is_greedy:
        return msgspec.json.encode({"inputs": prompt})
    named["do_sample"] = not wanted.is_greedy
    return msgspec.json.encode({"inputs": prompt, "parameters": named})


def encode_original(original: Original, more: dict[str, Any]) -> bytes:
    """The body of a request in this format as its client sent it, but for some parameters.

    `stream` is left out, for the path says it. A request without `parameters` samples, so the
    ones that it is given here say so.
    """
    fields: dict[str, Any] = {
        name: value for name, value in original.fields.items() if name != "stream"
    }
    if more:
        raw = original.fields.get("parameters", b"null")
        given: dict[str, Any] | None = msgspec.json.decode(raw, type=dict[str, Raw] | None)
        fields["parameters"] = {"do_sample": True} | more if given is None else given | more
    return msgspec.json.encode(fields)


def decode_response(body: bytes) -> tuple[str, Reason | None]:
    """The text of a good answer, and why it ended if it tells; raises NotThisFormatError."""
    answer = decode_upstream_json(body, _Generated)
    return answer.generated_text, read_reason(answer.details)


def check_told(format_: str, body: bytes) -> None:
    """Raise NotThisFormatError where a body is no answer to a call that asks for no text."""
    decode_upstream_json(body, _SHAPES[format_])


def read_reason(details: object) -> Reason | None:
    """Why a text ended, from its details; None where they do not say."""
    if not isinstance(details, dict) or "finish_reason" not in details:
        return None
    told = details["finish_reason"]
    return _REASONS.get(told, "stop") if isinstance(told, str) else None


def read_usage_headers(headers: Mapping[str, str]) -> Usage | None:
    """The tokens that a TGI server says it used, which it does in headers; None if it does not."""
    counts = [headers.get(name, "") for name in ("x-prompt-tokens", "x-generated-tokens")]
    if not all(count.isascii() and count.isdigit() and len(count) < 10 for count in counts):
        return None
    return read_usage(*map(int, counts))
