"""The playground over a stand-in: what a live Keyhole would not say, or not at this address."""

from __future__ import annotations

import re

import pytest

from page.chromium import Chromium, Tab
from page.conftest import open_page
from page.driving import enter, fill, has_come_to, models, shows
from page.standin import REQUEST_ID, Asked, StandIn

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.fixture
def tab(standin_tab: Tab) -> Tab:
    return standin_tab


async def send(tab: Tab, standin: StandIn, prompt: str = "Hello") -> Asked:
    """Enter a prompt; the call that comes of it."""
    await enter(tab, prompt)
    return await standin.asked()


async def test_what_is_left_empty_is_not_sent(tab: Tab, standin: StandIn) -> None:
    """Nor a header that was not asked for."""
    await fill(tab, max_new_tokens="")
    asked = await send(tab, standin)
    assert asked.path == "/generate"
    assert asked.json == {"input": "Hello", "stream": True}
    assert "authorization" not in asked.headers


async def test_without_usage_pieces_are_counted_and_called_so(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.say("one")
    await tab.until(shows("one"))
    await asked.say(" two")
    await tab.until(shows("one two"))
    await asked.finish()
    await tab.until(has_come_to("done"))
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
    await tab.until(has_come_to("done"))
    assert await tab.read(shows("Grüße, 世界 🦊!"))


async def test_a_text_that_comes_only_at_the_end_is_shown(tab: Tab, standin: StandIn) -> None:
    asked = await send(tab, standin)
    await asked.finish("All at once", usage=(1, 3))
    await tab.until(has_come_to("done"))
    assert await tab.read(shows("All at once"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<h1>Bad Gateway</h1>", "The server answered 503 and did not say why."),
        (b"[]", "The server answered 503 and did not say why."),
        (b'{"error": {"message": "Loading", "code": "x"}}', "Loading"),
        (b'{"error": "Loading", "estimated_time": 20}', "Loading\nWorth another try: in 20 s."),
    ],
)
async def test_any_refusal_is_words(tab: Tab, standin: StandIn, body: bytes, words: str) -> None:
    """From a proxy in between, or in another dialect."""
    asked = await send(tab, standin)
    await asked.begin(503, retry_after="20")
    await asked.write(body, is_last=True)
    await tab.until(has_come_to("failed"))
    assert (await tab.text("#problem")).startswith(words)
    assert REQUEST_ID in await tab.text("#numbers")


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
    """Cut by a proxy in between, or because Keyhole died."""
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
    await tab.until(has_come_to("failed"))
    assert await tab.text("#problem") == words
    assert await tab.read(shows("It was"))


async def test_a_server_that_is_gone_is_words(chromium: Chromium) -> None:
    async with StandIn() as standin:
        tab_of = open_page(chromium, standin.url)
        tab = await tab_of.__aenter__()
        await tab.click("#prompt")
        await tab.type("Hello")
    await tab.click("#send")
    await tab.until(has_come_to("failed"))
    assert await tab.text("#problem") == "Keyhole cannot be reached. Is it still running?"
    await tab_of.__aexit__(None, None, None)


async def test_without_a_default_none_is_offered(chromium: Chromium, standin: StandIn) -> None:
    standin.models = ("gpt2", "story")
    async with open_page(chromium, standin.url) as tab:
        assert await models(tab) == ["gpt2", "story", "Another model …"]
        assert (await send(tab, standin)).json["model"] == "gpt2"


async def test_a_key_is_sent_as_a_bearer_and_written_nowhere(
    chromium: Chromium, standin: StandIn
) -> None:
    standin.needs_key = "kh_secret"
    async with chromium.tab(f"{standin.url}/") as tab:
        await tab.until("!document.querySelector('#model-note').hidden")
        note = await tab.text("#model-note")
        assert note == "The models could not be listed. A key is needed."
        assert await models(tab) == ["default", "Another model …"]
        await fill(tab, key="kh_secret")
        asked = await send(tab, standin)
        await tab.until("document.querySelector('#model').options.length > 2")
        assert await tab.read("document.querySelector('#model-note').hidden")
        assert asked.headers["authorization"] == "Bearer kh_secret"
        assert "KEYHOLE_KEY" in await tab.text(".code")
        assert "kh_secret" not in await tab.read("document.documentElement.outerHTML")
        assert await tab.read("document.querySelector('#key').type") == "password"


async def test_the_page_works_below_a_prefix(chromium: Chromium) -> None:
    """As in a Flask blueprint: its files, its calls and its snippets are below it too."""
    async with StandIn("/ai") as standin, open_page(chromium, standin.url) as tab:
        asked = await send(tab, standin)
        assert asked.path == "/generate"
        await asked.finish("Hello back")
        await tab.until(has_come_to("done"))
        assert f"{standin.url}/generate" in await tab.text("#code-text")
        assert standin.unknown == []
