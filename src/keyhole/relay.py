"""One stream on its way: an upstream's bytes come in, a client's go out, in the same call.

What comes is pushed to it, and it pushes on: no task and no queue stands between. Nothing is kept
but an unfinished frame; a client that does not read makes the upstream wait. It opens no stream
and knows no connection: `exchange` opens, ports.Incoming and wire.http.Sink are the two ends.

The frames of an upstream that speaks the client's own format go on as they came, while its reader
reads them for the books; they go on frame by frame, so that one which tells an error, in words
that may hold a secret, can be told in ours instead. What is told never depends on how the bytes
were split: what stood in front of an error goes out in front of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from keyhole.backends import faults
from keyhole.backends.base import Stream
from keyhole.catalog import Target
from keyhole.dialects.base import EventWriter, NotThisFormatError, StreamFailedError
from keyhole.errors import Code, GatewayError, KeyholeError, UpstreamError
from keyhole.ports import Alarms, Incoming
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call
from keyhole.wire.events import Counted, Delta, Event, Finish
from keyhole.wire.http import Sink
from keyhole.wire.recurring import Edit, RecurringFrame
from keyhole.wire.sse import Frame, FrameTooLargeError, SseReader, data_of

PROGRESS_EVERY_S = 5.0
NO_END = 2**62
MAX_LESSONS = 4
END_WITHIN_S = 2.0
"""How long an upstream may keep a stream open behind its last frame: there is usage to come."""


class Carrier(Protocol):
    """Who has to know how a stream goes."""

    heartbeat_s: float
    """How long a client may hear nothing; 0 for ever."""
    drains: bool
    """Whether an upstream is read to its end although the client has left, for what it reports."""

    def progressed(self, relay: Relay) -> None:
        """It has gone on for another `PROGRESS_EVERY_S`."""
        ...

    def ended(
        self, relay: Relay, error: KeyholeError | None, *, has_left: bool, last: Callable[[], None]
    ) -> None:
        """It is over; told once. What went wrong, if anything, and whether the client has left.

        `last` lets the client have the end of it, and is to be called when that may be.
        """
        ...


class Relay:
    """One client's stream; a wire.http.ReplyStream, a ports.Receiver and a ports.Timed."""

    __slots__ = (
        *("_alarms", "_call", "_carrier", "_failure", "_frames", "_has_left", "_heartbeat_s"),
        *("_incoming",),
        *(
            "_is_over",
            "_is_paused",
            "_lessons",
            "_most_pieces",
            "_plan",
            "_recurring",
            "_secret",
            "_sink",
        ),
        *("_is_rewritten", "_open_choices"),
        *("_target", "_tells_at_s", "_writer"),
        *("bytes_out", "due_s", "is_cut", "pieces", "usage", "watched_s"),
    )

    def __init__(
        self,
        call: Call,
        target: Target,
        plan: Stream,
        incoming: Incoming,
        *,
        writer: EventWriter,
        alarms: Alarms,
        max_frame_bytes: int,
    ) -> None:
        self._call = call
        self._target = target
        self._secret = target.upstream.secret
        self._plan = plan
        self._incoming = incoming
        self._frames = SseReader(max_frame_bytes)
        self._recurring: RecurringFrame | None = None
        self._lessons = MAX_LESSONS if plan.recurs and plan.edit is not None else 0
        """How many more frames are tried for one that recurs."""
        self._writer = writer
        self._alarms = alarms
        self._carrier: Carrier | None = None
        self._sink: Sink | None = None
        self._heartbeat_s = 0.0
        self._is_over = self._is_paused = self._has_left = False
        self._most_pieces = NO_END
        self._is_rewritten = False
        """Whether the writer hears of what is passed on, to tell the whole text at a cut."""
        self._open_choices: set[int] = set()
        """Texts that have begun and not ended."""
        self._tells_at_s = math.inf
        """When its carrier hears of it again."""
        self._failure: KeyholeError | None = None
        """What went wrong behind the first frame, before the door began."""
        self.usage: Usage | None = None
        """The last that the upstream has told."""
        self.bytes_out = 0
        self.pieces = 0
        """How many pieces of text have come; about as many tokens."""
        self.is_cut = False
        """Whether we ended it: at what it may use, or because its key is gone."""
        self.due_s = self.watched_s = math.inf

    async def begin(self, patience_s: float, *, most_pieces: int | None = None) -> bytes:
        """Read up to the first frame that says something; the client's bytes for it.

        `most_pieces` is how many pieces of text there may be; the next one ends it.
        Raises UpstreamError: until then nothing has gone to the client, and another upstream
        may be asked. Comments do not count for it, however many come.
        """
        if most_pieces is not None:
            self._most_pieces = most_pieces
            self._is_rewritten = self._plan.is_passed_on and not self._plan.recurs
        self.due_s = self._alarms.now_s() + patience_s
        self._alarms.watch(self)
        try:
            return await self._begin()
        finally:
            self.due_s = math.inf
            self._alarms.forget(self)

    async def _begin(self) -> bytes:
        out: list[bytes] = []
        while not out and not self._is_over:
            try:
                chunk = await self._incoming.read()
            except UpstreamError:
                if not self._plan.reader.is_complete:
                    raise
                chunk = b""  # it has said all that it had to say
            try:
                if chunk:
                    self._take(chunk, out)
                else:
                    self._take_end(out)
            except UpstreamError as error:
                if not out:
                    raise
                self._failure = error
                self._incoming.close()
            if self._is_beyond and not self.is_cut:
                self._incoming.close()
                self.is_cut = True
                out.append(self._cut_end())
            self._is_over = not chunk or self._failure is not None or self.is_cut
        return b"".join(out)

    def carry(self, carrier: Carrier) -> None:
        """Say who has to know of it."""
        self._carrier = carrier
        if self._writer.heartbeat:
            self._heartbeat_s = carrier.heartbeat_s
        self._tells_at_s = self._alarms.now_s() + PROGRESS_EVERY_S

    def cut(self, error: KeyholeError) -> None:
        """End it with an error; nothing where it is over."""
        if self._is_over:
            return
        self.is_cut = True
        if self._sink is None:  # the door has not begun yet, and will tell it
            self._is_over, self._failure = True, error
            self._incoming.close()
        else:
            self._fail(error, [])

    # For the door

    def start(self, sink: Sink, first: bytes) -> None:
        """Send what has come to the sink, and from now on what comes."""
        self._sink = sink
        if self._is_over:
            self._finish(first, self._failure)
            return
        self.bytes_out += len(first)
        sink.send(first)
        self._listen()
        self._incoming.relay(self)
        if self._is_paused and not self._is_over:
            self._incoming.pause()  # asked for by the first of it, before there was what to pause

    def pause(self) -> None:
        """The client does not read: let the upstream wait."""
        self._is_paused = True
        if not self._is_over:
            self._incoming.pause()

    def resume(self) -> None:
        """It reads again."""
        self._is_paused = False
        if not self._is_over:
            self._incoming.resume()

    def cancel(self) -> None:
        """The client has gone; nothing if it is over."""
        if self._has_left or (self._is_over and self._sink is not None):
            return
        self._has_left = True
        if self._carrier is not None and self._carrier.drains and not self._is_over:
            if self._sink is None:
                self._incoming.relay(self)
            self._sink = _Nobody()
            self.resume()
            return
        self._is_over = True
        self._incoming.close()
        self._close(None, _nothing)

    # For the upstream

    def piece(self, chunk: bytes) -> None:
        """Bytes have come."""
        frames = self._frames
        if (
            self._recurring is None
            or not frames.is_between
            or len(chunk) > frames.max_frame_bytes
            or (written := self._recurring.again(chunk)) is None
            or (self._secret is not None and self._secret.is_in(chunk))
        ):
            self._read_on(chunk)
            return
        # From here on as `_send` and `_listen`, in one: nearly every piece comes by here.
        self.pieces += 1
        if self.pieces > self._most_pieces:
            self._cut_short([])
            return
        self.bytes_out += len(written)
        if self._sink is not None:
            self._sink.send(written)
        now_s = self._alarms.now_s()
        if now_s >= self._tells_at_s:
            self._tell(now_s)
        if self._heartbeat_s and not self._is_over:
            self.due_s = now_s + self._heartbeat_s
            if self.due_s < self.watched_s:
                self._alarms.watch(self)

    def _read_on(self, chunk: bytes) -> None:
        """Read the frames that a chunk completes, and send on what becomes of them."""
        out: list[bytes] = []
        try:
            self._take(chunk, out)
        except Exception as error:  # noqa: BLE001  # an edge: nobody else would hear of it
            self._fail(error, out)
            return
        if self._is_beyond:
            self._cut_short(out)
        elif out:
            self._send(out[0] if len(out) == 1 else b"".join(out))
        elif self._plan.reader.is_complete:
            self._listen()

    def _send(self, written: bytes) -> None:
        self.bytes_out += len(written)
        if self._sink is not None:
            self._sink.send(written)
            self._listen()

    def ended(self, error: KeyholeError | None) -> None:
        """The upstream's bytes have ended: all of them, or with what went wrong."""
        if self._is_over:
            return
        out: list[bytes] = []
        try:
            if error is not None and not self._plan.reader.is_complete:
                raise error
            self._take_end(out)  # what breaks behind the last frame breaks nothing
        except Exception as early:  # noqa: BLE001  # an edge, as above
            self._fail(early, out)
        else:
            self._is_over = True
            self._finish(b"".join(out), None)

    # For the deadline wheel

    def expire(self, now_s: float) -> None:
        """It has been silent for too long.

        At first that is a failure; later a comment keeps proxies from closing the stream; and
        behind the last frame there is nothing more to wait for.
        """
        if self._is_over:
            return
        if self._sink is None:
            self._incoming.give_up(faults.no_frame_in_time(self._target))
        elif self._plan.reader.is_complete:
            self._incoming.close()
            self.ended(None)
        else:
            self.due_s = now_s + self._heartbeat_s
            self._tell(now_s)
            # a client that takes nothing is not kept alive by more
            if not self._is_paused and not self._has_left:
                self.bytes_out += len(self._writer.heartbeat)
                self._sink.send(self._writer.heartbeat)

    # Inside

    def _take(self, chunk: bytes, out: list[bytes]) -> None:
        """Add what the client gets for a chunk; raises UpstreamError behind what is good of it."""
        try:
            frames = self._frames.feed(chunk)
        except FrameTooLargeError as error:
            raise self._too_large(error) from None
        for frame in frames:
            self._translate(frame, out)
            if self._is_beyond:
                return
        if self._frames.is_broken:  # by what stands behind them
            self._take(b"", out)

    def _take_end(self, out: list[bytes]) -> None:
        """The same for the end of the upstream's bytes."""
        try:
            last = self._frames.end()
        except FrameTooLargeError as error:
            raise self._too_large(error) from None
        if last is not None:
            self._translate(last, out)
        if self._is_beyond:
            self.is_cut = True
            out.append(self._cut_end())
            return
        if not self._plan.reader.is_complete:
            raise faults.broken_off(self._target)
        if not self._plan.is_passed_on:
            out.append(self._writer.end())

    def _translate(self, frame: Frame, out: list[bytes]) -> None:
        plan = self._plan
        if self._is_echo(frame.raw):
            raise faults.echoed_secret(self._target.upstream, 200)
        events = self._read(frame)
        if events is None or self._is_beyond:
            return
        if self._is_rewritten:
            self._write(events)
        if not plan.is_passed_on:
            written = self._write(events)
        elif plan.edit is not None:
            written = plan.edit(frame.raw)
            if self._lessons:
                self._learn(frame.raw, events, plan.edit)
        else:
            written = frame.raw
        if written:
            out.append(written)

    def _learn(self, raw: bytes, events: Sequence[Event], edit: Edit) -> None:
        """Look whether the frame is one that may come again; an upstream may have none such."""
        self._lessons -= 1
        read = self._plan.reader.read
        learned = RecurringFrame.learn(raw, events, lambda again: read(data_of(again) or b""), edit)
        self._recurring = learned or self._recurring

    def _is_echo(self, raw: bytes) -> bool:
        """Whether the upstream repeats the secret that it was sent."""
        return self._secret is not None and self._secret.is_in(raw)

    def _read(self, frame: Frame) -> list[Event] | tuple[Event, ...] | None:
        """A frame's events; None for one that is nothing to the client."""
        if frame.data is None:
            return None
        try:
            events = self._plan.reader.read(frame.data)
        except NotThisFormatError:
            raise faults.bad_frame(self._target) from None
        except StreamFailedError as error:
            raise faults.stream_failed(self._call, self._target, error) from None
        for event in events:
            if type(event) is Delta:
                if event.text:
                    self.pieces += 1
                    self._open_choices.add(event.choice)
            elif type(event) is Counted:
                self.usage = event.usage
            elif type(event) is Finish:
                self._open_choices.discard(event.choice)
        return events  # type: ignore[return-value]

    def _write(self, events: list[Event] | tuple[Event, ...]) -> bytes:
        writer = self._writer
        if len(events) == 1:
            return writer.write(events[0])
        return b"".join([writer.write(event) for event in events])

    def _too_large(self, error: FrameTooLargeError) -> UpstreamError:
        return UpstreamError(
            Code.UPSTREAM_ANSWER_TOO_LARGE,
            f"Upstream '{self._target.upstream.name}' sent a stream that cannot be read: {error}",
            hint="The operator sets the limit with stream.max_frame_bytes.",
            upstream_status=200,
        )

    def _fail(self, error: Exception, out: list[bytes]) -> None:
        if not isinstance(error, KeyholeError):
            crash, error = error, GatewayError(Code.INTERNAL_ERROR, "Internal error.")
            error.__cause__ = crash
        self._is_over = True
        self._incoming.close()
        self._finish(b"".join(out), error)

    def _finish(self, out: bytes, error: KeyholeError | None) -> None:
        """Send the last of it, and what went wrong, if anything."""
        if error is not None:
            out += self._writer.fail(error)
        self.bytes_out += len(out)
        sink = self._sink
        self._close(error, _nothing if sink is None else partial(sink.end, out))

    @property
    def _is_beyond(self) -> bool:
        return self.pieces > self._most_pieces

    def _cut_short(self, out: list[bytes]) -> None:
        """End the text here, in the client's own way: it has had as much as it may use."""
        self._is_over = self.is_cut = True
        self._incoming.close()
        self._finish(b"".join(out) + self._cut_end(), None)

    def _cut_end(self) -> bytes:
        """What the client gets in place of the piece that is too much, and of all behind it."""
        writer, out = self._writer, []
        for choice in sorted(self._open_choices):
            if self._plan.is_passed_on:
                writer.write(Delta("", choice))  # which has begun, but not with this writer
            out.append(writer.write(Finish("length", choice)))
        prompt_tokens = 0 if self.usage is None else self.usage.prompt_tokens
        writer.write(Counted(Usage(prompt_tokens, self._most_pieces)))
        return b"".join([*out, writer.end()])

    def _close(self, error: KeyholeError | None, last: Callable[[], None]) -> None:
        self.due_s = math.inf
        self._alarms.forget(self)
        carrier, self._carrier = self._carrier, None
        if carrier is None:
            last()
        else:
            carrier.ended(self, error, has_left=self._has_left, last=last)

    def _listen(self) -> None:
        """Put the next heartbeat off, or the end of what only an end is missing of."""
        if self._is_over:
            return
        now_s = self._alarms.now_s()
        if now_s >= self._tells_at_s:
            self._tell(now_s)
        waits_s = END_WITHIN_S if self._plan.reader.is_complete else self._heartbeat_s
        if waits_s:
            self.due_s = now_s + waits_s
            if self.due_s < self.watched_s:
                self._alarms.watch(self)

    @property
    def is_whole(self) -> bool:
        """Whether the upstream has said all that it had to say."""
        return self._plan.reader.is_complete

    def _tell(self, now_s: float) -> None:
        self._tells_at_s = now_s + PROGRESS_EVERY_S
        if self._carrier is not None:
            self._carrier.progressed(self)


class _Nobody:
    """The sink of a stream whose client has left, and whose upstream is read to its end."""

    def send(self, data: bytes) -> None:
        """Nothing."""

    def end(self, data: bytes) -> None:
        """Nothing."""


def _nothing() -> None:
    pass
