"""Who can use the page: by keyboard, by ear, on a phone, in the dark."""

from __future__ import annotations

from typing import Any

import pytest

from page.chromium import Tab
from page.conftest import Opener
from page.standin import StandIn

pytestmark = pytest.mark.asyncio(loop_scope="package")

DONE = "document.querySelector('#answer').dataset.state === 'done'"
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


async def test_everything_works_by_keyboard_alone(tab: Tab, standin: StandIn) -> None:
    await tab.press("Tab")
    assert await tab.focused() == "prompt"
    await tab.type("Hello")
    await tab.press("Enter")
    await tab.type("there")
    await tab.press("Control+Enter")
    asked = await standin.asked()
    assert asked.json["input"] == "Hello\nthere"
    await asked.say("It was")
    await tab.press("Escape")
    await asked.left()
    await tab.until("document.querySelector('#status').textContent === 'Stopped'")
    assert await tab.focused() == "prompt"
    for _ in range(3):
        await tab.press("Tab")
    assert await tab.focused() == "send"
    await tab.press("Space")
    again = await standin.asked()
    await tab.press("Shift+Tab")
    assert await tab.focused() == "stop"
    await tab.press("Enter")
    await again.left()
    await tab.until("document.querySelector('#status').textContent === 'Stopped'")
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


async def test_an_answer_is_read_aloud_in_whole_sentences(tab: Tab, standin: StandIn) -> None:
    """A sentence is told once it is whole; what is unfinished is only seen."""
    await tab.click("#prompt")
    await tab.type("Hello")
    await tab.press("Control+Enter")
    asked = await standin.asked()
    spoken = "document.querySelector('#spoken').textContent"
    await asked.say("It was", " night. ", "The la")
    await tab.until("document.querySelector('#unspoken').textContent === 'The la'")
    assert await tab.read(spoken) == "It was night. "
    await asked.say("mp burned")
    await asked.finish()
    await tab.until(DONE)
    assert await tab.read(spoken) == "It was night. The lamp burned"
    assert await tab.read("document.querySelector('#spoken').ariaLive") == "polite"
    assert await tab.read("document.querySelector('#unspoken').ariaHidden") == "true"


@pytest.mark.parametrize("width", [320, 390])
async def test_a_phone_never_scrolls_sideways(opened: Opener, standin: StandIn, width: int) -> None:
    """Not with settings unfolded, words without end, an error, or any language's code."""
    async with opened(width=width, height=844) as tab:
        assert not await tab.read("document.querySelector('#settings').open")
        await tab.click("#prompt")
        await tab.type("x" * 300)
        await tab.click("#settings summary")
        await tab.read("document.querySelector('#model').value = '/'")
        await tab.read("document.querySelector('#model').dispatchEvent(new Event('input'))")
        await tab.click("#other-model")
        await tab.type("an-owner/a-model-with-a-rather-long-name:provider")
        await tab.press("Control+Enter")
        asked = await standin.asked()
        await asked.say("y" * 300)
        await asked.frame({"error": "z" * 300, "code": "c" * 60}, is_last=True)
        await tab.until("document.querySelector('#answer').dataset.state === 'failed'")
        for language in ("curl", "curl-stream", "openai", "hub", "javascript", "script"):
            await tab.click(f"#tab-{language}")
            assert await tab.read("document.documentElement.scrollWidth") == width
        edges = "[...document.querySelectorAll('main *:not(pre *, .unseen)')]"
        assert (
            await tab.read(
                f"{edges}.filter((each) => each.getBoundingClientRect().right > {width})"
                ".map((each) => each.id || each.tagName)"
            )
            == []
        )


@pytest.mark.parametrize("is_dark", [False, True])
async def test_light_and_dark_can_both_be_read(
    opened: Opener, standin: StandIn, is_dark: bool
) -> None:
    """Text has a contrast of 4.5 to 1, the edges of fields 3 to 1 (WCAG 2.2, AA)."""
    async with opened(is_dark=is_dark) as tab:
        await tab.click("#prompt")
        await tab.type("Hello")
        await tab.press("Control+Enter")
        asked = await standin.asked()
        await asked.say("It was")
        await asked.frame({"error": "It broke.", "code": "broken"}, is_last=True)
        await tab.until("document.querySelector('#answer').dataset.state === 'failed'")
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
