"""No secret and no prompt gets out, whatever goes wrong.

Every error code is forced, through whole gateways and real connections, with secrets and prompts
that are made of one word each. The word is then looked for in the reply, in the log in both its
forms, in the metrics, in every repr and in tracebacks with locals. A code that is new has to be
added here: either forced, or listed as one that nothing raises. It is one long file because the
same words, gateways and places to look serve every way out that there is.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

import keys
from keyed import StillDate
from keyhole import main
from keyhole.config import ConfigError, Inputs, Settings, load
from keyhole.errors import Code
from keyhole.exchange import Admission, Gateway
from keyhole.ledger.mirror import Mirror
from keyhole.server.flask import app_over
from keyhole.server.log import AccessLog
from keyhole.server.loop import ThreadedGateway
from keyhole.wire.http import Head, Reply, UpstreamRequest
from keyhole.wire.keys import NO_LIMITS, Budget, Limits
from processes.driving import command_lines, serving, wait_for
from server.lanes import Lane
from standins import Raw, Seen, StandIn
from standins import Reply as Answer

SECRET_WORD, PROMPT_WORD = "KANARI", "wombat"
HF_TOKEN = "hf_" + SECRET_WORD * 6
GPU_TOKEN = "sk-" + SECRET_WORD * 5
FILE_TOKEN = "tok_" + SECRET_WORD * 4
TOKENS = (HF_TOKEN, GPU_TOKEN, FILE_TOKEN)
PROMPT = " ".join([PROMPT_WORD] * 12) + '. "Quoted", \u00fcml\u00e4ut\nand a line.'
ASK = {"input": PROMPT}
START_MS = 1_790_000_000_000

KINDS = {
    "tgi": 'kind = "tgi"\ntoken = { file = "token" }',
    "openai": 'kind = "openai"\ntoken = { env = "GPU_TOKEN" }',
    "completions": 'kind = "openai"\ncompletions = true\ntoken = { env = "GPU_TOKEN" }',
    "hf-inference": 'kind = "hf-inference"\ntoken = { env = "HF_TOKEN" }',
    "huggingface": 'kind = "huggingface"\ntoken = { env = "HF_TOKEN" }',
    "engine": 'kind = "engine"\ntoken = { file = "token" }',
}


def echo(*, as_json: bool = True) -> bytes:
    """The worst that an upstream can say: every token and the prompt, in every writing."""
    words = [PROMPT, PROMPT[:40], PROMPT.upper(), quote(PROMPT), json.dumps(PROMPT)]
    for token in TOKENS:
        words += [f"Bearer {token}", token[:16], token[-16:], quote(token), f"{token[:9]}***"]
        words.append(base64.b64encode(token.encode()).decode())
    text = " ".join(words)
    if not as_json:
        return text.encode()
    return json.dumps({"error": {"message": text, "type": text, "code": text}}).encode()


ECHO_HEADERS = {
    "content-type": "application/json",
    "retry-after": HF_TOKEN,
    "location": f"http://127.0.0.1:9/{HF_TOKEN}",
    "www-authenticate": GPU_TOKEN,
    "set-cookie": f"token={HF_TOKEN}",
    "x-request-id": HF_TOKEN,
    "ratelimit": f'"{HF_TOKEN}";r=0;t=5',
}


def failing(status: int) -> Answer:
    return Answer(status, echo(), ECHO_HEADERS)


def saying(status: int, **fields: object) -> Answer:
    body = {"error": echo(as_json=False).decode(), **fields}
    return Answer(status, json.dumps(body).encode(), ECHO_HEADERS)


@dataclass(frozen=True)
class Case:
    """A request, and what the upstream does with it."""

    code: Code
    answer: Answer | Raw | None = None
    """None: the request never gets there."""
    kinds: tuple[str, ...] = ("tgi",)
    body: Any = field(default_factory=lambda: ASK)
    method: str = "POST"
    path: str = "/generate"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    host: bytes = b"localhost"
    peer: str | None = "127.0.0.1"


ALL = ("tgi", "openai", "completions", "hf-inference", "huggingface", "engine")
CREDENTIAL = ((b"authorization", f"Bearer {GPU_TOKEN}".encode()),)

CASES = (
    Case(Code.BODY_TOO_LARGE, headers=((b"content-length", b"999999999"), *CREDENTIAL)),
    Case(Code.CALLER_NOT_LOCAL, peer="203.0.113.9", headers=CREDENTIAL),
    Case(Code.HOST_NOT_ALLOWED, host=f"{HF_TOKEN}.example".encode(), headers=CREDENTIAL),
    Case(Code.ORIGIN_NOT_ALLOWED, headers=((b"origin", f"https://{HF_TOKEN}".encode()),)),
    Case(Code.METHOD_NOT_ALLOWED, method="PUT", headers=CREDENTIAL),
    Case(Code.PATH_NOT_FOUND, path="/elsewhere", headers=CREDENTIAL),
    Case(Code.UNSUPPORTED_ENCODING, headers=((b"content-encoding", b"gzip"),)),
    Case(Code.MISSING_INPUT, body={"prompt": PROMPT, "token": HF_TOKEN}),
    Case(Code.MISSING_INPUT, body=[PROMPT]),
    Case(Code.INVALID_INPUT, body={"input": {"text": PROMPT}}),
    Case(Code.INVALID_INPUT, body={"input": [PROMPT, {"text": PROMPT}]}),
    Case(Code.INVALID_JSON, body=b'{"input": "' + PROMPT.encode()),
    Case(Code.INVALID_JSON, body=b'{"input": "' + PROMPT_WORD.encode() + b'\xff"}'),
    Case(Code.INVALID_JSON, body=PROMPT.encode()),
    Case(Code.INVALID_PARAMETER, body=ASK | {"model": PROMPT}),
    Case(Code.INVALID_PARAMETER, body=ASK | {"parameters": {"temperature": PROMPT}}),
    Case(Code.INVALID_PARAMETER, body=ASK | {"parameters": {"stop": [PROMPT, 1]}}),
    Case(Code.INVALID_PARAMETER, body=ASK | {"parameters": PROMPT}),
    Case(Code.MODEL_NOT_FOUND, body=ASK | {"model": "absent"}),
    Case(Code.UNKNOWN_PARAMETER, body=ASK | {"parameters": {"tempreature": PROMPT}}),
    Case(Code.UNSUPPORTED_PARAMETER, kinds=("openai",), body=ASK | {"parameters": {"top_k": 5}}),
    Case(
        Code.UNSUPPORTED_BY_UPSTREAM, kinds=("openai",), path="/tokenize", body={"inputs": PROMPT}
    ),
    Case(Code.MODEL_NOT_PULLED, saying(404, error_type="model_not_pulled"), ("engine",)),
    Case(Code.UPSTREAM_ANSWER_TOO_LARGE, Answer(200, echo() * 40), ALL),
    Case(Code.UPSTREAM_ERROR, failing(500), ALL),
    Case(Code.UPSTREAM_ERROR, failing(302), ALL),
    Case(Code.UPSTREAM_ERROR, failing(418), ALL),
    Case(Code.UPSTREAM_ERROR, failing(424), ALL),
    Case(Code.UPSTREAM_ERROR, failing(200), ("tgi", "openai", "completions", "huggingface")),
    Case(
        Code.UPSTREAM_ERROR, Raw((HF_TOKEN.encode() + b" " + PROMPT.encode() + b"\r\n\r\n",)), ALL
    ),
    Case(Code.UPSTREAM_GONE, failing(410), ALL),
    Case(Code.UPSTREAM_LOADING, saying(503, estimated_time=20.5), ALL),
    Case(Code.UPSTREAM_MODEL_NOT_FOUND, failing(404), ALL),
    Case(Code.UPSTREAM_ERROR, Answer(200, echo(as_json=False)), ALL),
    Case(Code.UPSTREAM_NOT_JSON, Answer(200, PROMPT.encode()), ALL),
    Case(Code.UPSTREAM_NOT_JSON, Answer(200, b"<html>" + PROMPT.encode()), ALL),
    Case(Code.UPSTREAM_OUT_OF_CREDITS, failing(402), ALL),
    Case(Code.UPSTREAM_RATE_LIMITED, failing(429), ALL),
    Case(Code.UPSTREAM_REFUSED_REQUEST, failing(400), ALL),
    Case(Code.UPSTREAM_REFUSED_REQUEST, failing(422), ALL),
    Case(Code.UPSTREAM_REFUSED_REQUEST, saying(400, message=PROMPT[:30]), ALL),
    Case(Code.UPSTREAM_TIMEOUT, Answer(200, echo(), delay_s=60), ("tgi", "huggingface")),
    Case(Code.UPSTREAM_TIMEOUT, failing(504), ALL),
    Case(Code.UPSTREAM_TOKEN_REFUSED, failing(401), ALL),
    Case(Code.UPSTREAM_TOKEN_REFUSED, failing(403), ALL),
    Case(Code.UPSTREAM_UNAVAILABLE, failing(502), ALL),
    Case(Code.UPSTREAM_UNREACHABLE, Raw(), ALL),
    Case(Code.UPSTREAM_UNREACHABLE, Raw((b"HTTP/1.1 200 OK\r\n" + HF_TOKEN.encode(),)), ALL),
)
BROKEN_OFF = {
    Code.HEAD_TOO_LARGE: (b"X: " + HF_TOKEN.encode() * 4000,),
    Code.MALFORMED_REQUEST: (b"Host: %s\r\nHost: x\r\n\r\n" % HF_TOKEN.encode(),),
    Code.REQUEST_TOO_SLOW: (b"Host: 127.0.0.1\r\nContent-Length: 999\r\n\r\n" + PROMPT.encode(),),
    Code.TOO_MUCH_BUFFERED: (
        b"Host: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n" + PROMPT.encode() * 20,
    ),
}
"""What follows on a request line of the fast lane, and breaks the request off."""
MINE, ENDED, LOST, LIMITED, TIGHT, PICKY = range(1, 7)
"""The numbers of keys: a good one, expired, revoked, with limits of each kind, with a model."""
UNKNOWN = 99
CLIENT_SECRETS = [keys.secret(number) for number in (*range(1, 7), UNKNOWN)]


def bearer(secret: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"authorization", f"Bearer {secret}".encode()),)


@dataclass(frozen=True)
class Keyed:
    """A request where keys exist, and what it is refused with."""

    code: Code
    headers: tuple[tuple[bytes, bytes], ...] = bearer(CLIENT_SECRETS[0])
    body: Any = field(default_factory=lambda: ASK)
    path: str = "/generate"
    method: str = "POST"
    in_query: bool = False
    limits: Limits = NO_LIMITS
    """Of the good key."""
    again: int = 0
    """How often the same goes before it."""
    beside: int = 0
    """How many of the same are under way."""
    config: str = ""


KEYED = (
    Keyed(Code.KEY_MISSING, ()),
    Keyed(Code.KEY_UNKNOWN, bearer(keys.secret(UNKNOWN))),
    Keyed(Code.KEY_MISTYPED, bearer(CLIENT_SECRETS[0].swapcase().replace("KH_", "kh_"))),
    Keyed(Code.KEY_EXPIRED, bearer(keys.secret(ENDED))),
    Keyed(Code.KEY_REVOKED, bearer(keys.secret(LOST))),
    Keyed(Code.HF_TOKEN_SENT, bearer(HF_TOKEN)),
    Keyed(Code.NOT_A_KEY, bearer(GPU_TOKEN)),
    Keyed(
        Code.KEY_AMBIGUOUS,
        (*bearer(CLIENT_SECRETS[0]), (b"x-api-key", CLIENT_SECRETS[1].encode())),
    ),
    Keyed(Code.KEY_IN_URL, path=f"/models/{CLIENT_SECRETS[0]}"),
    Keyed(Code.KEY_IN_URL, in_query=True),
    Keyed(Code.ADMIN_KEY_NEEDED, path="/admin/v1/keys", method="GET"),
    Keyed(Code.MODEL_NOT_ALLOWED, bearer(keys.secret(PICKY)), body=ASK | {"model": "default"}),
    Keyed(Code.REQUESTS_LIMITED, limits=Limits(rpm=1), again=1),
    Keyed(Code.CONCURRENCY_LIMITED, limits=Limits(concurrency=1), beside=1),
    Keyed(Code.OVER_LIMIT, limits=Limits(tpm=10)),
    Keyed(Code.TOKENS_LIMITED, limits=Limits(tpm=2000), again=1),
    Keyed(Code.BUDGET_SPENT, limits=Limits(budget=Budget(amount=2000, unit="tokens")), again=1),
    Keyed(Code.PRICE_UNKNOWN, config='[limits]\nunknown_price = "refuse"\n'),
)
OF_THE_ADMIN = {
    *(Code.CLERK_UNAVAILABLE, Code.EXCHANGE_NOT_FOUND, Code.KEY_NOT_FOUND, Code.NAME_TAKEN),
    *(Code.LEDGER_UNAVAILABLE, Code.JOURNAL_FULL),
}
"""Forced in server/test_forwarding.py, server/test_admin.py, ledger/ and io/test_journal.py."""
OTHERWISE = {
    *(Code.INTERNAL_ERROR, Code.SHUTTING_DOWN, Code.KEYS_UNAVAILABLE, Code.LIMITS_ELSEWHERE),
    *(*BROKEN_OFF, *OF_THE_ADMIN),
}
"""Forced by tests of their own, below or elsewhere."""
NEVER_RAISED: set[Code] = set()
"""What is reserved; each with its reason."""


def test_every_code_is_forced_or_never_raised():
    """A new error code belongs into CASES."""
    forced = {case.code for case in (*CASES, *KEYED)} | OTHERWISE
    assert forced.isdisjoint(NEVER_RAISED)
    assert forced | NEVER_RAISED == set(Code)
    sources = [
        path.read_text()
        for path in Path(main.__file__).parent.rglob("*.py")
        if path.name != "errors.py"
    ]
    for code in NEVER_RAISED:
        assert not any(f"Code.{code.name}" in source for source in sources)


def leaks(text: str) -> list[str]:
    """The lines of a text that hold a part of a secret or of a prompt."""
    encoded = [base64.b64encode(token.encode()).decode()[4:20] for token in TOKENS]
    words = [SECRET_WORD, PROMPT_WORD, *encoded]
    words += [secret[at : at + 16] for secret in CLIENT_SECRETS for at in (3, 20, 34)]
    return [
        line for line in text.splitlines() if any(word.lower() in line.lower() for word in words)
    ]


@pytest.mark.parametrize(
    "text",
    [
        HF_TOKEN[:9],
        GPU_TOKEN.lower(),
        FILE_TOKEN[-8:],
        PROMPT[:9],
        PROMPT[:40].upper(),
        echo().decode(),
    ]
    + [base64.b64encode(token.encode()).decode() for token in TOKENS]
    + [CLIENT_SECRETS[0][:20], CLIENT_SECRETS[5]],
)
def test_a_leak_would_be_found(text: str):
    assert leaks(f"first line\nand {text} here") == [f"and {text} here"]


def assert_none_leaks(**texts: str) -> None:
    assert {name: found for name, text in texts.items() if (found := leaks(text))} == {}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(f"{FILE_TOKEN}\n")
    return tmp_path


def inputs(place: Path, **environ: str) -> Inputs:
    return Inputs(
        environ={"HF_TOKEN": HF_TOKEN, "GPU_TOKEN": GPU_TOKEN} | environ, cwd=place, home=place
    )


def settings_for(place: Path, kind: str, url: str) -> Settings:
    (place / "keyhole.toml").write_text(
        f'[upstream.far]\n{KINDS[kind]}\nurl = "{url}"\nmax_response_bytes = 20000\n'
        '[route.default]\ntargets = ["far/m"]\nfirst_byte_timeout_s = 2\n'
        "[server]\nbuiltin_routes = false\n"
    )
    return load(inputs(place), backends=main.backends(), engine_models=lambda _: [])


class Logs:
    """The access log in both its forms."""

    def __init__(self) -> None:
        self.text, self.json = io.StringIO(), io.StringIO()
        self.observers = (AccessLog("text", self.text), AccessLog("json", self.json))


CALLS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT}]},
    "/v1/completions": {"prompt": PROMPT},
    "/generate_stream": {"inputs": PROMPT},
    "/": {"inputs": PROMPT},
    "/models/default": {"inputs": PROMPT},
}
FRAMES = {
    "an error": b"data: %b\n\n" % echo(),
    "no frame": echo(as_json=False),
}


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("status", [200, 400, 401, 404, 422, 429, 500, 503])
async def test_no_dialect_tells_what_an_upstream_says(
    place: Path, path: str, kind: str, status: int
) -> None:
    """Whole or streamed, in whatever dialect."""
    for wants_stream in (False, True):
        case = Case(Code.UPSTREAM_ERROR, path=path, body=CALLS[path] | {"stream": wants_stream})
        async with StandIn(failing(status)) as far:
            text = await told(place, kind, far.url, case)
        assert "HTTP 200" not in text
        assert_none_leaks(reply=text)


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("frames", FRAMES)
async def test_no_dialect_tells_what_a_stream_says_of_an_error(
    place: Path, path: str, kind: str, frames: str
) -> None:
    headers = {"content-type": "text/event-stream"}
    case = Case(Code.UPSTREAM_ERROR, path=path, body=CALLS[path] | {"stream": True})
    async with StandIn(Answer(200, FRAMES[frames], headers)) as far:
        text = await told(place, kind, far.url, case)
    assert "HTTP 200" not in text
    assert_none_leaks(reply=text)


async def told(place: Path, kind: str, url: str, case: Case) -> str:
    """What a client and the log are told of a call."""
    logs = Logs()
    settings = settings_for(place, kind, url)
    async with main.open_runtime(settings, keeps_engine=False, observers=logs.observers) as runtime:
        reply = await ask(runtime.gateway, case)
        assert reply.stream is None
    return f"HTTP {shown(reply)}\n{logs.text.getvalue()}\n{logs.json.getvalue()}"


async def ask(gateway: Gateway, case: Case) -> Reply:
    head = Head(
        method=case.method,
        path=case.path,
        headers=((b"host", case.host), *case.headers),
        peer=case.peer,
    )
    admitted = gateway.admit(head)
    if isinstance(admitted, Admission):
        body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        admitted = await gateway.run(admitted, body)
    await asyncio.sleep(0)  # the lines of a turn are written at its end
    return admitted


def shown(reply: Reply) -> str:
    headers = [f"{name}: {value}" for name, value in reply.headers]
    return "\n".join([str(reply.status), *headers, reply.body.decode()])


def metrics(gateway: Gateway) -> str:
    reply = gateway.admit(Head(method="GET", path="/metrics", headers=((b"host", b"localhost"),)))
    assert isinstance(reply, Reply)
    return reply.body.decode()


BY_KIND = [(number, kind) for number, case in enumerate(CASES) for kind in case.kinds]


@pytest.mark.parametrize(
    ("case", "kind"),
    [(CASES[number], kind) for number, kind in BY_KIND],
    ids=[f"{CASES[number].code}-{kind}-{number}" for number, kind in BY_KIND],
)
async def test_an_error_tells_neither_secret_nor_prompt(place: Path, case: Case, kind: str):
    async with StandIn(case.answer or Answer(200, b"{}")) as far:
        settings = settings_for(place, kind, far.url)
        logs = Logs()
        async with main.open_runtime(
            settings, keeps_engine=False, observers=logs.observers
        ) as runtime:
            reply = await ask(runtime.gateway, case)
            page = metrics(runtime.gateway)

    if case.answer is not None:
        assert {seen.header("authorization") for seen in far.requests} <= {
            f"Bearer {token}" for token in TOKENS
        }
        assert far.requests, "it did not get there"
    lines = [json.loads(line) for line in logs.json.getvalue().splitlines()]
    assert [line["code"] for line in lines if "code" in line] == [case.code]
    assert_none_leaks(
        reply=shown(reply), text_log=logs.text.getvalue(), json_log=logs.json.getvalue(), page=page
    )


@pytest.mark.parametrize("case", KEYED, ids=[f"{case.code}-{at}" for at, case in enumerate(KEYED)])
async def test_a_refused_key_or_limit_tells_neither_secret_nor_prompt(
    place: Path, case: Keyed
) -> None:
    """Nor do the journal, the mirror and the ring of refusals hold any of it."""
    held = [
        keys.key(MINE, limits=case.limits, created_at_ms=1),
        keys.key(ENDED, expires_at_ms=10, created_at_ms=1),
        keys.key(LOST, revoked_at_ms=10, created_at_ms=1),
        keys.key(PICKY, models=("other",), created_at_ms=1),
    ]
    data = place / "data"
    data.mkdir(mode=0o700)
    mirror = Mirror(data)
    mirror.rebuild(held, have_existed=True, looked_at_ms=time.time_ns() // 1_000_000)
    async with StandIn(USED) as far:
        settings_for(place, "openai", far.url)
        with (place / "keyhole.toml").open("a") as config:
            config.write(case.config)
        settings = load(
            inputs(place, KEYHOLE_DATA=str(data)),
            backends=main.backends(),
            engine_models=lambda _: [],
        )
        logs = Logs()
        async with main.open_runtime(
            settings, keeps_engine=False, role="server", observers=logs.observers
        ) as runtime:
            # so that no two stand in different minutes
            parts = msgspec.structs.replace(runtime.gateway.parts, clock=StillDate(START_MS))
            gateway = Gateway(parts)
            for _ in range(case.again):
                await _ask_keyed(gateway, case)
            others = [asyncio.ensure_future(_ask_keyed(gateway, case)) for _ in range(case.beside)]
            await far.wait_for_requests(case.beside)
            codes = await _ask_keyed(gateway, case)
            await asyncio.gather(*others)
            page = metrics(gateway)
            state = "\n".join(
                path.read_bytes().decode("latin-1") for path in data.rglob("*") if path.is_file()
            )
    mirror.close()
    assert f"key-{LOST}" in state, "it was looked through"
    lines = [json.loads(line) for line in logs.json.getvalue().splitlines()]
    assert [line["code"] for line in lines if "code" in line] == [case.code]
    digests = [key.digest.hex() for key in held]
    for text in (codes, logs.text.getvalue(), logs.json.getvalue(), page):
        assert not any(digest in text for digest in digests)
    assert_none_leaks(
        reply=codes,
        text_log=logs.text.getvalue(),
        json_log=logs.json.getvalue(),
        page=page,
        state=state,
    )


USED = Answer.json(
    {
        "choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 600},
    }
)


async def _ask_keyed(gateway: Gateway, case: Keyed) -> str:
    head = Head(
        method=case.method,
        path=case.path,
        headers=((b"host", b"localhost"), *case.headers),
        peer="127.0.0.1",
        shows_key_in_query=case.in_query,
    )
    admitted = gateway.admit(head)
    if isinstance(admitted, Admission):
        admitted = await gateway.run(admitted, json.dumps(case.body).encode())
    await asyncio.sleep(0)
    return shown(admitted)


class Broken:
    """A transport that fails as nobody expects, with all it knows."""

    async def send(self, request: UpstreamRequest, **_: object) -> Any:
        secret = request.upstream.secret
        assert secret is not None
        try:
            raise KeyError(f"{secret.reveal()} {PROMPT}")
        except KeyError as error:
            raise RuntimeError(f"Authorization: Bearer {secret.reveal()}; {PROMPT}") from error

    async def aclose(self) -> None: ...


class Groups(Broken):
    async def send(self, request: UpstreamRequest, **_: object) -> Any:
        raise ExceptionGroup(f"{HF_TOKEN} {PROMPT}", [ValueError(f"{HF_TOKEN} {PROMPT}")])


@pytest.mark.parametrize("transport", [Broken(), Groups()], ids=["exception", "group"])
@pytest.mark.parametrize("body", [ASK, ASK | {"input": [PROMPT, PROMPT]}], ids=["one", "two"])
async def test_a_crash_tells_neither_secret_nor_prompt(place: Path, transport: Broken, body: Any):
    settings = settings_for(place, "tgi", "http://127.0.0.1:9")
    logs = Logs()
    async with main.open_runtime(settings, keeps_engine=False, observers=logs.observers) as runtime:
        parts = msgspec.structs.replace(runtime.gateway.parts, transport=transport)
        reply = await ask(Gateway(parts), Case(Code.INTERNAL_ERROR, body=body))
    assert json.loads(reply.body)["code"] == Code.INTERNAL_ERROR
    assert "test_canary.py" in logs.text.getvalue(), "the crash is told"
    assert_none_leaks(
        reply=shown(reply), text_log=logs.text.getvalue(), json_log=logs.json.getvalue()
    )


async def test_a_page_that_crashes_tells_nothing_of_it(place: Path):
    def page(_: Head) -> Reply:
        raise RuntimeError(f"{HF_TOKEN} {PROMPT}")

    settings = settings_for(place, "tgi", "http://127.0.0.1:9")
    logs = Logs()
    async with main.open_runtime(settings, keeps_engine=False, observers=logs.observers) as runtime:
        parts = runtime.gateway.parts
        parts.paths._places["/metrics"] = msgspec.structs.replace(
            parts.paths.find("/metrics"), page=page
        )
        reply = await ask(runtime.gateway, Case(Code.INTERNAL_ERROR, method="GET", path="/metrics"))
    assert json.loads(reply.body)["code"] == Code.INTERNAL_ERROR
    assert_none_leaks(
        reply=shown(reply), text_log=logs.text.getvalue(), json_log=logs.json.getvalue()
    )


@pytest.mark.parametrize("code", BROKEN_OFF)
async def test_a_request_that_breaks_off_tells_nothing_of_it(place: Path, code: Code):
    settings = settings_for(place, "tgi", "http://127.0.0.1:9")
    logs = Logs()
    async with main.open_runtime(settings, keeps_engine=False, observers=logs.observers) as runtime:
        lane = Lane(gateway=runtime.gateway, max_buffered_bytes=1024)
        await lane.send(b"POST /generate?token=%s HTTP/1.1\r\n" % HF_TOKEN.encode())
        await lane.send(CREDENTIAL[0][0] + b": " + CREDENTIAL[0][1] + b"\r\n", *BROKEN_OFF[code])
        if code == Code.REQUEST_TOO_SLOW:
            lane.sweep_in(100)
        page = metrics(runtime.gateway)
        reply = bytes(lane.transport.written)
        lane.transport.abort()
        await lane.settle()
    assert f'"code":"{code}"'.encode() in reply
    assert_none_leaks(
        reply=reply.decode(),
        text_log=logs.text.getvalue(),
        json_log=logs.json.getvalue(),
        page=page,
    )


async def test_a_door_that_closes_tells_nothing_of_what_it_leaves(place: Path):
    is_asked = asyncio.Event()

    def hang(_: Seen) -> Answer:
        is_asked.set()
        return Answer(200, echo(), delay_s=60)

    async with StandIn(hang) as far:
        settings = settings_for(place, "tgi", far.url)
        logs = Logs()

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            options = {"keeps_engine": False, "observers": logs.observers}
            async with main.open_runtime(settings, **options) as runtime:
                yield runtime.gateway

        door = ThreadedGateway(lifespan)
        client = app_over(door).test_client()
        asked = asyncio.ensure_future(asyncio.to_thread(client.post, "/generate", json=ASK))
        await is_asked.wait()
        await asyncio.to_thread(door.close)
        reply = await asked
    assert (reply.status_code, reply.json["code"]) == (503, Code.SHUTTING_DOWN)
    assert_none_leaks(
        reply=f"{reply.headers} {reply.text}",
        text_log=logs.text.getvalue(),
        json_log=logs.json.getvalue(),
    )


async def test_no_repr_shows_a_secret(place: Path):
    settings = settings_for(place, "tgi", "http://127.0.0.1:9")
    upstream = settings.catalog.upstreams["far"]
    assert upstream.secret is not None
    request = UpstreamRequest(upstream=upstream, path="/generate", body=b"")
    async with main.open_runtime(settings, keeps_engine=False, observers=()) as runtime:
        parts = runtime.gateway.parts
        things = [settings, settings.catalog, upstream, upstream.secret, request, runtime]
        things += [runtime.gateway, parts, parts.transport, parts.access, vars(parts.transport)]
        shapes: tuple[Callable[[Any], str], ...] = (repr, str, ascii, "{}".format, "%s".__mod__)
        for thing in things:
            for shape in shapes:
                assert leaks(shape((thing,))) == []


async def test_a_traceback_with_locals_shows_no_secret(place: Path):
    """As rich and error trackers print them; a prompt is in the locals of whoever handles it."""
    settings = settings_for(place, "openai", "http://127.0.0.1:9/v1")
    async with main.open_runtime(settings, keeps_engine=False, observers=()) as runtime:
        gateway = runtime.gateway
        caught: list[BaseException] = []
        send = runtime.transport.send

        class Catching(Broken):
            async def send(self, request: UpstreamRequest, **options: Any) -> Any:
                try:
                    return await send(request, **options)
                except Exception as error:
                    caught.append(error)
                    raise

        parts = msgspec.structs.replace(gateway.parts, transport=Catching())
        await ask(Gateway(parts), Case(Code.UPSTREAM_UNREACHABLE, body={"input": "x"}))
    (error,) = caught
    told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "request = " in told
    assert leaks(told) == []


@pytest.mark.parametrize(
    "text",
    [
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h"\ntoken = "{HF_TOKEN}"\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h"\ntoken = {{ env = "{HF_TOKEN}" }}\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h"\ntoken = {{ file = "{HF_TOKEN}" }}\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h"\ntoken = {{ {HF_TOKEN} = "x" }}\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h"\napi_key = "{HF_TOKEN}"\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://me:{HF_TOKEN}@h"\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h/?key={HF_TOKEN}"\n',
        f'[upstream.x]\nkind = "{HF_TOKEN}"\nurl = "http://h"\n',
        f'[upstream.{HF_TOKEN}]\nkind = "nothing"\n',
        f'[upstream.x]\nkind = "tgi"\nurl = "http://h"\nbill_to = "{HF_TOKEN} x"\n',
        f'[route.default]\ntargets = ["{HF_TOKEN}/x"]\n',
        f'[route."{HF_TOKEN}!"]\ntargets = ["engine/x"]\n',
        f'[server]\nlisten = "{HF_TOKEN}"\n',
        f'[server]\nallowed_origins = ["{HF_TOKEN}"]\n',
        f'[log]\nformat = "{HF_TOKEN}"\n',
        f"[{HF_TOKEN}]\nx = 1\n",
        f"{HF_TOKEN} = 1\n",
        f"token = {HF_TOKEN}\n",
        f'token = "{HF_TOKEN}\n',
    ],
)
def test_no_problem_of_a_configuration_repeats_a_secret(place: Path, text: str):
    (place / "keyhole.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(inputs(place), backends=main.backends(), engine_models=lambda _: [])
    assert_none_leaks(message=str(caught.value), repr=repr(caught.value))


@pytest.mark.parametrize("bad", [f"{HF_TOKEN} x", f"{HF_TOKEN}\nx", f"{HF_TOKEN}\u00e9"])
def test_a_token_that_cannot_be_used_is_not_repeated(place: Path, bad: str):
    (place / "token").write_text(bad)
    (place / "keyhole.toml").write_text(
        '[upstream.a]\nkind = "tgi"\nurl = "http://h"\ntoken = { env = "GPU_TOKEN" }\n'
        '[upstream.b]\nkind = "tgi"\nurl = "http://h"\ntoken = { file = "token" }\n'
    )
    given = inputs(place, HF_TOKEN=bad, GPU_TOKEN=bad)
    with pytest.raises(ConfigError) as caught:
        load(given, backends=main.backends(), engine_models=lambda _: [])
    assert len(caught.value.problems) == 3
    assert_none_leaks(message=str(caught.value))


# The processes


PLANTED = {
    "HF_TOKEN": HF_TOKEN,
    "GPU_TOKEN": GPU_TOKEN,
    # Neighbours by name of what the engine is given.
    "HOMEBREW_GITHUB_API_TOKEN": HF_TOKEN,
    "LANGCHAIN_API_KEY": HF_TOKEN,
    "PATHFINDER_SECRET": HF_TOKEN,
    "TZ_KEY": HF_TOKEN,
}


async def test_processes_tell_neither_secret_nor_prompt(place: Path):
    """Arguments, environments, logs and what a dying worker prints."""
    async with StandIn(failing(401), failing(400), Answer(200, b"{}", delay_s=60)) as far:
        (place / "keyhole.toml").write_text(
            f'[upstream.far]\nkind = "openai"\nurl = "{far.url}"\n'
            'token = { env = "GPU_TOKEN" }\n[route.far]\ntargets = ["far/m"]\n'
            '[upstream.file]\nkind = "tgi"\nurl = "http://127.0.0.1:9"\n'
            'token = { file = "token" }\n[route.file]\ntargets = ["file/m"]\n'
        )
        await asyncio.to_thread(_watch_processes, place)


def _watch_processes(place: Path) -> None:
    data = place / "data"
    environ = PLANTED | {"PYTHONFAULTHANDLER": "1"}
    with serving(data=data, home=place, **environ) as server:
        replies = [server.ask(ASK | {"model": model}) for model in ("far", "far", "file")]
        assert [reply.status for reply in replies] == [502, 502, 502]
        assert_none_leaks(
            replies="\n".join(f"{reply.headers} {reply.body.decode()}" for reply in replies)
        )

        lines = command_lines(holding=str(data))
        assert any("keyhole.engine" in line for line in lines.values())
        assert any("keyhole.worker" in line for line in lines.values())
        assert_none_leaks(command_lines="\n".join(lines.values()))

        engine = server.pid("keyhole.engine")
        if (of_engine := Path(f"/proc/{engine}/environ")).exists():
            variables = of_engine.read_bytes().replace(b"\0", b"\n").decode()
            assert "PATH=" in variables
            assert_none_leaks(engine_environment=variables)

        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(server.ask, ASK | {"model": "far"})
            wait_for(lambda: server.in_flight() == 1, "a request in flight")
            os.kill(server.pid("keyhole.worker"), signal.SIGSEGV)
            with pytest.raises(OSError):  # noqa: PT011  # however the connection broke
                lost.result()
        wait_for(lambda: "The worker ended (SIGSEGV)" in server.log, "the worker's end in the log")
        assert "Fatal Python error" in server.log
        files = [path for path in data.rglob("*") if path.is_file()]
        assert_none_leaks(
            log=server.log, state="\n".join(path.read_text(errors="replace") for path in files)
        )
