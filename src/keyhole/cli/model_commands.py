"""`keyhole models`, and `keyhole model` for those that the engine runs."""

from __future__ import annotations

from pathlib import Path

import click

from keyhole import main, pull
from keyhole.cli.base import options
from keyhole.engine.library import Library
from keyhole.greeting import route_rows


@click.command()
@options
def models(config: Path | None, data: Path | None) -> None:
    """List the model names that clients may ask for, and who answers."""
    settings = main.load_settings(config=config, data=data)
    rows = route_rows(settings, main.engine_models(settings.data))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    for name, targets, why in rows:
        click.echo(f"{name:<{widths[0]}}  {targets:<{widths[1]}}  {why}")


@click.group()
def model() -> None:
    """The models that the embedded engine runs."""


@model.command("pull")
@options
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
@options
def list_models(config: Path | None, data: Path | None) -> None:
    """List the engine's models, the carried one first."""
    settings = main.load_settings(config=config, data=data)
    rows = Library(main.models_dir(settings.data)).list_models()
    width = max(len(row.name) for row in rows)
    for row in rows:
        click.echo(f"{row.name:<{width}}  {row.problem or f'{row.size_bytes / 1e6:,.0f} MB'}")
