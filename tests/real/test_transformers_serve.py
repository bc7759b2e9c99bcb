"""`transformers serve` behind Keyhole: chats and texts, whole and streaming, and its errors.

Facts (transformers 5.23.0, cli/serving, run here in November 2026), where it differs from the
OpenAI format or from what docs/clients.md's stand-in takes for granted:
- an answer's model is NAME@REVISION; a model's name is what it was started with, which may be a
  path, and another one is 400 {"detail": TEXT} where it was started with one;
- `n`, `logprobs`, `presence_penalty`, `response_format`, `stream_options` and more are ignored
  with 200; a name that OpenAI has not is 422 {"detail": TEXT};
- a list of prompts is 400; a negative max_tokens 500 text/plain;
- a stream begins with a role without content, ends with the finish and the usage in one chunk,
  asked for or not, and has no [DONE]; tokens without a visible character make no chunk;
- GET /v1/models lists the machine's Hugging Face cache, not the model that it serves, and is 500
  where there is no cache; GET /v1/models/NAME is 404.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes.driving import Answer, Server, environment, free_port, serving, wait_for

HERE = Path(__file__).parent
REFERENCE = HERE.parents[1] / ".venv-reference" / "bin"
MODEL = "tiny/model"
TOKENS = 6
ASKED = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0}
CHAT = {**ASKED, "messages": [{"role": "user", "content": "tell of a fox"}]}
TEXT = {**ASKED, "prompt": "once upon a"}
CHAT_TOKENS, TEXT_TOKENS = 6, 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model in it."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "cache" / "hub").mkdir(parents=True)
    command = [str(REFERENCE / "python"), str(HERE / "tiny_model.py"), str(folder / MODEL)]
    subprocess.run(command, check=True, env=environment(folder), capture_output=True)
    return folder


@pytest.fixture(scope="module")
def transformers_url(home: Path) -> Iterator[str]:
    """A running `transformers serve` with that model."""
    port = free_port()
    command = [REFERENCE / "transformers", "serve", MODEL, "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "cache")}
    with (home / "transformers.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command)], cwd=home, env=environment(home, **offline), stdout=log, stderr=log
        )
    server = Server(process, port, home, home / "transformers.log")

    def is_up() -> bool:
        assert process.poll() is None, server.log
        with contextlib.suppress(OSError):
            return server.get("/health").status == 200
        return False

    try:
        wait_for(is_up, "transformers serve", 100)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def keyhole(transformers_url: str, home: Path) -> Iterator[Server]:
    """Keyhole in front of it: as a server of texts too, and as one of chats alone."""
    own = home / "keyhole"
    own.mkdir()
    (own / "keyhole.toml").write_text(
        f'[upstream.both]\nkind = "openai"\nurl = "{transformers_url}"\ncompletions = true\n'
        f'[upstream.chats]\nkind = "openai"\nurl = "{transformers_url}"\n'
        f'[route."{MODEL}"]\ntargets = ["both/{MODEL}"]\n'
        f'[route.default]\ntargets = ["both/{MODEL}"]\n'
        f'[route.chats]\ntargets = ["chats/{MODEL}"]\n'
        '[route.absent]\ntargets = ["both/tiny/absent"]\n'
        "[server]\nbuiltin_routes = false\n"
    )
    with serving(data=own / "data", home=own) as server:
        yield server


def chunks(answer: Answer) -> list[Any]:
    """The frames of a stream, decoded; [DONE] as it is."""
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [line[5:].strip() for line in answer.body.decode().splitlines() if line]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


def usage(prompt_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": TOKENS,
        "total_tokens": prompt_tokens + TOKENS,
    }


@pytest.mark.parametrize(
    ("path", "body", "prompt_tokens"),
    [("/v1/chat/completions", CHAT, CHAT_TOKENS), ("/v1/completions", TEXT, TEXT_TOKENS)],
)
def test_a_stream_says_what_the_whole_answer_says(
    keyhole: Server, path: str, body: dict[str, Any], prompt_tokens: int
) -> None:
    whole = keyhole.ask(body, path=path).json
    (choice,) = whole["choices"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert len(text.split()) == TOKENS
    assert (whole["model"], choice["finish_reason"]) == (MODEL, "length")
    assert whole["usage"] == usage(prompt_tokens)

    wanted = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = chunks(keyhole.ask({**body, **wanted}, path=path))
    choices = [choice for chunk in streamed for choice in chunk["choices"]]
    pieces = [c.get("delta", {}).get("content") or c.get("text") or "" for c in choices]
    assert "".join(pieces).strip() == text.strip()
    assert sum(map(bool, pieces)) > 1
    assert {chunk["model"] for chunk in streamed} == {MODEL}
    assert streamed[-1]["usage"] == usage(prompt_tokens)
    assert choices[-1]["finish_reason"] == "length"


def test_a_usage_beside_the_finish_is_handed_on_though_nobody_asked(keyhole: Server) -> None:
    """It stands in a chunk that says more, and is there without a gateway as well."""
    streamed = chunks(keyhole.ask({**CHAT, "stream": True}, path="/v1/chat/completions"))
    assert [bool(chunk.get("usage")) for chunk in streamed[-2:]] == [False, True]
    assert streamed[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("route", [MODEL, "chats"])
def test_the_original_scripts_clients_get_a_text(keyhole: Server, route: str) -> None:
    """As a continuation, or from the chat alone."""
    asked = {"input": "once upon a", "model": route}
    asked["parameters"] = {"max_new_tokens": TOKENS, "do_sample": False}
    (whole,) = keyhole.ask(asked).json
    text = whole["generated_text"].removeprefix("once upon a")
    assert len(text.split()) == TOKENS
    *pieces, last = chunks(keyhole.ask({**asked, "stream": True}))
    assert "".join(piece["text"] for piece in pieces).strip() == text.strip()
    assert (last["done"], last["usage"]["completion_tokens"]) == (True, TOKENS)


def test_tgis_clients_get_tokens(keyhole: Server) -> None:
    asked = {"inputs": "once upon a", "parameters": {"max_new_tokens": TOKENS, "details": True}}
    streamed = chunks(keyhole.ask(asked, path="/generate_stream"))
    assert streamed[-1]["details"]["generated_tokens"] == TOKENS
    assert streamed[-1]["details"]["finish_reason"] == "length"
    assert streamed[-1]["generated_text"].strip()


def test_several_prompts_reach_a_server_that_takes_one_at_a_time(keyhole: Server) -> None:
    asked = {"input": ["once upon a", "the fox was"], "parameters": {"max_new_tokens": 2}}
    assert len(keyhole.ask(asked).json) == 2


def test_a_list_of_prompts_in_its_own_format_is_its_own_error(keyhole: Server) -> None:
    answer = keyhole.ask({**TEXT, "prompt": ["once", "the"]}, path="/v1/completions")
    assert answer.status == 400
    assert "prompt must be a string" in answer.json["error"]["message"]


def test_a_field_that_it_does_not_know_is_its_own_error(keyhole: Server) -> None:
    answer = keyhole.ask({**CHAT, "top_k": 3}, path="/v1/chat/completions")
    assert answer.status == 422
    assert "Unexpected fields" in answer.json["error"]["message"]


def test_a_model_that_it_does_not_serve_is_told_in_its_words(keyhole: Server) -> None:
    answer = keyhole.ask({**CHAT, "model": "absent"}, path="/v1/chat/completions")
    assert answer.status == 400
    assert "requested 'tiny/absent'" in answer.json["error"]["message"]
