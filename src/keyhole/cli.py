"""The command line: serve, check, generate, models, model.

It parses, prints and sets exit statuses; what it does is done by the modules below it. A
SetupError is one line on standard error and exit status 1, never a traceback; Ctrl-C is 130, as
shells have it for a program that the signal ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from keyhole import __version__, main, pull, survey
from keyhole.config import ConfigError, Settings
from keyhole.engine.library import Library
from keyhole.errors import SetupError
from keyhole.exchange import Gateway
from keyhole.greeting import Surroundings, greeting, route_rows
from keyhole.listening import address_of, listen
from keyhole.supervisor import Command, keep_running, python_module, supervise
from keyhole.wire.http import Head, Reply
from keyhole.wire.sse import SseReader


class _OneLineErrors(click.Group):
    """Prints a SetupError in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(str(error), err=True)
        except SetupError as error:
            click.echo(f"keyhole: {error}", err=True)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        sys.exit(1)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """--config and --data, which every command takes."""
    for option in (
        click.option(
            "--data", type=click.Path(path_type=Path), metavar="DIR", help="Where state is kept."
        ),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The configuration; else KEYHOLE_CONFIG, else keyhole.toml if it is here.",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keyhole")
def cli() -> None:
    """Keyhole: a self-hosted gateway for text generation."""


@cli.command()
@_options
@click.option("--listen", "listen_on", metavar="HOST:PORT", help="Default: 127.0.0.1:5000.")
def serve(config: Path | None, data: Path | None, listen_on: str | None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    settings = main.load_settings(config=config, data=data, listen=listen_on)
    main.make_data_dir(settings.data)
    with listen(settings.listen) as listener:
        address = address_of(listener)
        found = Surroundings(
            engine_models=tuple(main.engine_models(settings.data)),
            ollama=survey.find_ollama(os.environ),
            home=Path.home(),
        )
        click.echo(greeting(settings, address=address, found=found) + "\n", err=True)
        worker = Command(
            name="worker",
            arguments=python_module(
                "keyhole.worker", *_worker_options(settings, listener.fileno())
            ),
            environ=os.environ,
            inherited=(listener.fileno(),),
            stop_within_s=settings.drain_timeout_s + 5,
        )
        keepers = [keep_running(worker, main.say)]
        if (engine := main.engine_keeper(settings, main.say)) is not None:
            keepers.append(engine)
        # Open here, it would take connections in that the draining worker never sees.
        asyncio.run(supervise(keepers, before_stop=listener.close))


@cli.command()
@_options
@click.option("--live", is_flag=True, help="Also try each upstream.")
def check(config: Path | None, data: Path | None, *, live: bool) -> None:
    """Say what is wrong with the configuration, as FILE:LINE: message."""
    settings = main.load_settings(config=config, data=data)
    if not live:
        click.echo(f"{settings.config_path or 'The defaults'}: no problem found.")
        return
    findings = asyncio.run(survey.try_upstreams(settings))
    for finding in findings:
        click.echo(f"{'ok  ' if finding.is_good else 'FAIL'}  {finding.upstream}: {finding.words}")
    if not all(finding.is_good for finding in findings):
        sys.exit(1)


@cli.command()
@_options
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


@cli.command()
@_options
def models(config: Path | None, data: Path | None) -> None:
    """List the model names that clients may ask for, and who answers."""
    settings = main.load_settings(config=config, data=data)
    rows = route_rows(settings, main.engine_models(settings.data))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    for name, targets, why in rows:
        click.echo(f"{name:<{widths[0]}}  {targets:<{widths[1]}}  {why}")


@cli.group()
def model() -> None:
    """The models that the embedded engine runs."""


@model.command("pull")
@_options
@click.argument("repo")
@click.option("--revision", metavar="REV", help="A branch, tag or commit; default: main.")
def pull_model(config: Path | None, data: Path | None, repo: str, revision: str | None) -> None:
    """Fetch REPO (such as openai-community/gpt2) from the Hugging Face Hub."""
    settings = main.load_settings(config=config, data=data)
    main.make_data_dir(settings.data)
    folder = pull.pull(repo, revision=revision, models_dir=main.models_dir(settings.data))
    click.echo(f"{repo} is here: {folder}")
    click.echo("Clients ask for it by that name. To make it the default, put into keyhole.toml:")
    click.echo(f'  [route.default]\n  targets = ["engine/{repo}"]')


@model.command("list")
@_options
def list_models(config: Path | None, data: Path | None) -> None:
    """List the engine's models, the carried one first."""
    settings = main.load_settings(config=config, data=data)
    rows = Library(main.models_dir(settings.data)).list_models()
    width = max(len(row.name) for row in rows)
    for row in rows:
        click.echo(f"{row.name:<{width}}  {row.problem or f'{row.size_bytes / 1e6:,.0f} MB'}")


async def _ask(settings: Settings, body: bytes) -> Any:
    """The answer to one call; raises SetupError."""
    async with main.open_runtime(settings, observers=()) as runtime:
        return msgspec.json.decode((await _run(runtime.gateway, body)).body)


async def _print_stream(settings: Settings, prompt: str, body: bytes) -> None:
    """Print the text of one call as it comes, as `_ask` would have it; raises SetupError."""
    async with main.open_runtime(settings, observers=()) as runtime:
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


def _worker_options(settings: Settings, descriptor: int) -> list[str]:
    host = f"[{settings.listen.host}]" if ":" in settings.listen.host else settings.listen.host
    options = [
        f"--fd={descriptor}",
        f"--data={settings.data}",
        f"--listen={host}:{settings.listen.port}",
    ]
    if settings.config_path is not None:
        options.append(f"--config={settings.config_path}")
    return options


def entry() -> None:
    """The `keyhole` command."""
    cli(prog_name="keyhole")


if __name__ == "__main__":
    entry()
