"""Every row of golden/hostile_responses.toml, split at every byte, and over a real connection."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from wires import (
    MAX_BODY_BYTES,
    PATIENT,
    Outcome,
    failure,
    make_request,
    make_upstream,
    read,
    splits,
    until,
)

from keyhole.io.transport import PooledTransport
from keyhole.wire.http import Timeouts

GOLDEN = Path(__file__).parent.parent / "golden" / "hostile_responses.toml"
SHORT_BYTES = 1000
"""A longer row is split at a few places only, for there are as many ways as it has bytes."""


class Case(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table."""

    name: str
    content: bytes
    ends: bool
    is_head: bool
    expected: Outcome

    def __str__(self) -> str:
        return self.name


def read_cases() -> list[Case]:
    return [make_case(row) for row in tomllib.loads(GOLDEN.read_text("utf-8"))["case"]]


def make_case(row: dict[str, Any]) -> Case:
    pieces = (
        part if isinstance(part, str) else part["text"] * part["times"] for part in row["send"]
    )
    if row.get("waits"):
        expected = Outcome(error="waits for more")
    elif "status" in row:
        body = row.get("body", "a" * row.get("length", 0)).encode()
        expected = Outcome(
            status=row["status"],
            body=body,
            may_reuse={"reused": True, "closed": False}[row["fate"]],
        )
    else:
        expected = Outcome(error=row["message"], code=row["code"])
    return Case(
        name=row["name"],
        content="".join(pieces).encode("latin-1"),
        ends=row.get("ends", False),
        is_head=row.get("asked") == "HEAD",
        expected=expected,
    )


CASES = read_cases()


def check(outcome: Outcome, case: Case) -> None:
    expected = case.expected
    told = None if outcome.error is None else outcome.error.rstrip(".")
    wanted = None if expected.error is None else expected.error.rstrip(".")
    assert (told, outcome.code) == (wanted, expected.code)
    assert (outcome.status, outcome.body) == (expected.status, expected.body)
    assert outcome.may_reuse == expected.may_reuse


def test_the_rows_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_is_read_as_the_table_says_however_it_is_split(case: Case) -> None:
    check(read([case.content] if case.content else [], ends=case.ends, is_head=case.is_head), case)

    if len(case.content) <= SHORT_BYTES:
        ways = list(splits(case.content))
    else:
        middles = (1, 10, 40, len(case.content) // 2, len(case.content) - 1)
        ways = [(case.content[:at], case.content[at:]) for at in middles]
        size = 1000
        ways.append(tuple(case.content[at : at + size] for at in range(0, len(case.content), size)))
    first = read(ways[0], ends=case.ends, is_head=case.is_head) if case.content else None
    for pieces in ways if case.content else ():
        outcome = read(pieces, ends=case.ends, is_head=case.is_head)
        check(outcome, case)
        assert outcome == first


class Scripted(asyncio.Protocol):
    """Answers each request with the same bytes, in so many pieces."""

    def __init__(self, case: Case, piece_bytes: int) -> None:
        self._case = case
        self._piece_bytes = piece_bytes

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._answering = asyncio.ensure_future(self._answer())

    async def _answer(self) -> None:
        content = self._case.content
        for at in range(0, len(content), self._piece_bytes):
            if self.transport.is_closing():
                return
            self.transport.write(content[at : at + self._piece_bytes])
            await asyncio.sleep(0)
        if self._case.ends:
            self.transport.close()


@asynccontextmanager
async def upstream_of(case: Case, piece_bytes: int) -> AsyncIterator[str]:
    protocols: list[Scripted] = []

    def make() -> Scripted:
        protocols.append(Scripted(case, piece_bytes))
        return protocols[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for protocol in protocols:
            protocol.transport.abort()
        await server.wait_closed()


PIECES = [
    *((case, 1_000_000) for case in CASES),
    *((case, 7) for case in CASES if len(case.content) <= SHORT_BYTES),
]
"""A long row would take a second in small pieces; its splits are tested without sockets."""


@pytest.mark.parametrize(("case", "piece_bytes"), PIECES, ids=str)
async def test_a_caller_gets_what_the_table_says(case: Case, piece_bytes: int) -> None:
    timeouts = PATIENT
    expected = case.expected
    if expected.error == "waits for more":
        timeouts = Timeouts(connect_s=50.0, first_byte_s=50.0, total_s=0.2)
    async with upstream_of(case, piece_bytes) as url:
        transport = PooledTransport()
        upstream = make_upstream(url, max_response_bytes=MAX_BODY_BYTES)
        method = "HEAD" if case.is_head else "POST"
        request = make_request(upstream, method=method)
        sending = transport.send(request, request_id="id", timeouts=timeouts)
        try:
            if expected.error is not None:
                error = await failure(sending)
                if expected.code is not None:
                    assert error.message == f"Upstream 'gpu' {expected.error}"
                    assert error.code == expected.code
                else:
                    assert error.code == "upstream_timeout"
            else:
                response = await sending
                assert (response.status, response.body) == (expected.status, expected.body)
                if not expected.may_reuse:  # what comes behind the answer may come later
                    await until(lambda: "0 idle" in repr(transport))
            idle = 1 if expected.may_reuse else 0
            assert repr(transport) == f"<PooledTransport gpu: 0 active, {idle} idle, 0 queued>"
        finally:
            await transport.aclose()
