"""The engine over HTTP: an ASGI application in which every model is a TGI server.

It reads requests, and turns what the engine makes or refuses into TGI's replies; TGI's words
are in `dialects.tgi`.

    /NAME/generate, /NAME/health, /NAME/info     the model NAME or OWNER/NAME
    /generate, /health, /info, /                 the default model

A client that hangs up cancels its generation. One line is logged for each generation, never
with a word of its text.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from msgspec import UNSET, Struct

import keyhole
from keyhole.dialects.tgi import (
    JSON,
    Details,
    GenerateRequest,
    GenerateResponse,
    Info,
    RefusedError,
    Token,
    decode_request,
    encode_error,
    encode_info,
    encode_response,
    invalid,
)
from keyhole.engine.continuation import Job
from keyhole.engine.generation import (
    CancelledGenerationError,
    Generation,
    GenerationError,
    Outcome,
    OverloadedError,
    StoppedError,
)
from keyhole.engine.library import ModelNotPulledError
from keyhole.engine.models import LoadedModel, Models
from keyhole.engine.plan import plan
from keyhole.errors import SetupError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 2_000_000
"""TGI's own default."""
LONG_PROMPT_CHARACTERS = 8_192
"""What takes about a millisecond to tokenise; more is done off the event loop."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:=;+/-]{1,128}")
ENDPOINTS = {
    "generate": {"POST": "generate"},
    "health": {"GET": "health", "HEAD": "health"},
    "info": {"GET": "info", "HEAD": "info"},
}
"""By the last part of a path: which methods do what."""

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class Reply(Struct, frozen=True):
    """A whole answer."""

    status: int
    content_type: str = JSON
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Done(Struct, frozen=True, kw_only=True):
    """A request that was served."""

    request: GenerateRequest
    job: Job
    tokens: tuple[Token, ...]
    outcome: Outcome
    total_s: float


class ClientGoneError(Exception):
    """There is nobody to answer."""


class Engine:
    """The ASGI application."""

    def __init__(self, models: Models, default_model: str) -> None:
        self._models = models
        self._default_model = default_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's own life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Load the default model before the first request, close everything after the last."""
        await receive()
        try:
            await self._models.get(self._default_model)
        except SetupError as error:
            # The other models may be fine, and /health tells about this one.
            log.warning("The default model cannot be served: %s", error)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._models.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        try:
            reply = await self._answer(scope, receive, request_id)
        except RefusedError as error:
            reply = _refusal(error)
        except ClientGoneError:
            return
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            (b"x-request-id", request_id),
            *((name.encode(), value.encode()) for name, value in reply.headers),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _answer(self, scope: Scope, receive: Receive, request_id: bytes) -> Reply:
        name, endpoint = self._route(scope["method"], scope["path"])
        if endpoint == "health":
            await self._get(name)
            return Reply(200)
        if endpoint == "info":
            return Reply(200, body=encode_info(_info(await self._get(name))))
        if not _is_json(scope):
            raise RefusedError(415, "Expected request with `Content-Type: application/json`")
        done = await self._generate(name, scope, receive)
        _log_generation(request_id, name, done)
        return _success(done, is_root=scope["path"] == "/")

    async def _generate(self, name: str, scope: Scope, receive: Receive) -> Done:
        """Read the request and run it to its end; raises RefusedError and ClientGoneError."""
        started_at = time.monotonic()
        request = decode_request(await _read_body(scope, receive))
        if request.stream:
            raise invalid("`stream` is not supported here")
        model = await self._get(name)
        job = await _plan(request, model)
        generation = _submit(model, job)
        tokens = await _finish(generation, receive)
        return Done(
            request=request,
            job=job,
            tokens=tuple(tokens),
            outcome=generation.outcome,
            total_s=time.monotonic() - started_at,
        )

    def _route(self, method: str, path: str) -> tuple[str, str]:
        """The model's name and the endpoint; raises RefusedError for 404 and 405."""
        if path == "/":
            name, endpoints = "", {"GET": "health", "HEAD": "health", "POST": "generate"}
        else:
            name, _, endpoint = path[1:].rpartition("/")
            endpoints = ENDPOINTS.get(endpoint, {})
        if not endpoints:
            raise RefusedError(404, "There is nothing at this path", "not_found")
        if method not in endpoints:
            allow = ", ".join(endpoints)
            raise RefusedError(405, f"Use {allow} here", "method_not_allowed", allow=allow)
        return name or self._default_model, endpoints[method]

    async def _get(self, name: str) -> LoadedModel:
        try:
            return await self._models.get(name)
        except ModelNotPulledError as error:
            raise RefusedError(404, str(error), "model_not_pulled") from None
        except SetupError as error:
            raise RefusedError(500, str(error), "model_unsupported") from None


async def _plan(request: GenerateRequest, model: LoadedModel) -> Job:
    def run() -> Job:
        return plan(
            request, model.folder, model.vocabulary, model.limits, seed=secrets.randbits(32)
        )

    if len(request.inputs) > LONG_PROMPT_CHARACTERS:
        return await asyncio.to_thread(run)
    return run()


def _submit(model: LoadedModel, job: Job) -> Generation:
    try:
        return model.scheduler.submit(job)
    except OverloadedError:
        raise RefusedError(429, "Model is overloaded", "overloaded") from None
    except StoppedError as error:
        raise RefusedError(503, str(error), "unavailable") from None


async def _finish(generation: Generation, receive: Receive) -> list[Token]:
    """All tokens; raises ClientGoneError when the client hangs up first."""
    watcher = asyncio.get_running_loop().create_task(_cancel_on_disconnect(generation, receive))
    try:
        return [token async for token in generation]
    except CancelledGenerationError:
        raise ClientGoneError from None
    except GenerationError as error:
        raise RefusedError(424, str(error), "generation") from None
    finally:
        watcher.cancel()
        generation.cancel()


async def _cancel_on_disconnect(generation: Generation, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body; raises RefusedError (413) and ClientGoneError."""
    declared = _header(scope, b"content-length")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise RefusedError(413, "Failed to buffer the request body: length limit exceeded")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise RefusedError(413, "Failed to buffer the request body: length limit exceeded")
        if not message.get("more_body", False):
            return b"".join(parts)


def _success(done: Done, *, is_root: bool) -> Reply:
    """TGI's answer; at `/` it is an array, with the prompt in the text unless told otherwise."""
    asked, text = done.request.parameters, "".join(token.text for token in done.tokens)
    sampling = done.job.sampling
    details = Details(
        finish_reason=done.outcome.finish_reason,
        generated_tokens=done.outcome.generated_tokens,
        seed=sampling.seed if sampling.do_sample else None,
        tokens=done.tokens,
    )
    wants_prompt = is_root if asked.return_full_text is None else asked.return_full_text
    body = encode_response(
        GenerateResponse(
            generated_text=done.request.inputs + text if wants_prompt else text,
            details=details if asked.details else UNSET,
        )
    )
    return Reply(200, body=b"[" + body + b"]" if is_root else body, headers=_measures(done))


def _info(model: LoadedModel) -> Info:
    limits = model.limits
    return Info(
        model_id=model.folder.name,
        model_sha=model.folder.commit,
        max_concurrent_requests=limits.max_concurrent_requests,
        max_best_of=limits.max_best_of,
        max_stop_sequences=limits.max_stop_sequences,
        max_input_tokens=limits.max_input_tokens,
        max_total_tokens=limits.max_total_tokens,
        router="keyhole-engine",
        version=keyhole.__version__,
    )


def _measures(done: Done) -> tuple[tuple[str, str], ...]:
    """TGI's headers: whole milliseconds, but for `x-compute-time` in seconds."""
    outcome = done.outcome
    before_queue_s = max(done.total_s - outcome.queue_s - outcome.inference_s, 0.0)
    return (
        ("x-compute-type", "cpu"),
        ("x-compute-time", f"{done.total_s:.6f}"),
        ("x-compute-characters", str(len(done.request.inputs))),
        ("x-total-time", _ms(done.total_s)),
        ("x-validation-time", _ms(before_queue_s)),
        ("x-queue-time", _ms(outcome.queue_s)),
        ("x-inference-time", _ms(outcome.inference_s)),
        ("x-time-per-token", _ms(outcome.inference_s / max(outcome.generated_tokens, 1))),
        ("x-prompt-tokens", str(len(done.job.prompt.tokens))),
        ("x-generated-tokens", str(outcome.generated_tokens)),
    )


def _log_generation(request_id: bytes, name: str, done: Done) -> None:
    log.info(
        "%s %s prompt_tokens=%d generated_tokens=%d finish=%s queue_ms=%s total_ms=%s",
        request_id.decode(),
        name,
        len(done.job.prompt.tokens),
        done.outcome.generated_tokens,
        done.outcome.finish_reason,
        _ms(done.outcome.queue_s),
        _ms(done.total_s),
    )


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


def _refusal(error: RefusedError) -> Reply:
    content_type, body = encode_error(error)
    headers = (("allow", error.allow),) if error.allow else ()
    return Reply(error.status, content_type, body, headers)


def _header(scope: Scope, name: bytes) -> bytes:
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value


def _is_json(scope: Scope) -> bool:
    kind = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    return kind == b"application/json" or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    )


def _request_id(scope: Scope) -> bytes:
    """The caller's, if it can stand in a log line and a header; else a new one."""
    given = _header(scope, b"x-request-id")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16).encode()
