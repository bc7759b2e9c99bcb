"""The playground in headless Chromium: a call, its answer and its failures."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from page.chromium import Chromium, Tab
from page.conftest import Opener, open_page
from page.standin import REQUEST_ID, Asked, StandIn

pytestmark = pytest.mark.asyncio(loop_scope="package")

FAILED = "document.querySelector('#answer').dataset.state === 'failed'"
DONE = "document.querySelector('#answer').dataset.state === 'done'"
STOPPED = "document.querySelector('#answer').dataset.state === 'stopped'"


async def send(tab: Tab, standin: StandIn, prompt: str = "Hello") -> Asked:
    """Type a prompt and send it with the mouse."""
    await tab.click("#prompt")
    await tab.type(prompt)
    await tab.click("#send")
    return await standin.asked()


def shows(text: str) -> str:
    """An expression: the answer reads like this."""
    read = "['spoken', 'unspoken'].map((id) => document.getElementById(id).textContent).join('')"
    return f"{read} === {json.dumps(text)}"


async def fill(tab: Tab, **fields: str) -> None:
    """Type into fields; a name's underscores are an id's hyphens."""
    for name, text in fields.items():
        await tab.click(f"#{name.replace('_', '-')}")
        await tab.read("document.activeElement.select()")
        await tab.type(text)


async def choose(tab: Tab, model: str) -> None:
    """Choose an option of the list of models, as a user's choice is told to the page."""
    await tab.read(
        f"(() => {{ const list = document.querySelector('#model'); list.value = {model!r};"
        "for (const kind of ['input', 'change']) list.dispatchEvent(new Event(kind)); })()"
    )


async def test_an_answer_streams_in(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin, "Tell me")
    assert asked.path == "/generate"
    assert asked.json == {
        "input": "Tell me",
        "parameters": {"max_new_tokens": 200},
        "stream": True,
    }
    assert "authorization" not in asked.headers
    await asked.say("It ")
    await tab.until(shows("It "))
    await asked.say("was <b>a</b>", " night")
    await tab.until(shows("It was <b>a</b> night"))
    assert await tab.text("#status") == "Writing"
    await asked.finish(usage=(2, 7))
    await tab.until(DONE)
    assert await tab.text("#status") == "Done"
    assert await tab.read(shows("It was <b>a</b> night"))


async def test_the_numbers_are_those_of_the_usage(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.say("one")
    await tab.until(shows("one"))
    await asked.say(" two")
    await tab.until(shows("one two"))
    await asked.finish(usage=(14, 57))
    await tab.until(DONE)
    numbers = await tab.text("#numbers")
    assert re.search(r"Time to first token\n[\d.]+ m?s\n", numbers)
    assert re.search(r"Tokens per second\n[\d.]+\n", numbers)
    assert "Tokens\n14 in, 57 out" in numbers
    assert REQUEST_ID in numbers


async def test_without_usage_pieces_are_counted_and_called_so(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.say("one")
    await tab.until(shows("one"))
    await asked.say(" two")
    await tab.until(shows("one two"))
    await asked.finish()
    await tab.until(DONE)
    numbers = await tab.text("#numbers")
    assert re.search(r"Pieces per second\n[\d.]+\n", numbers)
    assert "Pieces\n2" in numbers
    assert "Tokens" not in numbers


async def test_frames_may_be_cut_anywhere_and_comments_stand_between(
    tab: Tab, standin: StandIn
) -> None:
    asked = await send(tab, standin)
    data = 'data: {"text": "Grüße, 世界 🦊"}\n\n: still here\n\ndata: {"text": "!"}\n\n'.encode()
    for byte in data:
        await asked.write(bytes([byte]))
    await asked.finish()
    await tab.until(DONE)
    assert await tab.read(shows("Grüße, 世界 🦊!"))


async def test_a_text_that_comes_only_at_the_end_is_shown(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.finish("All at once", usage=(1, 3))
    await tab.until(DONE)
    assert await tab.read(shows("All at once"))


async def test_the_next_call_begins_with_an_empty_answer(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.say("first")
    await asked.finish()
    await tab.until(DONE)
    await tab.click("#send")
    again = await standin.asked()
    await tab.until(shows(""))
    await again.say("second")
    await again.finish()
    await tab.until(shows("second"))


async def test_nothing_is_sent_twice_while_an_answer_is_written(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await tab.click("#send")
    await tab.press("Control+Enter")
    await asked.say("only this")
    await asked.finish()
    await tab.until(DONE)
    assert await tab.read(shows("only this"))
    assert standin.waiting == 0


async def test_stop_hangs_up_and_keeps_what_has_come(tab: Tab, standin: StandIn) -> None:
    """The server sees its client leave, and the page is ready for the next call."""
    asked = await send(tab, standin)
    await asked.say("It was")
    await tab.until(shows("It was"))
    await tab.click("#stop")
    await asked.left()
    await tab.until(STOPPED)
    assert standin.disconnects == 1
    assert await tab.text("#status") == "Stopped"
    assert await tab.read(shows("It was"))
    again = await send(tab, standin)
    await again.finish("done")
    await tab.until(DONE)


async def test_stop_hangs_up_before_the_first_byte_too(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await tab.press("Escape")
    await asked.left()
    await tab.until(STOPPED)
    assert await tab.text("#problem") == ""


async def test_leaving_the_page_hangs_up(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.say("It was")
    await tab.go("about:blank")
    await asked.left()


async def test_a_refusal_is_shown_in_words_with_its_request(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    problem = {
        "error": "Could not connect to the text generation service.",
        "detail": "Hugging Face refused the token (401). Run hf auth login, or set HF_TOKEN.",
        "code": "upstream_token_refused",
        "request_id": "01936f2e-aaaa",
    }
    await asked.reply(502, problem, retry_after="20")
    await tab.until(FAILED)
    assert await tab.text("#problem") == (
        "Could not connect to the text generation service.\n"
        "Hugging Face refused the token (401). Run hf auth login, or set HF_TOKEN.\n"
        "Worth another try: in 20 s.\n"
        "502 · upstream_token_refused"
    )
    assert "01936f2e-aaaa" in await tab.text("#numbers")
    assert await tab.read("document.querySelector('#problem').getAttribute('role')") == "alert"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<h1>Bad Gateway</h1>", "The server answered 503 and did not say why."),
        (b"[]", "The server answered 503 and did not say why."),
        (b'{"error": {"message": "Loading", "code": "x"}}', "Loading"),
        (b'{"error": "Loading", "estimated_time": 20}', "Loading"),
    ],
)
async def test_any_refusal_is_words(tab: Tab, standin: StandIn, body: bytes, words: str) -> None:
    """From a proxy in between, or in another dialect."""
    asked = await send(tab, standin)
    await asked.begin(503)
    await asked.write(body, is_last=True)
    await tab.until(FAILED)
    assert (await tab.text("#problem")).startswith(words)
    assert REQUEST_ID in await tab.text("#numbers")


async def test_an_error_inside_the_stream_is_shown_beside_what_has_come(
    tab: Tab, standin: StandIn
) -> None:
    asked = await send(tab, standin)
    await asked.say("It was")
    await asked.frame(
        {"error": "The upstream broke off.", "code": "stream_failed", "request_id": "0193-mid"},
        is_last=True,
    )
    await tab.until(FAILED)
    assert await tab.text("#problem") == "The upstream broke off.\nstream_failed"
    assert "0193-mid" in await tab.text("#numbers")
    assert await tab.read(shows("It was"))


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("early", "The stream ended before its last frame."),
        ("cut", "The connection broke off before the end."),
        ("html", "The stream held something that is not JSON."),
        ("scalar", "The stream held something that is no frame."),
    ],
)
async def test_an_answer_that_is_cut_short_is_no_success(
    tab: Tab, standin: StandIn, ending: str, words: str
) -> None:
    asked = await send(tab, standin)
    await asked.say("It was")
    await tab.until(shows("It was"))
    match ending:
        case "early":
            await asked.write(b"", is_last=True)
        case "cut":
            await asked.hang_up()
        case "html":
            await asked.write(b"data: <html>\n\n", is_last=True)
        case "scalar":
            await asked.write(b"data: null\n\n", is_last=True)
    await tab.until(FAILED)
    assert await tab.text("#problem") == words
    assert await tab.read(shows("It was"))


async def test_a_server_that_is_gone_is_words(chromium: Chromium) -> None:
    async with StandIn() as standin:
        tab_of = open_page(chromium, standin)
        tab = await tab_of.__aenter__()
        await tab.click("#prompt")
        await tab.type("Hello")
    await tab.click("#send")
    await tab.until(FAILED)
    assert await tab.text("#problem") == "Keyhole cannot be reached. Is it still running?"
    await tab_of.__aexit__(None, None, None)


async def test_every_setting_is_sent_and_an_empty_one_is_not(tab: Tab, standin: StandIn) -> None:
    await fill(tab, temperature="0.7", top_p="0.95", seed="42", max_new_tokens="16")
    await fill(tab, stop_texts="END\n\\n\\n\nback\\\\slash\n\n")
    await choose(tab, "openai-community/gpt2")
    asked = await send(tab, standin)
    assert asked.json == {
        "input": "Hello",
        "model": "openai-community/gpt2",
        "parameters": {
            "max_new_tokens": 16,
            "temperature": 0.7,
            "top_p": 0.95,
            "seed": 42,
            "stop": ["END", "\n\n", "back\\slash"],
        },
        "stream": True,
    }
    await asked.finish()
    await tab.until(DONE)
    await tab.read("document.querySelector('#call').reset()")
    await fill(tab, max_new_tokens="")
    assert (await send(tab, standin)).json == {"input": "Hello", "stream": True}


async def test_a_model_that_is_not_listed_can_be_named(tab: Tab, standin: StandIn) -> None:
    await choose(tab, "/")
    assert await tab.focused() == "other-model"
    await tab.type("meta-llama/Llama-3.3-70B-Instruct:groq")
    asked = await send(tab, standin)
    assert asked.json["model"] == "meta-llama/Llama-3.3-70B-Instruct:groq"


async def options(tab: Tab) -> Any:
    return await tab.read("[...document.querySelector('#model').options].map((o) => o.text)")


async def test_the_models_are_listed_with_the_default_first(
    chromium: Chromium, standin: StandIn
) -> None:
    """A pattern is no model; without a default route none is offered."""
    standin.models = ("gpt2", "*/*", "default")
    async with open_page(chromium, standin) as tab:
        assert await options(tab) == ["default", "gpt2", "Another model …"]
    standin.models = ("gpt2", "story")
    async with open_page(chromium, standin) as tab:
        assert await options(tab) == ["gpt2", "story", "Another model …"]
        assert (await send(tab, standin)).json["model"] == "gpt2"


async def test_a_key_is_sent_as_a_bearer_and_written_nowhere(
    chromium: Chromium, standin: StandIn
) -> None:
    standin.needs_key = "kh_secret"
    async with chromium.tab(f"{standin.url}/") as tab:
        await tab.until("!document.querySelector('#model-note').hidden")
        note = await tab.text("#model-note")
        assert note == "The models could not be listed. A key is needed."
        assert await options(tab) == ["default", "Another model …"]
        await fill(tab, key="kh_secret")
        asked = await send(tab, standin)
        await tab.until("document.querySelector('#model').options.length > 2")
        assert await tab.read("document.querySelector('#model-note').hidden")
        assert asked.headers["authorization"] == "Bearer kh_secret"
        assert "KEYHOLE_KEY" in await tab.text(".code")
        assert "kh_secret" not in await tab.read("document.documentElement.outerHTML")
        assert await tab.read("document.querySelector('#key').type") == "password"


async def test_what_the_form_refuses_is_not_sent(opened: Opener, standin: StandIn) -> None:
    """A folded setting that is wrong is unfolded; no prompt at all is refused."""
    async with opened(width=390) as tab:
        await tab.click("#send")
        assert await tab.focused() == "prompt"
        await tab.type("Hello")
        assert not await tab.read("document.querySelector('#settings').open")
        await tab.read("document.querySelector('#temperature').value = '-1'")
        await tab.press("Control+Enter")
        await tab.until("document.querySelector('#settings').open")
        assert await tab.text("#status") == ""
        await fill(tab, temperature="1")
        await tab.press("Control+Enter")
        assert (await standin.asked()).json["parameters"]["temperature"] == 1
    assert standin.waiting == 0


async def test_nothing_is_kept(tab: Tab, standin: StandIn) -> None:
    """Not in any store, not for the one who presses Back, not over a reload."""
    await fill(tab, key="kh_secret", temperature="0.5")
    asked = await send(tab, standin, "A private thing")
    await asked.say("A private answer.")
    await asked.finish()
    await tab.until(DONE)
    stores = "[localStorage.length, sessionStorage.length, document.cookie, history.state]"
    assert await tab.read(stores) == [0, 0, "", None]
    assert await tab.read("indexedDB.databases()") == []
    assert await tab.read("caches.keys()") == []
    for leave in (tab.go("about:blank"), tab.go(f"{standin.url}/")):
        await leave
    await tab.back()
    await tab.back()
    assert await tab.read("location.pathname") == "/"
    values = "['prompt', 'key', 'temperature'].map((id) => document.getElementById(id).value)"
    assert await tab.read(values) == ["", "", ""]
    assert "private" not in await tab.read("document.documentElement.outerHTML")


async def test_the_page_works_below_a_prefix(chromium: Chromium) -> None:
    """As in a Flask blueprint: its files, its calls and its snippets are below it too."""
    async with StandIn("/ai") as standin, open_page(chromium, standin) as tab:
        asked = await send(tab, standin)
        assert asked.path == "/generate"
        await asked.finish("Hello back")
        await tab.until(DONE)
        assert f"{standin.url}/generate" in await tab.text("#code-text")
        assert standin.unknown == []
