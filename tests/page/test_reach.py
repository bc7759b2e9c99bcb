"""Who can use the page: by keyboard, by ear, on a phone, in the dark."""

from __future__ import annotations

from typing import Any

import pytest

from page.chromium import Tab
from page.conftest import Opener
from page.driving import SPOKEN, choose, fill, has_come_to
from page.live import Live, pieces
from standins import Gate, Streamed
from standins.models import Scene

pytestmark = pytest.mark.asyncio(loop_scope="package")

TAB_ORDER = (
    *("prompt", "model", "stop", "send"),
    *("", "max-new-tokens", "temperature", "top-p", "seed", "stop-texts", "key"),
    *("tab-curl", "copy-code", ""),
)
"""Ids; the summary and the code have none."""

# Colours as WCAG 2.2 compares them, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
CONTRAST = """((selector, property) => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = document.querySelector(selector);
  let behind = property === "color" ? found : found.parentElement;
  while (/^rgba\\(.*, 0\\)$/.test(getComputedStyle(behind).backgroundColor)) {
    behind = behind.parentElement;
  }
  const two = [getComputedStyle(found)[property], getComputedStyle(behind).backgroundColor]
    .map(luminance).sort((a, b) => b - a);
  return (two[0] + 0.05) / (two[1] + 0.05);
})"""


async def test_everything_works_by_keyboard_alone(tab: Tab, live: Live) -> None:
    call = live.call(Scene.LEFT)
    await tab.press("Tab")
    assert await tab.focused() == "prompt"
    await tab.type(call.prompt)
    await tab.press("Enter")
    await tab.type("there")
    await tab.press("Control+Enter")
    assert (await call.arrived()).json["inputs"] == f"{call.prompt}\nthere"
    await tab.until(has_come_to("streaming"))
    await tab.press("Escape")
    await call.left()
    await tab.until(has_come_to("stopped"))
    assert await tab.focused() == "prompt"
    for _ in range(3):
        await tab.press("Tab")
    assert await tab.focused() == "send"
    await tab.press("Space")
    await call.arrived(2)
    await tab.until(has_come_to("streaming"))
    await tab.press("Shift+Tab")
    assert await tab.focused() == "stop"
    await tab.press("Enter")
    await call.left(2)
    await tab.until(has_come_to("stopped"))
    assert await tab.focused() == "stop"


async def test_tab_goes_through_the_page_in_its_order(tab: Tab) -> None:
    met = []
    for _ in TAB_ORDER:
        await tab.press("Tab")
        met.append(await tab.focused())
        assert await shows_focus(tab), met[-1]
    assert tuple(met) == TAB_ORDER


async def shows_focus(tab: Tab) -> Any:
    """Whether what has the focus, or the card around it, has an outline."""
    return await tab.read(
        "[document.activeElement, document.activeElement.closest('.card')].some((each) => each &&"
        "getComputedStyle(each).outlineStyle === 'solid' &&"
        "parseFloat(getComputedStyle(each).outlineWidth) >= 2)"
    )


async def test_arrows_go_along_the_languages(tab: Tab) -> None:
    """One of them is in the tab order, and the code belongs to it."""
    await tab.read("document.querySelector('#tab-curl').focus()")
    for key, expected in (
        ("ArrowRight", "tab-curl-stream"),
        ("End", "tab-script"),
        ("ArrowRight", "tab-curl"),
        ("ArrowLeft", "tab-script"),
        ("Home", "tab-curl"),
    ):
        await tab.press(key)
        assert await tab.focused() == expected
        assert await tab.read(
            "[...document.querySelectorAll('[role=tab]')].filter((each) => each.tabIndex === 0)"
            ".map((each) => [each.id, each.ariaSelected])"
        ) == [[expected, "true"]]
        labelled = "document.querySelector('#code').getAttribute('aria-labelledby')"
        assert await tab.read(labelled) == expected


async def test_everything_that_takes_the_focus_has_a_name(tab: Tab) -> None:
    await tab.ask("Accessibility.enable")
    nodes = (await tab.ask("Accessibility.getFullAXTree"))["nodes"]
    takers = [node for node in nodes if takes_focus(node)]
    nameless = [node["role"]["value"] for node in takers if not node["name"]["value"]]
    assert len(takers) > len(TAB_ORDER)
    assert nameless == []


def takes_focus(node: Any) -> bool:
    properties = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
    return (
        bool(properties.get("focusable"))
        and not node["ignored"]
        and node["role"]["value"] not in {"RootWebArea"}
    )


async def test_an_answer_is_read_aloud_in_whole_sentences(tab: Tab, live: Live) -> None:
    """A sentence is told once it is whole; what is unfinished is only seen."""
    gate = Gate()
    call = live.call(answer=pieces("It was", " night. ", "The la", gate, "mp burned"))
    await tab.click("#prompt")
    await tab.type(call.prompt)
    await tab.press("Control+Enter")
    await tab.until("document.querySelector('#unspoken').textContent === 'The la'")
    assert await tab.read(SPOKEN) == "It was night. "
    gate.open()
    await tab.until(has_come_to("done"))
    assert await tab.read(SPOKEN) == "It was night. The lamp burned"
    assert await tab.read("document.querySelector('#spoken').ariaLive") == "polite"
    assert await tab.read("document.querySelector('#unspoken').ariaHidden") == "true"


@pytest.mark.parametrize("width", [320, 390])
async def test_a_phone_never_scrolls_sideways(opened: Opener, live: Live, width: int) -> None:
    """Not with settings unfolded, words without end, an error, or any language's code."""
    call = live.call(answer=cut_off("y" * 300))
    async with opened(width=width, height=844) as tab:
        assert not await tab.read("document.querySelector('#settings').open")
        await tab.click("#prompt")
        await tab.type(call.prompt + "x" * 300)
        await tab.click("#settings summary")
        await name_model(tab, "an-owner/a-model-with-a-rather-long-name:provider")
        await tab.press("Control+Enter")
        await tab.until(has_come_to("failed"))
        assert "y" * 300 in await tab.text("#text")
        for language in ("curl", "curl-stream", "openai", "hub", "javascript", "script"):
            await tab.click(f"#tab-{language}")
            await fits(tab, width)
        await name_model(tab, "z" * 96)
        await tab.press("Control+Enter")
        await tab.until("document.querySelector('#problem').innerText.includes('z'.repeat(96))")
        await fits(tab, width)


def cut_off(text: str) -> Streamed:
    """A stream that breaks off behind a text."""
    return Streamed(pieces(text, "").pieces[:1], is_cut=True)


async def name_model(tab: Tab, name: str) -> None:
    """Give a name that the list has not."""
    await choose(tab, "/")
    await fill(tab, other_model=name)


async def fits(tab: Tab, width: int) -> None:
    """Nothing is wider than the window, but code, which scrolls in its own box."""
    assert await tab.read("document.documentElement.scrollWidth") == width
    edges = "[...document.querySelectorAll('main *:not(pre *, .unseen)')]"
    wide = f"{edges}.filter((each) => each.getBoundingClientRect().right > {width})"
    assert await tab.read(f"{wide}.map((each) => each.id || each.tagName)") == []


@pytest.mark.parametrize("is_dark", [False, True])
async def test_light_and_dark_can_both_be_read(opened: Opener, live: Live, is_dark: bool) -> None:
    """Text has a contrast of 4.5 to 1, the edges of fields 3 to 1 (WCAG 2.2, AA)."""
    call = live.call(answer=cut_off("It was"))
    async with opened(is_dark=is_dark) as tab:
        await tab.click("#prompt")
        await tab.type(call.prompt)
        await tab.press("Control+Enter")
        await tab.until(has_come_to("failed"))
        paper = await tab.read("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in paper[4:-1].split(",")) < 3 * 60) is is_dark
        for selector in (
            *("#prompt", "#send", "#stop", "#address", "#status", "#spoken", ".words", ".facts"),
            *(".hint", "dt", "dd", "#request-id", "#copy-code", "#code-text", "#code-note"),
            *("#tab-curl", "#tab-openai", "summary", "#temperature"),
        ):
            assert await tab.read(f"{CONTRAST}('{selector}', 'color')") >= 4.5, selector
        for selector in ("#temperature", "#model", "#key"):
            assert await tab.read(f"{CONTRAST}('{selector}', 'borderTopColor')") >= 3, selector
