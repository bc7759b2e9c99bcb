"""What was spent before a process began: what the ledger has, and the journal beyond that."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from msgspec import structs

from keyhole.bookkeeping import journal_dir, node_name, open_books
from keyhole.config import Inputs, load
from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, JournalSettings
from keyhole.ledger.mirror import Mirror
from keyhole.main import backends
from keyhole.wire.books import Receipt
from keyhole.wire.keys import Budget, Key, Limits
from keyhole.wire.mirror import Offset, Spent
from standins.attempts import intent, receipt

CLOCK = SystemClock()


def quiet(_: str) -> None:
    """Nobody listens."""


def key(name: str) -> Key:
    limits = Limits(budget=Budget(amount=1000))
    return Key(id=f"key_{name}", name=name, digest=name.encode(), limits=limits, created_at_ms=1)


def of_key(name: str, number: int, cost_microusd: int) -> Receipt:
    begun = structs.replace(intent(number), started_at_ms=CLOCK.unix_ms(), key_id=f"key_{name}")
    return structs.replace(receipt(number), intent=begun, cost_microusd=cost_microusd)


async def spent_of(data: Path, *names: str) -> list[int]:
    inputs = Inputs(
        config=None, data=data, listen=None, environ={}, cwd=Path("/nowhere"), home=data
    )
    settings = load(inputs, backends=backends(), engine_models=lambda _: [])
    async with AsyncExitStack() as stack:
        books = await open_books(settings, CLOCK, stack, keeps=True, checks=True, say=quiet)
        return [books.counters.scopes(key(name))[0].spent for name in names]


async def test_each_receipt_counts_once_wherever_it_is(tmp_path: Path) -> None:
    """Ann's last is in the journal alone; Bob's are all in the ledger; Cid has spent nothing."""
    settings = JournalSettings(fsync="never", max_bytes=1 << 24)
    journal = FileJournal(
        journal_dir(tmp_path), settings, node=node_name(tmp_path), clock=CLOCK, say=quiet
    )
    for line in (of_key("bob", 1, 100), of_key("ann", 2, 20), of_key("ann", 3, 3)):
        journal.intend(line.intent)
        journal.settle(line)
    journal.close()
    (file,) = journal_dir(tmp_path).iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    posted = len(b"".join(lines[:4]))
    mirror = Mirror(tmp_path)
    mirror.rebuild([], have_existed=True, looked_at_ms=CLOCK.unix_ms())
    mirror.update_spent(
        [
            Spent("key", "key_ann", None, 0, 20, 1),
            Spent("key", "key_bob", None, 0, 100, 1),
        ],
        [Offset(node_name(tmp_path), file.name, posted)],
        looked_at_ms=CLOCK.unix_ms(),
    )
    mirror.close()
    assert await spent_of(tmp_path, "ann", "bob", "cid") == [23, 100, 0]
