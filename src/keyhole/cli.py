"""The command line: serve, check, generate, models, model.

It parses, prints and sets exit statuses; what it does is done by the modules below it. A
SetupError is one line on standard error and exit status 1, never a traceback.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from keyhole import __version__, main, pull, survey
from keyhole.config import ConfigError, Settings
from keyhole.engine.library import Library
from keyhole.errors import SetupError
from keyhole.greeting import Surroundings, greeting, route_rows
from keyhole.listening import address_of, listen
from keyhole.supervisor import Command, keep_running, python_module, supervise
from keyhole.wire.http import Head, Reply


class _OneLineErrors(click.Group):
    """Prints a SetupError in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(str(error), err=True)
        except SetupError as error:
            click.echo(f"keyhole: {error}", err=True)
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
def generate(config: Path | None, data: Path | None, prompt: str, model: str | None) -> None:
    """Generate text for PROMPT (- reads standard input), without a server."""
    settings = main.load_settings(config=config, data=data)
    try:
        if prompt == "-":
            prompt = sys.stdin.read()
        body = msgspec.json.encode({"input": prompt} | ({"model": model} if model else {}))
    except UnicodeError:
        raise SetupError("The prompt is not UTF-8 text.") from None
    reply = asyncio.run(_ask(settings, body))
    answer = msgspec.json.decode(reply.body)
    if reply.status != 200:
        raise SetupError(answer.get("detail") or answer["error"])
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


async def _ask(settings: Settings, body: bytes) -> Reply:
    """One call through the whole gateway, as a client's would go."""
    head = Head(method="POST", path="/generate", headers=((b"host", b"localhost"),))
    async with main.open_runtime(settings, observers=()) as runtime:
        admitted = runtime.gateway.admit(head)
        if isinstance(admitted, Reply):
            return admitted
        return await runtime.gateway.run(admitted, body)


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
