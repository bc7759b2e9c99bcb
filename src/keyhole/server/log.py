"""One line for each request, for people at a terminal and for machines otherwise.

It never writes a secret, and a prompt or an answer only where `log.texts` asks for them: the
record holds none, and of an unexpected exception only its type and where it was raised are
told, for its text may hold anything. What
a client can choose (method, path) is shortened and made printable, so that it cannot forge
lines or drive a terminal. The lines of one turn of the event loop are written together, by the
loop's thread; whoever reads standard error through a pipe must read it.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

import msgspec

from keyhole.errors import KeyholeError
from keyhole.outbox import Outbox
from keyhole.ports import Observer
from keyhole.wire.records import AccessRecord

Format = Literal["auto", "text", "json"]

MAX_PATH_CHARS = 200
MAX_METHOD_CHARS = 20
MAX_FRAMES = 30

_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_COLORS = {2: "\x1b[32m", 4: "\x1b[33m", 5: "\x1b[31m"}


class Observers:
    """Tells each of several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        # The log has nothing to do when a request begins, and every request would pay for that.
        self._began = [each.began for each in observers if not isinstance(each, AccessLog)]
        self._ended = [observer.ended for observer in observers]
        if len(self._began) == 1:
            (self.began,) = self._began  # type: ignore[method-assign]  # a call less

    def began(self, record: AccessRecord) -> None:
        """Pass it on."""
        for tell in self._began:
            tell(record)

    def ended(self, record: AccessRecord) -> None:
        """Pass it on."""
        for tell in self._ended:
            tell(record)

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.told(record, texts)

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.crashed(record, error)


class AccessLog:
    """An Observer that writes lines to a stream; `auto` is text on a terminal, else JSON."""

    def __init__(
        self,
        style: Format,
        stream: TextIO | None,
        environ: Mapping[str, str] = os.environ,
        *,
        outbox: Outbox | None = None,
    ) -> None:
        """`outbox` is where the lines of a turn of the loop wait for its end."""
        self._outbox = outbox or Outbox()
        is_terminal = _is_terminal(stream)
        self._stream = stream
        self._lines: list[str] = []
        self._is_text = style == "text" or (style == "auto" and is_terminal)
        self._second, self._until_second = 0, ""
        self._ms, self._until_ms = 0, ""
        self._has_color = is_terminal and not environ.get("NO_COLOR")  # https://no-color.org

    def began(self, record: AccessRecord) -> None:
        """Nothing: there is one line, at the end."""

    def ended(self, record: AccessRecord) -> None:
        """Write the request's line."""
        if self._is_text:
            self._write(self._text(record, datetime.now(UTC)))
        else:
            self._write(_line(record, self._time()))

    def told(self, record: AccessRecord, texts: Mapping[str, object]) -> None:
        """Write a prompt or an answer, whole, under the request's id."""
        now = datetime.now(UTC)
        try:
            # json.dumps leaves only ASCII, so that no text can drive a terminal.
            shown = {name: json.dumps(text) for name, text in texts.items()}
        except RecursionError:
            shown = dict.fromkeys(texts, '"(nested too deep to be shown)"')
        if self._is_text:
            words = "  ".join(f"{name} {text}" for name, text in shown.items())
            self._write(f"{now:%H:%M:%S}  {words}  {record.request_id}")
        else:
            raw = {name: msgspec.Raw(text.encode()) for name, text in shown.items()}
            self._write(_json({"time": _iso(now), "id": record.request_id, **raw}))

    def crashed(self, record: AccessRecord, error: Exception) -> None:
        """Write what was raised, where, and during what, under the request's id."""
        now = datetime.now(UTC)
        causes = [(_name(cause), list(_frames(cause))) for cause in _causes(error)]
        if self._is_text:
            lines = [f"{now:%H:%M:%S} {record.request_id} crashed: {_name(error)}"]
            for name, frames in causes:
                lines += [f"    {name}", *(f"      {frame}" for frame in frames)]
            self._write("\n".join(lines))
        else:
            crash = [{"type": name, "frames": frames} for name, frames in causes]
            self._write(_json({"time": _iso(now), "id": record.request_id, "crash": crash}))
        self._flush()  # at once: nobody knows whether there will be another turn

    def _text(self, record: AccessRecord, now: datetime) -> str:
        words = [
            f"{now:%H:%M:%S}",
            self._colored(str(record.status), _COLORS.get(record.status // 100, "")),
            printable(record.method, MAX_METHOD_CHARS),
            printable(record.path, MAX_PATH_CHARS),
            f"{record.duration_ms:.0f} ms",
            f"{record.bytes_out} B",
        ]
        if record.target is not None:
            words.append(f"{record.model} -> {record.target}")
        if record.attempts > 1:
            words.append(f"attempt {record.attempts}")
        if record.usage is not None:
            words.append("{}+{} tokens".format(*record.usage))
        if record.code is not None:
            words.append(self._colored(record.code, _COLORS[4]))
        words.append(self._colored(record.request_id, _DIM))
        return "  ".join(words)

    def _time(self) -> str:
        """The time as `_iso` writes it; what stays the same for a second, or a ms, is kept."""
        unix_ms = time.time_ns() // 1_000_000
        if unix_ms == self._ms:
            return self._until_ms
        second, ms = divmod(unix_ms, 1000)
        if second != self._second:
            self._second = second
            self._until_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._ms, self._until_ms = unix_ms, f"{self._until_second}.{ms:03d}Z"
        return self._until_ms

    def _colored(self, text: str, color: str) -> str:
        return f"{color}{text}{_RESET}" if self._has_color and color else text

    def _write(self, line: str) -> None:
        """Write the line with the others of this turn of the event loop, in one system call."""
        self._lines.append(line)
        if len(self._lines) > 1:
            return
        try:
            self._outbox.put(self._flush)
        except RuntimeError:  # no loop, no turn
            self._flush()

    def _flush(self) -> None:
        if self._stream is None or not self._lines:
            self._lines.clear()
            return
        text = "\n".join(self._lines)
        self._lines.clear()
        try:  # a log that cannot be written must not end the request
            self._stream.write(f"{text}\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass


def printable(text: str, max_chars: int) -> str:
    r"""The text in printable ASCII without spaces, the rest as \xNN, and not too long."""
    cut = text if len(text) <= max_chars else f"{text[:max_chars]}..."
    if cut.isascii() and cut.isprintable() and " " not in cut:
        return cut
    shown = (char if "!" <= char <= "~" else f"\\x{ord(char):02x}" for char in cut)
    return "".join(shown)


def _line(record: AccessRecord, time_text: str) -> str:
    """A request's line as JSON; what is not known is left out.

    Put together from text: the parts that are the same for many requests are encoded once.
    """
    usage = record.usage
    attempts = f',"attempts":{record.attempts}' if record.attempts else ""
    tokens = (
        f',"prompt_tokens":{usage[0]},"completion_tokens":{usage[1]}' if usage is not None else ""
    )
    rest = ""
    if record.code is not None or record.client_request_id is not None:
        rest = _named(code=record.code, client_id=record.client_request_id)
    return (
        f'{{"time":"{time_text}","id":"{record.request_id}"{_asked(record.method, record.path)}'
        f',"status":{record.status},"ms":{record.duration_ms:.3f},"bytes_in":{record.bytes_in}'
        f',"bytes_out":{record.bytes_out}'
        f"{_answered(record.model, record.upstream, record.target)}{attempts}{tokens}{rest}}}"
    )


@lru_cache(maxsize=512)
def _asked(method: str, path: str) -> str:
    return _named(method=printable(method, MAX_METHOD_CHARS), path=printable(path, MAX_PATH_CHARS))


@lru_cache(maxsize=512)
def _answered(model: str | None, upstream: str | None, target: str | None) -> str:
    return _named(model=model, upstream=upstream, target=target)


def _named(**values: str | None) -> str:
    """The members of a JSON object, each behind a comma, without those that are None."""
    members = {name: value for name, value in values.items() if value is not None}
    return f",{_json(members)[1:-1]}" if members else ""


def _json(fields: Mapping[str, Any]) -> str:
    return msgspec.json.encode(fields).decode()


def _iso(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name(error: BaseException) -> str:
    """The type; and the message where it is ours, for then it holds no secret and no prompt."""
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    return f"{name}: {error.explained}" if isinstance(error, KeyholeError) else name


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, down to the first; an exception may not come twice."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _frames(error: BaseException) -> Iterator[str]:
    """FILE:LINE in FUNCTION, the innermost last; of a deep recursion only the last ones."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if len(frames) > MAX_FRAMES:
        yield f"... {len(frames) - MAX_FRAMES} more"
    for frame, line in frames[-MAX_FRAMES:]:
        code = frame.f_code
        yield f"{code.co_filename}:{line} in {code.co_qualname}"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
