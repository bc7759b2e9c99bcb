"""Makes what a worker keeps its accounts with: keys, journal, counters and prices.

A part of the composition root (`main`), which is the only one to call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
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
from keyhole.io.sole import SoleCounter
from keyhole.ledger.segments import OpenIntents, Segment, interrupted, list_segments
from keyhole.policy.limits import Spent
from keyhole.policy.pricing import Prices
from keyhole.ports import Clock, Keys
from keyhole.wire import mirror
from keyhole.wire.books import OUT_OF_CREDITS, Intent, Receipt
from keyhole.wire.lines import Line, SegmentName, is_node
from keyhole.wire.mirror import Mark

KEYS_WITHIN_S = 10.0
"""How long a start waits for the clerk's first copy of the keys; it goes on without."""
READ_FOR_S = 1.0
"""How long what was read of the journal is good for: that takes 2 us a line."""
LOOKS = 5
"""How often a start looks at most for what was spent, where that moves under its eyes."""
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
    journal: FileJournal | NoJournal = NoJournal()
    counters = MemoryCounters(clock.unix_ms)
    if mirrored is not None:
        before = Before(settings.data, mirrored, clock)
        sole = SoleCounter(settings.data, clock, say=say)
        stack.callback(sole.close)
        if sole.take():
            with contextlib.suppress(GatewayError):  # then when the first limited request comes
                before.read()
        counters = MemoryCounters(clock.unix_ms, look_up=before.look_up, check_alone=sole.check)
        counters.hear(before.gone)
        with contextlib.suppress(GatewayError):
            counters.hear(mirrored.marks())  # last: what it has cleared may still be in the journal
        mirrored.on_marks = counters.hear
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
            name = path.read_text().strip()
        except FileNotFoundError:
            _make_node(path)
            name = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"The file {path} cannot be used: {error}.") from None
    if not is_node(name):
        hint = "remove it, and a new name is made; what was journalled under the old one stays"
        raise SetupError(f"The file {path} does not hold the name of a node.", hint=hint)
    return name


def _make_node(path: Path) -> None:
    """Make the file, whole or not at all, unless another process has just done so."""
    draft = path.with_name(f"node.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(6)}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


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


class Before:
    """What was used before this process, by name: what the ledger has, and the journal beyond."""

    def __init__(self, data: Path, keys: MirroredKeys, clock: Clock) -> None:
        self._journal = journal_dir(data)
        self._keys = keys
        self._clock = clock
        self._read_at_s = -math.inf
        self._found: dict[Name, list[Spent]] | None = None
        """Of those whom the journal's last lines are about; None while it could not be read."""
        self.gone: list[Mark] = []
        """The upstreams whose credits are gone, as those lines say."""

    def read(self) -> None:
        """Look until the clerk has moved nothing between the beginning and the end of a look.

        Else it might be counted twice, or not at all. Raises GatewayError where the mirror cannot
        be read.
        """
        offsets = self._keys.offsets()
        for _ in range(LOOKS):
            before = offsets
            passed = {offset.segment: offset.offset for offset in before}
            receipts = list(_journaled(self._journal, passed))
            names = {name for receipt in receipts for name in _names(receipt.intent)}
            found = {name: self._sums(name) for name in names}
            offsets = self._keys.offsets()
            if offsets == before:
                break
        for receipt in receipts:
            used = _of_one(receipt)
            for name in _names(receipt.intent):
                found[name].append(used)
        self.gone = [
            Mark(receipt.intent.upstream, receipt.intent.started_at_ms, is_cleared=False)
            for receipt in receipts
            if receipt.status == OUT_OF_CREDITS and receipt.outcome == "upstream_error"
        ]
        self._found, self._read_at_s = found, self._clock.monotonic()

    def look_up(self, name: Name) -> Iterable[Spent]:
        """What a tally begins with; raises GatewayError where that cannot be known.

        A tally may begin at any time, when a key comes for the first time or gets a limit: what was
        read a second ago is read anew. Of those whom the journal's last lines are not about, the
        ledger has everything.
        """
        if self._clock.monotonic() - self._read_at_s >= READ_FOR_S:
            self.read()
        found = {} if self._found is None else self._found
        return found[name] if name in found else self._sums(name)

    def _sums(self, name: Name) -> list[Spent]:
        return [_of_window(one) for one in self._keys.spent(*name)]


def _of_window(one: mirror.Spent) -> Spent:
    return Spent(
        at_ms=one.began_ms,
        tokens=one.tokens,
        cost_microusd=one.microusd,
        of=one.period or "total",
    )


def _of_one(receipt: Receipt) -> Spent:
    return Spent(
        at_ms=receipt.intent.started_at_ms,
        tokens=receipt.prompt_tokens + receipt.completion_tokens,
        cost_microusd=receipt.cost_microusd,
        requests=1,
    )


def _names(intent: Intent) -> Iterator[Name]:
    """Where an attempt counts."""
    yield "upstream", intent.upstream
    if intent.key_id is not None:
        yield "key", intent.key_id
    if intent.group is not None:
        yield "group", intent.group


def _journaled(directory: Path, passed: Mapping[str, int]) -> Iterator[Receipt]:
    """The ends of attempts in a journal, behind the offsets that the ledger has passed.

    What a dead writer left open has ended too; a segment that is there was not yet judged by the
    clerk, which removes it right behind telling the mirror.
    """
    open_intents, dead = OpenIntents(), set[SegmentName]()
    for name in list_segments(directory):
        try:
            segment = Segment(directory / name.file)
        except OSError:  # posted and removed meanwhile
            continue
        with segment:
            offset = passed.get(name.file, 0)
            if segment.seal():
                dead.add(name)
                open_intents.take(name, _lines(segment, 0, offset))
            for line in _lines(segment, offset):
                open_intents.take(name, (line,))
                if isinstance(line, Receipt):
                    yield line
    for attempt in open_intents:
        if attempt.segment in dead:
            yield interrupted(attempt.intent, attempt.completion_tokens)


def _lines(segment: Segment, begin: int, end: float = math.inf) -> Iterator[Line]:
    """The lines from one offset on, up to another or some beyond it."""
    is_last = False
    while begin < end and not is_last:
        piece = segment.read(begin)
        begin, is_last = piece.offset, piece.is_last
        yield from piece.lines


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
