"""Conversations for upstreams that only continue text: rendered, and read as a reply."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from upstreams import make_call, make_target

from keyhole.backends.fanout import (
    CHAT_STOPS,
    ReplyReader,
    as_completion,
    as_reply,
    expand,
    render_chat,
)
from keyhole.backends.words import repeatable
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Message, Parameters
from keyhole.wire.events import Counted, Delta, Event, Finish

TALK = (
    Message("system", "Be brief."),
    Message("user", "Hello!"),
    Message("assistant", "Hi."),
    Message("user", "Tell me\na story."),
)


def talk(**parameters: object) -> Call:
    return Call(model=None, messages=TALK, parameters=Parameters(**parameters))  # type: ignore[arg-type]


def test_a_conversation_is_rendered_in_plain_words() -> None:
    assert render_chat(TALK) == (
        "Be brief.\n\nUser: Hello!\nAssistant: Hi.\nUser: Tell me\na story.\nAssistant:"
    )
    assert render_chat(TALK[1:2]) == "User: Hello!\nAssistant:"
    assert (
        render_chat((Message("developer", "A"), Message("system", "B"))) == "A\n\nB\n\nAssistant:"
    )


def test_a_rendered_conversation_stops_at_the_users_next_turn() -> None:
    (piece,) = expand(talk(stop=("END",)), make_target("tgi"), 40)

    assert piece.prompt == render_chat(TALK)
    assert piece.parameters == Parameters(max_new_tokens=40, stop=("END", *CHAT_STOPS))
    four = ("a", "b", "c", "d")
    assert as_completion(talk(stop=four)).parameters.stop == four
    assert as_completion(make_call("x")) == make_call("x")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (" Once upon a time.\n", "Once upon a time."),
        (" Once.\nUser:", "Once."),
        (" Once.\nUser: And then?\nAssistant: The end.", "Once."),
        ("", ""),
    ],
)
def test_the_continuation_becomes_a_reply(text: str, reply: str) -> None:
    answer = as_reply(Answer(texts=((text,),), usage=Usage(1, 2)))

    assert answer == Answer(texts=((reply,),), usage=Usage(1, 2), is_chat=True, is_rendered=True)


class Listed:
    """A reader whose frames are the numbers of its events."""

    is_complete = True

    def __init__(self, *events: Event) -> None:
        self._events = events

    def read(self, data: bytes) -> Sequence[Event]:
        return [self._events[int(data)]]


def replied(*events: Event) -> list[Event]:
    reader = ReplyReader(Listed(*events))
    assert reader.is_complete
    return [event for index in range(len(events)) for event in reader.read(b"%d" % index)]


def test_a_stream_is_read_as_a_reply_too() -> None:
    events = replied(
        *(Delta(" "), Delta(" Once"), Delta(".\nUs"), Delta("er:"), Delta(" And")),
        Finish("length", full_text="  Once.\nUser: And"),
        Counted(Usage(1, 2)),
    )

    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Once."
    assert events[-2:] == [Finish("stop", full_text="Once."), Counted(Usage(1, 2))]


def test_what_only_began_like_the_next_turn_is_told_at_the_end() -> None:
    events = replied(Delta("Once\nUse"), Finish("eos"))

    assert events == [Delta("Once"), Delta("\nUse"), Finish("eos")]


def test_no_failure_repeats_what_was_said_in_a_conversation() -> None:
    assert repeatable('bad value "Tell me a story."', talk(), None) is None
