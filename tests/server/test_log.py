"""The access log: one line for each request, safe to read."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from keyhole.errors import Code, UpstreamError
from keyhole.server.log import MAX_FRAMES, AccessLog, Observers, printable
from keyhole.wire.records import AccessRecord


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def record(**fields: Any) -> AccessRecord:
    known: dict[str, Any] = {
        "request_id": "the-id",
        "began_unix_ms": 0,
        "method": "POST",
        "path": "/generate",
        "status": 200,
        "duration_ms": 12.3456,
    }
    return AccessRecord(**known | fields)


def line(style: Any = "json", stream: io.StringIO | None = None, **fields: Any) -> str:
    stream = stream or io.StringIO()
    AccessLog(style, stream, {}).ended(record(**fields))
    return stream.getvalue()


def crash(style: Any, error: Exception) -> str:
    stream = io.StringIO()
    AccessLog(style, stream, {}).crashed(record(), error)
    return stream.getvalue()


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001  # whatever was given
        return caught


def test_a_line_of_json_tells_what_is_known_and_leaves_out_the_rest() -> None:
    told = json.loads(line(model="m", upstream="u", target="u/x", attempts=1, usage=(1, 2)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told == {
        "id": "the-id",
        "method": "POST",
        "path": "/generate",
        "status": 200,
        "ms": 12.346,
        "bytes_in": 0,
        "bytes_out": 0,
        "model": "m",
        "upstream": "u",
        "target": "u/x",
        "attempts": 1,
        "prompt_tokens": 1,
        "completion_tokens": 2,
    }


def test_a_line_of_text_has_the_same() -> None:
    text = line("text", model="m", target="u/x", attempts=2, usage=(1, 2), code="some_code")
    for part in ("200", "POST", "/generate", "12 ms", "m -> u/x", "attempt 2", "1+2 tokens",
                 "some_code", "the-id"):  # fmt: skip
        assert part in text
    assert "\x1b" not in text


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    assert line("auto").startswith("{")
    assert "the-id" in line("auto", Terminal())
    assert not line("auto", Terminal()).startswith("{")
    assert line("json", Terminal()).startswith("{")


def test_color_is_for_terminals_and_for_who_does_not_object() -> None:
    assert "\x1b[32m200" in line("text", Terminal())
    stream = Terminal()
    AccessLog("text", stream, {"NO_COLOR": "1"}).ended(record())
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "path",
    [
        "/\n200 GET /forged", "/\r\n", "/\x1b[2J", "/\x00", "/\x85", "/\x9b2J", "/\u2028", "/a b",
        "/\x7f", '/"}', "/\udc80",
    ],
)  # fmt: skip
def test_a_path_can_neither_forge_a_line_nor_drive_a_terminal(style: str, path: str) -> None:
    written = line(style, path=path, method=path)
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert written.isascii()


def test_a_path_is_shortened() -> None:
    assert len(line(path="/" + "x" * 100_000, method="Y" * 100_000)) < 500
    assert printable("x" * 11, 10) == "x" * 10 + "..."
    assert printable("\n" * 11, 2) == r"\x0a\x0a..."


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_crash_is_told_by_type_and_place_and_never_in_its_words(style: str) -> None:
    error = raised(ValueError("the prompt"), raised(KeyError("the secret")))
    written = crash(style, error)
    assert "prompt" not in written
    assert "secret" not in written
    for part in ("the-id", "ValueError", "KeyError", "test_log.py:", " in raised"):
        assert part in written


def test_the_words_of_our_own_errors_are_told() -> None:
    error = raised(UpstreamError(Code.UPSTREAM_GONE, "It is gone.", hint="Choose another."))
    assert "keyhole.errors.UpstreamError: It is gone. Choose another." in crash("text", error)


def test_a_deep_crash_is_told_in_part() -> None:
    def fall() -> None:
        fall()

    with pytest.raises(RecursionError) as caught:
        fall()
    assert crash("text", caught.value).count(" in ") <= MAX_FRAMES + 1


def test_exceptions_that_name_each_other_end() -> None:
    one, two = raised(ValueError()), raised(TypeError())
    one.__cause__, two.__cause__ = two, one
    assert crash("text", one).count("TypeError") == 1


def test_a_stream_that_is_closed_broken_or_missing_is_nobodys_error() -> None:
    closed = io.StringIO()
    log = AccessLog("json", closed)
    closed.close()
    log.ended(record())
    for stream in (closed, Broken(), None):
        log = AccessLog("auto", stream)
        log.began(record())
        log.ended(record())
        log.crashed(record(), ValueError())


def test_observers_hear_in_turn() -> None:
    heard: list[str] = []

    class Hearer:
        def __init__(self, name: str) -> None:
            self.name = name

        def began(self, record: AccessRecord) -> None:
            heard.append(f"{self.name} began")

        def ended(self, record: AccessRecord) -> None:
            heard.append(f"{self.name} ended")

        def crashed(self, record: AccessRecord, error: Exception) -> None:
            heard.append(f"{self.name} crashed")

    both = Observers(Hearer("a"), Hearer("b"))
    both.began(record())
    both.crashed(record(), ValueError())
    both.ended(record())
    assert heard == [f"{name} {word}" for word in ("began", "crashed", "ended") for name in "ab"]


@pytest.mark.parametrize("style", ["text", "json"])
def test_texts_are_told_whole_and_printable(style: Any) -> None:
    stream = io.StringIO()
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    log = AccessLog(style, stream, {})
    log.told(record(), {"asked": "a\n\x1b[2J\u2028 b"})
    log.told(record(), {"answered": (("x",),)})
    log.told(record(), {"asked": deep})
    first, second, third = stream.getvalue().splitlines()
    assert r'"a\n\u001b[2J\u2028 b"' in first
    assert '[["x"]]' in second
    assert "nested too deep" in third
    if style == "json":
        assert json.loads(first)["asked"] == "a\n\x1b[2J\u2028 b"
    while deep:  # undone step by step: the whole would be freed too deep
        deep = deep[0]
