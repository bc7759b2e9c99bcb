"""What an upstream says about its own failure, read from any body and made safe to repeat.

An upstream's words are useful ("`top_p` must be < 1.0") and dangerous: some echo the prompt,
some the token, some are a proxy's web page. They are repeated as one short line without control
characters, and not at all where they hold a part of the prompt or of the upstream's secret.
Whether a kind of failure is quoted in the first place is for `faults` to say.

Shapes (November 2026): {"error": TEXT or [TEXT] or {"message", "type", "code"}} from Hugging
Face, TGI, OpenAI, vLLM, llama.cpp; {"message"} from Mistral; {"detail": TEXT or [{"loc",
"msg"}]} from FastAPI; application/problem+json from Replicate; plain text from TGI's own
parser; HTML from whatever stands in front.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from keyhole.secret import Secret
from keyhole.wire.call import Call
from keyhole.wire.http import UpstreamResponse

MAX_CHARS = 200
_MAX_BODY_BYTES = 64 * 1024
_MAX_ITEMS = 5
_MAX_ESTIMATE_S = 86_400
_WORD_KEYS = ("error", "message", "detail", "msg", "title")
_SLUG_KEYS = ("code", "type", "error_type")

_MIN_PROMPT_CHARS = 8
"""A shorter prompt is found in too much by chance, and gives too little away."""
_RUN_CHARS = 16
"""Letters in a row of a prompt that are taken for an echo of it, cut short by the server."""

_WORD = re.compile(r"[a-z0-9_.\[\]-]{1,64}")
"""What codes and fields' names look like; hardly any text does, and no token with a capital."""

_TAG = re.compile(
    r"<\s*/?\s*(?:!doctype|html|head|body|title|meta|script|style|center|h[1-6]|div|span|p|pre"
    r"|a|br|hr|table|img|svg|link|form|iframe)\b",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrtbf])|(.))")


class Said(Struct, frozen=True, kw_only=True):
    """What an upstream said with its error."""

    words: str = ""
    """As they came: only for telling errors apart; `repeatable` makes them fit to be shown."""
    slugs: frozenset[str] = frozenset()
    """Its codes for the error, in lower case."""
    code: str = ""
    """Its code as it came, and the field at fault; `repeatable_word` makes them fit to be shown."""
    param: str = ""
    estimated_time_s: float | None = None
    """How long it thinks that loading takes."""
    is_page: bool = False
    """A web page, which no model server answers with."""

    def mentions(self, *phrases: str) -> bool:
        """Whether one of the phrases, in lower case, is among the words."""
        lower = self.words.lower()
        return any(phrase in lower for phrase in phrases)


def listen(response: UpstreamResponse) -> Said:
    """What a response's body says; never raises."""
    if is_page(response):
        return Said(is_page=True)
    if len(response.body) > _MAX_BODY_BYTES:
        return Said()
    try:
        value = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = response.body.decode("utf-8", "replace")
    words = _words(value)
    if _TAG.search(words):
        return Said(is_page=not isinstance(value, dict), slugs=_slugs(value))
    return Said(
        words=words,
        slugs=_slugs(value),
        code=_member(value, "code"),
        param=_member(value, "param"),
        estimated_time_s=_estimated_time_s(value),
    )


def is_page(response: UpstreamResponse) -> bool:
    """Whether the body is HTML or XML, by its looks, or by its type if it does not look like JSON.

    Small servers send JSON as text/html, because that is their framework's default.
    """
    beginning = response.body[:256].lstrip()
    is_said_to_be = "html" in response.headers.get("content-type", "").lower()
    return beginning.startswith(b"<") or (is_said_to_be and not beginning.startswith((b"{", b"[")))


def repeatable(words: str, call: Call, secret: Secret | None) -> str | None:
    """The words as one short line, or None where they are empty or hold what must stay here."""
    line = " ".join("".join(char for char in words if char.isprintable() or char.isspace()).split())
    if not line or _holds_secret(line, secret) or _holds_prompt(line, call):
        return None
    return line if len(line) <= MAX_CHARS else line[: MAX_CHARS - 3] + "..."


def repeatable_word(word: str, call: Call, secret: Secret | None) -> str | None:
    """A code or a field's name as it came; None where it is none or holds what must stay here."""
    return repeatable(word, call, secret) if _WORD.fullmatch(word) else None


def _words(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        found = (_words_within(value.get(key)) for key in _WORD_KEYS)
        return next((words for words in found if words), "")
    return ""


def _words_within(value: object) -> str:
    """The words of one member: a text, an object that holds one, or a list of either."""
    if isinstance(value, list):
        return "; ".join(filter(None, (_item_words(item) for item in value[:_MAX_ITEMS])))
    return _item_words(value)


def _item_words(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return ""
    texts = [value[key] for key in _WORD_KEYS if isinstance(value.get(key), str)]
    words: str = next(filter(None, texts), "")
    where = value.get("loc")  # FastAPI: ["body", "parameters", "top_k"]; never its "input"
    if not words or not isinstance(where, list):
        return words
    steps = [str(step) for step in where if isinstance(step, (str, int))]
    return f"{'.'.join(steps)}: {words}"


def _slugs(value: object) -> frozenset[str]:
    if not isinstance(value, dict):
        return frozenset()
    inner = value.get("error")
    objects = [value, inner] if isinstance(inner, dict) else [value]
    found = [item.get(key) for item in objects for key in _SLUG_KEYS]
    return frozenset(slug.lower() for slug in found if isinstance(slug, str))


def _member(value: object, name: str) -> str:
    """A text of that name in the error's object: in the outer one (vLLM of old), or the inner."""
    if not isinstance(value, dict):
        return ""
    inner = value.get("error")
    found = (inner if isinstance(inner, dict) else value).get(name)
    return found if isinstance(found, str) else ""


def _estimated_time_s(value: object) -> float | None:
    estimate = value.get("estimated_time") if isinstance(value, dict) else None
    if not isinstance(estimate, (int, float)) or isinstance(estimate, bool):
        return None
    return estimate if 0 <= estimate <= _MAX_ESTIMATE_S else None


def _holds_secret(line: str, secret: Secret | None) -> bool:
    return secret is not None and any(
        secret.has_part_in(text) for text in (line, unquote(line), _unescape(line))
    )


def _holds_prompt(line: str, call: Call) -> bool:
    """Whether a whole prompt is in the line, or a run of one, however it was escaped."""
    folded = _fold(line)
    # Only what may be shown is searched for runs, with room for one that the cut goes through.
    shown = _fold(line[: 2 * MAX_CHARS])
    runs = [shown[at : at + _RUN_CHARS] for at in range(len(shown) - _RUN_CHARS + 1)]
    for prompt in _strings([call.input, [message.content for message in call.messages]]):
        if len(prompt) < _MIN_PROMPT_CHARS:
            continue
        flat, folded_prompt = " ".join(prompt.split()), _fold(prompt)
        if flat and flat in line:
            return True
        if len(folded_prompt) >= _MIN_PROMPT_CHARS // 2 and folded_prompt in folded:
            return True
        if any(run in folded_prompt for run in runs):
            return True
    return False


def _strings(value: object) -> list[str]:
    """Every text in an input, however deep."""
    found, waiting = [], [value]
    while waiting:
        item: Any = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
    return found


def _fold(text: str) -> str:
    """Letters and digits alone, so that quoting, spacing and escaping make no difference."""
    return "".join(char for char in _unescape(text).casefold() if char.isalnum())


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    return chr(int(code, 16)) if code else " " if escape[3] else escape[4]
