"""A stream between its two ends, which are fakes: what comes in, what goes out, how it ends."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keyhole.backends.base import Stream
from keyhole.catalog import Target, Upstream
from keyhole.dialects.base import EventReader, NotThisFormatError, StreamFailedError
from keyhole.errors import Code, GatewayError, KeyholeError, UpstreamError
from keyhole.ports import Receiver, Timed
from keyhole.relay import END_WITHIN_S, Relay
from keyhole.secret import Secret
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Counted, Delta, Event, Finish
from keyhole.wire.http import UpstreamRequest

SECRET = "hf_of_the_operator"
UPSTREAM = Upstream(name="up", kind="fake", url="http://up", secret=Secret(SECRET))
TARGET = Target(UPSTREAM, "m")
CALL = Call(model="m", input="Once")
MAX_FRAME_BYTES = 100
GOOD = b": hello\n\ndata: one\n\ndata: two\r\n\r\ndata: used\n\n: bye\n\ndata: end\n\n"
WRITTEN = b"[one][two](end)"
BROKEN = UpstreamError(Code.UPSTREAM_UNREACHABLE, "It broke.")


class Reader:
    """`used` counts, `end` ends, `bad` is no frame, `failed` an error, `crash` a bug of ours."""

    def __init__(self) -> None:
        self.is_complete = False
        self.read_count = 0

    def read(self, data: bytes) -> Sequence[Event]:
        self.read_count += 1
        match data:
            case b"used":
                return (Counted(Usage(3, self.read_count)),)
            case b"end":
                self.is_complete = True
                return (Finish("eos"),)
            case b"bad":
                raise NotThisFormatError("bad")
            case b"failed":
                raise StreamFailedError("no memory", status=503)
            case b"crash":
                raise ValueError("words that nobody may see")
            case b"silent":
                return ()
        return (Delta(data.decode()),)


class Writer:
    heartbeat = b":\n\n"

    def write(self, event: Event) -> bytes:
        return b"[%b]" % event.text.encode() if isinstance(event, Delta) else b""

    def end(self) -> bytes:
        return b"(end)"

    def fail(self, error: KeyholeError) -> bytes:
        return f"!{error.code}".encode()


class Incoming:
    """Chunks that are read, and then pushed when the test says so."""

    def __init__(self, *chunks: bytes | KeyholeError) -> None:
        self.status, self.headers = 200, {}
        self.chunks = list(chunks)
        self.receiver: Receiver | None = None
        self.is_closed = self.is_paused = False
        self.given_up: UpstreamError | None = None

    async def read(self) -> bytes:
        chunk = self.chunks.pop(0) if self.chunks else b""
        if isinstance(chunk, KeyholeError):
            raise chunk
        return chunk

    async def read_all(self) -> bytes:
        raise AssertionError

    def relay(self, receiver: Receiver) -> None:
        self.is_paused = False  # as a connection: what is asked for before is forgotten
        self.receiver = receiver
        if self.is_closed:
            receiver.ended(None)

    def push(self) -> None:
        """Hand on everything, and the end."""
        assert self.receiver is not None
        while self.chunks and not self.is_closed:
            chunk = self.chunks.pop(0)
            if isinstance(chunk, KeyholeError):
                self.receiver.ended(chunk)
                return
            self.receiver.piece(chunk)
        if not self.is_closed:
            self.receiver.ended(None)

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def give_up(self, error: UpstreamError) -> None:
        self.given_up = error

    def close(self) -> None:
        self.is_closed = True


class Sink:
    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.sent: list[bytes] = []
        self.ends = 0
        self.on_send: Any = None

    def send(self, data: bytes) -> None:
        assert data
        assert not self.ends, "nothing comes behind the end"
        self.sent.append(data)
        if self.on_send is not None:
            self.on_send()

    def end(self, data: bytes) -> None:
        assert not self.ends, "it ends once"
        self.sent.append(data)
        self.ends += 1

    @property
    def written(self) -> bytes:
        return b"".join(self.sent)


class Alarms:
    def __init__(self) -> None:
        self.time_s = 0.0
        self.watched: set[Timed] = set()

    def now_s(self) -> float:
        return self.time_s

    def watch(self, timed: Timed) -> None:
        timed.watched_s = timed.due_s
        self.watched.add(timed)

    def forget(self, timed: Timed) -> None:
        timed.watched_s = math.inf
        self.watched.discard(timed)


class World:
    """A relay that is carried, and what it told."""

    def __init__(
        self,
        *chunks: bytes | KeyholeError,
        is_passed_on: bool = False,
        reader: EventReader | None = None,
        edit: Any = None,
        most_pieces: int | None = None,
    ) -> None:
        self.incoming = Incoming(*chunks)
        request = UpstreamRequest(upstream=UPSTREAM, path="/", body=b"")
        self.reader = reader or Reader()
        plan = Stream(request=request, reader=self.reader, is_passed_on=is_passed_on, edit=edit)
        self.alarms = Alarms()
        self.relay = Relay(
            CALL,
            TARGET,
            plan,
            self.incoming,
            writer=Writer(),
            alarms=self.alarms,
            max_frame_bytes=MAX_FRAME_BYTES,
        )
        self.most_pieces = most_pieces
        self.sink = Sink(self.relay)
        self.ends: list[tuple[KeyholeError | None, bool]] = []
        self.heartbeat_s, self.drains = 0.0, False
        self.progress: list[int] = []
        self.relay.carry(self)

    def ended(
        self, relay: Relay, error: KeyholeError | None, *, has_left: bool, last: Callable[[], None]
    ) -> None:
        assert relay is self.relay
        assert not self.sink.ends, "the books come before the last byte"
        self.ends.append((error, has_left))
        last()

    def progressed(self, relay: Relay) -> None:
        self.progress.append(relay.pieces)

    async def begin(self, heartbeat_s: float = 0) -> bytes:
        first = await self.relay.begin(20, most_pieces=self.most_pieces)
        self.heartbeat_s = heartbeat_s
        self.relay.carry(self)
        return first

    async def run(self) -> bytes:
        self.relay.start(self.sink, await self.begin())
        if not self.sink.ends:
            self.incoming.push()
        assert self.sink.ends == len(self.ends) == 1
        assert self.relay.bytes_out == len(self.sink.written)
        assert not self.alarms.watched
        return self.sink.written

    @property
    def code(self) -> str | None:
        """The error it ended with."""
        ((error, has_left),) = self.ends
        assert not has_left
        return None if error is None else error.code


def splits(content: bytes) -> list[tuple[bytes, ...]]:
    """In two at every byte, and byte by byte."""
    halves = [(content[:at], content[at:]) for at in range(1, len(content))]
    return [(content,), *halves, tuple(content[at : at + 1] for at in range(len(content)))]


class TestAllowance:
    """A stream may have so many pieces."""

    CHUNKS = (b"data: one\n\n", b"data: two\n\n", b"data: used\n\n", b"data: end\n\n")

    @pytest.mark.parametrize("is_passed_on", [False, True])
    async def test_one_that_uses_all_of_it_ends_by_itself(self, is_passed_on: bool) -> None:
        """An upstream that was told the maximum stops there, and then tells its usage."""
        whole = World(*self.CHUNKS, is_passed_on=is_passed_on)
        expected = await whole.run()
        here = World(*self.CHUNKS, is_passed_on=is_passed_on)
        here.most_pieces = 2
        assert await here.run() == expected
        assert not here.relay.is_cut
        assert here.relay.usage == Usage(3, 3)

    async def test_one_that_goes_on_is_cut_at_it(self) -> None:
        for chunks in (self.CHUNKS, (b"".join(self.CHUNKS[:2]),)):
            here = World(b"data: zero\n\n", *chunks)
            here.most_pieces = 2
            assert await here.run() == b"[zero][one](end)"
            assert here.relay.is_cut
            assert here.incoming.is_closed
            assert here.relay.pieces == 3, "the upstream has made it"


class TestSplits:
    @pytest.mark.parametrize("is_passed_on", [False, True])
    async def test_any_split_gives_the_same_bytes(self, is_passed_on: bool) -> None:
        frames = [b"data: one\n\n", b"data: two\r\n\r\n", b"data: used\n\n", b"data: end\n\n"]
        expected = b"".join(frames) if is_passed_on else WRITTEN
        for chunks in splits(GOOD):
            here = World(*chunks, is_passed_on=is_passed_on)
            assert await here.run() == expected
            assert here.code is None
            assert here.reader.read_count == 4, "each frame is read once"
            assert here.relay.usage == Usage(3, 3)

    @pytest.mark.parametrize(
        ("content", "written", "code"),
        [
            (b"data: one\n\ndata: failed\n\ndata: end\n\n", b"[one]", "upstream_unavailable"),
            (b"data: one\n\ndata: bad\n\ndata: end\n\n", b"[one]", "upstream_not_json"),
            (b"data: one\n\ndata: two\n\n", b"[one][two]", "upstream_unreachable"),
            (b"data: one\n\ndata: two\n", b"[one][two]", "upstream_unreachable"),
            (b"data: one\n\ndata: tw", b"[one]", "upstream_unreachable"),
            (b"data: one\n\ndata: x hf_of_the_operator\n\n", b"[one]", "upstream_error"),
            (b"data: one\n\ndata: hf_of_the_operator\n", b"[one]", "upstream_error"),
            (b"data: one\n\n" + b"x" * 101 + b"\n\n", b"[one]", "upstream_answer_too_large"),
            (b"data: one\n\n" + b"x" * 101, b"[one]", "upstream_answer_too_large"),
        ],
    )
    async def test_what_goes_wrong_comes_behind_what_went_well(
        self, content: bytes, written: bytes, code: str
    ) -> None:
        for chunks in splits(content):
            here = World(*chunks)
            assert await here.run() == written + b"!" + code.encode()
            assert here.code == code
            assert here.incoming.is_closed or not here.incoming.chunks
            here = World(*chunks, is_passed_on=True)
            told = await here.run()
            assert told.startswith(b"data: one\n\n")
            assert told.endswith(b"!" + code.encode())
            assert SECRET.encode() not in told
            assert here.code == code

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"data: failed\n\n", "upstream_unavailable"),
            (b": hello\n\ndata: bad\n\n", "upstream_not_json"),
            (b"", "upstream_unreachable"),
            (b": hello\n\n", "upstream_unreachable"),
            (b"data: silent\n\n", "upstream_unreachable"),
            (b"data: hf_of_the_operator\n\n", "upstream_error"),
            (b"x" * 101, "upstream_answer_too_large"),
        ],
    )
    async def test_before_the_first_word_it_is_raised(self, content: bytes, code: str) -> None:
        for chunks in splits(content):
            here = World(*chunks)
            with pytest.raises(UpstreamError) as raised:
                await here.begin()
            assert raised.value.code == code
            assert here.ends == []

    async def test_what_is_edited_away_is_not_sent(self) -> None:
        def edit(raw: bytes) -> bytes:
            return b"" if b"used" in raw else raw

        for chunks in splits(GOOD):
            here = World(*chunks, is_passed_on=True, edit=edit)
            assert b"used" not in await here.run()
            assert here.relay.usage is not None


class TestCancelling:
    """At every state: it ends once, and the upstream's connection is closed."""

    async def test_before_it_is_started(self) -> None:
        for chunks in (
            [GOOD],
            [b"data: one\n\n"],
            [b"data: end\n"],
            [b"data: one\n\ndata: bad\n\n"],
        ):
            here = World(*chunks)
            await here.begin()
            self.cancel_twice(here)
            assert here.sink.sent == []

    async def test_while_it_streams_or_is_paused(self) -> None:
        for paused in (False, True):
            here = World(b"data: one\n\n", b"data: two\n\n")
            here.relay.start(here.sink, await here.begin(heartbeat_s=5))
            if paused:
                here.relay.pause()
            self.cancel_twice(here)
            here.relay.resume()
            here.relay.expire(1.0)
            here.relay.ended(None)
            here.relay.ended(BROKEN)
            assert here.sink.sent == [b"[one]"]
            assert not here.alarms.watched

    async def test_when_it_has_ended_it_changes_nothing(self) -> None:
        for chunks in ([GOOD], [b"data: one\n\ndata: bad\n\n"]):
            here = World(*chunks)
            await here.run()
            before = list(here.ends)
            here.relay.cancel()
            here.relay.pause()
            here.relay.resume()
            assert here.ends == before

    async def test_from_within_what_it_sends(self) -> None:
        """A sink that finds its client gone says so at once."""
        for chunks in ((b"data: one\n\n", GOOD), (b"data: one\n\n", b"data: two\n\n")):
            for which in (1, 2):
                here = World(*chunks)

                def leave(here: World = here, which: int = which) -> None:
                    if len(here.sink.sent) == which:
                        here.relay.cancel()

                here.sink.on_send = leave
                here.relay.start(here.sink, await here.begin(heartbeat_s=5))
                if which == 2:
                    here.incoming.push()
                assert here.ends == [(None, True)]
                assert not here.sink.ends
                assert not here.alarms.watched
                assert here.incoming.is_closed

    @staticmethod
    def cancel_twice(here: World) -> None:
        here.relay.cancel()
        here.relay.cancel()
        assert here.ends == [(None, True)]
        assert here.incoming.is_closed


class TestBudget:
    async def test_it_ends_before_the_piece_that_is_too_much_however_it_comes(self) -> None:
        content = b"data: one\n\ndata: two\n\ndata: three\n\ndata: four\n\ndata: end\n\n"
        for chunks in splits(content):
            for passed_on, wanted in ((False, WRITTEN), (True, content[:22] + b"(end)")):
                here = World(*chunks, is_passed_on=passed_on, most_pieces=2)
                assert await here.run() == wanted
                assert (here.code, here.relay.is_cut, here.relay.pieces) == (None, True, 3)
                assert here.incoming.is_closed

    async def test_one_of_just_so_many_pieces_ends_by_itself(self) -> None:
        """Its upstream was told the maximum, and has yet to say why it ended and what it took."""
        for chunks in splits(GOOD):
            here = World(*chunks, most_pieces=2)
            assert await here.run() == WRITTEN
            assert (here.code, here.relay.is_cut, here.relay.pieces) == (None, False, 2)
            assert here.relay.usage is not None

    async def test_an_unfinished_last_frame_that_is_too_much_is_not_told(self) -> None:
        here = World(b"data: one\n\ndata: two\n\ndata: three\n", most_pieces=2)
        assert await here.run() == WRITTEN
        assert here.relay.is_cut

    async def test_who_may_have_none_gets_none(self) -> None:
        here = World(GOOD, most_pieces=0)
        assert await here.run() == b"(end)"


class TestRevocation:
    async def test_the_client_is_told_and_the_upstream_is_left(self) -> None:
        here = World(b"data: one\n\n", b"data: two\n\n")
        here.relay.start(here.sink, await here.begin())
        here.relay.cut(BROKEN)
        here.relay.cut(BROKEN)
        assert here.sink.written == b"[one]!upstream_unreachable"
        assert (here.code, here.relay.is_cut) == (BROKEN.code, True)
        assert here.incoming.is_closed

    async def test_before_it_is_started_it_is_told_when_it_is(self) -> None:
        here = World(b"data: one\n\n", b"data: two\n\n")
        first = await here.begin()
        here.relay.cut(BROKEN)
        assert here.ends == []
        here.relay.start(here.sink, first)
        assert here.sink.written == b"[one]!upstream_unreachable"
        assert (here.code, here.relay.is_cut) == (BROKEN.code, True)
        assert here.relay.bytes_out == len(here.sink.written)

    async def test_one_that_is_never_started_ends_when_it_is_dropped(self) -> None:
        here = World(b"data: one\n\n", b"data: two\n\n")
        await here.begin()
        here.relay.cut(BROKEN)
        here.relay.cancel()
        assert here.ends == [(None, True)]
        assert here.relay.is_cut


class TestPausing:
    async def test_the_upstream_waits_while_the_client_does_not_read(self) -> None:
        here = World(b"data: one\n\n", b"data: two\n\n")
        here.relay.start(here.sink, await here.begin())
        here.relay.pause()
        assert here.incoming.is_paused
        here.relay.resume()
        assert not here.incoming.is_paused

    async def test_a_pause_that_the_first_bytes_cause_holds(self) -> None:
        here = World(b"data: one\n\n", b"data: two\n\n")
        here.sink.on_send = here.relay.pause
        here.relay.start(here.sink, await here.begin())
        assert here.incoming.is_paused


class TestHeartbeat:
    async def test_a_silent_stream_is_told_to_be_alive_until_it_ends(self) -> None:
        here = World(b"data: one\n\n", b"data: end\n\n")
        here.relay.start(here.sink, await here.begin(heartbeat_s=5))
        assert here.alarms.watched == {here.relay}
        assert here.relay.due_s == 5
        here.relay.expire(5.0)
        assert here.sink.sent == [b"[one]", b":\n\n"]
        assert here.relay.due_s == 10
        here.alarms.time_s = 7
        here.incoming.receiver.piece(b"data: two\n\n")
        assert here.relay.due_s == 12
        here.incoming.push()
        assert here.relay.due_s == math.inf
        assert not here.alarms.watched
        assert here.relay.bytes_out == len(here.sink.written)

    async def test_a_client_that_does_not_read_is_sent_none(self) -> None:
        here = World(b"data: one\n\n", b"data: end\n\n")
        here.relay.start(here.sink, await here.begin(heartbeat_s=5))
        here.relay.pause()
        here.relay.expire(5.0)
        assert here.sink.sent == [b"[one]"]
        assert here.relay.due_s == 10, "it is asked again, for it may read by then"

    async def test_a_stream_that_is_over_before_it_starts_is_never_watched(self) -> None:
        here = World(b"data: end\n")
        here.relay.start(here.sink, await here.begin(heartbeat_s=5))
        assert here.sink.ends == 1
        assert not here.alarms.watched


class TestFailing:
    async def test_a_connection_that_breaks_is_told(self) -> None:
        here = World(b"data: one\n\n", b"data: two\n\n", BROKEN)
        assert await here.run() == b"[one][two]!upstream_unreachable"
        assert here.ends == [(BROKEN, False)]

    async def test_one_that_breaks_at_first_is_raised(self) -> None:
        here = World(b": hello\n\n", BROKEN)
        with pytest.raises(UpstreamError):
            await here.begin()

    async def test_a_bug_of_ours_is_told_without_its_words_and_kept_as_the_cause(self) -> None:
        for chunks in ((b"data: crash\n\n",), (b"data: crash\n",)):
            here = World(b"data: one\n\n", *chunks)
            assert await here.run() == b"[one]!internal_error"
            ((error, _),) = here.ends
            assert isinstance(error, GatewayError)
            assert isinstance(error.__cause__, ValueError)

    async def test_being_cancelled_while_it_begins_passes(self) -> None:
        here = World()
        here.incoming.read = asyncio.Event().wait  # type: ignore[assignment,method-assign]
        task = asyncio.ensure_future(here.begin())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert here.ends == []


class TestBehindTheLastFrame:
    """When all has been said, nothing that the connection does can spoil it."""

    @pytest.mark.parametrize("is_passed_on", [False, True])
    async def test_a_connection_that_breaks_is_a_good_end(self, is_passed_on: bool) -> None:
        here = World(GOOD, BROKEN, is_passed_on=is_passed_on)
        whole = World(GOOD, is_passed_on=is_passed_on)
        assert await here.run() == await whole.run()
        assert here.ends == [(None, False)]

    async def test_one_that_is_kept_open_is_ended_by_us(self) -> None:
        here = World(b"data: one\n\n", b"data: end\n\n")
        here.relay.start(here.sink, await here.begin())
        while here.incoming.chunks:
            here.relay.piece(here.incoming.chunks.pop(0))
        assert here.relay.due_s == END_WITHIN_S
        here.relay.expire(END_WITHIN_S)
        assert here.incoming.is_closed
        assert here.ends == [(None, False)]
        assert here.sink.written == await World(b"data: one\n\n", b"data: end\n\n").run()


async def test_comments_are_no_first_frame_and_the_time_for_one_ends() -> None:
    here = World(b":\n\n", GOOD)
    read = here.incoming.read

    async def read_late() -> bytes:
        here.relay.expire(here.relay.due_s)
        return await read()

    here.incoming.read = read_late  # type: ignore[method-assign]
    await here.begin()
    assert here.incoming.given_up is not None
    assert here.incoming.given_up.code == Code.UPSTREAM_TIMEOUT
    assert here.relay.due_s == math.inf
