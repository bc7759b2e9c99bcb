"""Looking for an Ollama on this machine; the upstreams' survey is in processes/test_cli.py."""

from __future__ import annotations

import asyncio
import socket

import pytest

from keyhole.greeting import Ollama
from keyhole.survey import _ollama_address, find_ollama
from standins import Raw, Reply, StandIn


def listed(*names: str) -> Reply:
    return Reply.json({"object": "list", "data": [{"id": name} for name in names]})


async def look(host: str) -> Ollama | None:
    return await asyncio.to_thread(find_ollama, {"OLLAMA_HOST": host})


@pytest.mark.parametrize("prefix", ["", "http://"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
@pytest.mark.parametrize("suffix", ["", "/"])
async def test_an_ollama_is_found_where_it_says_that_it_is(prefix, host, suffix):
    async with StandIn(listed("llama3.2:3b", "hf.co/owner/name:Q4")) as ollama:
        port = ollama.url.rpartition(":")[2]
        found = await look(f"{prefix}{host}:{port}{suffix}")
    assert found == Ollama(f"127.0.0.1:{port}", ("llama3.2:3b", "hf.co/owner/name:Q4"))
    assert "authorization" not in ollama.requests[0].header_names


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("", ("127.0.0.1", 11434)),
        ("127.0.0.1", ("127.0.0.1", 11434)),
        ("localhost:1234", ("localhost", 1234)),
        (":1234", ("127.0.0.1", 1234)),
        ("0.0.0.0", ("127.0.0.1", 11434)),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(given, address):
    assert _ollama_address(given) == address


@pytest.mark.parametrize(
    "answer",
    [
        Reply(404),
        Reply(200, b"<html>"),
        Reply.json([]),
        Reply.json({"data": None}),
        Raw(),
        Raw((b"SSH-2.0-OpenSSH\r\n",)),
    ],
)
async def test_what_is_no_ollama_is_no_trouble(answer):
    async with StandIn(answer) as other:
        found = await look(other.url)
    assert found is None or found.models == ()


async def test_a_name_that_is_no_models_name_is_not_shown():
    """It would end up on the operator's terminal and in the configuration."""
    async with StandIn(listed("\x1b[2Jbad", 'a"\n[server]', "good")) as ollama:
        found = await look(ollama.url)
    assert found is not None
    assert found.models == ("good",)


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1:11434", "ollama.example", "https://127.0.0.1", "127.0.0.1:99999", "a..localhost"],
)
async def test_nothing_is_asked_of_another_machine_or_of_nonsense(host):
    assert await look(host) is None


async def test_who_does_not_answer_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await look(f"127.0.0.1:{silent.getsockname()[1]}") is None
