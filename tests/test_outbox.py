"""What is written together at the end of a turn of the event loop."""

from __future__ import annotations

import asyncio

from keyhole.outbox import Outbox


async def test_everything_is_written_in_order_when_the_turn_is_over() -> None:
    outbox, written = Outbox(), list[str]()
    outbox.put(lambda: written.append("a"))
    outbox.put(lambda: written.append("b"))
    assert written == []

    await asyncio.sleep(0)
    assert written == ["a", "b"]


async def test_what_is_put_in_while_the_others_write_is_written_in_the_next_turn() -> None:
    outbox, written = Outbox(), list[str]()
    outbox.put(lambda: outbox.put(lambda: written.append("later")))
    await asyncio.sleep(0)
    assert written == []

    await asyncio.sleep(0)
    assert written == ["later"]


async def test_one_that_fails_does_not_keep_the_others_from_writing() -> None:
    outbox, written, told = Outbox(), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["exception"]))

    def fail() -> None:
        raise RuntimeError

    outbox.put(fail)
    outbox.put(lambda: written.append("a"))
    await asyncio.sleep(0)
    assert written == ["a"]
    assert [type(error) for error in told] == [RuntimeError]
