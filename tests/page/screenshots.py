"""Pictures of the page, for somebody to look at.

PYTHONPATH=src:tests python -m page.screenshots FOLDER
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from page.chromium import Chromium, Tab
from page.conftest import open_page
from page.driving import has_come_to
from page.live import Live, pieces
from standins import Gate, Reply, Streamed

PROMPT = "Write the first lines of a story about a lighthouse keeper."
ANSWER = (
    "The lamp at the end of the pier had been out for a week. Nobody in the village had noticed, "
    "because nobody went there after the last boat.\n\nThen one evening Mara saw it burning "
    "again, small and yellow, and a figure beside it that did not move when she called."
)
BEGUN = len(ANSWER.partition("noticed,")[0])
SIZES = {"light": (1200, False), "dark": (1200, True), "phone": (390, False), "night": (390, True)}
BUSY = {"error": "Model is overloaded", "error_type": "overloaded"}


async def main(folder: Path) -> None:
    """Each size in each state."""
    with tempfile.TemporaryDirectory() as home:
        async with Live.started(Path(home)) as live, Chromium.started() as chromium:
            for name, (width, is_dark) in SIZES.items():
                height = 844 if width < 600 else 900
                async with open_page(
                    chromium, live.url, width=width, height=height, is_dark=is_dark
                ) as tab:
                    for state, picture in (await take(tab, live)).items():
                        (folder / f"{name}-{state}.png").write_bytes(picture)


async def take(tab: Tab, live: Live) -> dict[str, bytes]:
    """Pictures by the state that they show."""
    taken = {"empty": await tab.picture()}
    gate = Gate()
    await send(tab, live, pieces(*told(ANSWER[:BEGUN]), gate, *told(ANSWER[BEGUN:])))
    await tab.until(f"document.querySelector('#text').textContent.includes({ANSWER[:BEGUN]!r})")
    taken["writing"] = await tab.picture()
    gate.open()
    await tab.until(has_come_to("done"))
    taken["done"] = await tab.picture()
    await send(tab, live, Reply.json(BUSY, 429, retry_after="20"))
    await tab.until(has_come_to("failed"))
    await tab.click("#tab-openai")
    if not await tab.read("document.querySelector('#settings').open"):
        await tab.click("#settings summary")
    await tab.click("#key")
    await tab.type("kh_secret")
    taken["failed"] = await tab.picture()
    return taken


async def send(tab: Tab, live: Live, answer: Streamed | Reply) -> None:
    call = live.call(answer=answer)
    await tab.click("#prompt")
    await tab.read("document.activeElement.select()")
    await tab.type(PROMPT + call.prompt.removeprefix("Tell me of a fox."))
    await tab.press("Control+Enter")


def told(text: str) -> Iterator[str | float]:
    """A text in pieces such as tokens are, as fast as a model might write them."""
    for piece in re.findall(r" ?\S+|\s+", text):
        yield 0.02
        yield piece


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
