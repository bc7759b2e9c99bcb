"""What every command shares: its two options, and how it says what went wrong.

A SetupError is one line on standard error and exit status 1, never a traceback; Ctrl-C is 130, as
shells have it for a program that the signal ends.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keyhole.config import ConfigError
from keyhole.errors import KeyholeError, SetupError


class OneLineErrors(click.Group):
    """Prints a SetupError in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(str(error), err=True)
        except SetupError as error:
            click.echo(f"keyhole: {error}", err=True)
        except KeyholeError as error:
            click.echo(f"keyhole: {error.explained}", err=True)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        sys.exit(1)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --config and --data, which every command takes."""
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
