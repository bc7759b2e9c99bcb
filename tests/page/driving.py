"""What tests do with the page, and what they look for on it."""

from __future__ import annotations

import json
from typing import Any

from page.chromium import Tab

SPOKEN = "document.querySelector('#spoken').textContent"


async def enter(tab: Tab, prompt: str = "Hello") -> None:
    """Type a prompt and send it with the mouse."""
    await tab.click("#prompt")
    await tab.type(prompt)
    await tab.click("#send")


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


async def models(tab: Tab) -> Any:
    """The options of the list of models."""
    return await tab.read("[...document.querySelector('#model').options].map((o) => o.text)")


def has_come_to(state: str) -> str:
    """An expression: the answer is in this state."""
    return f"document.querySelector('#answer').dataset.state === {state!r}"


def shows(text: str) -> str:
    """An expression: the answer reads like this."""
    read = "['spoken', 'unspoken'].map((id) => document.getElementById(id).textContent).join('')"
    return f"{read} === {json.dumps(text)}"
