"""Cuts a text at its first stop sequence, piece by piece, holding back what may begin one.

Upstreams differ in whether a text ends with the stop sequence that ended it (TGI), without it
(OpenAI), or goes on because they know none (the hosted Inference API); it makes them alike.
"""

from __future__ import annotations


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first stop sequence in it."""
    found = [at for at in (text.find(stop) for stop in stops if stop) if at >= 0]
    return text[: min(found)] if found else text


class StopCutter:
    """Cuts one text; keeps less than the longest stop sequence."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_over = False
        """Whether a stop sequence was found; nothing comes behind it."""

    def feed(self, piece: str) -> str:
        """What of the text is sure to stand before any stop sequence."""
        if not self._stops:
            return piece
        if self.is_over:
            return ""
        text = self._held + piece
        before = cut(text, self._stops)
        if len(before) < len(text):
            self._held, self.is_over = "", True
            return before
        sure = len(text) - max(_beginning(text, stop) for stop in self._stops)
        self._held = text[sure:]
        return text[:sure]

    def end(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def _beginning(text: str, stop: str) -> int:
    """How many characters at the end of the text may begin the stop sequence."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
