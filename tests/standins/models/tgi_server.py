"""text-generation-inference 3: /, /generate, /generate_stream and its OpenAI-like routes.

Of TGI's checks it makes those that a translation can run into. Everything else is scripted.

Facts (huggingface/text-generation-inference, router/src at db931fcf, 2026-01-08):
- `/` is /generate in a list, or with `stream: true` /generate_stream, and returns the prompt too
  unless told otherwise;
- a stream is 200 whatever happens: what /generate answers with 422 or 429 is its only frame;
- a wrong key is 401 without a body; there is no [DONE] at /generate_stream;
- `generated_text` holds the stop sequence and leaves special tokens out;
- chat's `id` is empty, its stream errors are {"message", "http_status_code": 422}, then [DONE].
"""

from __future__ import annotations

import json
from typing import Any

from standins.models.scenes import EOS, HELD_AFTER, PIECES, RETRY_AFTER_S, STOP_PIECES, Cue, Scene
from standins.models.scenes import PROMPT_TOKENS as PROMPT
from standins.upstream import Answer, Gate, Reply, Seen, Streamed

_PLAIN = {"content-type": "text/plain; charset=utf-8"}
_REASONS = {Scene.LENGTH: "length", Scene.STOPPED: "stop_sequence"}
_FIRST_ID = 1000


def answer(seen: Seen, path: str, cue: Cue) -> Answer:
    """What TGI says at a path."""
    if seen.method == "GET":
        return _about(path)
    refusal = _refusal(cue)
    if path.startswith("/v1/"):
        if refusal is None:
            return _openai(seen.json, cue, is_chat=path.endswith("/chat/completions"))
        return refusal
    asked = seen.json
    wants_stream = path == "/generate_stream" or (path == "/" and asked.get("stream") is True)
    wrong = _wrong_with(asked, wants_stream=wants_stream)
    if refusal is None and wrong is not None:
        refusal = Reply.json(wrong, 422) if "error_type" in wrong else _plain(422, wrong["error"])
    if refusal is not None:
        if wants_stream and refusal.status in (422, 429):
            return Streamed((_frame(json.loads(refusal.body)),))
        return refusal
    parameters = asked.get("parameters") or {}
    is_root = path == "/"
    wants_prompt = parameters.get("return_full_text")
    prefix = asked["inputs"] if (is_root if wants_prompt is None else wants_prompt) else ""
    wants_details = parameters.get("details") is True
    if wants_stream:
        return _stream(cue, prefix, wants_details=wants_details)
    return _whole(cue, prefix, wants_details=wants_details, in_list=is_root)


def frames(cue: Cue, prefix: str, *, wants_details: bool, space: bytes = b" ") -> list[bytes]:
    """The frames of a text, one for each token, the last with the whole text."""
    tokens = _tokens(cue.scene)
    out = []
    for index, token in enumerate(tokens, 1):
        is_last = index == len(tokens)
        frame: dict[str, Any] = {"index": index, "token": token}
        frame["generated_text"] = prefix + generated_text(cue.scene) if is_last else None
        frame["details"] = None
        if is_last and wants_details:
            frame["details"] = {
                "finish_reason": finish_reason(cue.scene),
                "generated_tokens": len(tokens),
                "seed": None,
                "input_length": PROMPT,
            }
        out.append(_frame(frame, space))
    return out


def generated_text(scene: Scene) -> str:
    """As TGI tells it: with the stop sequence, without special tokens."""
    return "".join(PIECES) + ("".join(STOP_PIECES) if scene is Scene.STOPPED else "")


def finish_reason(scene: Scene) -> str:
    return _REASONS.get(scene, "eos_token")


def cut_short(cue: Cue, whole: list[bytes], error: bytes) -> Streamed:
    """A stream that begins and comes to no good end, the way the cue wants it.

    The end waits for the gate, so that it comes after the client has the beginning.
    """
    begun = (*whole[:HELD_AFTER], cue.gate)
    if cue.scene is Scene.FAILS_MIDWAY:
        return Streamed((*begun, error))
    return Streamed(begun, is_cut=cue.scene is Scene.BREAKS_OFF)


def held(cue: Cue, whole: list[bytes]) -> tuple[bytes | Gate, ...]:
    """The frames of a good stream, with the gate after the first few."""
    return (*whole[:HELD_AFTER], cue.gate, *whole[HELD_AFTER:])


def _whole(cue: Cue, prefix: str, *, wants_details: bool, in_list: bool) -> Answer:
    tokens = _tokens(cue.scene)
    value: Any = {"generated_text": prefix + generated_text(cue.scene)}
    if wants_details:
        value["details"] = {
            "finish_reason": finish_reason(cue.scene),
            "generated_tokens": len(tokens),
            "seed": None,
            "prefill": [],
            "tokens": tokens,
        }
    headers = {
        "x_compute_type": "gpu+optimized",
        "x_prompt_tokens": str(PROMPT),
        "x_generated_tokens": str(len(tokens)),
    }
    reply = Reply.json([value] if in_list else value, **headers)
    if cue.is_partial:
        return Streamed((reply.body[:20],), {"content-type": "application/json"}, is_cut=True)
    return reply


def _stream(cue: Cue, prefix: str, *, wants_details: bool) -> Answer:
    whole = frames(cue, prefix, wants_details=wants_details)
    if cue.is_partial:
        failed = {"error": "Request failed during generation: CUDA", "error_type": "generation"}
        return cut_short(cue, whole, _frame(failed))
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    return Streamed(held(cue, whole), headers | {"x-accel-buffering": "no"})


def _tokens(scene: Scene) -> list[dict[str, Any]]:
    texts = [*PIECES]
    if scene is Scene.STOPPED:
        texts += STOP_PIECES
    tokens: list[dict[str, Any]] = [
        {"id": _FIRST_ID + number, "text": text, "logprob": -0.5, "special": False}
        for number, text in enumerate(texts)
    ]
    if scene not in (Scene.STOPPED, Scene.LENGTH):
        tokens.append({"id": 2, "text": EOS, "logprob": -0.01, "special": True})
    return tokens


def _refusal(cue: Cue) -> Reply | None:
    """What is no text, at whichever route; None where a text is due."""
    if cue.is_text or cue.is_partial:
        return None
    validation = {
        "error": "Input validation error: `max_new_tokens` must be strictly positive",
        "error_type": "validation",
    }
    busy = {"error": "Model is overloaded", "error_type": "overloaded"}
    waking = {"error": "503 Service Unavailable: the endpoint is scaled to zero"}
    match cue.scene:
        case Scene.REFUSED:
            return _plain(400, "Failed to parse the request body as JSON")
        case Scene.UNAUTHORIZED:
            return Reply(401)
        case Scene.MISSING:
            return Reply(404)
        case Scene.INVALID:
            return Reply.json(validation, 422)
        case Scene.LIMITED:
            return Reply.json(busy, 429, retry_after=str(RETRY_AFTER_S))
        case Scene.LOADING | Scene.WAKING:
            return Reply.json(waking, 503)
    return Reply(502, b"<html><h1>502 Bad Gateway</h1></html>", {"content-type": "text/html"})


def _wrong_with(asked: Any, *, wants_stream: bool) -> dict[str, str] | None:
    """TGI's error for a request that it would refuse by itself; None for the others."""
    given = asked.get("parameters") or {}
    untyped = "Failed to deserialize the JSON body into the target type: "
    if not isinstance(asked.get("inputs"), str):
        return {"error": untyped + "missing field `inputs`"}
    if "stop" in given and not isinstance(given["stop"], list):
        return {"error": untyped + "invalid type: expected a sequence"}
    text = None
    for name in ("top_p", "typical_p"):
        if given.get(name) is not None and not 0 < given[name] < 1:
            text = f"`{name}` must be > 0.0 and < 1.0"
    for name in ("temperature", "repetition_penalty", "top_k", "max_new_tokens"):
        if given.get(name) is not None and given[name] <= 0:
            text = f"`{name}` must be strictly positive"
    if wants_stream and given.get("decoder_input_details"):
        text = "`decoder_input_details` == true is not supported when streaming tokens"
    if not asked["inputs"]:
        text = "`inputs` cannot be empty"
    return text and {"error": f"Input validation error: {text}", "error_type": "validation"}


def _about(path: str) -> Reply:
    if path == "/info":
        return Reply.json(
            {
                "model_id": "tiny/model",
                "model_sha": None,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": 128,
                "max_best_of": 2,
                "max_stop_sequences": 4,
                "max_input_tokens": 4095,
                "max_total_tokens": 4096,
                "validation_workers": 2,
                "max_client_batch_size": 4,
                "router": "text-generation-router",
                "version": "3.3.6",
                "sha": None,
                "docker_label": None,
            }
        )
    if path == "/v1/models":
        model = {"id": "tiny/model", "object": "model", "created": 0, "owned_by": "tiny/model"}
        return Reply.json({"object": "list", "data": [model]})
    return Reply(200 if path in ("/", "/health", "/ping") else 404)


# Its OpenAI-like routes


def _openai(asked: Any, cue: Cue, *, is_chat: bool) -> Answer:
    reason = {Scene.LENGTH: "length", Scene.STOPPED: "stop_sequence"}.get(cue.scene, "stop")
    usage = {
        "prompt_tokens": PROMPT,
        "completion_tokens": cue.completion_tokens,
        "total_tokens": PROMPT + cue.completion_tokens,
    }
    kind = "chat.completion" if is_chat else "text_completion"
    base: dict[str, Any] = {
        "id": "",
        "created": 1700000000,
        "model": "tiny/model",
        "system_fingerprint": "3.3.6-native",
    }
    if not asked.get("stream"):
        text = generated_text(cue.scene)
        said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        whole = {"object": kind, **base, "choices": [choice], "usage": usage}
        if cue.is_partial:
            begun = json.dumps(whole).encode()[:20]
            return Streamed((begun,), {"content-type": "application/json"}, is_cut=True)
        return Reply.json(whole)
    base = {"object": f"{kind}.chunk" if is_chat else kind, **base}
    mid = None if is_chat else ""
    texts = [*PIECES, *(STOP_PIECES if cue.scene is Scene.STOPPED else ())]
    out = []
    for number, text in enumerate(texts, 1):
        said = {"delta": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        last = reason if number == len(texts) else mid
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": last}
        out.append(_frame({**base, "choices": [choice], "usage": None}))
    if (asked.get("stream_options") or {}).get("include_usage"):
        out.append(_frame({**base, "choices": [], "usage": usage}))
    done = b"data: [DONE]\n\n"
    if cue.is_partial:
        failed = {"error": {"message": "Request failed: CUDA", "http_status_code": 422}}
        return cut_short(cue, out, _frame(failed) + done)
    return Streamed(held(cue, [*out, done]))


def _frame(value: Any, space: bytes = b" ") -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data:" + space + text.encode() + b"\n\n"


def _plain(status: int, text: str) -> Reply:
    return Reply(status, text.encode(), _PLAIN)
