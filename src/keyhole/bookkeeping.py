"""Makes what a worker keeps its accounts with: keys, journal, counters and prices.

A part of the composition root (`main`), which is the only one to call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from msgspec import Struct

from keyhole import prices
from keyhole.accounts import Accounts
from keyhole.catalog import Target
from keyhole.config import Settings
from keyhole.errors import GatewayError, SetupError
from keyhole.io.counters import MemoryCounters, Name
from keyhole.io.journal import FileJournal, JournalSettings, NoJournal
from keyhole.io.keys import MirroredKeys, NoKeys
from keyhole.ledger.segments import Segment, list_segments
from keyhole.policy.limits import Spent
from keyhole.policy.pricing import Prices
from keyhole.ports import Clock, Keys
from keyhole.wire.books import OUT_OF_CREDITS, Receipt
from keyhole.wire.lines import is_node
from keyhole.wire.mirror import Mark

KEYS_WITHIN_S = 10.0
"""How long a start waits for the clerk's first copy of the keys; it goes on without."""

Say = Callable[[str], None]


class Books(Struct, kw_only=True):
    """What a gateway needs to know who calls, and to write down what they use."""

    keys: Keys
    accounts: Accounts
    counters: MemoryCounters
    mirrored: MirroredKeys | None = None
    """The keys, where they are checked at all."""


def journal_dir(data: Path) -> Path:
    """Where workers write their journals."""
    return data / "journal"


async def open_books(
    settings: Settings,
    clock: Clock,
    stack: AsyncExitStack,
    *,
    keeps: bool,
    checks: bool,
    say: Say,
) -> Books:
    """Open them; they are closed with the stack. Raises SetupError.

    Without `keeps` nothing is written down, without `checks` everybody who is let in may call.
    """
    mirrored = await _open_keys(settings, clock, stack, say) if checks else None
    look_up = _nothing if mirrored is None else partial(_sums, mirrored)
    counters = MemoryCounters(clock.unix_ms, look_up=look_up)
    journal: FileJournal | NoJournal = NoJournal()
    if mirrored is not None:
        _restore(counters, settings.data, mirrored)
    if keeps and settings.journal.keep:
        journal = FileJournal(
            journal_dir(settings.data),
            JournalSettings(fsync=settings.journal.fsync, max_bytes=settings.journal.max_bytes),
            node=node_name(settings.data),
            clock=clock,
            say=say,
        )
        stack.callback(journal.close)
    known = Prices(settings.prices, {}, refuses_unknown=settings.limits.unknown_price == "refuse")
    accounts = Accounts(
        journal=journal,
        counters=counters,
        prices=known,
        upstream_limits=settings.limits.upstreams,
        clock=clock,
        keeps_books=keeps and settings.journal.keep,
    )
    if checks:
        learning = asyncio.ensure_future(_learn_prices(settings, known, say))
        stack.callback(learning.cancel)
    return Books(keys=mirrored or NoKeys(), accounts=accounts, counters=counters, mirrored=mirrored)


def node_name(data: Path) -> str:
    """The name of this state directory among all that share a ledger; made once, at random.

    Raises SetupError.
    """
    path = data / "node"
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            name = path.read_text().strip()
        else:
            name = secrets.token_hex(6)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{name}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"The file {path} cannot be used: {error}.") from None
    if not is_node(name):
        hint = "remove it, and a new name is made; what was journalled under the old one stays"
        raise SetupError(f"The file {path} does not hold the name of a node.", hint=hint)
    return name


async def _open_keys(
    settings: Settings, clock: Clock, stack: AsyncExitStack, say: Say
) -> MirroredKeys:
    keys = MirroredKeys(settings.data, clock, max_stale_s=settings.keys.max_stale_s)
    stack.callback(keys.close)
    if not await keys.wait_until_readable(KEYS_WITHIN_S):
        say(f"Requests are refused until the keys can be read: {keys.problem}.")
    watching = asyncio.ensure_future(keys.watch())
    stack.callback(watching.cancel)
    return keys


def _restore(counters: MemoryCounters, data: Path, keys: MirroredKeys) -> None:
    """Count what was used before this process, and remember whose credits are gone."""
    try:
        # First of all: what is posted in between is counted twice, and not left out.
        passed = {offset.segment: offset.offset for offset in keys.offsets()}
    except GatewayError:
        passed = {}
    receipts = list(_receipts(journal_dir(data), passed))
    counters.restore(_spent_before(keys, receipts))
    counters.hear(
        Mark(receipt.intent.upstream, receipt.intent.started_at_ms, is_cleared=False)
        for receipt in receipts
        if receipt.status == OUT_OF_CREDITS and receipt.outcome == "upstream_error"
    )
    with contextlib.suppress(GatewayError):
        counters.hear(keys.marks())  # last: what it has cleared may still be in the journal
    keys.on_marks = counters.hear


def _spent_before(keys: MirroredKeys, receipts: Iterable[Receipt]) -> Iterator[tuple[Name, Spent]]:
    """What was used before this process by those whom the journal's last lines are about.

    What the ledger has of them, and the journal beyond that; of all others the ledger has
    everything, and it is looked up when they come.
    """
    told: set[Name] = set()
    for receipt in receipts:
        intent = receipt.intent
        used = Spent(
            at_ms=intent.started_at_ms,
            tokens=receipt.prompt_tokens + receipt.completion_tokens,
            cost_microusd=receipt.cost_microusd,
            requests=1,
        )
        names: list[Name] = [("upstream", intent.upstream)]
        if intent.key_id is not None:
            names.append(("key", intent.key_id))
        if intent.group is not None:
            names.append(("group", intent.group))
        for name in names:
            if name not in told:
                told.add(name)
                with contextlib.suppress(GatewayError):
                    yield from ((name, spent) for spent in _sums(keys, name))
            yield name, used


def _sums(keys: MirroredKeys, name: Name) -> list[Spent]:
    """What the ledger has of a budget; raises GatewayError."""
    return [
        Spent(
            at_ms=each.began_ms,
            tokens=each.tokens,
            cost_microusd=each.microusd,
            of=each.period or "total",
        )
        for each in keys.spent(*name)
    ]


def _nothing(_: Name) -> list[Spent]:
    return []


def _receipts(directory: Path, passed: dict[str, int]) -> Iterator[Receipt]:
    """The receipts in a journal behind the offsets that the ledger has passed."""
    for name in list_segments(directory):
        try:
            segment = Segment(directory / name.file)
        except OSError:  # posted and removed meanwhile
            continue
        with segment:
            offset, is_last = passed.get(name.file, 0), False
            while not is_last:
                piece = segment.read(offset)
                offset, is_last = piece.offset, piece.is_last
                for line in piece.lines:
                    if isinstance(line, Receipt):
                        yield line


async def _learn_prices(settings: Settings, known: Prices, say: Say) -> None:
    """Ask a child what models cost, and tell the operator of those that nobody knows."""
    targets = _targets(settings)
    listed = await asyncio.to_thread(prices.look_up, prices.questions(targets), os.environ)
    known.learn(listed)
    unknown = known.unknown(targets)
    if unknown and any(limits.budget for limits in settings.limits.upstreams.values()):
        say(f"Nobody knows what these cost, so they count as nothing: {', '.join(unknown[:10])}.")


def _targets(settings: Settings) -> list[Target]:
    return [target for route in settings.catalog.routes for target in route.targets]
