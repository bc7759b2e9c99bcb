"""The command line: serve, check, generate, models, model, key, group, upstream, usage, explain.

It parses, prints and sets exit statuses; what it does is done by the modules below it. Modules
build on each other in this order: `base` (what all share), `ledgers` (the ledger, opened for a
command), `tables` (what is printed as a table), then one module for each family of commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

from keyhole import __version__
from keyhole.cli.base import OneLineErrors

_PLACES: Mapping[str, str] = {
    "serve": "serve_commands",
    "check": "serve_commands",
    "generate": "generate_command",
    "models": "model_commands",
    "model": "model_commands",
    "key": "key_commands",
    "group": "key_commands",
    "upstream": "upstream_commands",
    "usage": "usage_commands",
    "explain": "usage_commands",
}


class _Commands(OneLineErrors):
    """Imports a command's module when the command is asked for.

    Those for keys and usage import SQLAlchemy: a quarter of a second and 30 MB that `serve`, which
    starts it in another process, neither waits for nor carries.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """All of them, by name."""
        return sorted(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        place = _PLACES.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(import_module(f"keyhole.cli.{place}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keyhole")
def cli() -> None:
    """Keyhole: a self-hosted gateway for text generation."""


def entry() -> None:
    """The `keyhole` command."""
    cli(prog_name="keyhole")
