"""The playground in headless Chromium over a live Keyhole: a call, its answer, its failures."""

from __future__ import annotations

import re

import pytest

from keyhole.dialects.generate import UPSTREAM_FAILED
from page.chromium import Tab
from page.conftest import Opener
from page.driving import SPOKEN, choose, enter, fill, has_come_to, models, shows
from page.live import ENGINE_MODEL, MODEL, PATTERN, Live, pieces
from standins import Gate, Reply
from standins.models import PROMPT_TOKENS, TEXT, Scene, completion_tokens

pytestmark = pytest.mark.asyncio(loop_scope="package")

BEGUN = " There was a"
"""What of the stand-in's text comes before its gate."""


async def test_the_engine_streams_its_answer_in(tab: Tab) -> None:
    """Piece by piece: the page was seen to write before the answer was whole."""
    await choose(tab, ENGINE_MODEL)
    await fill(tab, max_new_tokens="48", seed="1")
    await tab.read(
        "window.seen = [];"
        "new MutationObserver(() => seen.push(document.querySelector('#answer').dataset.state))"
        ".observe(document.querySelector('#text'), {subtree: true, childList: true,"
        "characterData: true})"
    )
    await enter(tab, "Once upon a time")
    await tab.until(has_come_to("done"))
    assert await tab.read("seen.filter((state) => state === 'streaming').length") > 1
    assert len(await tab.read(SPOKEN)) > 20
    numbers = await tab.text("#numbers")
    counted = re.search(r"Tokens\n(\d+) in, (\d+) out", numbers)
    assert counted is not None, numbers
    assert int(counted[1]) > 0
    assert 1 < int(counted[2]) <= 48
    assert re.search(r"Time to first token\n[\d.]+ m?s\n", numbers)
    assert re.search(r"Tokens per second\n[\d.]+\n", numbers)


async def test_an_upstreams_answer_streams_in(tab: Tab, live: Live) -> None:
    """What has come stands there while the upstream still holds the rest."""
    call = live.call()
    await enter(tab, call.prompt)
    await tab.until(shows(BEGUN))
    assert await tab.text("#status") == "Writing"
    seen = await call.arrived()
    assert seen.json["inputs"] == call.prompt
    assert seen.json["parameters"]["max_new_tokens"] == 200
    call.go_on()
    await tab.until(has_come_to("done"))
    assert await tab.text("#status") == "Done"
    assert await tab.read(shows(TEXT))


async def test_the_numbers_are_those_of_the_usage(tab: Tab, live: Live) -> None:
    """And the request is named as in the log and at the upstream."""
    call = live.call()
    await enter(tab, call.prompt)
    await tab.until(shows(BEGUN))
    call.go_on()
    await tab.until(has_come_to("done"))
    numbers = await tab.text("#numbers")
    assert re.search(r"Time to first token\n[\d.]+ m?s\n", numbers)
    assert re.search(r"Tokens per second\n[\d.]+\n", numbers)
    assert f"Tokens\n{PROMPT_TOKENS} in, {completion_tokens(Scene.OK)} out" in numbers
    assert f"Request\n{(await call.arrived()).header('x-request-id')}" in numbers


async def test_text_is_never_markup(tab: Tab, live: Live) -> None:
    text = "<b>a</b> &amp; </script><img src=x onerror=alert(1)> 世界 🦊"
    await enter(tab, live.call(answer=pieces(text, ".")).prompt)
    await tab.until(has_come_to("done"))
    assert await tab.read(shows(f"{text}."))
    assert await tab.read("document.querySelectorAll('#text b, #text img').length") == 0


async def test_the_next_call_begins_with_an_empty_answer(tab: Tab, live: Live) -> None:
    first, gate = live.call(), Gate()
    first.go_on()
    await enter(tab, first.prompt)
    await tab.until(has_come_to("done"))
    await fill(tab, prompt=live.call(answer=pieces(gate, "Another")).prompt)
    await tab.click("#send")
    await tab.until(shows(""))
    gate.open()
    await tab.until(has_come_to("done"))
    assert await tab.read(shows("Another"))


async def test_nothing_is_sent_twice_while_an_answer_is_written(tab: Tab, live: Live) -> None:
    call = live.call()
    await enter(tab, call.prompt)
    await tab.click("#send")
    await tab.press("Control+Enter")
    call.go_on()
    await tab.until(has_come_to("done"))
    assert len(call.requests) == 1


async def test_stop_closes_the_upstream_and_keeps_what_has_come(tab: Tab, live: Live) -> None:
    """The upstream sees its client leave, and the page is ready for the next call."""
    call = live.call(Scene.LEFT)
    await enter(tab, call.prompt)
    await tab.until(shows(BEGUN))
    await tab.click("#stop")
    await call.left()
    await tab.until(has_come_to("stopped"))
    assert await tab.text("#status") == "Stopped"
    assert await tab.read(shows(BEGUN))
    again = live.call()
    again.go_on()
    await fill(tab, prompt=again.prompt)
    await tab.click("#send")
    await tab.until(has_come_to("done"))


async def test_stop_closes_the_upstream_before_the_first_byte_too(tab: Tab, live: Live) -> None:
    call = live.call(answer=pieces(Gate(), "Late"))
    await enter(tab, call.prompt)
    await call.arrived()
    await tab.press("Escape")
    await call.left()
    await tab.until(has_come_to("stopped"))
    assert await tab.text("#problem") == ""


async def test_leaving_the_page_closes_the_upstream(tab: Tab, live: Live) -> None:
    call = live.call(Scene.LEFT)
    await enter(tab, call.prompt)
    await tab.until(shows(BEGUN))
    await tab.go("about:blank")
    await call.left()


async def test_an_upstreams_refusal_is_words_with_its_request(tab: Tab, live: Live) -> None:
    busy = {"error": "Model is overloaded", "error_type": "overloaded"}
    call = live.call(answer=Reply.json(busy, 429, retry_after="20"))
    await enter(tab, call.prompt)
    await tab.until(has_come_to("failed"))
    assert await tab.text("#problem") == (
        f"{UPSTREAM_FAILED}\n"
        "Upstream 'tiny' is overloaded (429). Try again in about 20 s.\n"
        "502 · upstream_rate_limited"
    )
    request_id = (await call.arrived()).header("x-request-id")
    assert f"Request\n{request_id}" in await tab.text("#numbers")
    assert await tab.read("document.querySelector('#problem').getAttribute('role')") == "alert"


async def test_keyholes_own_refusal_is_words_too(tab: Tab) -> None:
    await choose(tab, "/")
    await tab.type("nobody-has-this")
    await enter(tab)
    await tab.until(has_come_to("failed"))
    words = await tab.text("#problem")
    assert "nobody-has-this" in words
    assert words.endswith("404 · model_not_found")
    assert re.search(r"Request\n[0-9a-f-]{36}", await tab.text("#numbers"))


@pytest.mark.parametrize(
    ("scene", "words", "code"),
    [
        (Scene.FAILS_MIDWAY, "failed while it generated", "upstream_error"),
        (Scene.ENDS_EARLY, "ended its stream before the answer", "upstream_unreachable"),
        (Scene.BREAKS_OFF, "broke off in mid-answer", "upstream_unreachable"),
    ],
)
async def test_a_stream_that_breaks_is_words_beside_what_has_come(
    tab: Tab, live: Live, scene: Scene, words: str, code: str
) -> None:
    call = live.call(scene)
    await enter(tab, call.prompt)
    await tab.until(shows(BEGUN))
    call.go_on()
    await tab.until(has_come_to("failed"))
    what, detail, told_code = (await tab.text("#problem")).split("\n")
    assert (what, told_code) == (UPSTREAM_FAILED, code)
    assert detail.startswith(f"Upstream 'tiny' {words}")
    assert f"Request\n{(await call.arrived()).header('x-request-id')}" in await tab.text("#numbers")
    assert await tab.read(shows(BEGUN))


async def test_every_setting_is_sent(tab: Tab, live: Live) -> None:
    await fill(tab, temperature="0.7", top_p="0.95", seed="42", max_new_tokens="16")
    await fill(tab, stop_texts="END\n\\n\\n\nback\\\\slash\n\n")
    await choose(tab, MODEL)
    call = live.call()
    call.go_on()
    await enter(tab, call.prompt)
    await tab.until(has_come_to("done"))
    asked = {
        "max_new_tokens": 16,
        "temperature": 0.7,
        "top_p": 0.95,
        "seed": 42,
        "stop": ["END", "\n\n", "back\\slash"],
    }
    assert asked.items() <= (await call.arrived()).json["parameters"].items()


async def test_a_model_that_is_not_listed_can_be_named(tab: Tab, live: Live) -> None:
    await choose(tab, "/")
    assert await tab.focused() == "other-model"
    await tab.type("meta-llama/Llama-3.3-70B-Instruct:groq")
    call = live.call()
    call.go_on()
    await enter(tab, call.prompt)
    await tab.until(has_come_to("done"))
    assert len(call.requests) == 1


async def test_the_models_are_listed_with_the_default_first(tab: Tab) -> None:
    """A pattern is no model, so it is not offered."""
    listed = await models(tab)
    assert listed[0] == "default"
    assert listed[-1] == "Another model …"
    assert {ENGINE_MODEL, MODEL} < set(listed)
    assert PATTERN not in listed


async def test_what_the_form_refuses_is_not_sent(opened: Opener, live: Live) -> None:
    """A folded setting that is wrong is unfolded; no prompt at all is refused."""
    call = live.call()
    async with opened(width=390) as tab:
        await tab.click("#send")
        assert await tab.focused() == "prompt"
        await tab.type(call.prompt)
        assert not await tab.read("document.querySelector('#settings').open")
        await tab.read("document.querySelector('#temperature').value = '-1'")
        await tab.press("Control+Enter")
        await tab.until("document.querySelector('#settings').open")
        assert await tab.text("#status") == ""
        await fill(tab, temperature="1.5")
        await tab.press("Control+Enter")
        call.go_on()
        await tab.until(has_come_to("done"))
    (seen,) = call.requests
    assert seen.json["parameters"]["temperature"] == 1.5


async def test_nothing_is_kept(tab: Tab, live: Live) -> None:
    """Not in any store, not for the one who presses Back, not over a reload."""
    call = live.call(answer=pieces("A private answer."))
    await fill(tab, key="kh_secret", temperature="0.5")
    await enter(tab, f"A private thing. {call.prompt}")
    await tab.until(has_come_to("done"))
    stores = "[localStorage.length, sessionStorage.length, document.cookie, history.state]"
    assert await tab.read(stores) == [0, 0, "", None]
    assert await tab.read("indexedDB.databases()") == []
    assert await tab.read("caches.keys()") == []
    for leave in (tab.go("about:blank"), tab.go(f"{live.url}/")):
        await leave
    await tab.back()
    await tab.back()
    assert await tab.read("location.pathname") == "/"
    values = "['prompt', 'key', 'temperature'].map((id) => document.getElementById(id).value)"
    assert await tab.read(values) == ["", "", ""]
    assert "private" not in await tab.read("document.documentElement.outerHTML")
