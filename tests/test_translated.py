"""A reply says where its upstream was asked for a chat in place of a text, or the reverse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keyhole import main
from keyhole.config import Inputs, load
from keyhole.exchange import Admission
from keyhole.wire.http import Head
from standins import Reply as Answer
from standins import StandIn

STREAM = {"content-type": "text/event-stream"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "m", "prompt": "Hi"}
HOSTED = {"inputs": "Hi"}
GENERATE = {"input": "Hi", "model": "m"}

CHUNK = b'data: {"choices":[{"index":0,%b,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
FRAME = b'data:{"token":{"id":1,"text":" Yo."},"generated_text":" Yo."}\n\n'
ANSWERS = {
    "/v1/chat/completions": (
        {"choices": [{"message": {"content": "Yo."}, "finish_reason": "stop"}]},
        CHUNK % b'"delta":{"content":"Yo."}',
    ),
    "/v1/completions": (
        {"choices": [{"text": " Yo.", "finish_reason": "stop"}]},
        CHUNK % b'"text":" Yo."',
    ),
    "/generate": ({"generated_text": " Yo."}, FRAME),
    "/models/m": ([{"generated_text": "Hi Yo."}], FRAME),
}
"""What an upstream answers at its paths: whole, and streaming."""

KINDS = {
    "openai": 'kind = "openai"\nurl = "{url}/v1"\n',
    "completions": 'kind = "openai"\nurl = "{url}/v1"\ncompletions = true\n',
    "huggingface": 'kind = "huggingface"\nurl = "{url}"\n',
    "tgi": 'kind = "tgi"\nurl = "{url}"\n',
    "hf-inference": 'kind = "hf-inference"\nurl = "{url}"\n',
}


async def headers_of(folder: Path, kind: str, path: str, asked: dict[str, object]):
    """The headers of the reply to a request that an upstream of that kind answers."""
    is_stream = bool(asked.get("stream"))

    def answer(seen):
        whole, frames = ANSWERS[seen.path.removesuffix("_stream")]
        return Answer(headers=STREAM, body=frames) if is_stream else Answer.json(whole)

    async with StandIn(answer) as there:
        upstream = KINDS[kind].format(url=there.url)
        text = f'[upstream.there]\n{upstream}[route.m]\ntargets = ["there/m"]\n'
        (folder / "keyhole.toml").write_text(text)
        settings = load(
            Inputs(environ={}, cwd=folder, home=folder),
            backends=main.backends(),
            engine_models=main.engine_models,
        )
        async with main.open_runtime(settings, keeps_engine=False, observers=()) as runtime:
            host = (b"host", b"localhost")
            admission = runtime.gateway.admit(Head(method="POST", path=path, headers=(host,)))
            assert isinstance(admission, Admission)
            reply = await runtime.gateway.run(admission, json.dumps(asked).encode())
            if reply.stream is not None:
                reply.stream.cancel()
    assert reply.status == 200, reply.body
    return dict(reply.headers)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("kind", "path", "asked", "told"),
    [
        ("openai", "/v1/chat/completions", CHAT, None),
        ("openai", "/v1/completions", TEXT, "text-to-chat"),
        ("openai", "/models/m", HOSTED, "text-to-chat"),
        ("openai", "/generate", GENERATE, "text-to-chat"),
        ("completions", "/v1/chat/completions", CHAT, None),
        ("completions", "/v1/completions", TEXT, None),
        ("completions", "/generate", GENERATE, None),
        ("huggingface", "/generate", GENERATE, "text-to-chat"),
        ("huggingface", "/v1/chat/completions", CHAT, None),
        ("tgi", "/v1/chat/completions", CHAT, "chat-to-text"),
        ("tgi", "/v1/completions", TEXT, None),
        ("tgi", "/models/m", HOSTED, None),
        ("tgi", "/generate", GENERATE, None),
        ("hf-inference", "/v1/chat/completions", CHAT, "chat-to-text"),
        ("hf-inference", "/v1/completions", TEXT, None),
        ("hf-inference", "/models/m", HOSTED, None),
        ("hf-inference", "/generate", GENERATE, None),
    ],
)
async def test_a_reply_says_what_was_made_of_the_request(
    tmp_path: Path,
    kind: str,
    path: str,
    asked: dict[str, object],
    told: str | None,
    is_stream: bool,
):
    asked = asked | {"stream": True} if is_stream else asked
    headers = await headers_of(tmp_path, kind, path, asked)
    assert headers.get("x-keyhole-translated") == told
    assert headers["x-keyhole-model"] == "m"
