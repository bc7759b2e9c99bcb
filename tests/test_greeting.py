"""What `keyhole serve` says at the start."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from keyhole import main
from keyhole.config import Inputs, Settings, load
from keyhole.greeting import Ollama, Surroundings, greeting, ollama_lines

TOKEN = "hf_GREETGREETGREETGREETGREET"
ADDRESS = "http://127.0.0.1:5000"
DEMO = "keyhole-demo"


def settings(place: Path, text: str | None = None, **environ: str) -> Settings:
    if text is not None:
        (place / "keyhole.toml").write_text(text)
    inputs = Inputs(environ=environ, cwd=place, home=place)
    return load(inputs, backends=main.backends(), engine_models=lambda _: [DEMO])


def said(given: Settings, place: Path, ollama: Ollama | None = None) -> str:
    found = Surroundings(engine_models=(DEMO,), ollama=ollama, home=place)
    return greeting(given, address=ADDRESS, found=found)


def asked(text: str) -> dict[str, str] | None:
    """The body of the request that the text proposes."""
    lines = [line for line in text.splitlines() if line.strip().startswith("curl ")]
    if not lines:
        return None
    words = shlex.split(lines[0])
    assert f"{ADDRESS}/generate" in words
    body: dict[str, str] = json.loads(words[words.index("-d") + 1])
    return body


def row(text: str, name: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(f"  {name} "))
    return line


def test_without_a_configuration_it_says_so_and_what_a_token_would_open(tmp_path):
    text = said(settings(tmp_path), tmp_path)
    assert text.startswith("Keyhole 0.")
    assert row(text, "default").endswith("the story model that Keyhole carries")
    assert "state   ~/.local/share/keyhole" in text
    assert "config  none, these are the defaults" in text
    assert "token   none; HF_TOKEN or `hf auth login` opens the models of Hugging Face" in text
    assert asked(text) == {"input": "Once upon a time"}
    assert text.endswith(f"Or open {ADDRESS}/ in a browser.")


def test_with_a_token_it_says_where_it_is_from_and_never_what_it_is(tmp_path):
    text = said(settings(tmp_path, HF_TOKEN=TOKEN), tmp_path)
    assert row(text, "*/*").endswith("any such model at Hugging Face, with the token from HF_TOKEN")
    assert "token   none" not in text
    assert TOKEN not in text

    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text(TOKEN)
    assert ".cache/huggingface/token" in said(settings(tmp_path), tmp_path)


def test_a_model_that_is_not_here_yet_comes_with_the_command_that_fetches_it(tmp_path):
    text = said(settings(tmp_path, '[route.gpt2]\ntargets = ["engine/o/gpt2"]\n'), tmp_path)
    assert row(text, "gpt2").endswith("not here yet; run: keyhole model pull o/gpt2")


def test_targets_stand_in_their_order(tmp_path):
    text = said(
        settings(
            tmp_path,
            '[upstream.gpu]\nkind = "openai"\nurl = "http://h/v1"\ntoken = { env = "T" }\n'
            '[route.chat]\ntargets = ["gpu/qwen", "engine/keyhole-demo"]\n',
            T=TOKEN,
        ),
        tmp_path,
    )
    assert "gpu/qwen then engine/keyhole-demo" in row(text, "chat")
    assert row(text, "chat").endswith("an OpenAI-style server, with its token")


@pytest.mark.parametrize(
    ("routes", "body"),
    [
        ('[route.chat]\ntargets = ["gpu/m"]', {"input": "Once upon a time", "model": "chat"}),
        ('[route."a/*"]\ntargets = ["gpu/*"]', None),
        ('[route."*"]\ntargets = ["gpu/m"]', {"input": "Once upon a time"}),
    ],
)
def test_what_it_proposes_is_answered(tmp_path, routes, body):
    """Without a default route a model is named; of a pattern nobody knows a name."""
    upstream = '[upstream.gpu]\nkind = "openai"\nurl = "http://h/v1"\n'
    given = settings(tmp_path, f"[server]\nbuiltin_routes = false\n{upstream}{routes}\n")
    assert asked(said(given, tmp_path)) == body
    if body is not None:
        assert given.catalog.find(body.get("model")) is not None


@pytest.mark.parametrize("model", ["llama3.2:3b", "hf.co/owner/name:Q4_K_M"])
def test_the_lines_for_an_ollama_are_a_configuration_that_works(tmp_path, model):
    ollama = Ollama("127.0.0.1:11434", (model,))
    text = said(settings(tmp_path), tmp_path, ollama)
    lines = ollama_lines(ollama)
    assert all(line in text for line in lines)

    existing = '[route.other]\ntargets = ["engine/keyhole-demo"]\n'
    given = settings(tmp_path, "\n".join(lines) + "\n" + existing)
    route = given.catalog.find(model)
    assert route is not None
    assert str(route.targets[0]) == f"ollama/{model}"
    assert route.targets[0].upstream.url == "http://127.0.0.1:11434/v1"
    assert "Ollama is running" not in said(given, tmp_path, ollama), "it is configured by now"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("huggingface", "a server like Hugging Face's router"),
        ("hf-inference", "a server like Hugging Face's older API"),
        ("engine", "another Keyhole's engine"),
    ],
)
def test_a_server_elsewhere_is_not_called_what_its_kind_is_named_after(tmp_path, kind, words):
    text = said(
        settings(
            tmp_path,
            f'[upstream.lab]\nkind = "{kind}"\nurl = "http://10.0.0.7:8080"\n'
            '[route.m]\ntargets = ["lab/m"]\n',
        ),
        tmp_path,
    )
    assert row(text, "m").endswith(words)
