"""What an upstream's failure means: whose fault, which code, what to do, when to come back.

One reading for all kinds of upstream, because a status means the same at each of them and what
differs can be told from the words. It quotes an upstream only where its words are about the
request (400, 404, 413, 415, 422): OpenAI, for one, repeats part of the key in a 401.

Facts (hub-docs of August 2026, TGI at db931fcf, vLLM 0.28, llama.cpp, OpenAI's error guide):
- Hugging Face says a bad token in two ways: 401, and 400 "Authorization header is correct, but
  the token seems invalid"; out of credits is 402, at OpenAI 429 with insufficient_quota;
- 410 is what api-inference.huggingface.co answers since November 2025;
- a cold model is 503 with estimated_time (hosted API) or "Loading model" (llama.cpp);
- Retry-After comes as seconds, whole or not, or as a date (RFC 9110, section 10.2.3); Hugging
  Face sends `RateLimit: "api";r=0;t=55` instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from keyhole.backends.words import Said, is_page, listen, repeatable, repeatable_word
from keyhole.catalog import Target, Upstream
from keyhole.dialects.base import StreamFailedError
from keyhole.errors import Code, UpstreamError
from keyhole.wire.call import Call
from keyhole.wire.http import UpstreamResponse

_HUGGING_FACE = frozenset({"hf-inference", "huggingface"})
_HOST = "huggingface.co"
_OLD_HOST = "api-inference.huggingface.co"
_TRIVIAL = frozenset({"not found", "bad request", "unprocessable entity", "model not found"})

_SECONDS = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,9})?")
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-3][0-9]"
    r" (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [0-9]{4}"
    r" [0-2][0-9]:[0-5][0-9]:[0-6][0-9] GMT"
)
_REMAINING = re.compile(r";\s*r=([0-9]{1,9})\b")
_RESETS_IN = re.compile(r";\s*t=([0-9]{1,7})\b")


class _Case(Struct, frozen=True):
    """A response that is not a 200, and what it was the response to."""

    call: Call
    target: Target
    response: UpstreamResponse
    said: Said
    streamed: StreamFailedError | None = None
    """The failure in its stream that the response stands for."""
    is_same_format: bool = False
    """Whether it answers a request in the client's own format."""

    @property
    def is_hugging_face(self) -> bool:
        return is_hugging_face(self.target.upstream)

    @property
    def table(self) -> str:
        """Where the configuration speaks of the upstream."""
        return f"[upstream.{self.target.upstream.name}]"

    @property
    def run(self) -> str:
        """What stands before a command that is about the engine."""
        return "Run" if is_our_engine(self.target.upstream) else "Run on its machine"

    @property
    def model_page(self) -> str:
        return f"https://huggingface.co/{self.target.model.partition(':')[0]}"

    def error(
        self, code: Code, what: str, *, hint: str | None = None, is_quoting: bool = False
    ) -> UpstreamError:
        """CULPRIT WHAT (STATUS), with the upstream's own words where they may be repeated."""
        message = f"{culprit(self.target.upstream)} {what} ({self._where()})"
        words = self.said.words if is_quoting else ""
        if words.strip().rstrip(".").lower() not in {"", *_TRIVIAL}:
            quote = repeatable(words, self.call, self.target.upstream.secret)
            if quote is not None:
                message += f': "{quote if quote.endswith("...") else quote.rstrip(".")}"'
            else:
                left_out = "What it said is left out, for it repeats the prompt or a secret."
                hint = f"{left_out} {hint}" if hint else left_out
        error = UpstreamError(
            code,
            f"{message}.",
            hint=hint,
            upstream_status=self.response.status,
            retry_after=self._retry_after(),
            model=self.call.model or self.target.model,
        )
        error.estimated_time_s = self.said.estimated_time_s
        if is_quoting and self.is_same_format:
            error.upstream_code = self._word(self.said.code)
            error.upstream_param = self._word(self.said.param)
        return error

    def _word(self, word: str) -> str | None:
        """A word of its own that the client's programs know, if it may be repeated."""
        return repeatable_word(word, self.call, self.target.upstream.secret)

    def _where(self) -> str:
        if self.streamed is None:
            return str(self.response.status)
        status = self.streamed.status
        return "in its stream" if status is None else f"{status} in its stream"

    def _retry_after(self) -> str | None:
        if self.response.status != 429 and self.response.status < 500:
            return None
        told = read_retry_after(self.response.headers)
        if told is None and self.said.estimated_time_s is not None:
            return str(max(1, math.ceil(self.said.estimated_time_s)))
        return told

    def when(self) -> str:
        """When to come back, in words."""
        told = self._retry_after()
        if told is None:
            return "Try again later."
        if _DATE.fullmatch(told):
            return f"Try again after {told}."
        return f"Try again in about {math.ceil(float(told))} s."


def explain(
    call: Call, target: Target, response: UpstreamResponse, *, is_same_format: bool = False
) -> UpstreamError:
    """What a response that is not a 200 means; never raises.

    Its own code, and the field that it names, are kept where the client speaks its format.
    """
    case = _Case(call, target, response, listen(response), is_same_format=is_same_format)
    return (_by_sign(case) or _BY_STATUS.get(response.status, _other))(case)


def stream_failed(call: Call, target: Target, error: StreamFailedError) -> UpstreamError:
    """What an error means that is told in a good (200) stream; never raises.

    It is read as the response that it would have been before the stream began; one that names
    no status as a 500.
    """
    status = 500 if error.status is None else error.status
    body = msgspec.json.encode({"error": error.message})
    response = UpstreamResponse(status=status, headers={}, body=body)
    case = _Case(call, target, response, listen(response), error)
    return (_by_sign(case) or _BY_STATUS.get(status, _other))(case)


def no_frame_in_time(target: Target) -> UpstreamError:
    """What it means that a stream has begun, and says nothing."""
    return UpstreamError(
        Code.UPSTREAM_TIMEOUT,
        f"{culprit(target.upstream)} began to answer, but said nothing in time.",
        hint="The operator sets the time with first_byte_timeout_s.",
        upstream_status=200,
    )


def bad_frame(target: Target) -> UpstreamError:
    """What it means that a frame is not what this kind of upstream should send."""
    upstream = target.upstream
    return UpstreamError(
        Code.UPSTREAM_NOT_JSON,
        f"{culprit(upstream)} sent a stream that is not what its kind of server sends.",
        hint=f"Check kind and url in [upstream.{upstream.name}].",
        upstream_status=200,
    )


def broken_off(target: Target) -> UpstreamError:
    """What it means that a stream ends before the frame that tells its end."""
    return UpstreamError(
        Code.UPSTREAM_UNREACHABLE,
        f"{culprit(target.upstream)} ended its stream before the answer was complete.",
        hint="It, or a proxy in front of it, has broken off.",
        upstream_status=200,
    )


def no_such_path(target: Target, path: str, status: int) -> UpstreamError:
    """What it means that a server of the right kind has nothing at a path of its kind."""
    upstream = target.upstream
    return UpstreamError(
        Code.UNSUPPORTED_BY_UPSTREAM,
        f"{culprit(upstream)} has nothing at {path} ({status}).",
        hint=f"It may be too old for it; or check the url in [upstream.{upstream.name}].",
        upstream_status=status,
    )


def echoed_secret(upstream: Upstream, status: int) -> UpstreamError:
    """What it means that an answer holds the upstream's own secret."""
    return UpstreamError(
        Code.UPSTREAM_ERROR,
        f"Upstream '{upstream.name}' repeated its own secret in the answer.",
        hint="The answer was withheld. Check what stands at its url.",
        upstream_status=status,
    )


def bad_answer(target: Target, response: UpstreamResponse) -> UpstreamError:
    """What a 200 means whose body is not what this kind of upstream should send."""
    upstream = target.upstream
    code = Code.UPSTREAM_NOT_JSON
    hint: str | None = f"Check kind and url in [upstream.{upstream.name}]."
    if is_page(response):
        what = "answered with a web page instead of JSON"
        hint = f"{hint} A proxy or a sign-in page may stand in front of it."
    elif not response.body.strip():
        what = "answered with nothing"
    else:
        try:
            value = msgspec.json.decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            what = "answered with something that is not JSON"
        else:
            what = "answered with JSON that is not what its kind of server sends"
            if isinstance(value, dict) and value.get("error"):
                code, what = Code.UPSTREAM_ERROR, "answered with an error in place of a text"
                hint = None if is_hugging_face(upstream) else "Its own log may say why."
    return UpstreamError(
        code,
        f"{culprit(upstream)} {what} ({response.status}).",
        hint=hint,
        upstream_status=response.status,
    )


def culprit(upstream: Upstream) -> str:
    """An upstream's name at the beginning of a sentence."""
    if is_hugging_face(upstream):
        return "Hugging Face"
    return "The engine" if is_our_engine(upstream) else f"Upstream '{upstream.name}'"


def is_hugging_face(upstream: Upstream) -> bool:
    """Whether it is Hugging Face itself, and not another server that speaks as it does."""
    return upstream.kind in _HUGGING_FACE and _is_at_hugging_face(upstream.url)


def is_our_engine(upstream: Upstream) -> bool:
    """Whether it is the engine that this Keyhole runs, and not one of another machine."""
    return upstream.kind == "engine" and upstream.url.startswith("unix:")


@lru_cache(maxsize=64)
def _is_at_hugging_face(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == _HOST or host.endswith(f".{_HOST}")


def read_retry_after(headers: Mapping[str, str]) -> str | None:
    """When to come back: whole seconds or an HTTP date; None for anything else."""
    told = headers.get("retry-after", "").strip(" \t")
    if _SECONDS.fullmatch(told):  # a fraction is no Retry-After to clients: urllib3 raises at one
        return str(math.ceil(float(told)))
    if _DATE.fullmatch(told):
        return told
    # A list of policies; Hugging Face's is `"api";r=0;t=55`. The longest wait is the true one.
    waits = [
        int(resets[1])
        for policy in headers.get("ratelimit", "")[:1000].split(",")
        if (left := _REMAINING.search(policy)) and int(left[1]) == 0
        if (resets := _RESETS_IN.search(policy))
    ]
    return str(max(waits)) if waits else None


# What the words or codes say, whatever the status beside them


def _by_sign(case: _Case) -> Callable[[_Case], UpstreamError] | None:
    said, status = case.said, case.response.status
    if not 400 <= status < 500:
        return None
    if "insufficient_quota" in said.slugs or said.mentions(
        "exceeded your monthly included credits", "insufficient_quota"
    ):
        return _out_of_credits
    if status == 400 and said.mentions("token seems invalid"):
        return _token_refused
    if said.mentions("requires a pro subscription"):
        return _not_granted
    if status == 400 and said.slugs & {"model_not_supported", "model_not_found"}:
        return _no_model
    return None


# What each status means


def _refused(case: _Case) -> UpstreamError:
    hint = None
    upstream = case.target.upstream
    # vLLM's words for a model such as gpt2, and Ollama's
    is_no_chat = case.said.mentions("chat template", "does not support chat")
    if is_no_chat and upstream.kind == "openai" and not upstream.has_completions:
        hint = f"The model cannot chat: set completions = true in {case.table}."
    return case.error(
        Code.UPSTREAM_REFUSED_REQUEST, "refused the request", hint=hint, is_quoting=True
    )


def _token_refused(case: _Case) -> UpstreamError:
    if case.is_hugging_face:
        hint = f"Run hf auth login, or set HF_TOKEN, or token in {case.table}."
    else:
        hint = f"Set token in {case.table} to one that it takes."
    has_token = case.target.upstream.secret is not None
    what = "refused the token" if has_token else "wants a token and was sent none"
    return case.error(Code.UPSTREAM_TOKEN_REFUSED, what, hint=hint)


def _forbidden(case: _Case) -> UpstreamError:
    if case.said.is_page:
        return case.error(
            Code.UPSTREAM_ERROR,
            "answered with a web page that denies access",
            hint="A proxy or a firewall in front of it may have done that.",
        )
    if case.said.mentions("too large to be loaded"):
        return case.error(
            Code.UPSTREAM_MODEL_NOT_FOUND,
            f"finds the model '{case.target.model}' too large to load",
        )
    if case.said.mentions("gated", "restricted", "subscription", "awaiting a review"):
        return _not_granted(case)
    if case.is_hugging_face and case.target.upstream.secret is not None:
        return case.error(
            Code.UPSTREAM_TOKEN_REFUSED,
            "refused the token: it lacks a permission",
            hint="Give it 'Make calls to Inference Providers' at"
            " https://huggingface.co/settings/tokens.",
        )
    return case.error(
        Code.UPSTREAM_TOKEN_REFUSED,
        "refused access",
        hint=f"Check the token in {case.table} and what it may do.",
    )


def _not_granted(case: _Case) -> UpstreamError:
    hint = f"Check what the token in {case.table} may do."
    if case.is_hugging_face:
        hint = (
            f"Ask for access at {case.model_page} with the token's account; some models want PRO."
        )
    return case.error(
        Code.UPSTREAM_TOKEN_REFUSED,
        f"does not let this token use the model '{case.target.model}'",
        hint=hint,
    )


def _out_of_credits(case: _Case) -> UpstreamError:
    hint = f"Top up the account behind {case.table}."
    if case.is_hugging_face:
        hint = (
            "Buy credits or subscribe at https://huggingface.co/settings/billing,"
            f" or name an organisation that pays with bill_to in {case.table}."
        )
    return case.error(
        Code.UPSTREAM_OUT_OF_CREDITS, "says that the account is out of credits", hint=hint
    )


def _no_model(case: _Case) -> UpstreamError:
    model = case.target.model
    if case.target.upstream.kind == "engine" and "model_not_pulled" in case.said.slugs:
        return case.error(
            Code.MODEL_NOT_PULLED,
            f"does not have the model '{model}' yet",
            hint=f"{case.run}: keyhole model pull {model}",
        )
    hint = f"Check the url in {case.table} and the model's name in the target '{case.target}'."
    if case.is_hugging_face:
        hint = (
            f"See at {case.model_page} who serves it, if anyone does;"
            " GPT-2 models run in Keyhole's own engine."
        )
    return case.error(
        Code.UPSTREAM_MODEL_NOT_FOUND,
        f"does not serve the model '{model}'",
        hint=hint,
        is_quoting=True,
    )


def _gone(case: _Case) -> UpstreamError:
    hint = f"Check the url in {case.table} and the model's name in the target '{case.target}'."
    is_retired = case.is_hugging_face and case.said.mentions("no longer supported")
    if is_retired or _OLD_HOST in case.target.upstream.url:
        hint = (
            f"The host {_OLD_HOST} is retired: in {case.table} set url ="
            ' "https://router.huggingface.co/hf-inference", or kind = "huggingface" for chat'
            " models. GPT-2 models run in Keyhole's own engine."
        )
    return case.error(Code.UPSTREAM_GONE, "no longer serves this address", hint=hint)


def _limited(case: _Case) -> UpstreamError:
    is_overloaded = case.said.mentions("overloaded") or "overloaded" in case.said.slugs
    what = "is overloaded" if is_overloaded else "limits the rate of requests"
    return case.error(Code.UPSTREAM_RATE_LIMITED, what, hint=case.when())


def _not_ready(case: _Case) -> UpstreamError:
    if case.said.estimated_time_s is not None or case.said.mentions("loading"):
        what = f"is loading the model '{case.target.model}'"
        return case.error(Code.UPSTREAM_LOADING, what, hint=case.when())
    return _unavailable(case)


def _unavailable(case: _Case) -> UpstreamError:
    return case.error(Code.UPSTREAM_UNAVAILABLE, "is not available", hint=case.when())


def _late(case: _Case) -> UpstreamError:
    return case.error(Code.UPSTREAM_TIMEOUT, "did not answer in time", hint=case.when())


def _failed(case: _Case) -> UpstreamError:
    if case.target.upstream.kind == "engine" and "model_unsupported" in case.said.slugs:
        return case.error(
            Code.UPSTREAM_ERROR,
            f"cannot run the model '{case.target.model}'",
            hint=f"{case.run}: keyhole model list",
        )
    what = "failed while it generated" if case.response.status == 424 else "failed"
    hint = case.when() if case.is_hugging_face else "Its own log may say why."
    return case.error(Code.UPSTREAM_ERROR, what, hint=hint)


def _other(case: _Case) -> UpstreamError:
    status = case.response.status
    if status >= 500:
        return _failed(case)
    if 300 <= status < 400:
        return case.error(
            Code.UPSTREAM_ERROR,
            "answered with a redirect, which is not followed",
            hint=f"Set the url in {case.table} to where it leads; often that is https://.",
        )
    if status < 300:
        return case.error(Code.UPSTREAM_ERROR, "answered without a text")
    return case.error(
        Code.UPSTREAM_ERROR, "did not take the request", hint=f"Check the url in {case.table}."
    )


_BY_STATUS: Mapping[int, Callable[[_Case], UpstreamError]] = {
    400: _refused,
    401: _token_refused,
    402: _out_of_credits,
    403: _forbidden,
    404: _no_model,
    408: _late,
    410: _gone,
    413: _refused,
    415: _refused,
    422: _refused,
    424: _failed,
    429: _limited,
    502: _unavailable,
    503: _not_ready,
    504: _late,
    **dict.fromkeys((520, 521, 523, 525, 526, 529, 530), _unavailable),
    **dict.fromkeys((522, 524), _late),  # Cloudflare's own, as 520 to 530 are
}
