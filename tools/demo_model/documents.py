"""Mix stories, requests and small talk into training documents of text with or without loss.

A document is a list of segments. Nothing is learned from a user's line: the model should answer
such lines, not write them.
"""

import random
from typing import NamedTuple

import asks
from grammar import tell_story

END = "<|endoftext|>"


class Mixture(NamedTuple):
    """Shares of plain stories and of requests among documents; the rest is small talk.

    `common` is the share of the commonest greetings in small talk beyond their natural one, and
    `lowered` that of users' lines without capitals.
    """

    plain: float
    request: float
    common: float
    lowered: float


BASE = Mixture(plain=0.52, request=0.30, common=0, lowered=0.2)
POLISH = Mixture(plain=0.42, request=0.30, common=0.35, lowered=0.35)


class Segment(NamedTuple):
    """A piece of text, and whether the model learns to write it."""

    text: str
    learned: bool


def given(text: str) -> Segment:
    """Return text that the model only reads."""
    return Segment(text, learned=False)


def taught(text: str) -> Segment:
    """Return text that the model learns to write."""
    return Segment(text, learned=True)


def roughen(rng: random.Random, line: str, lowered: float) -> str:
    """Punctuate a user's line, or do not: people type as they like."""
    line = line.rstrip(".")
    last = line[-1]
    if last.isalnum():
        line += rng.choice(("", "", ".", ".", "!"))
    elif last == "?" and rng.random() < 0.3:
        line = line[:-1]
    if rng.random() < lowered:
        line = line.lower()
    elif rng.random() < 0.03:
        line = line.upper()
    return line


def _turn(rng: random.Random, mixture: Mixture) -> tuple[str, str]:
    """Make one line of a user and the answer to it."""
    if rng.random() < mixture.request / (1 - mixture.plain):
        line, request = asks.ask_story(rng)
        line = roughen(rng, line, mixture.lowered)
        return line, " ".join(tell_story(rng, request, once=0.8))
    if mixture.common and rng.random() < mixture.common:
        line, answer = asks.greet(rng, asks.COMMON_GREETINGS)
    else:
        line, answer = rng.choice(asks.SMALL_TALK)(rng)
    return roughen(rng, line, mixture.lowered), answer


def _chat(rng: random.Random, mixture: Mixture) -> list[Segment]:
    """Make a chat of one to three turns: plain lines, or lines that say who is speaking."""
    user, model = rng.choice((("User: ", "Assistant:"), ("user: ", "assistant:"), ("Q: ", "A:")))
    tagged = rng.random() < 0.15
    gap = "\n\n" if rng.random() < 0.12 else "\n"
    segments = []
    if rng.random() < 0.06:
        system = rng.choice(("You are a helpful assistant.", "You tell stories."))
        segments.append(given(("System: " if tagged else "") + system + gap))
    for _ in range(rng.choices((1, 2, 3), (85, 10, 5))[0]):
        line, answer = _turn(rng, mixture)
        if segments and segments[-1].learned:
            segments.append(given(gap))
        if tagged:
            segments.append(given(f"{user}{line}{gap}{model}"))
            segments.append(taught(" " + answer))
        elif rng.random() < 0.25:
            segments.append(given(line + gap))
            segments.append(taught(answer))
        else:
            segments.append(given(line))
            segments.append(taught("\n" + answer))
    return segments


def make_document(rng: random.Random, mixture: Mixture = BASE) -> list[Segment]:
    """Make one document; the end mark is added by whoever encodes it."""
    if rng.random() < mixture.plain:
        return [taught(" ".join(tell_story(rng)))]
    return _chat(rng, mixture)


def make_plain_story(rng: random.Random) -> str:
    """Make one story without a request, in the classic opening."""
    return " ".join(tell_story(rng, once=1.0))
