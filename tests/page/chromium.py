"""Headless Chromium, driven through its DevTools protocol over a pair of pipes.

It needs no driver program, no port and no package: `--remote-debugging-pipe` speaks JSON with a
NUL behind each message on file descriptors 3 and 4 (content/public/common/content_switches.cc
and https://chromedevtools.github.io/devtools-protocol/, read 2026-11). Not a general driver: it
knows what the tests of one page need.

    async with Chromium.started() as browser, browser.tab(url) as tab:
        await tab.type("hello")
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
MISSING = (
    "The tests of the page need Chromium. On Debian: apt-get install --no-install-recommends "
    "chromium. Another one is named by the environment variable CHROMIUM."
)
PATIENCE_S = 60
"""How long a page may take for what it does at once; it only bounds a test that fails."""

_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # root in a container has none, and only our own page is opened
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP keyhole.test 127.0.0.1",  # an address that is no secure context
)

# Pipes go to exactly 3 and 4, whatever numbers they have here.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in zip((3, 4), ends):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""

_KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    "End": (35, ""),
    "Home": (36, ""),
    "Space": (32, " "),
    "v": (86, ""),
}
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


class Chromium:
    """A running browser."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.WriteTransport) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    @classmethod
    @asynccontextmanager
    async def started(cls) -> AsyncIterator[Chromium]:
        """Start one; it is gone afterwards, with its profile and every process it had."""
        program = find_chromium()
        to_read, to_write = os.pipe(), os.pipe()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _LAUNCH, str(to_read[0]), str(to_write[1]), program),
                *_OPTIONS,
                *(f"--user-data-dir={profile}", "about:blank"),
                pass_fds=(to_read[0], to_write[1]),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            os.close(to_read[0])
            os.close(to_write[1])
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader(limit=2**27)  # a screenshot is one message
            incoming, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(to_write[0], "rb", 0)
            )
            writer, _ = await loop.connect_write_pipe(
                asyncio.Protocol, os.fdopen(to_read[1], "wb", 0)
            )
            browser = cls(reader, writer)
            listening = loop.create_task(browser._listen())
            try:
                yield browser
                with contextlib.suppress(ConnectionError):  # it may hang up before it answers
                    await browser.ask("Browser.close")
                await process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                await listening
                incoming.close()
                writer.close()

    @asynccontextmanager
    async def tab(
        self, url: str, *, width: int = 1200, height: int = 900, is_dark: bool = False
    ) -> AsyncIterator[Tab]:
        """A tab of its own profile at `url`, loaded; fails if the page complained."""
        context = (await self.ask("Target.createBrowserContext"))["browserContextId"]
        created = await self.ask(
            "Target.createTarget", url="about:blank", browserContextId=context, newWindow=True
        )
        attached = await self.ask(
            "Target.attachToTarget", targetId=created["targetId"], flatten=True
        )
        tab = Tab(self, attached["sessionId"])
        self._tabs[attached["sessionId"]] = tab
        for domain in ("Page", "Runtime", "Log"):
            await tab.ask(f"{domain}.enable")
        await tab.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        await tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await tab.look(is_dark=is_dark)
        await tab.go(url)
        yield tab
        await self.ask("Target.disposeBrowserContext", browserContextId=context)
        assert tab.complaints == []

    async def ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol; its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps(message).encode() + b"\0")
        answer = await self._waiting[number]
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    async def _listen(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # that is how it ends
            while True:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                if "id" in message:
                    self._waiting.pop(message["id"]).set_result(message)
                elif message.get("sessionId") in self._tabs:
                    self._tabs[message["sessionId"]].hear(message["method"], message["params"])
        for future in self._waiting.values():
            future.set_exception(ConnectionError("Chromium has ended."))


class Tab:
    """One page in it."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        """Exceptions, broken policies and whatever else a developer would see in red."""

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol for this tab."""
        return await self._browser.ask(method, self._session, **parameters)

    def hear(self, method: str, said: dict[str, Any]) -> None:
        """Take an event of the protocol."""
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["source"] != "network":
                # A refusal of the server's is an entry too, and tests bring those about.
                self.complaints.append(json.dumps(said["entry"]))

    async def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self._loaded.clear()
        await self.ask("Page.navigate", url=url)
        await self._loaded.wait()

    async def back(self) -> None:
        """Press the browser's Back, and wait for the page before."""
        history = await self.ask("Page.getNavigationHistory")
        before = history["entries"][history["currentIndex"] - 1]
        await self.ask("Page.navigateToHistoryEntry", entryId=before["id"])
        await self.until(f"location.href === {json.dumps(before['url'])}")
        await self.until("document.readyState === 'complete'")

    async def read(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        answer = await self.ask(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait for an expression to be true."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self.read(expression):  # noqa: ASYNC110  # it is in a browser
                    await asyncio.sleep(0.01)
        except TimeoutError:
            shown = await self.read("document.body.innerText")
            pytest.fail(f"Never came true: {expression}\nThe page shows:\n{shown}")

    async def text(self, selector: str) -> str:
        """What an element says; the browser puts an empty line around each paragraph."""
        said = await self.read(f"document.querySelector({json.dumps(selector)}).innerText")
        return re.sub(r"\n+", "\n", said)

    async def focused(self) -> str:
        """The id of what has the focus."""
        return str(await self.read("document.activeElement.id"))

    async def type(self, text: str) -> None:
        """Put text where the focus is, as a keyboard does."""
        await self.ask("Input.insertText", text=text)

    async def press(self, keys: str, *commands: str) -> None:
        """Press a key, as in `Control+Enter`; `commands` are the editor's, such as `paste`."""
        *held, key = keys.split("+")
        code, text = _KEYS[key]
        modifiers = sum(_MODIFIERS[name] for name in held)
        name = " " if key == "Space" else key
        event = {"key": name, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        down: dict[str, Any] = {"type": "rawKeyDown", "commands": commands}
        if text:
            down |= {"type": "keyDown", "text": text}
        await self.ask("Input.dispatchKeyEvent", **event, **down)
        await self.ask("Input.dispatchKeyEvent", **event, type="keyUp")

    async def click(self, selector: str) -> None:
        """Click into the middle of an element."""
        found = json.dumps(selector)
        x, y = await self.read(
            f"(() => {{ const found = document.querySelector({found});"
            "found.scrollIntoView({block: 'nearest'});"
            "const box = found.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def look(self, *, is_dark: bool) -> None:
        """Prefer light or dark, without motion."""
        wanted = {
            "prefers-color-scheme": "dark" if is_dark else "light",
            "prefers-reduced-motion": "reduce",
        }
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def picture(self) -> bytes:
        """The whole page as a PNG."""
        taken = await self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])


def find_chromium() -> str:
    """The program; the test fails with the command that installs it where there is none."""
    wanted = os.environ.get("CHROMIUM")
    for name in (wanted,) if wanted else NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.fail(MISSING)
