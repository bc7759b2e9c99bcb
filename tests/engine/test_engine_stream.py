"""Streams over the engine's HTTP: the frames are TGI's, and add up to the whole answer."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from asgi_client import GENERATE, STREAM, Client, read_frames
from fake_models import FakeModel

from keyhole.engine.app import Engine
from keyhole.engine.library import Library
from keyhole.engine.models import Models, load_model
from keyhole.engine.scheduler import Scheduler

TINY = "acme/tiny"
PROMPTS = (
    "The fox",
    "The fox  ",
    "\N{FOX FACE}\N{KEY}\N{DOOR} naïve 鍵",
    "e\N{COMBINING ACUTE ACCENT}\N{ZERO WIDTH JOINER}",
)
TOO_MUCH = (
    "`inputs` tokens + `max_new_tokens` must be <= 64. "
    "Given: 1 `inputs` tokens and 64 `max_new_tokens`"
)


@pytest.fixture
async def models(models_dir):
    models = Models(Library(models_dir))
    yield models
    await models.close()


@pytest.fixture
def client(models):
    return Client(Engine(models, TINY))


class Stage:
    """An engine whose model does as it is told."""

    def __init__(self, models_dir, says=(), *, heartbeat_s=60.0, **options):
        self.model = None
        self._options = options

        def load(folder, loop):
            loaded = load_model(folder, loop)
            loaded.scheduler.close()
            self.vocabulary = loaded.vocabulary
            self.model = FakeModel(folder.architecture, says, **options)
            self.scheduler = Scheduler(
                self.model, loaded.vocabulary, loop, max_running=1, max_waiting=2
            )
            return type(loaded)(
                folder=folder,
                vocabulary=loaded.vocabulary,
                scheduler=self.scheduler,
                limits=loaded.limits,
            )

        self.models = Models(Library(models_dir), load=load)
        self.client = Client(Engine(self.models, TINY, heartbeat_s=heartbeat_s))

    async def __aenter__(self):
        await self.models.get(TINY)
        return self

    async def __aexit__(self, *_):
        self.model.may_run.set()
        await self.models.close()

    def begin(self, **options):
        """A request whose stream is on its way, as a task."""
        body = {"inputs": "a", "parameters": {"max_new_tokens": 9}}
        loop = asyncio.get_running_loop()
        return loop.create_task(self.client.request("POST", STREAM, body, **options))


async def some_turns():
    """Let the event loop do what it can do without a thread."""
    for _ in range(9):
        await asyncio.sleep(0)


def ids(tokens):
    return [token["id"] for token in tokens]


def ids_of(vocabulary, text):
    return vocabulary.encode(text).tokens


# What is in a frame


@pytest.mark.parametrize("inputs", PROMPTS)
@pytest.mark.parametrize(
    "sampling",
    [{}, {"repetition_penalty": 1.3}, {"do_sample": True, "seed": 7, "temperature": 1.4}],
    ids=["greedy", "penalty", "seeded"],
)
async def test_a_stream_tells_what_the_whole_answer_tells(client, inputs, sampling):
    asked = {"max_new_tokens": 20, "details": True, **sampling}
    answer = (await client.generate(inputs, **asked)).json()
    stream = await client.stream(inputs, **asked)

    *before, last = stream.frames()
    details = answer["details"]
    assert [frame["token"] for frame in (*before, last)] == details["tokens"]
    assert last["generated_text"] == answer["generated_text"] == stream.text()
    assert last["details"]["finish_reason"] == details["finish_reason"]
    assert last["details"]["generated_tokens"] == details["generated_tokens"]
    assert last["details"]["seed"] == details["seed"] == sampling.get("seed")
    assert last["details"]["input_length"] == int(stream.headers["x-prompt-tokens"])
    assert all(frame["generated_text"] is frame["details"] is None for frame in before)
    assert [frame["index"] for frame in (*before, last)] == list(range(1, len(before) + 2))


async def test_the_bytes_are_tgis(client):
    reply = await client.stream("The fox", max_new_tokens=2)
    first, last = reply.frames()

    def dumped(token):
        return json.dumps(token, separators=(",", ":"), ensure_ascii=False)

    assert reply.body.decode() == (
        f'data: {{"index":1,"token":{dumped(first["token"])},'
        '"generated_text":null,"details":null}\n\n'
        f'data: {{"index":2,"token":{dumped(last["token"])},'
        f'"generated_text":{json.dumps(last["generated_text"], ensure_ascii=False)},'
        '"details":null}\n\n'
    )
    assert list(first["token"]) == ["id", "text", "logprob", "special"]


async def test_the_head_is_tgis(client):
    reply = await client.stream("The fox", max_new_tokens=2)

    assert reply.headers.items() >= {
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
        ("x-compute-type", "cpu"),
        ("x-compute-characters", "7"),
        ("x-prompt-tokens", "2"),
    }
    assert "content-length" not in reply.headers
    assert len(reply.headers["x-request-id"]) == 32


async def test_the_full_text_has_the_prompt_in_front_and_the_tokens_do_not(client):
    reply = await client.stream("The fox ", max_new_tokens=3, return_full_text=True)

    assert reply.frames()[-1]["generated_text"] == "The fox " + reply.text()


@pytest.mark.parametrize("path", ["/", f"/{TINY}", f"/{TINY}/"])
async def test_the_root_streams_when_it_is_asked_to(client, path):
    body = {"inputs": "The fox", "parameters": {"max_new_tokens": 5}}

    plain = await client.request("POST", path, body | {"stream": False})
    silent = await client.request("POST", path, body)
    stream = await client.request("POST", path, body | {"stream": True})

    (answer,) = plain.json()
    assert silent.body == plain.body
    assert stream.frames()[-1]["generated_text"] == answer["generated_text"]
    assert answer["generated_text"] == "The fox" + stream.text()


@pytest.mark.parametrize("wants", [True, False])
async def test_the_path_for_streams_streams_whatever_the_field_says(client, wants):
    body = {"inputs": "The fox", "parameters": {"max_new_tokens": 5}, "stream": wants}
    reply = await client.request("POST", "/generate_stream", body)

    assert len(reply.frames()) == 5


async def test_eight_streams_at_once_each_tell_their_own_text(client):
    asked = [
        {"max_new_tokens": 30, "do_sample": True, "seed": seed, "details": True}
        for seed in range(8)
    ]
    prompts = [PROMPTS[seed % len(PROMPTS)] for seed in range(8)]
    answers = [await client.generate(p, **a) for p, a in zip(prompts, asked, strict=True)]
    streams = await asyncio.gather(
        *(client.stream(p, **a) for p, a in zip(prompts, asked, strict=True))
    )

    for answer, stream in zip(answers, streams, strict=True):
        assert stream.frames()[-1]["generated_text"] == answer.json()["generated_text"]
        tokens = [frame["token"] for frame in stream.frames()]
        assert ids(tokens) == ids(answer.json()["details"]["tokens"])
    assert len({stream.text() for stream in streams}) == 8


# Text that is held back


async def test_a_character_of_many_tokens_comes_whole(models_dir, vocabulary):
    said = ids_of(vocabulary, "a\N{FOX FACE}é!")
    async with Stage(models_dir, said) as stage:
        reply = await stage.client.stream("a", max_new_tokens=len(said))

    texts = [frame["token"]["text"] for frame in reply.frames()]
    assert texts == ["a", "", "", "", "\N{FOX FACE}", "", "é", "!"]
    assert [frame["token"]["id"] for frame in reply.frames()] == said


@pytest.mark.parametrize("stop", ["the door", "d", " door was o", "\N{KEY}", "old\N{KEY}"])
async def test_a_stop_string_is_in_the_last_frame_or_nowhere(models_dir, vocabulary, stop):
    """Wherever the tokens' borders are; and the whole text ends with it, as TGI's does."""
    text = "so the door was old\N{KEY}."
    async with Stage(models_dir, ids_of(vocabulary, text)) as stage:
        reply = await stage.client.stream("a", max_new_tokens=50, stop=[stop], details=True)

    *before, last = reply.frames()
    expected = text[: text.index(stop) + len(stop)]
    assert last["generated_text"] == reply.text() == expected
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert last["token"]["text"].endswith(stop)
    told = "".join(frame["token"]["text"] for frame in before)
    assert expected.removesuffix(stop).startswith(told)


async def test_what_only_looked_like_a_stop_string_is_told(models_dir, vocabulary):
    said = ids_of(vocabulary, "the door was")
    async with Stage(models_dir, said) as stage:
        reply = await stage.client.stream(
            "a", max_new_tokens=len(said), stop=["the door!", "was it"], details=True
        )

    assert reply.text() == reply.frames()[-1]["generated_text"] == "the door was"
    assert reply.frames()[-1]["details"]["finish_reason"] == "length"


# When it is written


async def test_each_step_is_one_write_before_the_next_step_is_made(models_dir):
    async with Stage(models_dir, is_stepped=True) as stage:

        async def wrote(message):
            stage.model.steps.release()

        reply = await stage.begin(wrote=wrote)

    assert [len(read_frames(part)) for part in reply.parts] == [1] * 9


async def test_a_slow_reader_slows_nobody_and_gets_the_rest_at_once(models_dir):
    """The model goes on beside it; what waits is one text of tokens at most, and no place."""
    may_read = asyncio.Event()

    async def wrote(message):
        if message["type"] == "http.response.body":
            await may_read.wait()

    async with Stage(models_dir) as stage:
        slow = stage.begin(wrote=wrote)
        assert len((await stage.begin()).frames()) == 9
        assert "0 running, 0 waiting" in repr(stage.scheduler)
        assert not slow.done()
        may_read.set()
        reply = await slow

    assert len(reply.frames()) == 9
    assert len(reply.parts) <= 2


async def test_silence_is_broken_by_comments(models_dir):
    has_comments = asyncio.Event()
    comments = []

    async def wrote(message):
        if message.get("body") == b":\n\n":
            comments.append(message)
            if len(comments) == 2:
                has_comments.set()

    async with Stage(models_dir, stops_before=3, heartbeat_s=0.01) as stage:
        running = stage.begin(wrote=wrote)
        await has_comments.wait()
        stage.model.may_run.set()
        reply = await running

    assert len(reply.frames()) == 9


# Clients that leave


async def test_a_client_that_hangs_up_frees_its_place_at_the_next_step(models_dir, caplog):
    gone = asyncio.Event()
    async with Stage(models_dir, stops_before=4) as stage:
        with caplog.at_level(logging.INFO):
            left = stage.begin(gone=gone)
            await stage.model.stopped()
            after = stage.begin()
            gone.set()
            await some_turns()
            stage.model.may_run.set()
            reply = await left
            assert len((await after).frames()) == 9

    passes = len(stage.model.passes)
    line = caplog.records[0].getMessage()
    assert not reply.is_complete
    assert passes == 5 + 9
    assert "generated_tokens=5 finish=cancelled" in line


async def test_a_client_that_does_not_read_can_still_hang_up(models_dir):
    gone, may_read = asyncio.Event(), asyncio.Event()

    async def wrote(message):
        if message["type"] == "http.response.body":
            await may_read.wait()

    async with Stage(models_dir, stops_before=4) as stage:
        left = stage.begin(gone=gone, wrote=wrote)
        await stage.model.stopped()
        gone.set()
        await some_turns()
        stage.model.may_run.set()
        assert len((await stage.begin()).frames()) == 9
        may_read.set()
        await left

        assert "0 running, 0 waiting" in repr(stage.scheduler)


# What goes wrong


@pytest.mark.parametrize(
    ("inputs", "parameters", "text"),
    [
        ("", {}, "`inputs` cannot be empty"),
        ("a", {"temperature": 0}, "`temperature` must be strictly positive"),
        ("a", {"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            "a",
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        (
            "a",
            {"max_new_tokens": 64},
            TOO_MUCH,
        ),
    ],
)
async def test_a_wrong_value_is_told_in_a_good_stream(client, inputs, parameters, text):
    reply = await client.stream(inputs, **parameters)

    (frame,) = reply.frames()
    assert frame == {"error": f"Input validation error: {text}", "error_type": "validation"}
    assert reply.headers["cache-control"] == "no-cache"
    assert "x-prompt-tokens" not in reply.headers


async def test_a_full_queue_is_told_in_a_good_stream(models_dir):
    async with Stage(models_dir, stops_before=1) as stage:
        running = stage.begin()
        await stage.model.stopped()
        waiting = [stage.begin(), stage.begin()]
        await some_turns()
        reply = await stage.client.stream("a")
        stage.model.may_run.set()
        for served in (running, *waiting):
            assert len((await served).frames()) == 9

    assert reply.body == (b'data: {"error":"Model is overloaded","error_type":"overloaded"}\n\n')


async def test_a_crash_in_the_middle_ends_the_stream_with_an_error(models_dir):
    async with Stage(models_dir, stops_before=2) as stage:
        running = stage.begin()
        await stage.model.stopped()
        stage.model.error = MemoryError("no room")
        stage.model.may_run.set()
        *frames, error = (await running).frames()

    assert [frame["index"] for frame in frames] == [1, 2]
    assert error == {
        "error": "Request failed during generation: the model crashed",
        "error_type": "generation",
    }


@pytest.mark.parametrize("path", ["/generate_stream", STREAM])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"input":"a"}', {}, 422),
        (b"{}", {"content-type": "text/plain"}, 415),
    ],
)
async def test_what_is_no_request_is_no_stream(client, path, body, headers, status):
    reply = await client.request("POST", path, body, headers)

    assert reply.status == status
    assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/owner/other/generate_stream", "/owner/other"])
async def test_a_model_that_is_not_here_is_no_stream(client, path):
    reply = await client.request("POST", path, {"inputs": "a", "stream": True})

    assert (reply.status, reply.json()["error_type"]) == (404, "model_not_pulled")


async def test_streams_are_asked_for_by_post(client):
    reply = await client.request("GET", STREAM)

    assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_a_stream_is_logged_like_a_whole_answer(client, caplog):
    with caplog.at_level(logging.INFO):
        await client.generate("a secret fox", GENERATE, max_new_tokens=4)
        await client.stream("a secret fox", max_new_tokens=4)

    whole, stream = (record.getMessage().split()[1:5] for record in caplog.records)
    assert stream == whole
    assert "fox" not in caplog.text
