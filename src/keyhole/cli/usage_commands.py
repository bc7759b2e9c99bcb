"""`keyhole usage` and `keyhole explain`: what was used, and what became of one request."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import click
import msgspec

from keyhole import main
from keyhole.cli.base import options
from keyhole.cli.ledgers import caught_up_ledger, now_ms
from keyhole.cli.tables import bar, table
from keyhole.errors import SetupError
from keyhole.io.refusals import find_refusal
from keyhole.ledger.books import OpenIntent
from keyhole.ledger.usage import Attempt, By, Sum, Usage, UsageReader, in_words
from keyhole.ledger.words import read_since
from keyhole.wire.amounts import plain_usd, show_usd
from keyhole.wire.records import Refusal

SHOWN = 100
"""Rows of the table; the total counts all."""
PAGE = 5000
FIELDS = (
    *("exchange_id", "attempt", "key", "group", "dialect", "model", "upstream", "target"),
    *("status", "outcome", "prompt_tokens", "completion_tokens", "basis", "cost_microusd"),
    *("ttft_ms", "duration_ms", "started_at"),
)
"""Of a row, in their order; promised."""
_SUMMED = ("requests", "errors", "prompt_tokens", "completion_tokens", "cost_microusd")


@click.command()
@options
@click.option("--by", type=click.Choice(get_args(By)), default="key", help="Default: key.")
@click.option("--rows", is_flag=True, help="Each attempt by itself, oldest first.")
@click.option("--since", metavar="WHEN", default="30d", help="7d, or a time; default: 30d.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a line of names.")
def usage(  # the flags
    config: Path | None,
    data: Path | None,
    by: str,
    since: str,
    *,
    rows: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Say what was used, by whom and at what cost."""
    if as_csv and as_json:
        raise SetupError("--csv and --json exclude each other.")
    settings = main.load_settings(config=config, data=data)
    since_ms = read_since(since, "--since", now_ms=now_ms())
    with caught_up_ledger(settings) as database:
        reader = UsageReader(database)
        if rows:
            _print_rows(_all_rows(reader, since_ms), as_csv=as_csv, as_json=as_json)
            return
        is_whole = as_csv or as_json or by == "day"
        kind = cast("By", by)
        found = reader.usage(kind, since_ms=since_ms, limit=None if is_whole else SHOWN)
    if as_json:
        for one in found.sums:
            click.echo(msgspec.json.encode(_told(one, kind)).decode())
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow((kind, *_SUMMED))
        writer.writerows(map(_harmless, _told(one, kind).values()) for one in found.sums)
    else:
        click.echo("\n".join(_table(found, kind)))


@click.command()
@options
@click.argument("request_id")
def explain(config: Path | None, data: Path | None, request_id: str) -> None:
    """Tell what became of the request with this x-request-id, also of a refused one."""
    settings = main.load_settings(config=config, data=data)
    request_id = request_id.strip()
    refusal = find_refusal(settings.data, request_id)
    with caught_up_ledger(settings) as database:
        found = UsageReader(database).exchange(request_id)
    if not (refusal or found.attempts or found.open_intents):
        raise SetupError(
            f"Nothing is known of a request {request_id!r}.",
            hint="its id is in the x-request-id of the reply; only the latest refusals are kept",
        )
    lines = [*map(_attempt_told, found.attempts), *map(_open_told, found.open_intents)]
    if refusal is not None:
        lines.append(_refusal_told(refusal))
    click.echo("\n\n".join(lines))


def _all_rows(reader: UsageReader, since_ms: int) -> Iterator[Attempt]:
    after = None
    while page := reader.rows(since_ms=since_ms, after=after, limit=PAGE):
        yield from page
        after = page[-1].place


def _print_rows(found: Iterator[Attempt], *, as_csv: bool, as_json: bool) -> None:
    if as_json:
        for row in found:
            click.echo(msgspec.json.encode(_promised(row)).decode())
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(map(_harmless, _promised(row).values()) for row in found)
    else:
        head = ("started", "key", "model", "target", "outcome", "tokens", "cost", "ms", "id")
        rows = [
            (
                in_words(row.started_at_ms)[:19],
                row.key or "-",
                row.model,
                row.target,
                f"{row.outcome} {row.status or ''}".strip(),
                f"{row.prompt_tokens:,}+{row.completion_tokens:,}"
                + ("" if row.basis == "reported" else f" {row.basis}"),
                show_usd(row.cost_microusd),
                f"{row.duration_ms:,.0f}",
                row.exchange_id + (f" #{row.attempt}" if row.attempt > 1 else ""),
            )
            for row in found
        ]
        click.echo("\n".join(table(head, rows, right="     rrr")) if rows else "Nothing was used.")


def _promised(row: Attempt) -> dict[str, Any]:
    """Exactly the promised fields, in their order."""
    told = row.promised()
    return {name: told[name] for name in FIELDS}


def _told(one: Sum, by: By) -> dict[str, Any]:
    name = in_words(one.day_ms)[:10] if one.day_ms is not None else one.name
    amounts = {field: getattr(one, field) for field in _SUMMED}
    return {by: name, **amounts}


def _table(found: Usage, by: By) -> list[str]:
    """The table: a line for each, their shares as bars, and the total."""
    if not found.total.requests:
        return [f"Nothing was used since {in_words(found.since_ms)[:16]}Z."]
    is_money = found.total.cost_microusd > 0
    whole = _weight(found.total, is_money=is_money) or 1
    rows = [_row(one, by, _weight(one, is_money=is_money) / whole) for one in found.sums]
    left_out = _left_out(found)
    if left_out is not None:
        rows.append(_row(left_out, by, _weight(left_out, is_money=is_money) / whole, "(others)"))
    rows.append(_row(found.total, by, None, "total"))
    head = (by, "requests", "errors", "prompt", "completion", "cost", "share", "")
    lines = table(head, rows, right=" rrrrr")
    lines.insert(-1, "-" * max(map(len, lines)))
    shared = "cost" if is_money else "tokens"
    return [f"Since {in_words(found.since_ms)[:16]}Z; shares are of the {shared}.", *lines]


def _row(one: Sum, by: By, share: float | None, name: str | None = None) -> Sequence[str]:
    if name is None:
        name = in_words(one.day_ms)[:10] if one.day_ms is not None else (one.name or f"(no {by})")
    return (
        name,
        f"{one.requests:,}",
        f"{one.errors:,}",
        f"{one.prompt_tokens:,}",
        f"{one.completion_tokens:,}",
        show_usd(one.cost_microusd),
        "" if share is None else bar(share),
        "" if share is None else f"{share:.0%}",
    )


def _weight(one: Sum, *, is_money: bool) -> int:
    return one.cost_microusd if is_money else one.prompt_tokens + one.completion_tokens


def _left_out(found: Usage) -> Sum | None:
    """What the lines do not show of the total."""
    rest = {
        field: getattr(found.total, field) - sum(getattr(one, field) for one in found.sums)
        for field in _SUMMED
    }
    return Sum(name=None, **rest) if rest["requests"] else None


def _attempt_told(row: Attempt) -> str:
    price = f"${plain_usd(row.cost_microusd)}"
    tokens = f"{row.prompt_tokens:,} prompt + {row.completion_tokens:,} completion ({row.basis})"
    first = "" if row.ttft_ms is None else f", first byte after {row.ttft_ms:,.0f} ms"
    return _lines(
        f"{row.exchange_id}, attempt {row.attempt}: {_OUTCOMES[row.outcome]}",
        started=in_words(row.started_at_ms),
        key=row.key or "none (a local caller)",
        group=row.group,
        asked=f"{row.model} in the {row.dialect} dialect",
        sent_to=row.target,
        status=str(row.status) if row.status else None,
        tokens=tokens,
        cost=price,
        took=f"{row.duration_ms:,.0f} ms{first}",
    )


def _open_told(found: OpenIntent) -> str:
    intent, so_far = found.intent, found.completion_tokens
    return _lines(
        f"{intent.exchange_id}, attempt {intent.attempt}: under way, as far as the books know",
        started=in_words(intent.started_at_ms),
        key=intent.key or "none (a local caller)",
        group=intent.group,
        asked=f"{intent.model} in the {intent.dialect} dialect",
        sent_to=intent.target,
        tokens=f"{so_far:,} completion so far" if so_far else None,
    )


def _refusal_told(refusal: Refusal) -> str:
    return _lines(
        f"{refusal.exchange_id}: refused with {refusal.status} ({refusal.code})",
        at=in_words(refusal.at_ms),
        key=refusal.key,
        group=refusal.group,
        path=refusal.path or None,
        asked=refusal.model,
        because=refusal.message or None,
        hint=refusal.hint,
    )


def _lines(title: str, **fields: str | None) -> str:
    told = [f"  {name.replace('_', ' '):<8} {text}" for name, text in fields.items() if text]
    return "\n".join([title, *told])


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return (
        f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
    )


_OUTCOMES = {
    "ok": "answered",
    "client_error": "the upstream refused what was asked",
    "upstream_error": "the upstream failed",
    "client_gone": "the client left before the end",
    "cut": "ended at a budget or by a revocation",
    "interrupted": "Keyhole died, and nobody saw the end",
}
