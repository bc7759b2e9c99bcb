"""Servers of the OpenAI format, each with its own habits: /v1/chat/completions and so on.

Of their checks it makes one, transformers serve's: a name that it does not know is an error.

Facts (openai-python 3.54.0's types; vLLM 0.28; llama.cpp tools/server; transformers 5.23
cli/serving; November 2026):
- OpenAI sends the role first, the finish with an empty delta, then the usage where it was asked
  for, and says `"usage": null` until then; [DONE] ends it;
- vLLM leaves unset keys out, its errors carry the HTTP status as `code`, and [DONE] follows an
  error too; a wrong key is {"error": "Unauthorized"};
- llama.cpp pings with comments and puts `timings` beside the last choice;
- transformers serve puts the usage beside the finish, asked for or not, and sends no [DONE]; its
  errors are {"detail": "text"}, but {"error": "text"} in a stream (tests/real runs the real one).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from standins.models.scenes import PIECES, PROMPT_TOKENS, RETRY_AFTER_S, TEXT, Cue, Scene
from standins.models.tgi_server import cut_short, held
from standins.upstream import Answer, Reply, Seen, Streamed

_DONE = b"data: [DONE]\n\n"
_PAGE = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>\r\n"
_STATUSES = {
    Scene.REFUSED: 400,
    Scene.UNAUTHORIZED: 401,
    Scene.MISSING: 404,
    Scene.INVALID: 422,
    Scene.LIMITED: 429,
    Scene.LOADING: 503,
    Scene.WAKING: 503,
}
_WORDS = {
    Scene.REFUSED: "max_tokens is too large: 99999.",
    Scene.UNAUTHORIZED: "Incorrect API key provided: sk-up****ream.",
    Scene.MISSING: "The model `tiny/model` does not exist.",
    Scene.INVALID: "Unprocessable: the messages hold no text.",
    Scene.LIMITED: "Rate limit reached for tiny/model: 3 requests per minute.",
    Scene.LOADING: "Loading model",
    Scene.WAKING: "Loading model",
    Scene.FAILS_MIDWAY: "The server had an error while it processed your request",
}
_TYPES = {
    Scene.REFUSED: ("invalid_request_error", "max_tokens", None),
    Scene.UNAUTHORIZED: ("invalid_request_error", None, "invalid_api_key"),
    Scene.MISSING: ("invalid_request_error", None, "model_not_found"),
    Scene.INVALID: ("invalid_request_error", None, None),
    Scene.LIMITED: ("requests", None, "rate_limit_exceeded"),
}
_KNOWN_TO_TRANSFORMERS = {
    *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("seed", "stop", "stream", "stream_options", "n", "logprobs", "response_format", "tools"),
    *("tool_choice", "user", "frequency_penalty", "presence_penalty", "generation_config"),
}


@dataclass(frozen=True)
class Flavour:
    """How one of these servers differs from the others."""

    name: str
    has_completions: bool = True
    space: str = " "
    """After `data:`."""
    line_end: bytes = b"\n"
    keeps_unset: bool = True
    """Whether a key without a value is there, as null."""
    is_done_said: bool = True
    comment: bytes = b""
    """What it sends beside the frames."""


OPENAI = Flavour("openai", has_completions=False)
VLLM = Flavour("vllm", keeps_unset=False)
LLAMA_CPP = Flavour("llama.cpp", comment=b":\n\n", line_end=b"\r\n")
TRANSFORMERS = Flavour("transformers", keeps_unset=False, is_done_said=False)


def answer(seen: Seen, path: str, cue: Cue, flavour: Flavour) -> Answer:
    """What such a server says at a path."""
    if seen.method == "GET":
        return _models(path)
    is_chat = path == "/v1/chat/completions"
    if not is_chat and (path != "/v1/completions" or not flavour.has_completions):
        return Reply.json(
            {"error": {"message": "Invalid URL", "type": "invalid_request_error"}}, 404
        )
    asked = seen.json
    unknown = sorted(set(asked) - _KNOWN_TO_TRANSFORMERS)
    if flavour is TRANSFORMERS and unknown:
        return Reply.json({"detail": f"Unexpected fields in the request: {set(unknown)}"}, 422)
    if not cue.is_text and not cue.is_partial:
        return refusal(cue.scene, flavour)
    if asked.get("stream"):
        return _stream(asked, cue, flavour, is_chat=is_chat)
    return _whole(cue, flavour, is_chat=is_chat)


def refusal(scene: Scene, flavour: Flavour) -> Reply:
    """An error instead of a text."""
    if scene is Scene.UNAVAILABLE:
        return Reply(502, _PAGE, {"content-type": "text/html"})
    status = _STATUSES[scene]
    tells_when = status == 429 or (status == 503 and flavour is not LLAMA_CPP)
    headers = {"retry_after": str(RETRY_AFTER_S)} if tells_when else {}
    return Reply.json(_error(scene, status, flavour), status, **headers)


def frames(asked: Any, cue: Cue, flavour: Flavour, *, is_chat: bool) -> list[bytes]:
    """The frames of a good stream."""
    wants_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    base = _base(is_chat=is_chat, is_stream=True)
    if wants_usage and flavour.keeps_unset:
        base["usage"] = None

    def frame(value: Any) -> bytes:
        text = json.dumps(value, ensure_ascii=False)
        lines = [f"data:{flavour.space}{text}".encode(), b"", b""]
        return flavour.line_end.join(lines)

    def chunk(said: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice: dict[str, Any] = {"index": 0, **said}
        if finish is not None or flavour.keeps_unset:
            choice |= {"finish_reason": finish}
        return frame({**base, "choices": [choice], **more})

    out = [chunk({"delta": {"role": "assistant", "content": ""}})] if is_chat else []
    out += [
        chunk({"delta": {"content": piece}} if is_chat else {"text": piece}) for piece in PIECES
    ]
    last: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
    finish, usage = _finish(cue.scene), _usage(cue)
    if flavour is TRANSFORMERS:
        return [*out, chunk(last, finish, usage=usage)]
    out.append(chunk(last, finish, **({"timings": {}} if flavour is LLAMA_CPP else {})))
    if wants_usage:
        out.append(frame({**base, "choices": [], "usage": usage}))
    return [flavour.comment + piece for piece in out]


def _stream(asked: Any, cue: Cue, flavour: Flavour, *, is_chat: bool) -> Answer:
    whole = frames(asked, cue, flavour, is_chat=is_chat)
    done = _DONE if flavour.is_done_said else b""
    if cue.is_partial:
        error = json.dumps(_error(Scene.FAILS_MIDWAY, 500, flavour)).encode()
        tail = done if flavour is VLLM else b""
        return cut_short(cue, whole, b"data: " + error + b"\n\n" + tail)
    return Streamed(held(cue, [*whole, done] if done else whole))


def _whole(cue: Cue, flavour: Flavour, *, is_chat: bool) -> Answer:
    said = {"message": {"role": "assistant", "content": TEXT}} if is_chat else {"text": TEXT}
    choice: dict[str, Any] = {"index": 0, **said, "finish_reason": _finish(cue.scene)}
    if flavour.keeps_unset:
        choice["logprobs"] = None
    whole = {**_base(is_chat=is_chat, is_stream=False), "choices": [choice], "usage": _usage(cue)}
    if cue.is_partial:
        begun = json.dumps(whole).encode()[:20]
        return Streamed((begun,), {"content-type": "application/json"}, is_cut=True)
    return Reply.json(whole)


def _base(*, is_chat: bool, is_stream: bool) -> dict[str, Any]:
    kind = "chat.completion" if is_chat else "text_completion"
    return {
        "id": "chatcmpl-123" if is_chat else "cmpl-123",
        "object": f"{kind}.chunk" if is_chat and is_stream else kind,
        "created": 1700000000,
        "model": "tiny/model",
    }


def _finish(scene: Scene) -> str:
    return "length" if scene is Scene.LENGTH else "stop"


def _usage(cue: Cue) -> dict[str, int]:
    completion = cue.completion_tokens
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion,
        "total_tokens": PROMPT_TOKENS + completion,
    }


def _error(scene: Scene, status: int, flavour: Flavour) -> Any:
    message = _WORDS[scene]
    if flavour is TRANSFORMERS:
        return {"detail": message} if status < 500 else {"error": message}
    if flavour is VLLM:
        if status == 401:
            return {"error": "Unauthorized"}
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
        return {"error": {"message": message, "type": kind, "param": None, "code": status}}
    if flavour is LLAMA_CPP:
        kind = {401: "authentication_error", 503: "unavailable_error", 500: "server_error"}
        word = kind.get(status, "invalid_request_error")
        return {"error": {"code": status, "message": message, "type": word}}
    word, param, code = _TYPES.get(scene, ("server_error", None, None))
    return {"error": {"message": message, "type": word, "param": param, "code": code}}


def _models(path: str) -> Reply:
    model = {"id": "tiny/model", "object": "model", "created": 1, "owned_by": "tiny"}
    if path == "/v1/models":
        return Reply.json({"object": "list", "data": [model]})
    return Reply.json(model) if path == "/v1/models/tiny/model" else Reply(404)
