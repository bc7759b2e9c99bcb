"""The composition: from a configuration to a gateway over real connections."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from keyhole import main
from keyhole.config import Inputs, Settings, load
from keyhole.errors import SetupError
from keyhole.exchange import Admission
from keyhole.ports import Observer
from keyhole.wire.http import Head
from keyhole.wire.records import AccessRecord
from standins import Reply as Answer
from standins import StandIn

TOKEN = "hf_MAINMAINMAINMAINMAINMAINMAIN"
CHAT = Answer.json({"choices": [{"message": {"content": "Blue."}, "finish_reason": "stop"}]})
TGI = Answer.json({"generated_text": " time"})


class Memory:
    """An Observer that keeps what it hears."""

    def __init__(self) -> None:
        self.records: list[AccessRecord] = []

    def began(self, record: AccessRecord) -> None:
        pass

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        pass

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        raise error

    def ended(self, record: AccessRecord) -> None:
        self.records.append(record)


def settings(place: Path, text: str, **environ: str) -> Settings:
    (place / "keyhole.toml").write_text(text)
    inputs = Inputs(environ=environ, cwd=place, home=place)
    return load(inputs, backends=main.backends(), engine_models=main.engine_models)


async def ask(
    given: Settings,
    body: dict[str, object],
    *headers: tuple[bytes, bytes],
    peer: str = "127.0.0.1",
    is_local_only: bool = True,
    path: str = "/generate",
    method: str = "POST",
    observers: tuple[Observer, ...] = (),
):
    head = Head(method=method, path=path, headers=((b"host", b"localhost"), *headers), peer=peer)
    options = {"keeps_engine": False, "observers": observers, "is_local_only": is_local_only}
    async with main.open_runtime(given, **options) as runtime:
        admitted = runtime.gateway.admit(head)
        if not isinstance(admitted, Admission):
            return admitted
        return await runtime.gateway.run(admitted, json.dumps(body).encode() if body else b"")


async def test_any_model_of_hugging_face_is_asked_with_the_token_and_nothing_of_the_client(
    tmp_path: Path,
):
    async with StandIn(CHAT) as router:
        given = settings(
            tmp_path,
            f'[upstream.hf]\nurl = "{router.url}"\ntoken = {{ env = "HF_TOKEN" }}\n',
            HF_TOKEN=TOKEN,
        )
        reply = await ask(
            given,
            {"input": "Why?", "model": "owner/name:fastest", "token": "hf_of_the_client"},
            (b"authorization", b"Bearer hf_of_the_client"),
            (b"cookie", b"session=1"),
            (b"x-forwarded-for", b"127.0.0.9"),
            (b"x-api-key", b"secret"),
            (b"x-hf-bill-to", b"somebody"),
            (b"x-request-id", b"the-clients-own"),
            (b"user-agent", b"curl"),
        )
    (seen,) = router.requests
    assert reply.status == 200
    assert json.loads(reply.body) == [{"generated_text": "Blue."}]
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.json["model"] == "owner/name:fastest"
    assert seen.header("authorization") == f"Bearer {TOKEN}"
    assert seen.header("x-request-id") == dict(reply.headers)["x-request-id"]
    assert seen.header_names == {
        *("host", "content-type", "content-length", "accept", "accept-encoding"),
        *("user-agent", "x-request-id", "authorization"),
    }
    assert "keyhole" in (seen.header("user-agent") or "")


@pytest.mark.parametrize("kind", ["huggingface", "hf-inference", "openai", "tgi"])
async def test_a_token_that_was_only_found_goes_to_no_other_host(tmp_path: Path, kind: str):
    async with StandIn(CHAT) as elsewhere:
        given = settings(
            tmp_path,
            f'[upstream.mirror]\nkind = "{kind}"\nurl = "{elsewhere.url}"\n'
            '[route.default]\ntargets = ["mirror/owner/name"]\n',
            HF_TOKEN=TOKEN,
        )
        await ask(given, {"input": "Why?"})
    (seen,) = elsewhere.requests
    assert "authorization" not in seen.header_names
    assert TOKEN.encode() not in seen.body


async def test_the_next_target_is_asked_when_one_is_down(tmp_path: Path):
    async with StandIn(Answer(503)) as busy, StandIn(TGI) as well:
        given = settings(
            tmp_path,
            '[upstream.down]\nkind = "tgi"\nurl = "http://127.0.0.1:9"\n'
            f'[upstream.busy]\nkind = "tgi"\nurl = "{busy.url}"\n'
            f'[upstream.well]\nkind = "tgi"\nurl = "{well.url}"\n'
            '[route.default]\ntargets = ["down/a", "busy/b", "well/c"]\n',
        )
        reply = await ask(given, {"input": "Once upon a"})
    assert json.loads(reply.body) == [{"generated_text": "Once upon a time"}]
    assert dict(reply.headers)["x-keyhole-model"] == "c"
    assert len(busy.requests) == len(well.requests) == 1


async def test_only_a_mounted_gateway_lets_other_machines_in(tmp_path: Path):
    async with StandIn(TGI) as far:
        given = settings(
            tmp_path,
            f'[upstream.far]\nkind = "tgi"\nurl = "{far.url}"\n'
            '[route.default]\ntargets = ["far/m"]\n',
        )
        body = {"input": "Once"}
        assert (await ask(given, body, peer="203.0.113.9")).status == 403
        assert (await ask(given, body, peer="203.0.113.9", is_local_only=False)).status == 200


async def test_the_tokens_of_a_text_are_the_upstreams_own(tmp_path: Path):
    memory, tokens = Memory(), b'[ {"id":1,"text":"Once","start":0,"stop":4} ]'
    async with StandIn(Answer(503)) as busy, StandIn(Answer(body=tokens)) as well:
        given = settings(
            tmp_path,
            f'[upstream.chat]\nkind = "openai"\nurl = "{busy.url}"\n'
            f'[upstream.busy]\nkind = "tgi"\nurl = "{busy.url}"\n'
            f'[upstream.well]\nkind = "tgi"\nurl = "{well.url}"\n'
            '[route.mine]\ntargets = ["chat/a", "busy/b", "well/c"]\n',
        )
        body = {"inputs": "Once", "model": "mine"}
        reply = await ask(given, body, path="/tokenize", observers=(memory,))
    (record,) = memory.records
    assert (reply.status, reply.body) == (200, tokens)
    assert dict(reply.headers)["x-keyhole-model"] == "c"
    assert [seen.path for seen in (*busy.requests, *well.requests)] == ["/tokenize"] * 2
    assert (record.model, record.upstream, record.target) == ("mine", "well", "well/c")
    assert (record.attempts, record.status, record.usage) == (2, 200, None)


async def test_who_cannot_tell_tokens_says_so(tmp_path: Path):
    async with StandIn(CHAT) as chat:
        given = settings(
            tmp_path,
            f'[upstream.chat]\nkind = "openai"\nurl = "{chat.url}"\n'
            '[route.default]\ntargets = ["chat/a"]\n',
        )
        reply = await ask(given, {"inputs": "Once"}, path="/tokenize")
    assert (reply.status, chat.requests) == (404, [])
    assert dict(reply.headers)["x-error-code"] == "unsupported_by_upstream"
    assert "'chat/a' tells no tokens of a text" in json.loads(reply.body)["error"]


async def test_a_secret_that_is_echoed_with_tokens_is_withheld(tmp_path: Path):
    async with StandIn(Answer.json([{"id": 1, "text": TOKEN}])) as far:
        given = settings(
            tmp_path,
            f'[upstream.far]\nkind = "tgi"\nurl = "{far.url}"\ntoken = {{ env = "T" }}\n'
            '[route.default]\ntargets = ["far/m"]\n',
            T=TOKEN,
        )
        reply = await ask(given, {"inputs": "Once"}, path="/tokenize")
    assert reply.status == 502
    assert TOKEN.encode() not in reply.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_info_is_what_the_upstream_of_the_default_route_says(tmp_path: Path, method: str):
    async with StandIn(Answer(body=b'{ "model_id":"o/m"}')) as far:
        given = settings(
            tmp_path,
            f'[upstream.far]\nkind = "tgi"\nurl = "{far.url}"\n'
            '[route.default]\ntargets = ["far/m"]\n',
        )
        reply = await ask(given, {}, path="/info", method=method)
        posted = await ask(given, {}, path="/info")
    assert (reply.status, reply.body) == (200, b'{ "model_id":"o/m"}')
    assert [(seen.method, seen.path) for seen in far.requests] == [("GET", "/info")]
    assert dict(posted.headers)["allow"] == "GET, HEAD, OPTIONS"


async def test_info_is_our_own_where_no_upstream_tells_it(tmp_path: Path):
    given = settings(
        tmp_path,
        '[upstream.chat]\nkind = "openai"\nurl = "http://127.0.0.1:9"\n'
        '[route.default]\ntargets = ["chat/a"]\n',
    )
    reply = await ask(given, {}, path="/info", method="GET")
    assert json.loads(reply.body)["router"] == "keyhole"


def test_the_engine_is_kept_only_where_a_route_leads_to_it(tmp_path: Path):
    far = '[upstream.far]\nkind = "tgi"\nurl = "http://127.0.0.1:9"\n'
    alone = '[route.default]\ntargets = ["far/m"]\n[server]\nbuiltin_routes = false\n'
    without = settings(tmp_path, far + alone, KEYHOLE_DATA=str(tmp_path / "data"))
    assert main.engine_keeper(without, main.say) is None
    assert not (tmp_path / "data").exists()

    elsewhere = '[upstream.engine]\nurl = "http://127.0.0.1:9"\n'
    remote = settings(tmp_path, elsewhere, KEYHOLE_DATA=str(tmp_path / "data"))
    assert main.engine_keeper(remote, main.say) is None, "it runs on another machine"

    with_it = settings(tmp_path, far, KEYHOLE_DATA=str(tmp_path / "data"))
    keeper = main.engine_keeper(with_it, main.say)
    assert keeper is not None
    keeper.close()


def test_the_state_directory_is_its_owners_alone(tmp_path: Path):
    main.make_data_dir(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_state_directory_that_is_there_keeps_its_mode(tmp_path: Path):
    tmp_path.chmod(0o750)
    main.make_data_dir(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_state_directory_in_the_way_of_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot be used: Not a directory.*--data"):
        main.make_data_dir(tmp_path / "file" / "data")


def test_every_kind_that_the_configuration_knows_has_a_backend():
    assert set(main.backends()) == {"hf-inference", "huggingface", "tgi", "engine", "openai"}


def test_the_number_of_threads_reaches_the_engine(tmp_path: Path):
    given = settings(tmp_path, "[engine]\nthreads = 3\n")
    assert main._engine_environ(given)["OPENBLAS_NUM_THREADS"] == "3"
    untold = msgspec.structs.replace(
        given, engine=msgspec.structs.replace(given.engine, threads=None)
    )
    assert "PATH" in main._engine_environ(untold)


async def test_a_frame_beyond_the_configured_length_is_not_taken(tmp_path: Path):
    """stream.max_frame_bytes reaches the core."""
    frame = b'data:{"token":{"id":1,"text":"%s"},"generated_text":null}\n\n' % (b"x" * 2000)
    async with StandIn(Answer(headers={"content-type": "text/event-stream"}, body=frame)) as far:
        given = settings(
            tmp_path,
            f'[upstream.far]\nkind = "tgi"\nurl = "{far.url}"\n'
            '[route.default]\ntargets = ["far/m"]\n[stream]\nmax_frame_bytes = 1024\n',
        )
        reply = await ask(given, {"input": "Once", "stream": True})
    assert reply.status == 502
    assert json.loads(reply.body)["code"] == "upstream_answer_too_large"
