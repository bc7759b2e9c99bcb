"""`keyhole serve` and `keyhole check`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from keyhole import main, survey
from keyhole.cli.base import options
from keyhole.config import Settings
from keyhole.greeting import Surroundings, greeting
from keyhole.listening import address_of, listen
from keyhole.policy.access import is_loopback
from keyhole.supervisor import Command, keep_after, keep_running, python_module, supervise


@click.command()
@options
@click.option("--listen", "listen_on", metavar="HOST:PORT", help="Default: 127.0.0.1:5000.")
def serve(config: Path | None, data: Path | None, listen_on: str | None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    settings = main.load_settings(config=config, data=data, listen=listen_on)
    main.make_data_dir(settings.data)
    if not is_loopback(settings.listen.host.lower()):
        from keyhole.cli.ledgers import check_address  # noqa: PLC0415  # 30 MB, for few

        check_address(settings)
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
        ready = asyncio.Event()
        if main.has_mirror(settings):  # the worker need not wait for the clerk
            ready.set()
        # Stopped in this order: the clerk last, to book what the worker has finished.
        keepers = [keep_after(ready, keep_running(worker, main.say))]
        if (engine := main.engine_keeper(settings, main.say)) is not None:
            keepers.append(engine)
        keepers.append(main.clerk_keeper(settings, main.say, ready))
        # Open here, it would take connections in that the draining worker never sees.
        asyncio.run(supervise(keepers, before_stop=listener.close))


@click.command()
@options
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


def _worker_options(settings: Settings, descriptor: int) -> list[str]:
    host = f"[{settings.listen.host}]" if ":" in settings.listen.host else settings.listen.host
    return [
        f"--fd={descriptor}",
        f"--listen={host}:{settings.listen.port}",
        *main.place_options(settings),
    ]
