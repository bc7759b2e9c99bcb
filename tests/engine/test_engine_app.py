"""The engine's HTTP, spoken to as ASGI, without a socket."""

from __future__ import annotations

import asyncio
import logging

import pytest
from asgi_client import Client
from random_gpt2 import write_model

from keyhole.engine.app import MAX_BODY_BYTES, Engine
from keyhole.engine.generation import OverloadedError
from keyhole.engine.library import Library
from keyhole.engine.models import Models, load_model

TINY = "acme/tiny"


@pytest.fixture
async def models(models_dir):
    models = Models(Library(models_dir))
    yield models
    await models.close()


@pytest.fixture
def client(models):
    return Client(Engine(models, TINY))


async def test_a_text_is_generated(client):
    reply = await client.generate("The fox", max_new_tokens=8, details=True)

    answer = reply.json()
    assert reply.status == 200
    assert answer["details"]["finish_reason"] == "length"
    assert answer["details"]["generated_tokens"] == 8
    assert answer["details"]["seed"] is None
    assert answer["details"]["prefill"] == []
    assert "".join(t["text"] for t in answer["details"]["tokens"]) == answer["generated_text"]


async def test_the_headers_are_tgis(client):
    reply = await client.generate("The fox", max_new_tokens=8)

    assert reply.headers["x-compute-type"] == "cpu"
    assert reply.headers["x-compute-characters"] == "7"
    assert reply.headers["x-prompt-tokens"] == "2"
    assert reply.headers["x-generated-tokens"] == "8"
    assert float(reply.headers["x-compute-time"]) > 0
    for name in ("total", "validation", "queue", "inference"):
        assert reply.headers[f"x-{name}-time"].isdigit()
    assert reply.headers["x-time-per-token"].isdigit()


async def test_a_seed_repeats_the_text_and_is_told(client):
    first = await client.generate("The fox", do_sample=True, seed=5, details=True)
    second = await client.generate("The fox", do_sample=True, seed=5, details=True)

    assert first.body == second.body
    assert first.json()["details"]["seed"] == 5


async def test_the_full_text_begins_with_the_prompt_as_it_came(client):
    alone = await client.generate("The fox  ", max_new_tokens=8)
    full = await client.generate("The fox  ", max_new_tokens=8, return_full_text=True)

    text = full.json()["generated_text"]
    assert text == "The fox  " + alone.json()["generated_text"]


async def test_the_root_answers_an_array_with_the_prompt_in_front(client):
    reply = await client.request("POST", "/", {"inputs": "The fox", "parameters": {}})

    (answer,) = reply.json()
    assert answer["generated_text"].startswith("The fox")


async def test_the_bare_paths_speak_for_the_default_model(client):
    named = await client.generate("The fox", max_new_tokens=8)
    bare = await client.generate("The fox", path="/generate", max_new_tokens=8)

    assert bare.body == named.body
    assert (await client.request("GET", "/info")).json()["model_id"] == TINY


@pytest.mark.parametrize("path", ["/", "/health", f"/{TINY}/health", f"/{TINY}", f"/{TINY}/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_model_that_answers_is_healthy(client, path, method):
    reply = await client.request(method, path)

    assert (reply.status, reply.body) == (200, b"")


async def test_info_tells_the_limits(client):
    info = (await client.request("GET", f"/{TINY}/info")).json()

    assert info["max_input_tokens"] == 63
    assert info["max_total_tokens"] == 64
    assert info["max_concurrent_requests"] == 128
    assert info["model_pipeline_tag"] == "text-generation"


@pytest.mark.parametrize(
    ("name", "status", "error_type", "words"),
    [
        ("owner/other", 404, "model_not_pulled", "run: keyhole model pull owner/other"),
        ("a/../../etc", 404, "model_not_pulled", "is not a model's name"),
        ("llama", 500, "model_unsupported", "is of type llama"),
        ("gone", 500, "model_unsupported", "a folder that is gone"),
    ],
)
async def test_a_model_that_cannot_answer_says_why(client, name, status, error_type, words):
    for method, endpoint in (("POST", "generate"), ("GET", "health"), ("GET", "info")):
        reply = await client.request(method, f"/{name}/{endpoint}", {"inputs": "a"})

        assert reply.status == status
        assert reply.json()["error_type"] == error_type
        assert words in reply.json()["error"]


async def test_a_model_that_is_pulled_later_answers_then(tmp_path):
    models = Models(Library(tmp_path))
    client = Client(Engine(models, TINY))

    before = await client.generate("a", path="/late/generate")
    write_model(tmp_path / "late")
    after = await client.generate("a", path="/late/generate", max_new_tokens=1)
    await models.close()

    assert (before.status, after.status) == (404, 200)


async def test_many_first_requests_load_a_model_once(models_dir):
    loads = []

    def load(folder, loop):
        loads.append(folder.name)
        return load_model(folder, loop)

    models = Models(Library(models_dir), load=load)
    client = Client(Engine(models, TINY))
    replies = await asyncio.gather(*(client.generate("a", max_new_tokens=2) for _ in range(9)))
    await models.close()

    assert [reply.status for reply in replies] == [200] * 9
    assert loads == [TINY]


async def test_a_model_that_crashed_is_loaded_anew(models, client):
    broken = await models.get(TINY)
    await asyncio.to_thread(broken.scheduler.close)

    assert (await client.generate("a", max_new_tokens=2)).status == 200


async def test_the_body_may_come_in_parts(client):
    body = {"inputs": "The fox", "parameters": {"max_new_tokens": 3}}
    whole = await client.request("POST", "/generate", body)
    parts = await client.request("POST", "/generate", body, parts=7)

    assert whole.body == parts.body


async def test_a_refusal_has_tgis_words(client):
    reply = await client.generate("", max_new_tokens=2)

    assert reply.status == 422
    assert reply.json() == {
        "error": "Input validation error: `inputs` cannot be empty",
        "error_type": "validation",
    }


async def test_a_body_that_is_no_request_is_refused_in_plain_text(client):
    reply = await client.request("POST", "/generate", {"input": "a"})

    assert reply.status == 422
    assert reply.headers["content-type"].startswith("text/plain")
    assert b"missing field `inputs`" in reply.body


async def test_outside_the_root_the_field_stream_means_nothing(client):
    """So it is with TGI, whose `/generate` does not know the field."""
    body = {"inputs": "The fox", "parameters": {"max_new_tokens": 4}}

    plain = await client.request("POST", "/generate", body)
    reply = await client.request("POST", "/generate", body | {"stream": True})

    assert (reply.status, reply.body) == (200, plain.body)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b" " * (MAX_BODY_BYTES + 1), {}, 413),
        (b"{}", {"content-length": str(MAX_BODY_BYTES + 1)}, 413),
    ],
)
async def test_bodies_that_cannot_be_read_are_refused(client, body, headers, status):
    assert (await client.request("POST", "/generate", body, headers)).status == status


async def test_the_content_type_may_have_parameters(client):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}

    assert (await client.request("POST", "/generate", body, headers)).status == 200


@pytest.mark.parametrize("path", ["/x", "/generate/", "//", f"/{TINY}/metrics", "/v1/models"])
async def test_other_paths_are_404(client, path):
    assert (await client.request("GET", path)).status == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/generate", "POST"), ("POST", "/info", "GET, HEAD"), ("PUT", "/", "GET, HEAD, POST")],
)
async def test_other_methods_are_405_and_say_which_are_allowed(client, method, path, allow):
    reply = await client.request(method, path)

    assert (reply.status, reply.headers["allow"]) == (405, allow)


async def test_a_prompt_too_long_for_the_loop_is_still_counted(client):
    reply = await client.generate("é" * 10_000)

    assert reply.status == 422
    assert "20000 `inputs` tokens" in reply.json()["error"]


async def test_an_overloaded_model_is_429(models, client):
    class Full:
        is_open = True

        def submit(self, job):
            raise OverloadedError

        def close(self):
            pass

    loaded = await models.get(TINY)
    await asyncio.to_thread(loaded.scheduler.close)

    def load(folder, loop):
        return type(loaded)(
            folder=folder, vocabulary=loaded.vocabulary, scheduler=Full(), limits=loaded.limits
        )

    full = Client(Engine(Models(models.library, load=load), TINY))
    reply = await full.generate("a")

    assert reply.status == 429
    assert reply.json() == {"error": "Model is overloaded", "error_type": "overloaded"}


async def test_a_client_that_hangs_up_frees_its_place(models, client):
    gone = asyncio.Event()
    gone.set()
    body = {"inputs": "a", "parameters": {"max_new_tokens": 60}}

    assert await client.request("POST", "/generate", body, gone=gone) is None

    scheduler = (await models.get(TINY)).scheduler
    assert "0 running, 0 waiting" in repr(scheduler)


async def test_what_was_generated_for_a_client_that_hung_up_is_logged(client, caplog):
    gone = asyncio.Event()
    gone.set()
    with caplog.at_level(logging.INFO):
        await client.request("POST", "/generate", {"inputs": "a"}, gone=gone)

    (record,) = caplog.records
    assert "finish=cancelled" in record.getMessage()


async def test_a_request_id_is_given_back_when_it_is_sane(client):
    sane = await client.request("GET", "/health", headers={"x-request-id": "0192-ab.C_d"})
    insane = await client.request("GET", "/health", headers={"x-request-id": "a b\x7f"})

    assert sane.headers["x-request-id"] == "0192-ab.C_d"
    assert len(insane.headers["x-request-id"]) == 32


async def test_the_log_line_has_the_numbers_and_not_the_text(client, caplog):
    with caplog.at_level(logging.INFO):
        reply = await client.request(
            "POST",
            "/generate",
            {"inputs": "a secret fox", "parameters": {"max_new_tokens": 4}},
            {"x-request-id": "r1"},
        )

    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f"r1 {TINY} prompt_tokens=")
    assert "generated_tokens=4" in line
    assert "fox" not in line
    assert reply.json()["generated_text"] not in line


async def lifespan(app):
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    return sent


@pytest.mark.parametrize("default", [TINY, "nobody/nothing"])
async def test_it_starts_with_or_without_its_default_model(models_dir, default):
    app = Engine(Models(Library(models_dir)), default)

    assert await lifespan(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("path", ["/tokenize", f"/{TINY}/tokenize"])
async def test_the_tokens_of_a_text_come_with_their_places_in_characters(models, client, path):
    text = "The fox é\N{FOX FACE} was  "
    reply = await client.request("POST", path, {"inputs": text, "parameters": {"truncate": 1}})

    tokens = reply.json()
    vocabulary = (await models.get(TINY)).vocabulary
    assert reply.status == 200
    assert list(tokens[0]) == ["id", "text", "start", "stop"]
    assert vocabulary.decode([token["id"] for token in tokens]) == text
    assert [token["text"] for token in tokens] == [
        text[token["start"] : token["stop"]] for token in tokens
    ]
    assert [token["text"] for token in tokens].count("\N{FOX FACE}") == 4
    assert (tokens[0]["start"], tokens[-1]["stop"]) == (0, len(text))


async def test_a_text_of_any_length_has_tokens(client):
    nothing = await client.request("POST", "/tokenize", {"inputs": ""})
    long = await client.request("POST", "/tokenize", {"inputs": "é" * 10_000})

    assert nothing.json() == []
    assert len(long.json()) == 20_000


async def test_what_is_no_request_has_no_tokens(client):
    assert (await client.request("POST", "/tokenize", {"input": "a"})).status == 422
    assert (await client.request("POST", "/tokenize", b"{")).status == 400
    assert (await client.request("GET", "/tokenize")).headers["allow"] == "POST"
