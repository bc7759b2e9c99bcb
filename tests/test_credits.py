"""An upstream that says 402: not asked again, and remembered, until it is cleared."""

from __future__ import annotations

from pathlib import Path

import pytest

import keys
from keyed import Keyed, StillDate, keyed, now_ms, until
from keyhole.bookkeeping import journal_dir
from keyhole.ledger.books import Books
from keyhole.ledger.database import Database, ledger_url
from keyhole.ledger.keys import KeyStore
from keyhole.ledger.posting import Poster
from keyhole.ledger.reflecting import Reflection, Seen, SeenFile
from keyhole.wire.keys import Limits
from processes.driving import keyhole
from standins import Reply, StandIn

SECRET = keys.secret(1)
KEY = keys.key(1, limits=Limits(rpm=100))
ASK = {"messages": [{"role": "user", "content": "x"}]}
PATH = "/v1/chat/completions"
GONE = Reply.json({"error": "You have exceeded your monthly included credits"}, 402)
DAY_MS = 86_400_000


def post(here: Keyed) -> Books:
    """What the clerk does, once: the journal into the ledger, the ledger into the mirror."""
    database = Database(ledger_url(None, here.data))
    database.migrate()
    books = Books(database)
    Poster(books, journal_dir(here.data), say=print).run()
    store, seen = KeyStore(database), SeenFile(here.data, database.shown_url)
    seen.write(Seen(store.version()))  # the keys are in the mirror alone
    Reflection(store, books, here.mirror, seen=seen).spent(now_ms())
    return books


async def test_it_is_not_asked_again_and_is_no_limit_of_the_client_s(tmp_path: Path) -> None:
    async with StandIn(GONE) as far, keyed(tmp_path, far.url, [KEY]) as here:
        first = await here.call(PATH, ASK, SECRET)
        again = await here.call(PATH, ASK, SECRET)
        assert len(far.requests) == 1, "neither retried nor asked again"
        for answer in (first, again):
            assert "retry-after" not in answer.headers
            assert answer.headers["ratelimit"].startswith('"requests";r=9')
        assert "credits are gone" in again.json["error"]["message"]
        (receipt,) = here.receipts()
        assert (receipt.status, receipt.outcome) == (402, "upstream_error")
        (told,) = here.refusals()
        assert (told.code, told.exchange_id) == ("upstream_out_of_credits", again.request_id)


async def test_it_is_asked_again_when_the_month_turns(tmp_path: Path) -> None:
    clock = StillDate(1_790_000_000_000)
    async with StandIn(GONE) as far, keyed(tmp_path, far.url, [KEY], clock=clock) as here:
        for days, count in ((0, 1), (1, 1), (31, 2), (32, 2)):
            clock.ms = 1_790_000_000_000 + days * DAY_MS
            # the accounts' own clock stands, too
            here.gateway.parts.accounts._clock = clock
            await here.call(PATH, ASK, SECRET)
            assert len(far.requests) == count


@pytest.mark.parametrize("is_posted", [True, False], ids=["in the ledger", "in the journal"])
async def test_a_restart_remembers_it(tmp_path: Path, is_posted: bool) -> None:
    async with StandIn(GONE) as far:
        async with keyed(tmp_path, far.url, [KEY]) as here:
            await here.call(PATH, ASK, SECRET)
            if is_posted:
                (mark,) = post(here).marks()
                assert mark.upstream == "far"
        async with keyed(tmp_path, far.url, [KEY]) as here:
            await here.call(PATH, ASK, SECRET)
        assert len(far.requests) == 1


@pytest.mark.parametrize("is_posted", [True, False], ids=["posted before", "posted after"])
async def test_the_operator_clears_it_in_a_running_worker(tmp_path: Path, is_posted: bool) -> None:
    async with StandIn(GONE) as far, keyed(tmp_path, far.url, [KEY]) as here:
        await here.call(PATH, ASK, SECRET)
        counters = here.gateway.parts.accounts.counters
        assert "far" in counters.credits_gone
        if is_posted:
            post(here)
        ran = keyhole("upstream", "clear", "far", "--data", here.data, home=tmp_path)
        assert ran.status == 0, ran
        assert "is asked again" in ran.out
        assert post(here).marks() == ()
        await until(lambda: not counters.credits_gone)
        await here.call(PATH, ASK, SECRET)
        assert len(far.requests) == 2


def test_an_upstream_that_there_is_not_cannot_be_cleared(tmp_path: Path) -> None:
    ran = keyhole("upstream", "clear", "fra", "--data", tmp_path / "data", home=tmp_path)
    assert "There is no upstream 'fra'" in ran.complaint


async def test_explain_tells_of_a_limit_whose_it_is_and_when_it_resets(tmp_path: Path) -> None:
    key = keys.key(1, limits=Limits(rpm=1))
    async with StandIn(Reply(500, b"{}")) as far, keyed(tmp_path, far.url, [key]) as here:
        answers = [await here.call(PATH, ASK, SECRET) for _ in range(3)]
        refused = next(answer for answer in answers if answer.status == 429)
        ran = keyhole("explain", refused.request_id, "--data", here.data, home=tmp_path)
        assert ran.status == 0, ran
        assert "refused with 429 (requests_limited)" in ran.out
        assert "The key 'key-1' has 0 of 1 request a minute left; that resets in" in ran.out
        assert "model" in ran.out or "default" in ran.out
        assert SECRET not in ran.out
