"""`keyhole key` and `keyhole group`: who may call, and how much."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from keyhole import main
from keyhole.cli.base import options
from keyhole.cli.ledgers import now_ms, opened_ledger
from keyhole.cli.tables import table
from keyhole.config import Settings
from keyhole.errors import SetupError
from keyhole.ledger.keys import IssuedKey, KeyStore
from keyhole.ledger.words import (
    KeyIssued,
    KeyOrder,
    KeyTold,
    LimitWords,
    keys_of,
    limit_words,
    limits_of,
    shown_limits,
    told_group,
    told_issued,
    told_key,
)
from keyhole.wire.amounts import NotAnAmountError, parse_duration_ms
from keyhole.wire.keys import NO_LIMITS

NONE = "none"
"""What takes a limit away."""
PAGE = 1000


class _Amount(click.ParamType[int | str]):
    """A number from 0 on, or `none` where a limit may be taken away."""

    name = "N"

    def __init__(self, *, may_be_none: bool) -> None:
        self._may_be_none = may_be_none

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """The number, or `none`."""
        if value == NONE and self._may_be_none:
            return NONE
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number.", param, ctx)


def _limits(*, may_be_none: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the flags of limits."""
    amount = _Amount(may_be_none=may_be_none)
    which = f" ({NONE} takes it away)" if may_be_none else ""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option(
                "--budget", metavar="AMOUNT", help=f"5/day, 20/month, 100, 2Mtok/day{which}."
            ),
            click.option("--concurrency", type=amount, help=f"Requests at once{which}."),
            click.option("--tpm", type=amount, help=f"Tokens a minute{which}."),
            click.option("--rpm", type=amount, help=f"Requests a minute{which}."),
        ):
            command = option(command)
        return command

    return add


@click.group()
def key() -> None:
    """The keys of those who may call."""


@key.command("create")
@options
@click.argument("name", required=False)
@click.option("--model", "models", multiple=True, metavar="M", help="A name or pattern; repeat.")
@click.option("--group", metavar="G", help="Whose limits it shares.")
@click.option("--expires", metavar="WHEN", help="After 30d or 12h, or at 2027-01-31T18:00:00Z.")
@_limits(may_be_none=False)
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A note of yours; repeat.")
@click.option("--count", type=int, metavar="N", help="Make NAME-01 to NAME-N.")
@click.option("--csv", "as_csv", is_flag=True, help="Print name, id and secret as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print secret, id and name as JSON.")
def create(  # the flags
    config: Path | None,
    data: Path | None,
    *,
    labels: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Make a key, and show its secret this one time."""
    settings = main.load_settings(config=config, data=data)
    order = KeyOrder(**wanted, labels=dict(map(_label, labels)))
    now, style = now_ms(), _style(as_csv=as_csv, as_json=as_json)
    new = keys_of(order, now_ms=now)
    with opened_ledger(settings) as database:
        store = KeyStore(database)
        is_first = not store.have_existed()
        issued = store.create_many(new, now_ms=now, random_bytes=os.urandom)
    _print_issued(issued, settings, now_ms=now, style=style)
    if is_first:
        click.echo(
            "\nThis is the first key: from now on callers without one are refused.", err=True
        )


@key.command("list")
@options
@click.option("--group", metavar="G", help="Only those of this group.")
@click.option("--all", "all_", is_flag=True, help="Also those that are revoked or have expired.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_keys(
    config: Path | None, data: Path | None, group: str | None, *, all_: bool, as_json: bool
) -> None:
    """List the keys; never a secret."""
    settings = main.load_settings(config=config, data=data)
    now = now_ms()
    told: list[KeyTold] = []
    with opened_ledger(settings) as database:
        store, after = KeyStore(database), None
        while page := store.list_keys(group=group, after=after, limit=PAGE):
            told += (told_key(it, now_ms=now) for it in page)
            after = page[-1].id
    shown = [it for it in told if all_ or it.state in {"live", "replaced"}]
    shown.sort(key=lambda it: (it.group or "", it.name, it.created_at))
    if as_json:
        _print_json(*shown)
        return
    hidden = len(told) - len(shown)
    rows = [
        (
            it.name,
            it.id,
            it.state,
            it.group or "",
            ", ".join(it.models) or "all",
            shown_limits(it.limits),
            it.expires_at or "",
        )
        for it in shown
    ]
    if rows:
        head = ("name", "id", "state", "group", "models", "limits", "expires")
        click.echo("\n".join(table(head, rows)))
    else:
        click.echo("There is no key. keyhole key create NAME makes one." if not told else "None.")
    if hidden:
        click.echo(f"({hidden} revoked or expired: --all shows them.)", err=True)


@key.command("show")
@options
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(config: Path | None, data: Path | None, name: str, *, as_json: bool) -> None:
    """Show the key with the name or id NAME; never its secret."""
    settings = main.load_settings(config=config, data=data)
    with opened_ledger(settings) as database:
        told = told_key(KeyStore(database).get(name), now_ms=now_ms())
    if as_json:
        _print_json(told)
        return
    rows = [
        ("name", told.name),
        ("id", told.id),
        ("state", told.state),
        ("group", told.group or ""),
        ("models", ", ".join(told.models) or "all"),
        ("limits", shown_limits(told.limits) or "none"),
        ("the group's", shown_limits(told.group_limits)),
        ("labels", ", ".join(f"{name}={value}" for name, value in told.labels.items())),
        ("created", told.created_at),
        ("expires", told.expires_at or "never"),
        ("revoked", told.revoked_at or ""),
        ("successor", told.rotated_to or ""),
    ]
    click.echo("\n".join(f"{word:<12} {value}" for word, value in rows if value))


@key.command("revoke")
@options
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def revoke(config: Path | None, data: Path | None, names: tuple[str, ...]) -> None:
    """End keys now and for good, by their names or ids; their live streams end, too."""
    settings = main.load_settings(config=config, data=data)
    with opened_ledger(settings) as database:
        for name in names:
            ended = KeyStore(database).revoke(name, now_ms=now_ms())
            click.echo(f"Revoked '{ended.name}' ({ended.id}). A running server knows in a second.")


@key.command("rotate")
@options
@click.argument("name")
@click.option("--grace", default="1d", metavar="TIME", help="How long the old one lives on: 1d.")
@click.option("--csv", "as_csv", is_flag=True, help="Print name, id and secret as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print secret, id and name as JSON.")
def rotate(
    config: Path | None,
    data: Path | None,
    name: str,
    grace: str,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Give the holder of NAME a new secret; the old one works for the grace."""
    settings = main.load_settings(config=config, data=data)
    grace_s, now = _grace_s(grace), now_ms()
    style = _style(as_csv=as_csv, as_json=as_json)
    with opened_ledger(settings) as database:
        issued = KeyStore(database).rotate(
            name, grace_s=grace_s, now_ms=now, random_bytes=os.urandom
        )
    _print_issued([issued], settings, now_ms=now, style=style)
    works = f"works for {grace} more" if grace_s else "has ended"
    click.echo(f"\nThe old secret of '{issued.key.name}' {works}.", err=True)


@click.group()
def group() -> None:
    """Groups of keys that share limits: a class, a team."""


@group.command("set")
@options
@click.argument("name")
@_limits(may_be_none=True)
def set_group(config: Path | None, data: Path | None, name: str, **wanted: Any) -> None:
    """Give the group NAME limits that its keys share; those not named stay."""
    settings = main.load_settings(config=config, data=data)
    changed = {limit: value for limit, value in wanted.items() if value is not None}
    with opened_ledger(settings) as database:
        store = KeyStore(database)
        limits = next((it.limits for it in store.groups() if it.name == name), NO_LIMITS)
        words = msgspec.structs.asdict(limit_words(limits)) | changed
        words = {limit: None if value == NONE else value for limit, value in words.items()}
        told = told_group(store.set_group(name, limits_of(LimitWords(**words))))
    click.echo(f"{told.name}: {shown_limits(told.limits) or 'no limits'}")


@group.command("list")
@options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_groups(config: Path | None, data: Path | None, *, as_json: bool) -> None:
    """List the groups and what their keys share."""
    settings = main.load_settings(config=config, data=data)
    with opened_ledger(settings) as database:
        told = [told_group(it) for it in KeyStore(database).groups()]
    if as_json:
        _print_json(*told)
    elif told:
        rows = [(it.name, shown_limits(it.limits) or "none") for it in told]
        click.echo("\n".join(table(("group", "limits"), rows)))
    else:
        click.echo("There is no group. keyhole group set NAME --budget 20/month makes one.")


def _style(*, as_csv: bool, as_json: bool) -> Literal["csv", "json", "text"]:
    if as_csv and as_json:
        raise SetupError("--csv and --json exclude each other.")
    return "csv" if as_csv else "json" if as_json else "text"


def _print_issued(
    issued: list[IssuedKey],
    settings: Settings,
    *,
    now_ms: int,
    style: Literal["csv", "json", "text"],
) -> None:
    """Show secrets, this one time."""
    told = [told_issued(it, now_ms=now_ms) for it in issued]
    if style == "json":
        for it in told:
            _print_json({"secret": it.secret, "id": it.id, "name": it.name})
    elif style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("name", "id", "secret"))
        writer.writerows((_harmless(it.name), it.id, it.secret) for it in told)
    elif len(told) == 1:
        click.echo(_pasteable(told[0], settings))
    else:
        rows = [(it.name, it.id, it.secret) for it in told]
        click.echo("\n".join(table(("name", "id", "secret, shown only now"), rows)))


def _pasteable(told: KeyIssued, settings: Settings) -> str:
    host = f"[{settings.listen.host}]" if ":" in settings.listen.host else settings.listen.host
    url = f"http://{host}:{settings.listen.port}"
    return "\n".join(
        (
            f"The key '{told.name}' ({told.id}); its secret is shown only now:",
            "",
            f"  {told.secret}",
            "",
            "OpenAI's clients:",
            f"  export OPENAI_API_KEY={told.secret}",
            f"  export OPENAI_BASE_URL={url}/v1",
            "Hugging Face's, with the address as model or base_url:",
            f"  export HF_TOKEN={told.secret}",
            "Try it:",
            f"  curl {url}/generate -H 'Authorization: Bearer {told.secret}' \\",
            "    -H 'Content-Type: application/json' -d '{\"input\": \"Once upon a time\"}'",
        )
    )


def _print_json(*values: object) -> None:
    for value in values:
        click.echo(msgspec.json.encode(value).decode())


def _harmless(name: str) -> str:
    """A name as a cell that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SetupError(f"--label {text!r} is not of the form NAME=VALUE.")
    return name, value


def _grace_s(text: str) -> float:
    if text == "0":
        return 0
    try:
        return parse_duration_ms(text) / 1000
    except NotAnAmountError as error:
        raise SetupError(f"--grace {error.message}.", hint=f"{error.hint}, or 0") from None
