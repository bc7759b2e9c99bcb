"""The page at /key, in a browser: what a holder sees, and what is left behind."""

from __future__ import annotations

import pytest

from keyhole.server.own_key import Use, show_key
from keyhole.wire.keys import Group, Key
from keys import BEGAN_MS, key, secret
from page.chromium import Chromium, Tab
from page.standin import StandIn

pytestmark = pytest.mark.asyncio(loop_scope="package")

SECRET = secret(1)
HOLDER = key(
    1,
    name="ada <b>of</b> class-a",
    group=Group(name="class-a"),
    models=("gpt2", "meta-llama/*"),
    expires_at_ms=BEGAN_MS + 30 * 86_400_000,
)
USES = (
    Use(scope="key", limit="rpm", unit="requests", amount=60, used=15, per="minute",
        resets_at_ms=BEGAN_MS + 42_000),
    Use(scope="key", limit="tpm", unit="tokens", amount=20_000, used=20_500, per="minute",
        resets_at_ms=BEGAN_MS + 42_000),
    Use(scope="key", limit="concurrency", unit="requests", amount=4, used=0),
    Use(scope="key", limit="budget", unit="microusd", amount=5_000_000, used=1_234_567, per="day",
        resets_at_ms=BEGAN_MS + 3_600_000),
    Use(scope="group", limit="budget", unit="microusd", amount=20_000_000, used=19_999_000,
        per="month", resets_at_ms=BEGAN_MS + 86_400_000),
)  # fmt: skip


async def show(tab: Tab, shown: str = SECRET) -> None:
    await tab.click("#key")
    await tab.read("document.activeElement.select()")
    await tab.type(shown)
    await tab.press("Enter")


def tell(standin: StandIn, told: Key = HOLDER, uses: tuple[Use, ...] = USES) -> None:
    standin.own_key[f"Bearer {SECRET}"] = show_key(told, uses, unix_ms=BEGAN_MS)


IS_TOLD = "!document.querySelector('#told').hidden"
HAS_PROBLEM = "document.querySelector('#problem').textContent !== ''"


async def test_a_holder_sees_the_keys_limits(chromium: Chromium, standin: StandIn) -> None:
    tell(standin)
    async with chromium.tab(f"{standin.url}/key") as tab:
        await show(tab)
        await tab.until(IS_TOLD)
        assert await tab.text("#name") == HOLDER.name  # as text, not as markup
        assert await tab.text("#group") == "Group class-a"
        assert "gpt2, meta-llama/*" in await tab.text("#facts")
        rows = [
            (await tab.text(f"#limits li:nth-child({number})")).split("\n")
            for number in range(1, 6)
        ]
        assert [row[:2] for row in rows] == [
            ["Requests a minute", "45 of 60 left"],
            ["Tokens a minute", "0 of 20,000 left"],
            ["Requests at once", "4 of 4 left"],
            ["Budget today (UTC)", "$3.77 of $5.00 left"],
            ["Budget this month (UTC)", "$0.001 of $20.00 left"],
        ]
        assert rows[4][2].startswith("Shared with the whole group. $20.00 used, starts anew ")
        bars = "[...document.querySelectorAll('progress')].map((bar) => [bar.value, bar.max])"
        assert await tab.read(bars) == [
            [15, 60], [20_000, 20_000], [0, 4], [1_234_567, 5_000_000], [19_999_000, 20_000_000],
        ]  # fmt: skip
        over = "[...document.querySelectorAll('#limits li')].map((row) => row.className)"
        assert await tab.read(over) == ["", "is-over", "", "", ""]


async def test_a_key_without_limits_is_told_so(chromium: Chromium, standin: StandIn) -> None:
    tell(standin, key(1), ())
    async with chromium.tab(f"{standin.url}/key") as tab:
        await show(tab)
        await tab.until(IS_TOLD)
        assert await tab.text("#no-limits") == "Nothing limits this key."
        assert "never" in await tab.text("#facts")


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (secret(2), "There is no such key.\n401 · invalid_api_key"),
        ("kh_\u202e", "That is not a key: it has other characters."),
    ],
)
async def test_a_refusal_is_shown_in_the_place_of_what_was_told_before(
    chromium: Chromium, standin: StandIn, shown: str, said: str
) -> None:
    tell(standin)
    async with chromium.tab(f"{standin.url}/key") as tab:
        await show(tab)
        await tab.until(IS_TOLD)
        await show(tab, shown)
        await tab.until(HAS_PROBLEM)
        assert await tab.text("#problem") == said
        assert not await tab.read(IS_TOLD)


async def test_the_key_is_hidden_and_nothing_of_it_stays(
    chromium: Chromium, standin: StandIn
) -> None:
    tell(standin)
    async with chromium.tab(f"{standin.url}/key") as tab:
        assert await tab.read("document.querySelector('#key').type") == "password"
        await show(tab)
        await tab.until(IS_TOLD)
        assert await tab.read("location.href") == f"{standin.url}/key"
        assert await tab.read("localStorage.length + sessionStorage.length") == 0
        assert await tab.read("document.cookie") == ""
        assert SECRET not in await tab.read("document.documentElement.outerHTML")
        await tab.go(f"{standin.url}/")
        await tab.until("document.querySelector('#model').options.length > 2")
        await tab.back()
        assert await tab.read("document.querySelector('#key').value") == ""
        assert not await tab.read(IS_TOLD)
        assert await tab.text("#limits") == ""


async def test_everything_has_a_name_and_a_telephone_is_wide_enough(
    chromium: Chromium, standin: StandIn
) -> None:
    tell(standin)
    async with chromium.tab(f"{standin.url}/key", width=360, height=740) as tab:
        await show(tab)
        await tab.until(IS_TOLD)
        assert await tab.read("document.documentElement.scrollWidth") <= 360
        tree = (await tab.ask("Accessibility.getFullAXTree"))["nodes"]
        names = {
            node["role"]["value"]: node["name"]["value"]
            for node in tree
            if node.get("name", {}).get("value") and not node["ignored"]
        }
        assert names["textbox"] == "Key"
        assert names["button"] == "Show"
        assert names["progressbar"] == "Budget this month (UTC)"
