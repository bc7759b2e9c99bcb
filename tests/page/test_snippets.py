"""The snippets of the page do what they promise when somebody pastes them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from page.chromium import Tab
from page.standin import StandIn

pytestmark = pytest.mark.asyncio(loop_scope="package")

AWKWARD = (
    "It's \"quoted\", costs $HOME or `id` or $(id), 100% !! \\n \\ 'x'\n"
    "second line\twith a tab, Grüße 世界 🦊 </script> \u2028 {braces} @file"
)
PARAMETERS = {"max_new_tokens": 16, "temperature": 0.7, "top_p": 0.9, "seed": 7, "stop": ["\n\n"]}

RECORDER = """
import json, os
class OpenAI:
    def __init__(self, **made):
        self.made, self.completions = made, self
    def create(self, **asked):
        print(json.dumps({"made": self.made, "asked": asked}))
        return []
"""
"""Stands in for the `openai` package, whose own tests live with the other clients' tests."""


async def write_call(tab: Tab, key: str = "") -> None:
    """Fill in the form with an awkward prompt and every setting."""
    values = {
        "prompt": AWKWARD,
        "model": "openai-community/gpt2",
        "max-new-tokens": "16",
        "temperature": "0.7",
        "top-p": "0.9",
        "seed": "7",
        "stop-texts": r"\n\n",
        "key": key,
    }
    await tab.read(
        f"Object.entries({json.dumps(values)}).forEach(([id, value]) => {{"
        "const field = document.getElementById(id); field.value = value;"
        "field.dispatchEvent(new Event('input')); })"
    )


async def snippet(tab: Tab, language: str) -> str:
    await tab.click(f"#tab-{language}")
    return str(await tab.read("document.querySelector('#code-text').textContent"))


async def start(*command: str, **environ: str) -> asyncio.subprocess.Process:
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_of_the_user", "NO_PROXY": "*"}
    return await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **quiet, "KEYHOLE_KEY": "kh_secret", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def output(process: asyncio.subprocess.Process) -> str:
    printed, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return printed.decode()


def expected(**others: Any) -> dict[str, Any]:
    return {"input": AWKWARD, "model": "openai-community/gpt2", "parameters": PARAMETERS, **others}


KEYS = pytest.mark.parametrize("key", ["", "kh_secret"], ids=["open", "key"])


@KEYS
async def test_curl_sends_the_same_call(tab: Tab, standin: StandIn, key: str) -> None:
    await write_call(tab, key)
    process = await start("sh", "-c", await snippet(tab, "curl"))
    asked = await standin.asked()
    assert asked.json == expected()
    assert asked.headers.get("authorization") == (f"Bearer {key}" if key else None)
    assert asked.headers["content-type"] == "application/json"
    await asked.reply(200, [{"generated_text": "It was"}])
    assert json.loads(await output(process)) == [{"generated_text": "It was"}]


@KEYS
async def test_curl_shows_a_stream_as_it_comes(tab: Tab, standin: StandIn, key: str) -> None:
    await write_call(tab, key)
    process = await start("sh", "-c", await snippet(tab, "curl-stream"))
    asked = await standin.asked()
    assert asked.json == expected(stream=True)
    await asked.say("It ")
    assert process.stdout is not None
    assert await process.stdout.readline() == b'data: {"text": "It "}\n'
    await asked.finish()
    assert '"done": true' in await output(process)


@KEYS
async def test_the_flask_script_sends_the_same_call(tab: Tab, standin: StandIn, key: str) -> None:
    await write_call(tab, key)
    process = await start(sys.executable, "-c", await snippet(tab, "script"))
    asked = await standin.asked()
    assert asked.json == expected()
    assert asked.headers.get("authorization") == (f"Bearer {key}" if key else None)
    await asked.reply(200, [{"generated_text": "It was"}])
    assert await output(process) == "It was\n"


@KEYS
async def test_huggingface_hub_sends_the_same_call(tab: Tab, standin: StandIn, key: str) -> None:
    """And never the Hugging Face token that it finds on the user's machine."""
    await write_call(tab, key)
    process = await start(sys.executable, "-c", await snippet(tab, "hub"))
    asked = await standin.asked()
    assert asked.path == "/models/openai-community/gpt2"
    assert asked.json == {"inputs": AWKWARD, "parameters": PARAMETERS, "stream": True}
    assert asked.headers["authorization"] == f"Bearer {key or 'not-needed'}"
    for text in ("It ", "was"):
        token = {"id": 1, "text": text, "logprob": -1.0, "special": False}
        data = json.dumps({"token": token, "generated_text": None, "details": None})
        await asked.write(f"data:{data}\n\n".encode())
    await asked.write(b"", is_last=True)
    assert await output(process) == "It was"


@KEYS
async def test_openai_is_asked_for_the_same_call(
    tab: Tab, standin: StandIn, key: str, tmp_path: Path
) -> None:
    await write_call(tab, key)
    (tmp_path / "openai.py").write_text(RECORDER)
    code = await snippet(tab, "openai")
    process = await start(sys.executable, "-c", code, PYTHONPATH=str(tmp_path))
    renamed = {**PARAMETERS, "max_tokens": 16}
    del renamed["max_new_tokens"]
    assert json.loads(await output(process)) == {
        "made": {"base_url": f"{standin.url}/v1", "api_key": key or "not-needed"},
        "asked": {
            "model": "openai-community/gpt2",
            "prompt": AWKWARD,
            **renamed,
            "stream": True,
        },
    }


@KEYS
async def test_javascript_sends_the_same_call(tab: Tab, standin: StandIn, key: str) -> None:
    """In the page itself, which is a browser at hand; Node's `process` is made up."""
    await write_call(tab, key)
    code = await snippet(tab, "javascript")
    await tab.read(
        "window.said = []; window.process = {env: {KEYHOLE_KEY: 'kh_secret'}};"
        "window.console.log = (text) => said.push(text);"
    )
    # As an expression: the page's own policy refuses code made of text.
    await tab.read(f"void (async () => {{ {code}\nsaid.push(null); }})()")
    asked = await standin.asked()
    assert asked.json == expected(stream=True)
    assert asked.headers.get("authorization") == (f"Bearer {key}" if key else None)
    await asked.say("It ")
    await asked.write(b": still here\n\n")
    await asked.say("was")
    await asked.finish()
    await tab.until("said.at(-1) === null")
    assert await tab.read("said") == ["It ", "was", None]


async def test_the_plainest_call_is_the_original_scripts(tab: Tab, standin: StandIn) -> None:
    """One field, on one line."""
    await tab.read("document.querySelector('#max-new-tokens').value = ''")
    await tab.click("#prompt")
    await tab.type("Once")
    assert 'json={"input": "Once"},' in await snippet(tab, "script")
    assert '-d \'{"input": "Once"}\'' in await snippet(tab, "curl")


@pytest.mark.parametrize("host", ["127.0.0.1", "keyhole.test"])
async def test_copying_puts_the_code_on_the_clipboard(
    tab: Tab, standin: StandIn, host: str
) -> None:
    """Over plain HTTP from elsewhere too, where browsers have no clipboard object."""
    await tab.go(f"{standin.url.replace('127.0.0.1', host)}/")
    await tab.until("document.querySelector('#model').options.length > 2")
    assert await tab.read("isSecureContext") is (host == "127.0.0.1")
    code = await snippet(tab, "script")
    await tab.click("#copy-code")
    await tab.until("document.querySelector('#copied').textContent === 'Copied.'")
    assert await tab.focused() == "copy-code"
    await tab.click("#prompt")
    await tab.press("Control+v", "paste")
    await tab.until("document.querySelector('#prompt').value !== ''")
    assert await tab.read("document.querySelector('#prompt').value") == code


async def test_an_answer_can_be_copied(tab: Tab, standin: StandIn) -> None:
    await tab.click("#prompt")
    await tab.type("Hello")
    await tab.press("Control+Enter")
    asked = await standin.asked()
    await asked.say("It was night. ", "The lamp burned.")
    await asked.finish()
    await tab.until("!document.querySelector('#copy-answer').hidden")
    await tab.click("#copy-answer")
    await tab.until("document.querySelector('#copied').textContent === 'Copied.'")
    await tab.read("document.querySelector('#prompt').value = ''")
    await tab.click("#prompt")
    await tab.press("Control+v", "paste")
    value = "document.querySelector('#prompt').value"
    await tab.until(f"{value} === 'It was night. The lamp burned.'")
