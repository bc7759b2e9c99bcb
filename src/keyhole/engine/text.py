"""Prompt to tokens, and tokens to text that is never half a character.

It knows one tokenizer.json; it does not know when a text ends for other reasons than a stop
string.

Facts:
- GPT-2's tokens carry the space before a word, so a prompt that ends in spaces is tokenised as
  if a word had been cut off. The spaces are left out, and the one that the first piece then
  brings along is dropped, so that prompt and answer join as they stand.
- A token may end inside a UTF-8 character; decoding then ends in U+FFFD until the rest comes
  (text-generation-inference, server/models/model.py, decode_token, read 2026-11).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from tokenizers import Tokenizer

from keyhole.dialects.tgi import TextToken
from keyhole.engine.folder import TOKENIZER, ModelFolder, UnsupportedModelError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Prompt(Struct, frozen=True):
    """A prompt as tokens."""

    tokens: list[int]
    lost_space: bool
    """Whether trailing spaces were left out."""


class Vocabulary:
    """A model's tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(id_ for id_, token in added.items() if token.special)

    def encode(self, text: str) -> Prompt:
        """The prompt's tokens; may be none for a text that the tokenizer normalises away."""
        stripped = text.rstrip(" ") or text
        # The plural form releases the GIL; the singular one does not.
        (encoding,) = self._tokenizer.encode_batch_fast([stripped])
        return Prompt(encoding.ids, lost_space=stripped != text)

    def tokenize(self, text: str) -> list[TextToken]:
        """The text's tokens as it stands, trailing spaces and all, each with its place in it."""
        (encoding,) = self._tokenizer.encode_batch([text])  # the fast one tells no places
        return [
            TextToken(id_, text[start:stop], start, stop)
            for id_, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens without special ones; U+FFFD stands for broken UTF-8."""
        return self._tokenizer.decode(tokens)

    def is_special(self, token: int) -> bool:
        """Whether the token is a marker and no text."""
        return token in self._special


class PieceDecoder:
    """Turns the tokens of one sequence into pieces that, joined, are its text."""

    def __init__(self, vocabulary: Vocabulary, *, drop_space: bool = False) -> None:
        self._vocabulary = vocabulary
        self._drop_space = drop_space
        self._tokens: list[int] = []
        self._told = 0
        """How many of the tokens are in pieces already; those stay as context, because a
        tokenizer may write a token differently at the beginning of a text."""

    @property
    def is_holding(self) -> bool:
        """Whether some tokens wait for what comes next."""
        return len(self._tokens) > self._told

    def push(self, token: int) -> str:
        """The text that has become certain by this token; empty inside a character."""
        if self._vocabulary.is_special(token):
            return self.flush()
        self._tokens.append(token)
        before, now = self._texts()
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        return self._tell(now[len(before) :])

    def flush(self) -> str:
        """What is held back, broken characters included."""
        before, now = self._texts()
        piece = self._tell(now[len(before) :])
        # Bytes after a marker must not complete a character that was broken off before it.
        self._tokens, self._told = [], 0
        return piece

    def _texts(self) -> tuple[str, str]:
        decode = self._vocabulary.decode
        return decode(self._tokens[: self._told]), decode(self._tokens)

    def _tell(self, piece: str) -> str:
        self._tokens = self._tokens[self._told :]
        self._told = len(self._tokens)
        if self._drop_space and piece:
            self._drop_space = False
            return piece.removeprefix(" ")
        return piece


class StopStrings:
    """Finds the first of some strings in a text that comes in pieces, and tells none in part.

    What could still become one of them is held back, so a stop string comes out whole, at the
    end of the last piece, or never.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_found = False
        """Whether the text has ended; nothing may be pushed any more."""

    @property
    def is_holding(self) -> bool:
        """Whether some text waits for what comes next."""
        return self._held != ""

    def push(self, piece: str) -> str:
        """The text that has become certain by this piece, up to the end of a stop string."""
        if not self._stops or not piece:
            return piece
        text, self._held = self._held + piece, ""
        # What was pushed earlier and not held back begins no stop string.
        ends = [at + len(stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.is_found = True
            return text[: min(ends)]
        certain = min(_beginning(stop, text) for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What is held back, once nothing comes next."""
        held, self._held = self._held, ""
        return held


def _beginning(stop: str, text: str) -> int:
    """Where in the text a first part of the stop string begins that reaches to the text's end."""
    at = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return at if at >= 0 else len(text)


def load_vocabulary(folder: ModelFolder) -> Vocabulary:
    """The folder's tokenizer; raises UnsupportedModelError if the model cannot use it."""
    try:
        tokenizer = Tokenizer.from_file(str(folder.path / TOKENIZER))
    except Exception as error:  # noqa: BLE001  # the library raises bare Exception
        raise UnsupportedModelError(
            f"Model {folder.name} has a {TOKENIZER} that cannot be read: {error}.",
            hint=f"Run keyhole model pull {folder.name} again.",
        ) from None
    known, last = folder.architecture.vocabulary, max(tokenizer.get_vocab().values(), default=0)
    if last >= known:
        raise UnsupportedModelError(
            f"Model {folder.name} has {known} tokens, but its {TOKENIZER} has a token {last}.",
            hint=f"Run keyhole model pull {folder.name} again.",
        )
    return Vocabulary(tokenizer)
