"""The command line: serve, check, generate, models, model, key, group, upstream, usage, explain.

It parses, prints and sets exit statuses; what it does is done by the modules below it. Modules
build on each other in this order: `base` (what all share), `ledgers` (the ledger, opened for a
command), `tables` (what is printed as a table), then one module for each family of commands.
"""

from __future__ import annotations

import click

from keyhole import __version__
from keyhole.cli.base import OneLineErrors
from keyhole.cli.generate_command import generate
from keyhole.cli.key_commands import group, key
from keyhole.cli.model_commands import model, models
from keyhole.cli.serve_commands import check, serve
from keyhole.cli.upstream_commands import upstream
from keyhole.cli.usage_commands import explain, usage


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keyhole")
def cli() -> None:
    """Keyhole: a self-hosted gateway for text generation."""


for _command in (serve, check, generate, models, model, key, group, upstream, usage, explain):
    cli.add_command(_command)


def entry() -> None:
    """The `keyhole` command."""
    cli(prog_name="keyhole")
