"""The command line: what each command prints, and its one line where something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from keyhole import __version__
from keyhole.cli import cli
from keyhole.config import Listen
from keyhole.listening import hint
from processes.conftest import SLOW, STORY
from processes.driving import KEYHOLE, PYTHON, Ran, command_lines, environment, keyhole, serving
from standins import Raw, Reply, StandIn

TOKEN = "hf_CLICLICLICLICLICLICLICLICLI"
STREAM = {"content-type": "text/event-stream"}
NO_BUILTIN = "[server]\nbuiltin_routes = false\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A home whose working directory has no configuration."""
    return tmp_path


def configure(place: Path, text: str) -> Path:
    path = place / "keyhole.toml"
    path.write_text(text)
    return path


async def run(*arguments: object, home: Path, **env: str) -> Ran:
    """A command beside stand-ins that live on this test's loop."""
    return await asyncio.to_thread(lambda: keyhole(*arguments, home=home, **env))


# What is wrong with a server's place


def test_serve_says_that_its_port_is_taken(place: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = keyhole("serve", "--listen", f"127.0.0.1:{port}", home=place).complaint
    assert complaint == (
        f"keyhole: Port {port} on 127.0.0.1 is in use."
        f" (stop what uses it, or try keyhole serve --listen 127.0.0.1:{port + 1})"
    )


@pytest.mark.parametrize(
    ("where", "error", "platform", "words"),
    [
        (Listen("127.0.0.1", 5000), errno.EADDRINUSE, "darwin", "AirPlay Receiver"),
        (Listen("127.0.0.1", 5000), errno.EADDRINUSE, "linux", "stop what uses it"),
        (Listen("127.0.0.1", 5001), errno.EADDRINUSE, "darwin", "stop what uses it"),
        (Listen("127.0.0.1", 65535), errno.EADDRINUSE, "linux", "--listen 127.0.0.1:5000"),
        (Listen("::1", 5000), errno.EADDRINUSE, "linux", "--listen [::1]:5001"),
        (Listen("127.0.0.1", 80), errno.EACCES, "linux", "--listen 127.0.0.1:5000"),
        (Listen("127.0.0.9", 5000), errno.EADDRNOTAVAIL, "darwin", None),
    ],
)
def test_the_hint_fits_the_address_and_the_system(where, error, platform, words):
    told = hint(where, OSError(error, os.strerror(error)), platform)
    assert told is None if words is None else words in (told or "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "0.0.0.0:0"), "0.0.0.0 is not a loopback address, and no keys exist"),
        (("--listen", "nonsense"), "--listen: 'nonsense' is not HOST:PORT"),
        (("--listen", "a..localhost:0"), "Cannot listen on a..localhost"),
        (("--config", "absent.toml"), "--config: there is no file 'absent.toml'"),
        (("--config", "."), "--config: cannot read '.'"),
        (("--data", "a-file"), "is not a directory"),
        (("--data", "a-file/below"), "cannot be used: Not a directory"),
        (("--data", "/dev/null/below"), "cannot be used: Not a directory"),
    ],
)
def test_serve_says_what_is_wrong_with_its_arguments(place: Path, arguments, words):
    (place / "a-file").write_text("")
    assert words in keyhole("serve", *arguments, home=place).complaint


def test_serve_says_that_a_lock_cannot_be_used(place: Path):
    (place / "data" / "engine.lock").mkdir(parents=True)
    ran = keyhole("serve", "--listen", "127.0.0.1:0", "--data", "data", home=place)
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert ran.err.splitlines()[-1].startswith("keyhole: The lock ")


def test_every_command_tells_every_problem_with_its_line(place: Path):
    configure(place, '[route.a]\ntargets = ["gpu/x"]\n[serve]\nlisten = 5000\n')
    for command in (["serve"], ["check"], ["models"], ["generate", "x"], ["model", "list"]):
        ran = keyhole(*command, home=place)
        assert ran.status == 1
        assert ran.out == ""
        first, second = ran.err.splitlines()
        assert first.startswith("keyhole.toml:2: ")
        assert "there is no upstream 'gpu'" in first
        assert second == "keyhole.toml:3: serve: unknown section (did you mean server?)"


def test_broken_toml(place: Path):
    configure(place, "[server\n")
    assert keyhole("serve", home=place).complaint.startswith("keyhole.toml:1: not valid TOML")


def test_a_token_that_is_no_token_is_told_without_it(place: Path):
    complaint = keyhole("serve", home=place, HF_TOKEN="hf_two words").complaint
    assert "HF_TOKEN" in complaint
    assert "words" not in complaint


# check


def test_check_says_that_all_is_well(place: Path):
    assert keyhole("check", home=place).out == "The defaults: no problem found.\n"
    path = configure(place, '[route.default]\ntargets = ["engine/keyhole-demo"]\n')
    ran = keyhole("check", home=place)
    assert (ran.status, ran.out) == (0, f"{path}: no problem found.\n")


def test_check_makes_no_state(place: Path):
    keyhole("check", "--data", "data", home=place)
    assert not (place / "data").exists()


async def test_check_live_tells_of_each_upstream(place: Path):
    models = {"object": "list", "data": [{"id": "qwen"}]}
    refusal = {"error": {"message": f"Incorrect API key provided: {TOKEN}"}}
    async with (
        StandIn(Reply.json(models)) as good,
        StandIn(Reply.json(models)) as lacking,
        StandIn(Reply.json(refusal, status=401)) as refusing,
        StandIn(Reply(body=b"<html>Sign in</html>")) as page,
        StandIn(Reply(body=b"I am fine")) as talking,
        StandIn(Raw((b"SSH-2.0-OpenSSH\r\n\r\n",))) as other,
    ):
        upstreams = {
            "good": good.url,
            "lacking": lacking.url,
            "refusing": refusing.url,
            "page": page.url,
            "talking": talking.url,
            "other": other.url,
            "gone": "http://127.0.0.1:9",
        }
        text = NO_BUILTIN
        for name, url in upstreams.items():
            model = "qwen" if name != "lacking" else "llama"
            text += f'[upstream.{name}]\nkind = "openai"\nurl = "{url}/v1"\n'
            text += f'token = {{ env = "GPU_TOKEN" }}\n[route.{name}]\ntargets=["{name}/{model}"]\n'
        configure(place, text)
        ran = await run("check", "--live", home=place, GPU_TOKEN=TOKEN)

    lines = dict(line.split(": ", 1) for line in ran.out.splitlines())
    assert ran.status == 1
    assert ran.err == ""
    assert lines["ok    good"] == "answers, with 1 model."
    assert lines["ok    lacking"] == "answers, with 1 model. It does not list llama."
    assert "refused the token (401)" in lines["FAIL  refusing"]
    assert "web page instead of JSON" in lines["FAIL  page"]
    assert "not JSON" in lines["FAIL  talking"]
    assert "FAIL  other" in lines
    assert "connection was refused" in lines["FAIL  gone"]
    assert TOKEN not in ran.out
    (seen,) = good.requests
    assert (seen.method, seen.path) == ("GET", "/v1/models")
    assert seen.header("authorization") == f"Bearer {TOKEN}"


def test_check_live_asks_the_engine_for_each_model(place: Path, data: Path):
    configure(
        place,
        f'{NO_BUILTIN}[route.a]\ntargets = ["engine/{STORY}", "engine/tiny/absent"]\n',
    )
    ran = keyhole("check", "--live", "--data", data, home=place)
    good, bad = ran.out.splitlines()
    assert ran.status == 1
    assert good == f"ok    engine/{STORY}: answers."
    assert bad.startswith("FAIL  engine/tiny/absent: The engine does not have the model")
    assert "keyhole model pull tiny/absent" in bad
    assert not command_lines(holding=str(data))


def test_check_live_is_good_where_everything_is(place: Path, data: Path):
    configure(place, f'{NO_BUILTIN}[route.a]\ntargets = ["engine/{STORY}"]\n')
    ran = keyhole("check", "--live", "--data", data, home=place)
    assert (ran.status, ran.err.count("Traceback")) == (0, 0)


# models, model list


def test_models_lists_routes_and_who_answers(home: Path, data: Path):
    ran = keyhole("models", "--data", data, home=home)
    names = [line.split()[0] for line in ran.out.splitlines()]
    assert ran.status == 0
    assert {"default", STORY, SLOW} <= set(names)
    assert "*/*" not in names
    with_token = keyhole("models", "--data", data, home=home, HF_TOKEN=TOKEN)
    (line,) = (line for line in with_token.out.splitlines() if line.startswith("*/*"))
    assert line.endswith("any such model at Hugging Face, with the token from HF_TOKEN")
    assert TOKEN not in with_token.out


def test_model_list_tells_sizes_and_problems(home: Path, data: Path):
    ran = keyhole("model", "list", "--data", data, home=home)
    lines = {line.split()[0]: line for line in ran.out.splitlines()}
    assert ran.status == 0
    assert next(iter(lines)) == "keyhole-demo"
    assert lines[SLOW].endswith(" MB")


# generate


def test_generate_answers_without_a_server_and_leaves_nothing_running(home: Path, data: Path):
    ran = keyhole("generate", "The fox", "--data", data, home=home)
    assert ran.status == 0, ran.err
    assert ran.out.startswith("The fox")
    assert not command_lines(holding=str(data))


def test_generate_reads_a_prompt_from_standard_input(home: Path, data: Path):
    ran = keyhole("generate", "-", "--model", STORY, "--data", data, home=home, stdin="The door")
    assert ran.out.startswith("The door")


def test_generate_works_where_the_state_directorys_path_is_long(
    home: Path, tiny_models: Path, tmp_path: Path
):
    """The engine's socket is elsewhere then, in a folder that is the user's alone."""
    data = tmp_path / ("long" * 20) / ("longer" * 10)
    data.mkdir(parents=True)
    (data / "models").symlink_to(tiny_models)
    ran = keyhole("generate", "The fox", "--data", data, home=home, TMPDIR=str(tmp_path))
    assert ran.status == 0, ran.err
    folder = tmp_path / f"keyhole-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_generate_does_not_put_a_socket_where_others_may_write(
    home: Path, tiny_models: Path, tmp_path: Path
):
    data = tmp_path / ("long" * 20) / ("longer" * 10)
    data.mkdir(parents=True)
    folder = tmp_path / f"keyhole-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    ran = keyhole("generate", "The fox", "--data", data, home=home, TMPDIR=str(tmp_path))
    assert "not yours alone to write" in ran.complaint


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("x", "--model", "tiny/absent"), "", "No route serves the model 'tiny/absent'."),
        (("x", "--model", "no name"), "", "'model' is not a model name."),
        (("",), "", ""),
        (("", "--stream"), "", ""),
        (("x", "--model", "no name", "--stream"), "", "'model' is not a model name."),
        (("-",), b"\xff\xfe", "The prompt is not UTF-8 text."),
    ],
    ids=["unknown model", "no name", "empty prompt", "streamed", "refused", "not UTF-8"],
)
def test_generate_fails_in_one_line(place: Path, arguments, stdin, words):
    configure(
        place,
        f'{NO_BUILTIN}[upstream.far]\nkind="tgi"\nurl="http://127.0.0.1:9"\n'
        '[route.default]\ntargets=["far/x"]\n',
    )
    assert words in keyhole("generate", *arguments, home=place, stdin=stdin).complaint


# generate --stream


def configure_tgi(place: Path, url: str) -> None:
    configure(
        place,
        f'{NO_BUILTIN}[upstream.far]\nkind="tgi"\nurl="{url}"\n'
        '[route.default]\ntargets=["far/x"]\n',
    )


def token(text: str, whole: str | None = None) -> bytes:
    """A frame of TGI's."""
    frame = {"token": {"id": 1, "text": text}, "generated_text": whole}
    return b"data:" + json.dumps(frame).encode() + b"\n\n"


FAILURE = b'data:{"error":"no","error_type":"generation"}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


REST = token(" a") + token(" time", " upon a time")


class Slow:
    """A TGI server that sends one token, waits to be told, and sends the rest."""

    def __init__(self, rest: bytes) -> None:
        self.rest = rest
        self.may_go_on = asyncio.Event()
        self.has_lost_its_client = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + token(" upon"))
        told = asyncio.ensure_future(self.may_go_on.wait())
        left = asyncio.ensure_future(self._wait_for_end(reader))
        await asyncio.wait([told, left], return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            writer.write(self.rest)
        told.cancel()
        left.cancel()
        writer.close()

    async def _wait_for_end(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(4096):
            pass
        self.has_lost_its_client.set()


@contextlib.asynccontextmanager
async def streaming(
    place: Path, rest: bytes = REST, *, stdout: int = asyncio.subprocess.PIPE
) -> AsyncIterator[tuple[Slow, asyncio.subprocess.Process]]:
    """`keyhole generate Once --stream` of a slow server, which is killed at the end."""
    slow = Slow(rest)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    configure_tgi(place, f"http://{host}:{port}")
    process = await asyncio.create_subprocess_exec(
        *(KEYHOLE, "generate", "Once", "--stream"),
        cwd=place,
        env=environment(place),
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield slow, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        server.close()
        await server.wait_closed()


async def test_generate_streams_each_piece_as_it_comes(place: Path):
    """The first piece is there while the upstream has not sent the second, through a pipe too."""
    async with streaming(place) as (slow, process):
        assert process.stdout is not None
        assert await process.stdout.readexactly(9) == b"Once upon"
        slow.may_go_on.set()
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (0, b" a time\n", b"")


async def test_ctrl_c_ends_a_stream_and_its_upstream(place: Path):
    async with streaming(place) as (slow, process):
        assert process.stdout is not None
        assert await process.stdout.readexactly(9) == b"Once upon"
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (130, b"\n", b"")
        await slow.has_lost_its_client.wait()


async def test_a_stream_that_nobody_reads_any_more_ends_without_a_word(place: Path):
    reading, writing = os.pipe()
    async with streaming(place, stdout=writing) as (slow, process):
        os.close(writing)
        assert await asyncio.to_thread(os.read, reading, 4) == b"Once"
        os.close(reading)
        slow.may_go_on.set()
        _, err = await process.communicate()
        assert (process.returncode, err) == (1, b"")


def test_generate_streams_from_the_engine_and_leaves_nothing_running(home: Path, data: Path):
    ran = keyhole("generate", "The fox", "--stream", "--data", data, home=home)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("The fox")
    assert not command_lines(holding=str(data))


def test_generate_streams_beside_a_server(home: Path, data: Path):
    """They share the engine."""
    with serving(data=data, home=home) as server:
        server.ask({"input": "The fox"})
        engine = server.pid("keyhole.engine")
        ran = keyhole("generate", "The fox", "--stream", "--data", data, home=home)
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith("The fox")
        assert server.pids("keyhole.engine") == [engine]


async def test_a_stream_of_a_model_that_answers_is_printed_without_the_prompt(place: Path):
    frames = b'data: {"choices":[{"index":0,"delta":{"content":"Blue."},"finish_reason":"stop"}]}'
    async with StandIn(Reply(200, frames + b"\n\ndata: [DONE]\n\n", STREAM)) as far:
        configure(
            place,
            f'{NO_BUILTIN}[upstream.far]\nkind="openai"\nurl="{far.url}"\n'
            '[route.default]\ntargets=["far/x"]\n',
        )
        ran = await run("generate", "Why?", "--stream", home=place)
    assert (ran.status, ran.out, ran.err) == (0, "Blue.\n", "")


async def test_an_upstream_that_does_not_stream_is_printed_all_the_same(place: Path):
    async with StandIn(Reply.json({"generated_text": " and more"})) as far:
        configure_tgi(place, far.url)
        ran = await run("generate", "some", "--stream", home=place)
    assert (ran.status, ran.out, ran.err) == (0, "some and more\n", "")


@pytest.mark.parametrize("rest", [b"", FAILURE], ids=["broken off", "told"])
async def test_a_stream_that_fails_on_its_way_says_so_in_one_line(place: Path, rest: bytes):
    async with streaming(place, rest) as (slow, process):
        assert process.stdout is not None
        assert await process.stdout.readexactly(9) == b"Once upon"
        slow.may_go_on.set()
        out, err = await process.communicate()
        ran = Ran(process.returncode or 0, out.decode(), err.decode())
    assert ran.out == "\n"
    assert ran.complaint.startswith("keyhole: Upstream 'far'")


async def test_a_stream_that_fails_before_it_begins_says_so_in_one_line(place: Path):
    async with StandIn(Reply(503, b"{}")) as far:
        configure_tgi(place, far.url)
        ran = await run("generate", "Once", "--stream", home=place)
    assert ran.out == ""
    assert ran.complaint.startswith("keyhole: Upstream 'far'")


async def test_generate_ignores_the_environments_proxies_and_passwords(place: Path):
    """A proxy would see the token, and .netrc would send another one."""
    (place / ".netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    (place / ".netrc").chmod(0o600)
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    async with StandIn(Reply.json({"generated_text": " and more"})) as far:
        configure(
            place,
            f'{NO_BUILTIN}[upstream.far]\nkind="tgi"\nurl="{far.url}"\n'
            '[route.default]\ntargets=["far/x"]\n',
        )
        ran = await run("generate", "some", home=place, **proxies)
    assert (ran.status, ran.out) == (0, "some and more\n")
    assert "authorization" not in far.requests[0].header_names


async def test_generate_prints_each_text_and_any_other_answer_as_it_came(place: Path):
    many = [{"generated_text": "one"}, {"generated_text": "two"}]
    odd = {"label": "joy", "score": 0.5}
    async with StandIn(Reply.json(many), Reply.json(odd)) as far:
        configure(
            place,
            f'{NO_BUILTIN}[upstream.far]\nkind="hf-inference"\nurl="{far.url}"\n'
            '[route.default]\ntargets=["far/x"]\n',
        )
        assert (await run("generate", "x", home=place)).out == "one\ntwo\n"
        assert json.loads((await run("generate", "x", home=place)).out) == odd


# Help


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), "self-hosted gateway"),
        (("serve",), "--listen HOST:PORT"),
        (("check",), "--live"),
        (("generate",), "PROMPT"),
        (("models",), "who answers"),
        (("model",), "pull"),
        (("model", "pull"), "--revision REV"),
        (("model", "list"), "--data DIR"),
    ],
)
def test_every_command_has_help(command, words):
    ran = CliRunner().invoke(cli, [*command, "--help"])
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert words in ran.stdout


def test_the_version(place: Path):
    assert keyhole("--version", home=place).out == f"keyhole, version {__version__}\n"


def test_an_unknown_command_is_a_usage_error():
    ran = CliRunner().invoke(cli, ["sevre"])
    assert ran.exit_code == 2
    assert "No such command 'sevre'" in ran.stderr


def test_serve_neither_waits_for_nor_carries_what_only_the_clerk_needs() -> None:
    """SQLAlchemy takes a quarter of a second of a start, and 30 MB."""
    program = (
        "import sys; from keyhole.cli import cli;"
        "assert cli.get_command(None, 'serve').name == 'serve';"
        "sys.exit('sqlalchemy' in sys.modules)"
    )
    assert subprocess.run([PYTHON, "-c", program], check=False).returncode == 0
