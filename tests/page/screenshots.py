"""Pictures of the page, for somebody to look at.

PYTHONPATH=src:tests python -m page.screenshots FOLDER
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from page.chromium import Chromium, Tab
from page.conftest import open_page
from page.standin import Asked, StandIn

PROMPT = "Write the first lines of a story about a lighthouse keeper."
ANSWER = (
    "The lamp at the end of the pier had been out for a week. Nobody in the village had noticed, "
    "because nobody went there after the last boat.\n\nThen one evening Mara saw it burning "
    "again, small and yellow, and a figure beside it that did not move when she called."
)
SIZES = {"light": (1200, False), "dark": (1200, True), "phone": (390, False), "night": (390, True)}
PROBLEM = {
    "error": "Could not connect to the text generation service.",
    "detail": "Hugging Face refused the token (401). Run hf auth login, or set HF_TOKEN.",
    "code": "upstream_token_refused",
    "request_id": "01936f2e-7c1a-7b52-9d0e-3f6a5c8b1e47",
}


async def main(folder: Path) -> None:
    """Each size in each state."""
    async with StandIn() as standin, Chromium.started() as chromium:
        for name, (width, is_dark) in SIZES.items():
            height = 844 if width < 600 else 900
            async with open_page(
                chromium, standin, width=width, height=height, is_dark=is_dark
            ) as tab:
                for state, picture in (await take(tab, standin)).items():
                    (folder / f"{name}-{state}.png").write_bytes(picture)


async def take(tab: Tab, standin: StandIn) -> dict[str, bytes]:
    """Pictures by the state that they show."""
    taken = {"empty": await tab.picture()}
    await tab.click("#prompt")
    await tab.type(PROMPT)
    asked = await send(tab, standin)
    await say(asked, ANSWER[:86])
    await tab.until(f"document.querySelector('#text').textContent.includes({ANSWER[:86]!r})")
    taken["writing"] = await tab.picture()
    await say(asked, ANSWER[86:])
    await asked.finish(usage=(14, 58))
    await state(tab, "done")
    taken["done"] = await tab.picture()
    asked = await send(tab, standin)
    await asked.reply(502, PROBLEM, retry_after="20")
    await state(tab, "failed")
    await tab.click("#tab-openai")
    if not await tab.read("document.querySelector('#settings').open"):
        await tab.click("#settings summary")
    await tab.click("#key")
    await tab.type("kh_secret")
    taken["failed"] = await tab.picture()
    return taken


async def send(tab: Tab, standin: StandIn) -> Asked:
    await tab.press("Control+Enter")
    return await standin.asked()


async def say(asked: Asked, text: str) -> None:
    for piece in re.findall(r" ?\S+|\s+", text):
        await asked.say(piece)
        await asyncio.sleep(0.01)


async def state(tab: Tab, name: str) -> None:
    await tab.until(f"document.querySelector('#answer').dataset.state === {name!r}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
