"""Hugging Face's hosted API (/models/{id}) and the router that took its place (/v1).

Facts (hub-docs of 2022 to 2026, huggingface.js recordings to April 2025):
- the hosted API answers a prompt with a list, prompt included; with `stream: true` in TGI's
  frames, of TGI 2: no space after `data:`; `error` may be a list; a loading model is 503 with
  estimated_time;
- both say a wrong token as {"error": "Invalid username or password."} and in X-Error-Message;
- the router's 404 may be text/plain, its 429 has `RateLimit` and no Retry-After, its streams
  come from many kinds of servers: this one's JSON has spaces and it sends no [DONE], as
  Cerebras' did.
"""

from __future__ import annotations

import json
from typing import Any

from standins.models import openai_server, tgi_server
from standins.models.scenes import RETRY_AFTER_S, Cue, Scene
from standins.upstream import Answer, Reply, Seen, Streamed

_BAD_TOKEN = "Invalid username or password."
_PAGE = Reply(502, b"<!DOCTYPE html><title>502</title>", {"content-type": "text/html"})
_ROUTED = openai_server.Flavour("router", has_completions=False, is_done_said=False)


def hosted(seen: Seen, path: str, cue: Cue) -> Answer:
    """What the hosted API says."""
    if not path.startswith("/models/"):
        return Reply.json({"error": "Not Found"}, 404)
    if seen.method == "GET":
        return Reply.json({"ok": "ok"})
    if not cue.is_text and not cue.is_partial:
        return _hosted_refusal(cue)
    asked = seen.json
    parameters = asked.get("parameters") or {}
    prefix = "" if parameters.get("return_full_text") is False else asked["inputs"]
    wants_details = parameters.get("details") is True
    if asked.get("stream"):
        whole = tgi_server.frames(cue, prefix, wants_details=wants_details, space=b"")
        if cue.is_partial:
            failed = {"error": "Request failed during generation", "error_type": "generation"}
            return tgi_server.cut_short(cue, whole, _frame(failed))
        return Streamed(tgi_server.held(cue, whole))
    value: dict[str, Any] = {"generated_text": prefix + tgi_server.generated_text(cue.scene)}
    if wants_details:
        value["details"] = {
            "finish_reason": tgi_server.finish_reason(cue.scene),
            "generated_tokens": cue.completion_tokens,
            "seed": None,
            "prefill": [],
            "tokens": [],
        }
    if cue.is_partial:
        begun = json.dumps([value]).encode()[:20]
        return Streamed((begun,), {"content-type": "application/json"}, is_cut=True)
    return Reply.json([value], x_compute_type="cpu", x_compute_time="0.215")


def routed(seen: Seen, path: str, cue: Cue) -> Answer:
    """What the router says: chat, and nothing else."""
    if seen.method == "GET" or path != "/v1/chat/completions":
        is_list = seen.method == "GET" and path == "/v1/models"
        model = {"id": "tiny/model", "object": "model", "created": 1, "owned_by": "tiny"}
        return Reply.json({"object": "list", "data": [model]}) if is_list else _plain_404()
    if cue.is_text or cue.is_partial:
        return openai_server.answer(seen, path, cue, _ROUTED)
    return _routed_refusal(cue)


def _hosted_refusal(cue: Cue) -> Reply:
    validation = "Input validation error: `max_new_tokens` must be strictly positive"
    match cue.scene:
        case Scene.REFUSED:
            wrong = "ensure this value is less than 101: received `999` in `parameters`"
            return Reply.json({"error": [wrong]}, 400)
        case Scene.UNAUTHORIZED:
            return Reply.json({"error": _BAD_TOKEN}, 401, x_error_message=_BAD_TOKEN)
        case Scene.MISSING:
            return Reply.json({"error": "Model tiny/model does not exist"}, 404)
        case Scene.INVALID:
            return Reply.json({"error": validation, "error_type": "validation"}, 422)
        case Scene.LIMITED:
            words = {"error": "Rate limit reached. Please log in or use a HF access token"}
            return Reply.json(words, 429, retry_after=str(RETRY_AFTER_S))
        case Scene.LOADING | Scene.WAKING:
            loading = {"error": "Model tiny/model is currently loading", "estimated_time": 0.9}
            return Reply.json(loading, 503)
    return _PAGE


def _routed_refusal(cue: Cue) -> Reply:
    match cue.scene:
        case Scene.REFUSED:
            message = "The requested model 'tiny/model' needs max_tokens under 9999."
            error = {"message": message, "type": "invalid_request_error", "param": "max_tokens"}
            return Reply.json({"error": {**error, "code": None}}, 400)
        case Scene.UNAUTHORIZED:
            return Reply.json({"error": _BAD_TOKEN}, 401, x_error_message=_BAD_TOKEN)
        case Scene.MISSING:
            return _plain_404()
        case Scene.INVALID:
            place = {"loc": ["body", "max_tokens"], "msg": "must be positive", "type": "value"}
            return Reply.json({"detail": [place]}, 422)
        case Scene.LIMITED:
            words = {"error": "Too many requests"}
            return Reply.json(words, 429, ratelimit=f'"api";r=0;t={RETRY_AFTER_S}')
        case Scene.LOADING | Scene.WAKING:
            loading = {"error": "Service Unavailable: loading"}
            return Reply.json(loading, 503, retry_after=str(RETRY_AFTER_S))
    return _PAGE


def _plain_404() -> Reply:
    return Reply(404, b"Not Found", {"content-type": "text/plain; charset=utf-8"})


def _frame(value: Any) -> bytes:
    return b"data:" + json.dumps(value).encode() + b"\n\n"
