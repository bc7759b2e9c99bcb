"""Makes what a worker keeps its accounts with: keys, journal, counters and prices.

A part of the composition root (`main`), which is the only one to call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack
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
from keyhole.wire.books import Receipt
from keyhole.wire.lines import is_node

KEYS_WITHIN_S = 10.0
"""How long a start waits for the clerk's first copy of the keys; it goes on without."""
FRESH_S = 4.0
"""A copy that is older is not what a clerk at work keeps (it looks every two seconds at least):
keys may have been revoked while nobody did."""
FRESH_WITHIN_S = 1.0
"""How long a start waits for a clerk to look; the database may be away."""

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
    counters = MemoryCounters(clock.unix_ms)
    journal: FileJournal | NoJournal = NoJournal()
    if keeps:
        if mirrored is not None:
            counters.restore(spent_before(settings.data, mirrored))
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
    is_readable = await keys.wait_until_readable(KEYS_WITHIN_S)
    if is_readable:
        await keys.wait_until_fresh(FRESH_S, FRESH_WITHIN_S)
    else:
        say(f"Requests are refused until the keys can be read: {keys.problem}.")
    watching = asyncio.ensure_future(keys.watch())
    stack.callback(watching.cancel)
    return keys


def spent_before(data: Path, keys: MirroredKeys) -> Iterator[tuple[Name, Spent]]:
    """What was used before this process: what the ledger has, and the journal beyond that."""
    with ExitStack() as stack:
        # In this order: what the clerk posts meanwhile is counted twice, and not left out. It
        # removes segments once the mirror counts them, so they are opened before that is read.
        segments = _open_segments(journal_dir(data), stack)
        try:
            passed = {offset.segment: offset.offset for offset in keys.offsets()}
            sums = keys.spent()
        except GatewayError:
            passed, sums = {}, []
        for each in sums:
            yield (
                (each.scope, each.name),
                Spent(
                    at_ms=each.began_ms,
                    tokens=each.tokens,
                    cost_microusd=each.microusd,
                    of=each.period or "total",
                ),
            )
        for receipt in _receipts(segments, passed):
            yield from _used(receipt)


def _used(receipt: Receipt) -> Iterator[tuple[Name, Spent]]:
    """What an attempt used, of each place whose limits it counts in."""
    intent = receipt.intent
    used = Spent(
        at_ms=intent.started_at_ms,
        tokens=receipt.prompt_tokens + receipt.completion_tokens,
        cost_microusd=receipt.cost_microusd,
        requests=1,
    )
    yield ("upstream", intent.upstream), used
    if intent.key_id is not None:
        yield ("key", intent.key_id), used
    if intent.group is not None:
        yield ("group", intent.group), used


def _open_segments(directory: Path, stack: ExitStack) -> list[Segment]:
    """Every segment of a journal, held open: one that is removed can still be read."""
    segments = []
    for name in list_segments(directory):
        with contextlib.suppress(OSError):  # posted and removed meanwhile
            segments.append(stack.enter_context(Segment(directory / name.file)))
    return segments


def _receipts(segments: Iterable[Segment], passed: dict[str, int]) -> Iterator[Receipt]:
    """The receipts in segments behind the offsets that the ledger has passed."""
    for segment in segments:
        offset, is_last = passed.get(segment.path.name, 0), False
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
