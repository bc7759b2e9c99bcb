"""Streams in the OpenAI format: read from upstreams, written to clients, edited on their way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from keyhole.dialects.base import NotThisFormatError, StreamFailedError
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.dialects.openai.reader import ChunkReader, FrameEditor
from keyhole.errors import Code, UpstreamError
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call, Message, Parameters
from keyhole.wire.events import Counted, Delta, Event, Finish, Token
from keyhole.wire.sse import SseReader
from records import record

RECORD = record("the-id", 1700000000, "public")
CHAT = Call(model=None, messages=(Message("user", "Hi"),))
TEXT = Call(model=None, input="Once")


class Golden(Struct, kw_only=True):
    """A recorded stream, and what is read from it."""

    about: str
    stream: str
    events: list[list[Any]]
    is_complete: bool = True
    failure: list[Any] | None = None
    is_other: bool = False

    def __str__(self) -> str:
        return self.about


_PLACE = Path(__file__).parent.parent / "golden" / "streams" / "openai.json"
GOLDENS = [Golden(**case) for case in json.loads(_PLACE.read_text("utf-8"))]
GOOD = [golden for golden in GOLDENS if golden.failure is None and not golden.is_other]


def read(*chunks: bytes) -> tuple[list[Event], bool]:
    """The events of a stream, and whether it is complete."""
    frames, reader = SseReader(10_000), ChunkReader()
    events: list[Event] = []
    for chunk in chunks:
        for frame in frames.feed(chunk):
            events += reader.read(frame.data) if frame.data is not None else []
    return events, reader.is_complete


def expected(golden: Golden) -> list[Event]:
    made: list[Event] = []
    for kind, *values in golden.events:
        if kind == "usage":
            made.append(Counted(Usage(*values)))
        else:
            made.append(Delta(*values) if kind == "text" else Finish(*values))
    return made


@pytest.mark.parametrize("golden", GOOD, ids=str)
def test_a_stream_is_read(golden: Golden) -> None:
    assert read(golden.stream.encode()) == (expected(golden), golden.is_complete)


@pytest.mark.parametrize("golden", [g for g in GOLDENS if g.failure], ids=str)
def test_an_error_within_a_good_stream_is_found(golden: Golden) -> None:
    frames, reader = SseReader(10_000).feed(golden.stream.encode()), ChunkReader()
    failing = next(frame for frame in frames if b'"choices"' not in frame.raw)
    events: list[Event] = []
    for frame in frames[: frames.index(failing)]:
        events += reader.read(frame.data or b"")
    with pytest.raises(StreamFailedError) as raised:
        reader.read(failing.data or b"")

    assert golden.failure == [raised.value.message, raised.value.status]
    assert events == expected(golden)
    assert not reader.is_complete


def test_another_format_is_told_apart() -> None:
    with pytest.raises(NotThisFormatError):
        ChunkReader().read(b"nonsense")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_split_of_the_bytes_gives_equal_events(data: st.DataObject) -> None:
    stream = data.draw(st.sampled_from(GOOD)).stream.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]

    assert read(*chunks) == read(stream)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_bytes_are_events_or_one_of_the_two_errors(data: st.DataObject) -> None:
    stream = bytearray(data.draw(st.sampled_from(GOLDENS)).stream.encode() or b"\n\n")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        stream = stream or bytearray(b"\n")
    reader = ChunkReader()
    for frame in SseReader(10_000).feed(bytes(stream)):
        try:
            events = reader.read(frame.data or b"")
        except (NotThisFormatError, StreamFailedError):
            return
        assert all(isinstance(event, (Delta, Finish, Counted)) for event in events)


def write(call: Call, *events: Event) -> list[Any]:
    """The values of the frames that a client gets."""
    writer = OpenAiDialect().stream(call, RECORD, is_chat=False)
    stream = b"".join([*(writer.write(event) for event in events), writer.end()])
    frames = SseReader(10_000).feed(stream)
    assert b"".join(frame.raw for frame in frames) == stream
    assert frames.pop().data == b"[DONE]"
    return [json.loads(frame.data or b"") for frame in frames]


def choices(call: Call, *events: Event) -> list[Any]:
    return [value["choices"][0] for value in write(call, *events)]


def asking(call: Call, *, usage: bool = False, **parameters: Any) -> Call:
    return Call(
        model=None,
        input=call.input,
        messages=call.messages,
        parameters=Parameters(**parameters),
        wants_usage=usage,
    )


class TestWriter:
    def test_a_chat_begins_with_the_role_and_ends_with_the_reason(self) -> None:
        values = write(CHAT, Delta("Hel"), Delta("lo"), Finish("eos"))

        head = {
            "id": "chatcmpl-the-id",
            "created": 1700000000,
            "model": "public",
            "object": "chat.completion.chunk",
        }
        deltas = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}]
        reasons = [None, None, None, "stop"]
        assert values == [
            {
                **head,
                "choices": [
                    {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
                ],
            }
            for delta, reason in zip(deltas, reasons, strict=True)
        ]

    def test_a_text_completion_has_its_pieces(self) -> None:
        values = write(TEXT, Delta("Hel"), Finish("length"))

        assert values[0]["id"] == "cmpl-the-id"
        assert values[0]["object"] == "text_completion"
        assert [value["choices"][0]["text"] for value in values] == ["Hel", ""]
        assert values[1]["choices"][0]["finish_reason"] == "length"

    @pytest.mark.parametrize("call", [CHAT, TEXT])
    def test_the_usage_is_told_at_the_end_to_a_client_that_asked(self, call: Call) -> None:
        events = (Delta("a"), Counted(Usage(1, 1)), Finish("stop"), Counted(Usage(9, 2)))
        told = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

        *before, last = write(asking(call, usage=True), *events)
        assert (last["choices"], last["usage"]) == ([], told)
        assert all(value["usage"] is None for value in before)
        assert all("usage" not in value for value in write(call, *events))

    @pytest.mark.parametrize("call", [CHAT, TEXT])
    def test_a_usage_that_is_wanted_is_zeros_where_the_upstream_tells_none(
        self, call: Call
    ) -> None:
        *before, last = write(asking(call, usage=True), Delta("a"), Finish("stop"))
        told = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        assert (last["choices"], last["usage"]) == ([], told)
        assert all(value["usage"] is None for value in before)

    def test_an_answer_without_a_text_still_has_its_role_and_its_end(self) -> None:
        first, last = choices(CHAT, Finish("length"))

        assert (first["delta"]["role"], last["finish_reason"]) == ("assistant", "length")

    def test_an_echo_begins_with_the_prompt(self) -> None:
        for prompt in ("Once", ["Once"]):
            call = Call(model=None, input=prompt, parameters=Parameters(return_full_text=True))
            texts = [choice["text"] for choice in choices(call, Delta(" upon"), Finish("eos"))]
            assert texts == ["Once", " upon", ""]

    def test_special_tokens_and_empty_pieces_are_not_written(self) -> None:
        special = Delta("</s>", token=Token(2, is_special=True))

        assert [c["text"] for c in choices(TEXT, Delta(""), special, Finish("eos"))] == [""]

    def test_a_stop_sequence_is_never_written_however_it_comes(self) -> None:
        call = asking(TEXT, stop=("END", "\n\n"))
        pieces = ("one E", "N", "D two", " three")
        *texts, end = choices(call, *(Delta(piece) for piece in pieces), Finish("length"))

        assert "".join(choice["text"] for choice in texts) == "one "
        assert end["finish_reason"] == "stop"

    def test_what_only_began_like_a_stop_sequence_is_written(self) -> None:
        call = asking(TEXT, stop=("END",))
        texts = [c["text"] for c in choices(call, Delta("one E"), Delta("N"), Finish("length"))]

        assert texts == ["one ", "EN", ""]

    def test_each_choice_has_its_own_beginning_and_end(self) -> None:
        events = (Delta("a", 1), Delta("b", 0), Finish("eos", 1), Finish("eos", 0))
        written = choices(CHAT, *events)

        assert [choice["index"] for choice in written] == [1, 1, 0, 0, 1, 0]

    def test_a_failure_is_an_error_object_and_the_last_word(self) -> None:
        writer = OpenAiDialect().stream(CHAT, RECORD, is_chat=True)
        (frame,) = SseReader(10_000).feed(
            writer.fail(UpstreamError(Code.UPSTREAM_TIMEOUT, "Late."))
        )

        told = json.loads(frame.data or b"")["error"]
        assert (told["message"], told["code"]) == ("Late.", "upstream_timeout")
        assert told["request_id"] == "the-id"

    def test_the_heartbeat_is_a_comment(self) -> None:
        heartbeat = OpenAiDialect().stream(CHAT, RECORD, is_chat=True).heartbeat

        assert [frame.data for frame in SseReader(100).feed(heartbeat)] == [None]

    @pytest.mark.parametrize("golden", GOOD, ids=str)
    def test_what_is_written_is_read_as_the_same(self, golden: Golden) -> None:
        """But for usage, which is told once, in zeros where it is not known."""
        events = expected(golden)
        nothing = Counted(Usage(0, 0))
        counted = [nothing, *(event for event in events if isinstance(event, Counted))][-1:]
        writer = OpenAiDialect().stream(asking(TEXT, usage=True), RECORD, is_chat=False)
        stream = b"".join([*(writer.write(event) for event in events), writer.end()])

        others = [event for event in events if not isinstance(event, Counted)]
        others = [Finish("stop", e.choice) if e == Finish("eos") else e for e in others]
        assert read(stream) == (others + counted, True)


def edited(stream: str, model: str = "public", *, keeps_usage: bool = False) -> str:
    editor = FrameEditor(model, keeps_usage=keeps_usage)
    frames = SseReader(10_000).feed(stream.encode())
    return b"".join(editor(frame.raw) for frame in frames).decode()


class TestEditor:
    @pytest.mark.parametrize("golden", GOLDENS, ids=str)
    def test_only_the_models_name_and_the_extra_usage_change(self, golden: Golden) -> None:
        kept = edited(golden.stream, keeps_usage=True)
        assert kept.replace("public", "m") == golden.stream
        assert '"m"' not in kept
        assert edited(golden.stream, "m", keeps_usage=True) == golden.stream

        events, is_complete = [], golden.is_complete
        if golden in GOOD:
            events, is_complete = read(edited(golden.stream).encode())
            whole = expected(golden)
            assert [event for event in whole if not isinstance(event, Counted)] == [
                event for event in events if not isinstance(event, Counted)
            ]
        assert is_complete == golden.is_complete
        assert '"choices":[],"usage":{' not in edited(golden.stream)

    @pytest.mark.parametrize(
        "text", ['"model":"m"', '\\"model\\": "m"', '{"choices":[],"usage":{}}', '","model":"m']
    )
    def test_a_text_that_looks_like_a_key_is_left_alone(self, text: str) -> None:
        chunk = json.dumps({"choices": [{"index": 0, "text": text}], "model": "m"})
        stream = f"data: {chunk}\n\n"

        assert json.loads(edited(stream)[6:]) == json.loads(chunk) | {"model": "public"}

    def test_a_name_is_written_as_json(self) -> None:
        assert edited('data: {"model": "a\\"b/c"}\n\n', 'x"y') == 'data: {"model": "x\\"y"}\n\n'

    def test_a_name_that_changes_within_the_stream_is_found_again(self) -> None:
        stream = 'data: {"model":"m"}\n\ndata: {"model":"n"}\n\n'

        assert edited(stream) == 'data: {"model":"public"}\n\n' * 2
