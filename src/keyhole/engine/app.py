"""The engine over HTTP: an ASGI application in which every model is a TGI server.

It reads requests, and turns what the engine makes or refuses into TGI's replies; TGI's words
are in `dialects.tgi` and, for streams, in `frames`.

    /NAME, /NAME/generate, /NAME/generate_stream, ...     the model NAME or OWNER/NAME
    /, /generate, /tokenize, /health, /info, ...          the default model

As in TGI, `stream` in a body means something at the root only; a stream whose request has a
wrong value is a good one (200) that tells so. What is no request, or names no model, is refused
with a status of its own.

What a step of the model gives a stream goes out in one write. A slow reader slows nobody and
holds no place: its tokens wait here, one text of them at most. A client that hangs up cancels
its generation. One line is logged for each generation, never with a word of its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from typing import Any, TypeAlias, TypeVar

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
    encode_tokens,
)
from keyhole.engine.continuation import Job
from keyhole.engine.frames import EVENT_STREAM, HEARTBEAT, Frames, fail, refuse_what_cannot_stream
from keyhole.engine.generation import (
    CancelledGenerationError,
    Generation,
    GenerationError,
    Outcome,
    OverloadedError,
    StoppedError,
)
from keyhole.engine.library import ModelNotPulledError, is_model_name
from keyhole.engine.models import LoadedModel, Models
from keyhole.engine.plan import plan
from keyhole.errors import SetupError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 2_000_000
"""TGI's own default."""
LONG_PROMPT_CHARACTERS = 8_192
"""What takes about a millisecond to tokenise; more is done off the event loop."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:=;+/-]{1,128}")
HEARTBEAT_S = 15.0
"""axum's, which TGI uses; a stream is silent for twice that at most."""
ENDPOINTS = {
    "generate": {"POST": "generate"},
    "generate_stream": {"POST": "generate_stream"},
    "health": {"GET": "health", "HEAD": "health"},
    "info": {"GET": "info", "HEAD": "info"},
    "tokenize": {"POST": "tokenize"},
}
"""By the last part of a path: which methods do what."""
ROOT = {"GET": "health", "HEAD": "health", "POST": "root"}

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
_Made = TypeVar("_Made")


class Reply(Struct, frozen=True):
    """A whole answer."""

    status: int
    content_type: str = JSON
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Asked(Struct, frozen=True, kw_only=True):
    """A request, and the model that is to serve it."""

    request_id: bytes
    request: GenerateRequest
    model: LoadedModel
    is_root: bool
    is_stream: bool
    started_at: float

    @property
    def prefix(self) -> str:
        """What of the prompt stands before the text: at the root all, unless told otherwise."""
        wants = self.request.parameters.return_full_text
        return self.request.inputs if (self.is_root if wants is None else wants) else ""


class ClientGoneError(Exception):
    """There is nobody to answer."""


class Engine:
    """The ASGI application."""

    def __init__(
        self, models: Models, default_model: str, *, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._models = models
        self._default_model = default_model
        self._heartbeat_s = heartbeat_s

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
            name, endpoint = self._route(scope["method"], scope["path"])
            if endpoint == "health":
                await self._get(name)
                reply = Reply(200)
            elif endpoint == "info":
                reply = Reply(200, body=encode_info(_info(await self._get(name))))
            else:
                asked = await self._read(name, endpoint, scope, receive, request_id)
                if asked.is_stream:
                    await self._stream(asked, receive, send)
                    return
                is_tokenize = endpoint == "tokenize"
                reply = await (_tokenize(asked) if is_tokenize else _generate(asked, receive))
        except RefusedError as error:
            reply = _refusal(error)
        except ClientGoneError:
            return
        size = ("content-length", str(len(reply.body)))
        await send(_start(reply.status, reply.content_type, request_id, size, *reply.headers))
        await send({"type": "http.response.body", "body": reply.body})

    def _route(self, method: str, path: str) -> tuple[str, str]:
        """The model's name and the endpoint; raises RefusedError for 404 and 405."""
        name, _, endpoint = path[1:].rpartition("/")
        endpoints = ENDPOINTS.get(endpoint)
        if endpoints is None:
            name, endpoints = path[1:].removesuffix("/"), ROOT
            if path != "/" and not is_model_name(name):
                raise RefusedError(404, "There is nothing at this path", "not_found")
        if method not in endpoints:
            allow = ", ".join(endpoints)
            raise RefusedError(405, f"Use {allow} here", "method_not_allowed", allow=allow)
        return name or self._default_model, endpoints[method]

    async def _read(
        self, name: str, endpoint: str, scope: Scope, receive: Receive, request_id: bytes
    ) -> Asked:
        """What is asked, and of which model; raises RefusedError and ClientGoneError."""
        if not _is_json(scope):
            raise RefusedError(415, "Expected request with `Content-Type: application/json`")
        started_at = time.monotonic()
        request = decode_request(await _read_body(scope, receive))
        is_root = endpoint == "root"
        return Asked(
            request_id=request_id,
            request=request,
            model=await self._get(name),
            is_root=is_root,
            is_stream=request.stream if is_root else endpoint == "generate_stream",
            started_at=started_at,
        )

    async def _stream(self, asked: Asked, receive: Receive, send: Send) -> None:
        """Send TGI's frames as the tokens come."""
        try:
            refuse_what_cannot_stream(asked.request.parameters)
            job = await _plan(asked)
            generation = _submit(asked.model, job)
        except RefusedError as error:
            await send(_start_stream(asked))
            await send({"type": "http.response.body", "body": fail(error)})
            return
        wants_details = asked.request.parameters.details
        frames = Frames(job, text=asked.prefix, wants_details=wants_details)
        try:
            with _attended(
                generation,
                _cancel_on_disconnect(generation, receive),
                _wake_when_silent(generation, frames, self._heartbeat_s),
            ):
                await send(_start_stream(asked, ("x-prompt-tokens", str(len(job.prompt.tokens)))))
                await _relay(generation, frames, send)
        except GenerationError as error:
            failure = _fail(asked, job, error)
            if isinstance(failure, RefusedError):
                await send({"type": "http.response.body", "body": fail(failure)})
            return
        _log_generation(asked, job, generation.outcome)

    async def _get(self, name: str) -> LoadedModel:
        try:
            return await self._models.get(name)
        except ModelNotPulledError as error:
            raise RefusedError(404, str(error), "model_not_pulled") from None
        except SetupError as error:
            raise RefusedError(500, str(error), "model_unsupported") from None


async def _generate(asked: Asked, receive: Receive) -> Reply:
    """A whole answer; raises RefusedError and ClientGoneError."""
    job = await _plan(asked)
    generation = _submit(asked.model, job)
    try:
        with _attended(generation, _cancel_on_disconnect(generation, receive)):
            tokens = [token async for token in generation]
    except GenerationError as error:
        raise _fail(asked, job, error) from None
    _log_generation(asked, job, generation.outcome)
    return _success(asked, job, tokens, generation.outcome)


async def _relay(generation: Generation, frames: Frames, send: Send) -> None:
    """Write each step's frames at once; raises GenerationError."""
    outcome: Outcome | None = None
    while outcome is None:
        tokens = await generation.take()
        outcome = generation.outcome if generation.is_over else None
        body = frames.write(tokens, outcome) if tokens else HEARTBEAT
        await send({"type": "http.response.body", "body": body, "more_body": outcome is None})


async def _plan(asked: Asked) -> Job:
    request, model = asked.request, asked.model

    def run() -> Job:
        return plan(
            request, model.folder, model.vocabulary, model.limits, seed=secrets.randbits(32)
        )

    return await _beside_the_loop(request, run)


async def _tokenize(asked: Asked) -> Reply:
    """The tokens of the text; nothing is generated, and so nothing is too long."""

    def run() -> bytes:
        return encode_tokens(asked.model.vocabulary.tokenize(asked.request.inputs))

    return Reply(200, body=await _beside_the_loop(asked.request, run))


async def _beside_the_loop(request: GenerateRequest, run: Callable[[], _Made]) -> _Made:
    """Run what tokenises a request's text; of a long one in a thread."""
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


def _fail(asked: Asked, job: Job, error: GenerationError) -> RefusedError | ClientGoneError:
    """What a generation that did not end by itself means for its client."""
    if isinstance(error, CancelledGenerationError):
        _log_line(asked, job, error.generated_tokens, "cancelled")
        return ClientGoneError()
    return RefusedError(424, str(error), "generation")


@contextlib.contextmanager
def _attended(generation: Generation, *beside: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run some tasks beside a generation; whatever happens, its place is free afterwards."""
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in beside]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        generation.cancel()


async def _cancel_on_disconnect(generation: Generation, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


async def _wake_when_silent(generation: Generation, frames: Frames, every_s: float) -> None:
    """A look now and then, which costs no token anything."""
    while True:
        seen = frames.count
        await asyncio.sleep(every_s)
        if frames.count == seen:
            generation.wake()


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


def _success(asked: Asked, job: Job, tokens: list[Token], outcome: Outcome) -> Reply:
    """TGI's answer; at the root it is an array."""
    details = Details(
        finish_reason=outcome.finish_reason,
        generated_tokens=outcome.generated_tokens,
        seed=job.told_seed,
        tokens=tuple(tokens),
    )
    body = encode_response(
        GenerateResponse(
            generated_text=asked.prefix + "".join(token.text for token in tokens),
            details=details if asked.request.parameters.details else UNSET,
        )
    )
    headers = _measures(asked, job, outcome)
    return Reply(200, body=b"[" + body + b"]" if asked.is_root else body, headers=headers)


def _start(status: int, content_type: str, request_id: bytes, *more: tuple[str, str]) -> Message:
    headers = [(name.encode(), value.encode()) for name, value in more]
    named = [(b"content-type", content_type.encode()), (b"x-request-id", request_id)]
    return {"type": "http.response.start", "status": status, "headers": named + headers}


def _start_stream(asked: Asked, *more: tuple[str, str]) -> Message:
    """A stream's head is sent before anything is measured."""
    return _start(
        200,
        EVENT_STREAM,
        asked.request_id,
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("x-compute-type", "cpu"),
        ("x-compute-characters", str(len(asked.request.inputs))),
        *more,
    )


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


def _measures(asked: Asked, job: Job, outcome: Outcome) -> tuple[tuple[str, str], ...]:
    """TGI's headers: whole milliseconds, but for `x-compute-time` in seconds."""
    total_s = time.monotonic() - asked.started_at
    before_queue_s = max(total_s - outcome.queue_s - outcome.inference_s, 0.0)
    return (
        ("x-compute-type", "cpu"),
        ("x-compute-time", f"{total_s:.6f}"),
        ("x-compute-characters", str(len(asked.request.inputs))),
        ("x-total-time", _ms(total_s)),
        ("x-validation-time", _ms(before_queue_s)),
        ("x-queue-time", _ms(outcome.queue_s)),
        ("x-inference-time", _ms(outcome.inference_s)),
        ("x-time-per-token", _ms(outcome.inference_s / max(outcome.generated_tokens, 1))),
        ("x-prompt-tokens", str(len(job.prompt.tokens))),
        ("x-generated-tokens", str(outcome.generated_tokens)),
    )


def _log_generation(asked: Asked, job: Job, outcome: Outcome) -> None:
    _log_line(asked, job, outcome.generated_tokens, outcome.finish_reason, outcome.queue_s)


def _log_line(
    asked: Asked, job: Job, generated_tokens: int, finish: str, queue_s: float | None = None
) -> None:
    log.info(
        "%s %s prompt_tokens=%d generated_tokens=%d finish=%s queue_ms=%s total_ms=%s",
        asked.request_id.decode(),
        asked.model.folder.name,
        len(job.prompt.tokens),
        generated_tokens,
        finish,
        "-" if queue_s is None else _ms(queue_s),
        _ms(time.monotonic() - asked.started_at),
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
