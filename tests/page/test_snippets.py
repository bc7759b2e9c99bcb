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
from page.driving import enter, has_come_to
from page.live import MODEL, Call, Live
from page.standin import StandIn
from standins.models import TEXT

pytestmark = pytest.mark.asyncio(loop_scope="package")

CLIENTS = Path(__file__).parents[2] / ".venv-clients" / "bin" / "python"
"""Has the clients that people paste into."""
AWKWARD = (
    "It's \"quoted\", costs $HOME or `id` or $(id), 100% !! \\n \\ 'x'\n"
    "second line\twith a tab, Grüße 世界 🦊 </script> \u2028 {braces} @file"
)
PARAMETERS = {"max_new_tokens": 16, "temperature": 0.7, "top_p": 0.9, "seed": 7, "stop": ["\n\n"]}

LANGUAGES = ("curl", "curl-stream", "openai", "hub", "javascript", "script")


async def write_call(tab: Tab, call: Call, prompt: str = AWKWARD) -> None:
    """Fill in the form with an awkward prompt and every setting."""
    values = {
        "prompt": prompt + call.prompt,
        "model": MODEL,
        "max-new-tokens": "16",
        "temperature": "0.7",
        "top-p": "0.9",
        "seed": "7",
        "stop-texts": r"\n\n",
    }
    await put(tab, values)


async def put(tab: Tab, values: Any) -> None:
    """Fill in fields by their ids."""
    await tab.read(
        f"Object.entries({json.dumps(values)}).forEach(([id, value]) => {{"
        "const field = document.getElementById(id); field.value = value;"
        "field.dispatchEvent(new Event('input')); })"
    )


async def snippet(tab: Tab, language: str) -> str:
    await tab.click(f"#tab-{language}")
    return str(await tab.read("document.querySelector('#code-text').textContent"))


async def start(tab: Tab, language: str) -> asyncio.subprocess.Process:
    """The snippet, pasted: into a shell, or into Python."""
    code = await snippet(tab, language)
    python = CLIENTS if language in ("openai", "hub") else Path(sys.executable)
    if not python.exists():
        pytest.fail(f"{python} is not there: make test-clients sets it up.")
    command = ("sh", "-c", code) if language.startswith("curl") else (str(python), "-c", code)
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_of_the_user", "NO_PROXY": "*"}
    return await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **quiet, "KEYHOLE_KEY": "kh_secret", "PYTHONPATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def output(process: asyncio.subprocess.Process) -> str:
    printed, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return printed.decode()


async def is_the_call(call: Call, prompt: str = AWKWARD) -> None:
    """The upstream was asked for all that the form says."""
    asked = (await call.arrived()).json
    assert asked["inputs"] == prompt + call.prompt
    assert asked["parameters"].items() >= PARAMETERS.items()


@pytest.mark.parametrize("language", ["curl", "script"])
async def test_a_snippet_gets_the_answer(tab: Tab, live: Live, language: str) -> None:
    call = live.call()
    await write_call(tab, call)
    printed = await output(await start(tab, language))
    await is_the_call(call)
    text = AWKWARD + call.prompt + TEXT
    is_curl = language == "curl"
    assert (json.loads(printed) if is_curl else printed) == (
        [{"generated_text": text}] if is_curl else f"{text}\n"
    )


async def test_curl_shows_a_stream_as_it_comes(tab: Tab, live: Live) -> None:
    """The first piece is printed while the upstream still holds the rest."""
    call = live.call()
    await write_call(tab, call)
    process = await start(tab, "curl-stream")
    assert process.stdout is not None
    assert await process.stdout.readline() == b'data: {"text":" There"}\n'
    await is_the_call(call)
    call.go_on()
    frames = [line for line in (await output(process)).splitlines() if line]
    assert json.loads(frames[-1].removeprefix("data: "))["done"] is True


@pytest.mark.parametrize("language", ["openai", "hub"])
async def test_a_library_shows_a_stream_as_it_comes(tab: Tab, live: Live, language: str) -> None:
    """The library itself, as people have it installed.

    TGI's last frame repeats the prompt, and is passed on byte for byte; huggingface_hub (2.4.0,
    through httpx2) takes U+2028 for the end of a line, from whichever server.
    """
    call = live.call()
    prompt = AWKWARD.replace("\u2028", "") if language == "hub" else AWKWARD
    await write_call(tab, call, prompt)
    process = await start(tab, language)
    assert process.stdout is not None
    assert await process.stdout.readexactly(len(" There was a")) == b" There was a"
    await is_the_call(call, prompt)
    call.go_on()
    assert " There was a" + await output(process) == TEXT


async def test_javascript_shows_a_stream_as_it_comes(tab: Tab, live: Live) -> None:
    """In the page itself, which is a browser at hand."""
    call = live.call()
    await write_call(tab, call)
    await run_javascript(tab)
    await tab.until("said.join('') === ' There was a'")
    await is_the_call(call)
    call.go_on()
    await tab.until("said.at(-1) === null")
    assert "".join((await tab.read("said"))[:-1]) == TEXT


async def run_javascript(tab: Tab) -> None:
    """What it prints goes into `said`, with null behind it; Node's `process` is made up."""
    code = await snippet(tab, "javascript")
    await tab.read(
        "window.said = []; window.process = {env: {KEYHOLE_KEY: 'kh_secret'}};"
        "window.console.log = (text) => said.push(text);"
    )
    # As an expression: the page's own policy refuses code made of text.
    await tab.read(f"void (async () => {{ {code}\nsaid.push(null); }})().catch(() => {{}})")


@pytest.mark.parametrize("key", ["", "kh_secret"], ids=["open", "key"])
@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_key_is_sent_where_there_is_one(
    standin_tab: Tab, standin: StandIn, language: str, key: str
) -> None:
    """And never the Hugging Face token that a library finds on the user's machine."""
    await put(standin_tab, {"prompt": "Hello", "key": key})
    process = None
    if language == "javascript":
        await run_javascript(standin_tab)
    else:
        process = await start(standin_tab, language)
    asked = await standin.asked()
    needs_some = language in ("openai", "hub")
    without = "Bearer not-needed" if needs_some else None
    assert asked.headers.get("authorization") == (f"Bearer {key}" if key else without)
    await asked.reply(400, {"error": "Enough."})
    if process is not None:
        await process.communicate()


async def test_the_plainest_call_is_the_original_scripts(tab: Tab) -> None:
    """One field, on one line."""
    await tab.read("document.querySelector('#max-new-tokens').value = ''")
    await tab.click("#prompt")
    await tab.type("Once")
    assert 'json={"input": "Once"},' in await snippet(tab, "script")
    assert '-d \'{"input": "Once"}\'' in await snippet(tab, "curl")


@pytest.mark.parametrize("host", ["127.0.0.1", "keyhole.test"])
async def test_copying_puts_the_code_on_the_clipboard(
    standin_tab: Tab, standin: StandIn, host: str
) -> None:
    """Over plain HTTP from elsewhere too, where browsers have no clipboard object."""
    tab = standin_tab
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


async def test_an_answer_can_be_copied(tab: Tab, live: Live) -> None:
    call = live.call()
    call.go_on()
    await enter(tab, call.prompt)
    await tab.until(has_come_to("done"))
    await tab.click("#copy-answer")
    await tab.until("document.querySelector('#copied').textContent === 'Copied.'")
    await tab.read("document.querySelector('#prompt').value = ''")
    await tab.click("#prompt")
    await tab.press("Control+v", "paste")
    await tab.until(f"document.querySelector('#prompt').value === {json.dumps(TEXT)}")
