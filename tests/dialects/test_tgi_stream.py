"""TGI's streams: read from recorded shapes however they come, and written for TGI's clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from keyhole.dialects.base import EventReader, NotThisFormatError, StreamFailedError
from keyhole.dialects.tgi_stream import TgiReader, TgiWriter, withhold_details
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError, UpstreamError
from keyhole.wire.answer import Usage
from keyhole.wire.call import Call, Parameters
from keyhole.wire.events import Counted, Delta, Event, Finish, Token
from keyhole.wire.sse import SseReader

STREAMS = Path(__file__).parent.parent / "golden" / "streams"
NAMES = sorted(path.stem for path in STREAMS.glob("tgi-*.txt"))

BROKEN = (NotThisFormatError, StreamFailedError)


class Outcome(Struct, frozen=True):
    """What reading a stream comes to."""

    events: list[Event]
    is_complete: bool
    error: tuple[str | None, int | None] | None = None


def read(chunks: list[bytes], reader: EventReader | None = None) -> Outcome:
    """Raises nothing: what a stream is broken by is part of the outcome."""
    cutter, reader = SseReader(100_000), reader or TgiReader()
    events: list[Event] = []
    try:
        for chunk in chunks:
            for frame in cutter.feed(chunk):
                if frame.data is not None:
                    events += reader.read(frame.data)
    except StreamFailedError as error:
        return Outcome(events, reader.is_complete, (error.message, error.status))
    except NotThisFormatError:
        return Outcome(events, reader.is_complete, (None, None))
    return Outcome(events, reader.is_complete)


def expected(name: str) -> Outcome:
    golden = json.loads((STREAMS / f"{name}.json").read_text("utf-8"))
    error = golden["error"]
    return Outcome(
        [event_of(*item) for item in golden["events"]],
        golden["is_complete"],
        error and (error["message"], error["status"]),
    )


def event_of(kind: str, *fields: Any) -> Event:
    match kind, *fields:
        case "delta", text, number, logprob, is_special:
            return Delta(text, 0, Token(number, logprob, is_special))
        case "finish", reason, text:
            return Finish(reason, 0, text)
        case _:
            return Counted(Usage(*fields))


def frames(stream: bytes) -> list[Any]:
    assert stream == b"" or stream.endswith(b"\n\n")
    found = stream.split(b"\n\n")[:-1]
    assert all(frame.startswith(b"data: {") for frame in found)
    return [json.loads(frame[6:]) for frame in found]


def call(**parameters: Any) -> Call:
    details = parameters.pop("details", False)
    return Call(model=None, input="Once", parameters=Parameters(**parameters), wants_usage=details)


class TestReader:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_recorded_stream_gives_its_events(self, name: str) -> None:
        assert read([(STREAMS / f"{name}.txt").read_bytes()]) == expected(name)

    @given(name=st.sampled_from(NAMES), data=st.data())
    @settings(max_examples=100)
    def test_any_split_of_the_bytes_gives_equal_events(
        self, name: str, data: st.DataObject
    ) -> None:
        stream = (STREAMS / f"{name}.txt").read_bytes()
        cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
        chunks = [
            stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        ]

        assert read(chunks) == expected(name)

    @pytest.mark.parametrize("name", NAMES)
    def test_byte_by_byte_gives_equal_events(self, name: str) -> None:
        stream = (STREAMS / f"{name}.txt").read_bytes()

        assert read([stream[at : at + 1] for at in range(len(stream))]) == expected(name)

    @given(name=st.sampled_from(NAMES), data=st.data())
    @settings(max_examples=150)
    def test_mutated_bytes_raise_only_the_dialects_errors(
        self, name: str, data: st.DataObject
    ) -> None:
        stream = bytearray((STREAMS / f"{name}.txt").read_bytes())
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, len(stream) - 1))
            stream[at : at + data.draw(st.integers(0, 3))] = (
                data.draw(
                    st.binary(max_size=3) | st.sampled_from([b'"', b"[", b"{", b"null", b"1e999"])
                )
                or b"x"
            )

        outcome = read([bytes(stream)])

        assert outcome.is_complete == any(isinstance(event, Finish) for event in outcome.events)

    @given(
        value=st.fixed_dictionaries(
            {},
            optional={
                name: st.none()
                | st.booleans()
                | st.integers()
                | st.text()
                | st.lists(st.none())
                | st.dictionaries(
                    st.sampled_from(
                        ["text", "id", "logprob", "special", "message", "finish_reason"]
                    ),
                    st.none() | st.integers() | st.text() | st.lists(st.none()),
                )
                for name in ("token", "generated_text", "details", "error", "error_type")
            },
        )
    )
    def test_any_frame_is_events_or_one_of_the_dialects_errors(self, value: Any) -> None:
        assert read([b"data: " + json.dumps(value).encode() + b"\n\n"])

    def test_the_prompt_that_was_asked_for_is_no_part_of_the_text(self) -> None:
        token = {"id": 1, "text": " x", "logprob": 0.0, "special": False}
        data = json.dumps({"token": token, "generated_text": "Once x", "details": None}).encode()

        assert TgiReader(prompt="Once").read(data)[1] == Finish("stop", 0, " x")

    def test_what_comes_behind_the_end_is_nothing(self) -> None:
        reader = TgiReader()
        (last,) = (STREAMS / "tgi-empty-text.txt").read_bytes().split(b"\n\n")[:-1]

        assert reader.read(last.removeprefix(b"data: "))
        assert reader.is_complete
        assert reader.read(b"whatever") == ()

    @pytest.mark.parametrize("data", [b"", b"[" * 100_000, b'{"error":{}}', b"\xff", b"[]"])
    def test_what_is_no_frame_of_tgi_is_not_this_format(self, data: bytes) -> None:
        with pytest.raises(NotThisFormatError):
            TgiReader().read(data)


class TestWithhold:
    def test_only_the_last_frame_is_changed_and_only_its_details(self) -> None:
        stream = (STREAMS / "tgi-3-details.txt").read_bytes()
        *others, last = SseReader(100_000).feed(stream)

        assert [withhold_details(frame.raw) for frame in others] == [frame.raw for frame in others]
        start = last.raw.index(b'"details":') + len(b'"details":')
        assert withhold_details(last.raw) == last.raw[:start] + b"null}\n\n"

    @pytest.mark.parametrize(
        "raw", [b":\n\n", b"data: [DONE]\n\n", b"data: {not json}\n\n", b'data: {"error":"x"}\n\n']
    )
    def test_what_has_no_details_goes_on_as_it_came(self, raw: bytes) -> None:
        assert withhold_details(raw) == raw


class TestWriter:
    def test_each_piece_is_a_token_and_the_text_stands_behind_them(self) -> None:
        writer = TgiWriter(call(details=True, return_full_text=True), is_chat=False)
        stream = b"".join(
            [
                writer.write(Delta(" upon")),
                writer.write(Delta(" a", 0, Token(7, -0.5))),
                writer.write(Delta("")),
                writer.write(Delta("other choice", 1)),
                writer.write(Delta("", 0, Token(2, None, is_special=True))),
                writer.write(Finish("eos")),
                writer.write(Finish("length", 1)),
                writer.write(Counted(Usage(3, 2))),
                writer.end(),
            ]
        )

        assert frames(stream) == [
            {"index": index, "token": token, "generated_text": None, "details": None}
            for index, token in enumerate(
                [
                    {"id": 0, "text": " upon", "logprob": 0.0, "special": False},
                    {"id": 7, "text": " a", "logprob": -0.5, "special": False},
                    {"id": 2, "text": "", "logprob": 0.0, "special": True},
                ],
                1,
            )
        ] + [
            {
                "index": 4,
                "token": {"id": 0, "text": "", "logprob": 0.0, "special": True},
                "generated_text": "Once upon a",
                "details": {
                    "finish_reason": "eos_token",
                    "generated_tokens": 2,
                    "seed": None,
                    "input_length": 3,
                },
            }
        ]

    def test_a_reader_reads_what_the_writer_writes(self) -> None:
        writer = TgiWriter(call(details=True, return_full_text=False), is_chat=False)
        events = [
            Delta("a", 0, Token(1, -1.0)),
            Finish("length", 0, "a"),
            Counted(Usage(1, 1)),
        ]
        stream = b"".join(writer.write(event) for event in events) + writer.end()

        told = read([stream])
        assert told.is_complete
        empty = Delta("", 0, Token(0, 0.0, is_special=True))
        assert told.events == [events[0], empty, *events[1:]]

    @pytest.mark.parametrize(
        ("return_full_text", "is_chat", "text"),
        [(False, False, " x"), (True, True, "Once x"), (None, False, "Once x"), (None, True, " x")],
    )
    def test_the_prompt_stands_in_front_as_in_whole_answers(
        self, return_full_text: bool | None, is_chat: bool, text: str
    ) -> None:
        writer = TgiWriter(call(return_full_text=return_full_text), is_chat=is_chat)
        writer.write(Delta(" x"))

        (last,) = frames(writer.end())
        assert last["generated_text"] == text
        assert last["details"] is None

    @pytest.mark.parametrize(
        ("reason", "stop", "word"),
        [
            ("eos", (".",), "eos_token"),
            ("stop", (".",), "stop_sequence"),
            ("stop", None, "eos_token"),
            ("length", (".",), "length"),
            ("content_filter", (".",), "eos_token"),
        ],
    )
    def test_the_end_is_told_in_tgis_words(self, reason: Any, stop: Any, word: str) -> None:
        writer = TgiWriter(call(details=True, stop=stop), is_chat=False)
        writer.write(Finish(reason))

        (last,) = frames(writer.end())
        assert last["details"]["finish_reason"] == word

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (UpstreamError(Code.UPSTREAM_RATE_LIMITED, "x"), "overloaded"),
            (UpstreamError(Code.UPSTREAM_REFUSED_REQUEST, "x"), "validation"),
            (UpstreamError(Code.UPSTREAM_UNREACHABLE, "x"), "incomplete_generation"),
            (UpstreamError(Code.UPSTREAM_ERROR, "x"), "generation"),
            (ClientError(Code.INVALID_PARAMETER, "x"), "validation"),
            (GatewayError(Code.SHUTTING_DOWN, "x", status=503), "generation"),
        ],
    )
    def test_a_broken_stream_ends_in_an_error_of_a_type_that_clients_know(
        self, error: KeyholeError, kind: str
    ) -> None:
        stream = TgiWriter(call(), is_chat=False).fail(error)

        assert frames(stream) == [{"error": "x", "error_type": kind}]
        assert read([stream]).error is not None

    @given(pieces=st.lists(st.text()))
    def test_every_frame_is_one_line_however_lines_are_told_apart(self, pieces: list[str]) -> None:
        writer = TgiWriter(call(return_full_text=False), is_chat=False)
        stream = b"".join(writer.write(Delta(piece)) for piece in pieces) + writer.end()

        lines = [line for line in stream.decode().splitlines() if line]
        told = [msgspec.json.decode(line.removeprefix("data: ")) for line in lines]
        assert "".join(frame["token"]["text"] for frame in told) == "".join(pieces)
        assert told[-1]["generated_text"] == "".join(pieces)
