"""Compares what became of a call with what the rules say, and says what is wrong in words.

Without a rule that says otherwise a text has to arrive whole, with the finish and the usage that
the client shows, after one request. A failure is told by its status, or as one that came midway;
which exception that is, and how often the client tries, is the client's own way (clients.toml).
"""

from __future__ import annotations

from typing import Any

from clients.cases import Case, failures_of
from clients.running import MODEL, Result
from standins.models import EOS, PROMPT_TOKENS, STOP, TEXT, Scene, completion_tokens

_ENDS = {Scene.OK, Scene.LENGTH, Scene.STOPPED, Scene.WAKING}
_FINISHES = {
    "openai": {Scene.LENGTH: "length"},
    "tgi": {Scene.LENGTH: "length", Scene.STOPPED: "stop_sequence"},
}


def complaints(result: Result, rules: dict[str, Any]) -> list[str]:
    """What is not as expected; empty for a call that went well."""
    case = result.case
    default = _default(case)
    expected = default | rules
    expected |= {name: False for name in ("finish", "usage") if default[name] is False}
    if "fails" not in expected:
        return ["no rule says what is expected"]
    found = _text(result, expected["text"])
    if case.scene is Scene.LEFT:
        return found + ([] if result.has_left else ["the server never saw the client leave"])
    found += _failure(result, expected) if expected["fails"] else _success(result, expected)
    found += _requests(result, expected)
    return found


def _default(case: Case) -> dict[str, Any]:
    shown = case.way.shown(case.mode)
    family = "openai" if case.way.format in ("chat", "text") else "tgi"
    usage: list[int | None] | bool = False
    if "usage" in shown or "tokens" in shown:
        usage = [PROMPT_TOKENS if "usage" in shown else None, completion_tokens(case.scene)]
    ended = _FINISHES[family].get(case.scene, "stop" if family == "openai" else "eos_token")
    default: dict[str, Any] = {
        "text": "none",
        "finish": ended if "finish" in shown else False,
        "usage": usage,
    }
    if case.scene is Scene.LEFT:
        return default | {"fails": False, "text": "begun"}
    if case.scene in _ENDS and case.scene is not Scene.WAKING:
        return default | {"fails": False, "text": "whole"}
    return default


def _text(result: Result, wanted: str) -> list[str]:
    text = result.text
    exact = {
        "none": "",
        "whole": TEXT,
        "stripped": TEXT.strip(),
        "with eos": TEXT + EOS,
        "with prompt": result.prompt + TEXT,
        "with stop": TEXT + STOP,
        "model": MODEL,
        "with prompt and stop": result.prompt + TEXT + STOP,
    }
    match wanted:
        case "begun":
            whole, begun = TEXT.strip(), text.strip()
            is_right = begun not in ("", whole) and whole.startswith(begun)
        case "some":
            is_right = text != ""
        case _:
            is_right = text == exact[wanted]
    found = [] if is_right else [f"the text is {text!r}, expected: {wanted}"]
    if result.case.mode == "stream" and text in exact.values() and text and result.pieces < 2:
        found.append("the text came in one piece")
    return found


def _success(result: Result, expected: dict[str, Any]) -> list[str]:
    found = [f"it failed with {result.error}"] if result.error else []
    for name, value in (("finish", result.finish), ("usage", result.usage)):
        if expected[name] is True and not value:
            found.append(f"the {name} is not told")
        elif not isinstance(expected[name], bool) and value != expected[name]:
            found.append(f"the {name} is {value!r}, expected: {expected[name]!r}")
    return found


def _failure(result: Result, expected: dict[str, Any]) -> list[str]:
    failure, word = expected["fails"], expected.get("type")
    ways = failures_of(result.case.way)
    kind = ways.look_up(ways.raises, failure, word)
    error = result.error
    if error is None:
        return [f"it did not fail, expected: {kind}"]
    found = []
    if error["kind"] != kind:
        found.append(f"it failed with {error}, expected: {kind}")
    status = failure if isinstance(failure, int) else None
    if failure in ("midway", "cut"):
        status = ways.midway_status
    if failure == "broken" or {word, str(failure)} & ways.hidden:
        status = None
    if status is not None and error["status"] != status:
        found.append(f"the status is {error['status']}, expected: {status}")
    if expected.get("says", "").lower() not in error["message"].lower():
        found.append(f"the words are {error['message']!r}, expected: {expected['says']!r}")
    return found


def _requests(result: Result, expected: dict[str, Any]) -> list[str]:
    wanted = expected.get("requests")
    if wanted is None and expected["fails"]:
        ways = failures_of(result.case.way)
        wanted = ways.look_up(ways.tries, expected["fails"], expected.get("type"))
    wanted = 1 if wanted is None else wanted
    least, most = wanted if isinstance(wanted, list) else (wanted, wanted)
    found = []
    came = result.sent if "held" in expected else len(result.requests)
    if not least <= came <= most:
        found.append(f"{came} requests came, expected: {wanted}")
    if "held" in expected:
        fewest, most = expected["held"]
        if not all(fewest <= number <= most for number in result.asked):
            found.append(f"they were passed on {result.asked} times, expected: {expected['held']}")
    if any(gap < expected.get("gap_s", 0) for gap in result.gaps_s):
        found.append(f"too soon again: after {result.gaps_s}, expected: {expected['gap_s']}")
    if result.lasted_s < expected.get("lasts_s", 0):
        found.append(f"it lasted {result.lasted_s}, expected: {expected['lasts_s']}")
    return found
