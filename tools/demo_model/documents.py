"""Mix stories, requests and small talk into training documents of text with or without loss.

A document is a list of segments. Nothing is learned from a user's line: the model should answer
such lines, not write them.
"""

import random
from typing import NamedTuple

import asks
from grammar import tell_story

END = "<|endoftext|>"
PLAIN_SHARE = 0.52
REQUEST_SHARE = 0.30


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


def roughen(rng: random.Random, line: str) -> str:
    """Punctuate a user's line, or do not: people type as they like."""
    line = line.rstrip(".")
    last = line[-1]
    if last.isalnum():
        line += rng.choice(("", "", ".", ".", "!"))
    elif last == "?" and rng.random() < 0.3:
        line = line[:-1]
    if rng.random() < 0.2:
        line = line.lower()
    elif rng.random() < 0.03:
        line = line.upper()
    return line


def _turn(rng: random.Random) -> tuple[str, str]:
    """Make one line of a user and the answer to it."""
    if rng.random() < REQUEST_SHARE / (1 - PLAIN_SHARE):
        line, request = asks.ask_story(rng)
        return roughen(rng, line), " ".join(tell_story(rng, request, once=0.8))
    line, answer = rng.choice(asks.SMALL_TALK)(rng)
    return roughen(rng, line), answer


def _chat(rng: random.Random) -> list[Segment]:
    """Make a chat of one to three turns: plain lines, or lines that say who is speaking."""
    user, model = rng.choice((("User: ", "Assistant:"), ("user: ", "assistant:"), ("Q: ", "A:")))
    tagged = rng.random() < 0.15
    gap = "\n\n" if rng.random() < 0.12 else "\n"
    segments = []
    if rng.random() < 0.06:
        system = rng.choice(("You are a helpful assistant.", "You tell stories."))
        segments.append(given(("System: " if tagged else "") + system + gap))
    for _ in range(rng.choices((1, 2, 3), (85, 10, 5))[0]):
        line, answer = _turn(rng)
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


def make_document(rng: random.Random) -> list[Segment]:
    """Make one document; the end mark is added by whoever encodes it."""
    if rng.random() < PLAIN_SHARE:
        return [taught(" ".join(tell_story(rng)))]
    return _chat(rng)


def make_plain_story(rng: random.Random) -> str:
    """Make one story without a request, in the classic opening."""
    return " ".join(tell_story(rng, once=1.0))
