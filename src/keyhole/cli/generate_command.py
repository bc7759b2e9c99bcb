"""`keyhole generate`: text without a server, through the same core."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from keyhole import main
from keyhole.cli.base import options
from keyhole.config import Settings
from keyhole.errors import SetupError
from keyhole.exchange import Gateway
from keyhole.wire.http import Head, Reply
from keyhole.wire.sse import SseReader


@click.command()
@options
@click.argument("prompt")
@click.option("--model", metavar="MODEL", help="A name that `keyhole models` lists.")
@click.option("--stream", is_flag=True, help="Print the text as it comes.")
def generate(
    config: Path | None, data: Path | None, prompt: str, model: str | None, *, stream: bool
) -> None:
    """Generate text for PROMPT (- reads standard input), without a server."""
    settings = main.load_settings(config=config, data=data)
    try:
        if prompt == "-":
            prompt = sys.stdin.read()
        asked = {"input": prompt, "stream": stream} | ({"model": model} if model else {})
        body = msgspec.json.encode(asked)
    except UnicodeError:
        raise SetupError("The prompt is not UTF-8 text.") from None
    if stream:
        asyncio.run(_print_stream(settings, prompt, body))
        return
    answer = asyncio.run(_ask(settings, body))
    click.echo("\n".join(_texts(answer)))


async def _ask(settings: Settings, body: bytes) -> Any:
    """The answer to one call; raises SetupError."""
    async with main.open_runtime(settings, role="command", observers=()) as runtime:
        return msgspec.json.decode((await _run(runtime.gateway, body)).body)


async def _print_stream(settings: Settings, prompt: str, body: bytes) -> None:
    """Print the text of one call as it comes, as `_ask` would have it; raises SetupError."""
    async with main.open_runtime(settings, role="command", observers=()) as runtime:
        reply = await _run(runtime.gateway, body)
        is_reply = ("x-keyhole-translated", "text-to-chat") in reply.headers
        printer = _Printer(sys.stdout)
        try:
            printer.write("" if is_reply else prompt)
            if reply.stream is None:
                printer.end(reply.body)
            else:
                reply.stream.start(printer, reply.body)
            await printer.ended
        finally:
            if reply.stream is not None:
                reply.stream.cancel()
            printer.close()


async def _run(gateway: Gateway, body: bytes) -> Reply:
    """One call through the whole gateway, as a client's would go; raises SetupError."""
    admitted = gateway.admit(
        Head(method="POST", path="/generate", headers=((b"host", b"localhost"),))
    )
    reply = admitted if isinstance(admitted, Reply) else await gateway.run(admitted, body)
    if reply.status != 200:
        raise _complaint(msgspec.json.decode(reply.body))
    return reply


def _complaint(told: dict[str, Any]) -> SetupError:
    """An error of the `generate` dialect."""
    return SetupError(told.get("detail") or told["error"])


class _Printer:
    """Writes out the pieces of a stream in the `generate` dialect; a wire.http.Sink."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._frames = SseReader(sys.maxsize)
        self._is_within_line = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the stream is over; with SetupError or OSError where it went wrong."""

    def send(self, data: bytes) -> None:
        """As the protocol says."""
        for frame in self._frames.feed(data):
            if frame.data is not None and not self.ended.done():
                self._show(msgspec.json.decode(frame.data))

    def end(self, data: bytes) -> None:
        """As the protocol says."""
        self.send(data)
        if not self.ended.done():
            self.ended.set_result(None)

    def write(self, text: str) -> None:
        """Write some text, at once; raises OSError where nobody reads any more."""
        if text:
            self._is_within_line = not text.endswith("\n")
            self._out.write(text)
            self._out.flush()

    def close(self) -> None:
        """End the last line."""
        if self._is_within_line:
            with contextlib.suppress(OSError):
                self.write("\n")

    def _show(self, told: dict[str, Any]) -> None:
        if "error" in told:
            self.ended.set_exception(_complaint(told))
            return
        try:
            self.write(told.get("text", ""))
        except OSError as error:
            self.ended.set_exception(error)
        except UnicodeError:
            encoding = self._out.encoding
            self.ended.set_exception(SetupError(f"The text cannot be printed in {encoding}."))


def _texts(answer: Any) -> list[str]:
    """The texts of an answer of any shape that an upstream may have; else the JSON itself."""
    rows = answer if isinstance(answer, list) else [answer]
    if all(isinstance(row, dict) and isinstance(row.get("generated_text"), str) for row in rows):
        return [row["generated_text"] for row in rows]
    return [msgspec.json.encode(answer).decode()]
