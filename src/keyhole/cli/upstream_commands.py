"""`keyhole upstream`: what the operator says of an upstream while Keyhole runs."""

from __future__ import annotations

from pathlib import Path

import click

from keyhole import main
from keyhole.cli.base import options
from keyhole.cli.ledgers import caught_up_ledger, now_ms
from keyhole.errors import SetupError
from keyhole.ledger.books import Books


@click.group()
def upstream() -> None:
    """Who answers."""


@upstream.command("clear")
@options
@click.argument("name")
def clear(config: Path | None, data: Path | None, name: str) -> None:
    """Have an upstream asked again that said that its credits are gone (402)."""
    settings = main.load_settings(config=config, data=data)
    known = settings.catalog.upstreams
    if name not in known:
        raise SetupError(
            f"There is no upstream {name!r}.", hint=f"there are: {', '.join(sorted(known))}"
        )
    with caught_up_ledger(settings) as database:
        was_marked = Books(database).clear_mark(name, now_ms=now_ms())
    if was_marked:
        click.echo(f"{name} is asked again; a running server hears of it within seconds.")
    else:
        click.echo(f"{name} was not out of credits, as far as the books know.")
