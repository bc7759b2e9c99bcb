"""One call as one request for each text that is wanted, and their answers as one again.

For every kind of upstream whose requests bear one prompt and are answered with one text, or
are best treated so: TGI takes no list and gives no second choice, and most servers of the
OpenAI format ignore `n`. It knows no format; the dialects do.

It also makes a text of a conversation, for upstreams that only continue text, and a reply of
the continuation (docs/design.md, D15).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from keyhole.backends.faults import bad_answer
from keyhole.catalog import Target
from keyhole.dialects.base import EventReader, NotThisFormatError
from keyhole.errors import ClientError, Code
from keyhole.wire.answer import Answer, Usage
from keyhole.wire.call import Call, Message, Parameters
from keyhole.wire.events import Delta, Event, Finish, Reason
from keyhole.wire.http import UpstreamResponse
from keyhole.wire.stops import StopCutter, cut

MAX_REQUESTS = 32
"""What one call may become; about as many as one busy upstream runs at once."""

_SEEDS = 2**63
_OPENAI_WORDS = {
    "input": "prompt",
    "max_new_tokens": "max_tokens",
    "num_return_sequences": "n",
}

Told = tuple[str, Usage | None] | tuple[str, Usage | None, Reason | None]
Read = Callable[[UpstreamResponse], Told]
"""The text of one response, its usage and why it ended; raises NotThisFormatError."""

CHAT_STOPS = ("\nUser:",)
"""Where the reply to a rendered conversation ends: the model has begun to write the user's turn.

Only one, because TGI takes four stop sequences and a client may bring four of its own.
"""
_MAX_STOPS = 4


class Piece(Struct, frozen=True):
    """What one request asks for: a single text."""

    prompt: str
    parameters: Parameters
    """Without what is about several texts or about the prompt; with the maximum filled in."""


def expand(call: Call, target: Target, max_output_tokens: int | None) -> list[Piece]:
    """A piece for each choice of each prompt, prompt by prompt; raises ClientError.

    A conversation is rendered as one prompt. With a seed, the i-th choice has seed + i: one seed
    would give the same text every time.
    """
    call = as_completion(call)
    prompts = _prompts(call, target)
    if len(prompts) * call.choices > MAX_REQUESTS:
        name = client_word(call, "num_return_sequences")
        raise ClientError(
            Code.INVALID_PARAMETER,
            f"Prompts ({len(prompts)}) times '{name}' ({call.choices}) are"
            f" {len(prompts) * call.choices} requests to '{target}'; at most {MAX_REQUESTS}"
            " are made for one call.",
            hint="Split the call.",
            param=name,
        )
    wanted = call.parameters
    common = msgspec.structs.replace(
        wanted,
        max_new_tokens=wanted.max_new_tokens or max_output_tokens,
        num_return_sequences=None,
        return_full_text=None,
    )
    by_choice = [
        msgspec.structs.replace(
            common, seed=None if wanted.seed is None else (wanted.seed + choice) % _SEEDS
        )
        for choice in range(call.choices)
    ]
    return [Piece(prompt, parameters) for prompt in prompts for parameters in by_choice]


def refuse_several(call: Call, target: Target) -> None:
    """Raise ClientError for a call of several texts that would be streamed."""
    is_choice = call.choices > 1
    if is_choice or (isinstance(call.input, list) and len(call.input) > 1):
        name = client_word(call, "num_return_sequences" if is_choice else "input")
        raise ClientError(
            Code.UNSUPPORTED_PARAMETER,
            f"'{name}' asks for several texts, and '{target}' streams one at a time.",
            hint="Ask for one text, or leave out 'stream'.",
            param=name,
        )


def only_piece(call: Call, target: Target, max_output_tokens: int | None) -> Piece:
    """The one piece of a call that is streamed; raises ClientError where there are several."""
    refuse_several(call, target)
    (piece,) = expand(call, target, max_output_tokens)
    return piece


def gather(
    call: Call,
    target: Target,
    responses: Sequence[UpstreamResponse],
    read: Read,
    *,
    is_chat: bool = False,
) -> Answer:
    """The responses to the pieces, in their order, as one answer; raises UpstreamError.

    The usage is their sum, and unknown as soon as one of them does not say; so are the reasons.
    """
    texts: list[str] = []
    usages: list[Usage | None] = []
    finishes: list[str] = []
    for response in responses:
        try:
            told = read(response)
        except NotThisFormatError:
            raise bad_answer(target, response) from None
        texts.append(told[0])
        usages.append(told[1])
        if len(told) == 3 and told[2] is not None:
            finishes.append(told[2])
    return Answer(
        texts=in_rows(texts, call),
        finishes=in_rows(finishes, call) if len(finishes) == len(texts) else (),
        is_chat=is_chat,
        usage=_sum(usages),
    )


def in_rows(items: Sequence[str], call: Call) -> tuple[tuple[str, ...], ...]:
    """What is said of each text, by prompt."""
    starts = range(0, len(items), call.choices)
    return tuple(tuple(items[start : start + call.choices]) for start in starts)


def client_word(call: Call, name: str) -> str:
    """What the client calls a parameter that we call by its Hugging Face name."""
    format_ = call.original.format if call.original else ""
    if name == "input" and format_ in ("tgi", "huggingface"):
        return "inputs"
    return _OPENAI_WORDS.get(name, name) if format_.startswith("openai-") else name


def refuse_unaccepted(call: Call, target: Target) -> None:
    """Raise ClientError for what the OpenAI format lacks and the upstream is not said to take."""
    upstream, wanted = target.upstream, call.parameters
    penalty = None if wanted.repetition_penalty == 1 else wanted.repetition_penalty
    for name, value in (("top_k", wanted.top_k), ("repetition_penalty", penalty)):
        if value is not None and name not in upstream.accepts:
            raise ClientError(
                Code.UNSUPPORTED_PARAMETER,
                f"'{name}' cannot be asked of '{target}': its format has no such parameter.",
                hint="Leave it out. If the server takes it all the same, as vLLM does, the"
                f' operator says so with accepts = ["{name}"] in [upstream.{upstream.name}].',
                param=name,
            )


def _prompts(call: Call, target: Target) -> list[str]:
    if isinstance(call.input, str):
        return [call.input]
    prompts = [item for item in call.input if isinstance(item, str)]
    if not prompts or len(prompts) != len(call.input):
        problem = "is an empty list" if not call.input else "holds something that is no string"
        raise ClientError(
            Code.INVALID_INPUT,
            f"The input {problem}, and '{target}' takes only text.",
            hint="Send a string or a list of strings.",
        )
    return prompts


def _sum(usages: Sequence[Usage | None]) -> Usage | None:
    known = [usage for usage in usages if usage is not None]
    if not known or len(known) != len(usages):
        return None
    return Usage(
        sum(usage.prompt_tokens for usage in known),
        sum(usage.completion_tokens for usage in known),
    )


# Conversations, for upstreams that only continue text


def render_chat(messages: Sequence[Message]) -> str:
    """A conversation as one text that a model continues with its reply.

    What the system says stands above, the turns below it, each behind who speaks.
    """
    above = [message.content for message in messages if message.role in _ABOVE]
    turns = [
        f"{'Assistant' if message.role == 'assistant' else 'User'}: {message.content}"
        for message in messages
        if message.role not in _ABOVE
    ]
    turns.append("Assistant:")
    return "\n\n".join([*above, "\n".join(turns)])


_ABOVE = frozenset({"system", "developer"})


def as_completion(call: Call) -> Call:
    """A call whose conversation, if it has one, is a text to be continued up to the next turn."""
    if not call.messages:
        return call
    wanted = call.parameters.stop or ()
    stop = wanted if len(wanted) >= _MAX_STOPS else (*wanted, *CHAT_STOPS)
    return msgspec.structs.replace(
        call,
        input=render_chat(call.messages),
        messages=(),
        parameters=msgspec.structs.replace(call.parameters, stop=stop),
    )


def as_reply(answer: Answer) -> Answer:
    """An answer to a rendered conversation: its texts without what surrounds a reply."""
    return msgspec.structs.replace(
        answer,
        texts=tuple(tuple(cut(text, CHAT_STOPS).strip() for text in row) for row in answer.texts),
        is_chat=True,
        is_rendered=True,
    )


class ReplyReader:
    """Reads the stream that continues a rendered conversation as the reply; an EventReader.

    The space before the reply and the beginning of the next turn are left out.
    """

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._cutter = StopCutter(CHAT_STOPS)
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        """As the protocol says."""
        return self._reader.is_complete

    def read(self, data: bytes) -> Sequence[Event]:
        """As the protocol says."""
        events: list[Event] = []
        for event in self._reader.read(data):
            if isinstance(event, Delta):
                events.append(msgspec.structs.replace(event, text=self._reply(event.text)))
            elif isinstance(event, Finish):
                if held := self._cutter.end():
                    events.append(Delta(held, event.choice))
                full = None if event.full_text is None else cut(event.full_text, CHAT_STOPS).strip()
                reason = "stop" if self._cutter.is_over else event.reason
                events.append(msgspec.structs.replace(event, reason=reason, full_text=full))
            else:
                events.append(event)
        return events

    def _reply(self, text: str) -> str:
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        return self._cutter.feed(text)
