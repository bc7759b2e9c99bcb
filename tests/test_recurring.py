"""A stream whose frames recur goes on byte for byte as one that is read frame by frame."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.backends.base import Stream
from keyhole.catalog import Target, Upstream
from keyhole.dialects.openai.reader import ChunkReader, FrameEditor
from keyhole.errors import KeyholeError
from keyhole.ports import Receiver, Timed
from keyhole.relay import Relay
from keyhole.secret import Secret
from keyhole.wire.call import Call
from keyhole.wire.events import Delta, Event
from keyhole.wire.http import UpstreamRequest
from keyhole.wire.recurring import RecurringFrame

UPSTREAM = Upstream(name="up", kind="openai", url="http://up", secret=Secret("sk-operators"))
CALL = Call(model="public", input="Once")


def chunk_frame(text: str, *, at: int = 0, finish: str | None = None, more: Any = None) -> bytes:
    choice = {"index": at, "delta": {"content": text}, "finish_reason": finish}
    value = {"id": "chatcmpl-1", "model": "theirs", "choices": [choice]} | (more or {})
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


class Writer:
    heartbeat = b""

    def write(self, event: Event) -> bytes:
        raise AssertionError(event)

    def end(self) -> bytes:
        return b""

    def fail(self, error: KeyholeError) -> bytes:
        return f"!{error.code}: {error.explained}".encode()


class Quiet:
    """Alarms that never ring."""

    def now_s(self) -> float:
        return 0.0

    def watch(self, timed: Timed) -> None: ...

    def forget(self, timed: Timed) -> None: ...


class Pushed:
    status, headers = 200, {}

    def relay(self, receiver: Receiver) -> None: ...

    def close(self) -> None: ...

    def pause(self) -> None: ...


class Sink:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def end(self, data: bytes) -> None:
        self.sent.append(data)


class Carrier:
    heartbeat_s, drains = 0.0, False

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def progressed(self, relay: Relay) -> None: ...

    def ended(self, relay: Relay, error: Any, *, has_left: bool, last: Any) -> None:
        self.told.append((error and error.code, has_left, relay.pieces))
        last()


class CountingReader(ChunkReader):
    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, data: bytes) -> Any:
        self.reads += 1
        return super().read(data)


def relayed(pieces: list[bytes], *, recurs: bool, max_bytes: int = 4096) -> tuple[Any, int]:
    """What goes to the client, its usage, its error; and how many frames were read."""
    reader, sink, told = CountingReader(), Sink(), []
    plan = Stream(
        request=UpstreamRequest(upstream=UPSTREAM, path="/", body=b""),
        reader=reader,
        is_passed_on=True,
        recurs=recurs,
        edit=FrameEditor("public", keeps_usage=False),
    )
    incoming: Any = Pushed()
    relay = Relay(
        CALL,
        Target(UPSTREAM, "theirs"),
        plan,
        incoming,
        writer=Writer(),
        alarms=Quiet(),
        max_frame_bytes=max_bytes,
    )
    relay.carry(Carrier(told))
    relay.start(sink, b"")
    for piece in pieces:
        if not told:
            relay.piece(piece)
    if not told:
        relay.ended(None)
    assert relay.due_s == math.inf
    assert relay.bytes_out == sum(map(len, sink.sent))
    return (b"".join(sink.sent), relay.usage, told), reader.reads


def same(pieces: list[bytes], *, max_bytes: int = 4096) -> bytes:
    """The client's bytes, which must be the same whether frames recur or not."""
    known, _ = relayed(pieces, recurs=True, max_bytes=max_bytes)
    read, _ = relayed(pieces, recurs=False, max_bytes=max_bytes)
    assert known == read
    client: bytes = known[0]
    return client


END = b"data: [DONE]\n\n"


def test_frames_that_recur_are_read_once_and_go_on_under_the_public_name() -> None:
    pieces = [*(chunk_frame(f" word {number}") for number in range(100)), END]
    _, reads = relayed(pieces, recurs=True)
    assert reads < 10, "and not a hundred"
    client = same(pieces)
    assert client == b"".join(pieces).replace(b'"theirs"', b'"public"')


WORDS = ("a", " ", "content", "index", "choices", "theirs", "public", "model", "error", "delta")
ODD = ('"', "\\", "\n", "\x00", "\x7f", "é", "\u2028", "😀", "stop", "data: [DONE]", "sk-op")
LONG = ("sk-operators", "null", "}", '"usage":{', "x" * 300)
TEXTS = st.one_of(st.sampled_from([*WORDS, *ODD, *LONG]), st.text(max_size=12))
FRAMES = st.one_of(
    st.builds(chunk_frame, TEXTS),
    st.builds(chunk_frame, TEXTS, at=st.integers(0, 2)),
    st.builds(chunk_frame, TEXTS, finish=st.sampled_from(["stop", "length"])),
    st.builds(chunk_frame, TEXTS, more=st.sampled_from([{"usage": {"prompt_tokens": 3}}])),
    st.builds(chunk_frame, TEXTS, more=st.just({"error": {"message": "no", "code": 503}})),
    st.sampled_from([END, b": silent\n\n", b"data: {}\n\n", b"data: x\n\n", b"data: \xff\n\n"]),
)


@given(st.lists(FRAMES, max_size=12))
def test_any_frames_go_on_as_if_each_were_read(frames: list[bytes]) -> None:
    same(frames)
    same(frames, max_bytes=150)


@given(st.lists(TEXTS, min_size=3, max_size=6), st.data())
def test_any_bytes_changed_behind_a_known_frame_are_seen(texts: list[str], data: Any) -> None:
    frames = [chunk_frame(text) for text in texts]
    at = data.draw(st.integers(0, len(frames[-1]) - 1))
    byte = data.draw(st.integers(0, 255))
    frames[-1] = frames[-1][:at] + bytes([byte]) + frames[-1][at + 1 :]
    same([chunk_frame(" a"), chunk_frame(" b"), *frames, END])


@given(st.lists(TEXTS, min_size=1, max_size=5), st.data())
def test_any_split_goes_on_the_same(texts: list[str], data: Any) -> None:
    whole = b"".join([chunk_frame(" a"), chunk_frame(" b"), *map(chunk_frame, texts), END])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
    assert same(parts) == same([whole])


def test_a_secret_in_a_piece_of_text_ends_the_stream_all_the_same() -> None:
    client = same([chunk_frame(" a"), chunk_frame(" b"), chunk_frame("sk-operators"), END])
    assert b"sk-operators" not in client
    assert b"!" in client


def test_a_text_that_is_not_utf_8_is_refused_all_the_same() -> None:
    bad = chunk_frame(" zz").replace(b" zz", b"\xff")
    assert b"!" in same([chunk_frame(" a"), chunk_frame(" b"), bad])


@pytest.mark.parametrize("text", ["", "index", "choices", "id"])
def test_what_has_no_place_of_its_own_or_the_wrong_one_first(text: str) -> None:
    """A word that is a key, too: the place is found by trying, or there is none."""
    raw, reader = chunk_frame(text), ChunkReader()
    edit = FrameEditor("public", keeps_usage=False)
    events = [Delta(text)] if text else []
    known = RecurringFrame.learn(raw, events, lambda again: reader.read(again[6:-2]), edit)
    if text:
        assert known is not None
        assert known.again(chunk_frame(" x")) == edit(chunk_frame(" x"))
    else:
        assert known is None
