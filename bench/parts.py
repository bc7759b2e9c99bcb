"""Which part of a request's way a sample of the profiler belongs to, and the flame graph of it.

A sample is a stack in the folded form of py-spy (`raw`): frames from the root to the leaf, each
`Class.function (package/file.py:line)`. It belongs to the part of the frame nearest to the leaf
that RULES know, so what a library does belongs to whoever called it. RULES is the one list to
edit when a function moves or gets another name; tests/test_bench.py finds names in it that are
not in the source any more.

Facts (py-spy 0.4.3, 2026-11): threads that wait in read() are sampled all the same; time spent
in C (sending, libuv, httptools, msgspec) shows as the line of Python that called it, so a call's
line tells writing from the rest of its function.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"

CLIENT_WRITE = "writing to the client"
UPSTREAM_WRITE = "writing to the upstream"
LOOP = "reading and the event loop"
PARSING = "parsing, on both sides"
ADMISSION = "admission"
DECODE = "decoding the call"
BACKEND = "the backend's request"
TRANSPORT = "the transport"
ANSWER = "the answer, read and encoded"
BOOKS = "limits and the books"
END = "the end: log and metrics"
PIPELINE = "the pipeline between these"
OTHER = "other"
PARTS = (
    *(CLIENT_WRITE, UPSTREAM_WRITE, LOOP, PARSING, ADMISSION, DECODE, BACKEND, TRANSPORT, ANSWER),
    *(BOOKS, END, PIPELINE, OTHER),
)
WRITE = "transport.write("
"""In the line of source that hands bytes to the kernel."""


@dataclass(frozen=True)
class Rule:
    """Frames that belong to a part: of a file or folder, all functions or some, all lines or some.

    The last name of a function counts, without its class.
    """

    part: str | None
    """None: the frame belongs to whoever called it."""
    where: str
    functions: tuple[str, ...] = ()
    line: str = ""
    """What the line of source holds."""


RULES = (
    Rule(CLIENT_WRITE, "keyhole/server/strict.py", ("send_unsent", "write_now"), WRITE),
    Rule(UPSTREAM_WRITE, "keyhole/io/http1.py", ("_send",), WRITE),
    Rule(
        ANSWER,
        "keyhole/server/strict.py",
        ("write_reply", "write_head", "write", "send_unsent", "on_response_complete", "forget"),
    ),
    Rule(PARSING, "keyhole/server/strict.py"),
    Rule(PARSING, "keyhole/server/heads.py"),
    Rule(PARSING, "keyhole/policy/framing.py"),
    Rule(PARSING, "keyhole/io/response.py"),
    Rule(
        PIPELINE,
        "keyhole/server/fastlane.py",
        ("complete", "take_turn", "_start", "returned", "_answer", "_finish", "_release"),
    ),
    Rule(PARSING, "keyhole/server/fastlane.py"),
    Rule(
        ADMISSION,
        "keyhole/exchange.py",
        ("admit", "admit_again", "_begin", "_admission", "_let_in"),
    ),
    Rule(END, "keyhole/exchange.py", ("_observe_end",)),
    Rule(ANSWER, "keyhole/exchange.py", ("_end", "_sendable", "_tell_limits")),
    Rule(PIPELINE, "keyhole/exchange.py"),
    Rule(ANSWER, "keyhole/asking.py", ("_read_answer",)),
    Rule(PIPELINE, "keyhole/asking.py"),
    Rule(BOOKS, "keyhole/accounts.py"),
    Rule(BOOKS, "keyhole/io/journal.py"),
    Rule(BOOKS, "keyhole/wire/lines.py"),
    Rule(BOOKS, "keyhole/io/counters.py"),
    Rule(BOOKS, "keyhole/policy/limits.py"),
    Rule(BOOKS, "keyhole/policy/bounds.py"),
    Rule(BOOKS, "keyhole/policy/pricing.py"),
    Rule(ANSWER, "keyhole/policy/limit_words.py"),
    Rule(ADMISSION, "keyhole/policy/credentials.py"),
    Rule(ADMISSION, "keyhole/policy/bodies.py"),
    Rule(PIPELINE, "keyhole/eager.py"),
    Rule(PIPELINE, "keyhole/policy/routing.py"),
    Rule(PIPELINE, "keyhole/catalog.py"),
    Rule(ADMISSION, "keyhole/policy/access.py"),
    Rule(ADMISSION, "keyhole/policy/paths.py"),
    Rule(ADMISSION, "keyhole/wire/ids.py"),
    Rule(BACKEND, "keyhole/dialects/", ("encode_request", "encode_original")),
    Rule(ANSWER, "keyhole/dialects/", ("encode", "full_text", "decode_upstream_json")),
    Rule(ANSWER, "keyhole/dialects/huggingface.py", ("decode_response", "_rows")),
    Rule(DECODE, "keyhole/dialects/"),
    Rule(ANSWER, "keyhole/backends/", ("answer", "gather", "only_piece", "_completed")),
    Rule(BACKEND, "keyhole/backends/"),
    Rule(BACKEND, "keyhole/io/request.py"),
    Rule(None, "keyhole/io/clock.py"),
    Rule(TRANSPORT, "keyhole/io/"),
    Rule(END, "keyhole/server/log.py"),
    Rule(END, "keyhole/server/metrics.py"),
    Rule(None, "keyhole/secret.py"),
    Rule(None, "keyhole/wire/"),
    Rule(None, "keyhole/worker.py"),
    Rule(LOOP, "asyncio/"),
    Rule(LOOP, "uvicorn/server.py"),
)
NOT_OF_REQUESTS = ("_await_parent_end",)
"""Threads with these functions wait for something else."""

_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^():]*|<[^>]*>)(?::(?P<line>\d+))?\)$")


@dataclass(frozen=True)
class Frame:
    """One function at one line."""

    name: str
    file: str
    line: int

    def matches(self, rule: Rule) -> bool:
        """Whether a rule speaks of it."""
        return (
            self.file.startswith(rule.where)
            and (not rule.functions or self.name.rpartition(".")[2] in rule.functions)
            and rule.line in _source(self.file, self.line)
        )


@dataclass
class Profile:
    """Samples by stack."""

    stacks: Counter[tuple[Frame, ...]] = field(default_factory=Counter)

    @property
    def samples(self) -> int:
        """How many."""
        return self.stacks.total()

    def by_part(self) -> dict[str, int]:
        """Samples of each part, all parts named."""
        counts = dict.fromkeys(PARTS, 0)
        for stack, count in self.stacks.items():
            counts[part_of(stack)] += count
        return counts

    def unattributed(self) -> list[tuple[str, int]]:
        """The leaves that no rule knows, the most frequent first."""
        leaves: Counter[str] = Counter()
        for stack, count in self.stacks.items():
            if part_of(stack) == OTHER:
                leaves[f"{stack[-1].name} ({stack[-1].file})"] += count
        return leaves.most_common()


def read_folded(lines: Iterable[str]) -> Profile:
    """Read what py-spy has written, without the threads that serve no request."""
    profile = Profile()
    for line in lines:
        frames, _, count = line.rpartition(" ")
        stack = tuple(_read_frame(text) for text in frames.split(";"))
        if not any(frame.name in NOT_OF_REQUESTS for frame in stack):
            profile.stacks[stack] += int(count)
    return profile


def folded(profile: Profile) -> str:
    """The samples in the form that they were read from."""
    lines = [
        ";".join(f"{frame.name} ({frame.file}:{frame.line})" for frame in stack) + f" {count}"
        for stack, count in sorted(profile.stacks.items(), key=str)
    ]
    return "\n".join(lines) + "\n"


def _read_frame(text: str) -> Frame:
    found = _FRAME.match(text)
    if found is None:
        return Frame(text, "", 0)
    return Frame(found["name"], found["file"], int(found["line"] or 0))


@cache
def _source(file: str, line: int) -> str:
    path = SOURCE / file
    lines = path.read_text().splitlines() if path.is_file() else []
    return lines[line - 1] if 0 < line <= len(lines) else ""


@cache
def _rule_of(frame: Frame) -> Rule | None:
    return next((rule for rule in RULES if frame.matches(rule)), None)


def part_of(stack: Sequence[Frame]) -> str:
    """The part that a sample belongs to."""
    for frame in reversed(stack):
        rule = _rule_of(frame)
        if rule is not None and rule.part is not None:
            # The loop's frame is at the root of all: it has done only what nobody below did.
            is_known = rule.part != LOOP or frame is stack[-1]
            return rule.part if is_known else OTHER
        if rule is None and frame.file.startswith("keyhole/"):
            return OTHER
    return OTHER


# The flame graph

WIDTH, ROW, MARGIN = 1600, 17, 8
HUES = dict(zip(PARTS, (0, 200, 30, 140, 260, 90, 60, 180, 320, 290, 230, 110, 0), strict=True))


@dataclass
class _Box:
    """A function under its caller."""

    count: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    inner: dict[str, _Box] = field(default_factory=dict)

    def depth(self) -> int:
        return 1 + max((box.depth() for box in self.inner.values()), default=0)


def flame_graph(profile: Profile, title: str) -> str:
    """An SVG: a box's width is its share of the samples; its colour, the part of most of them."""
    root = _Box()
    for stack, count in profile.stacks.items():
        box, part = root, part_of(stack)
        for frame in (None, *stack):
            if frame is not None:
                box = box.inner.setdefault(f"{frame.name} ({frame.file})", _Box())
            box.count += count
            box.parts[part] += count
    height = (root.depth() + 1) * ROW + 2 * MARGIN
    boxes = _boxes(root, "all", x=0.0, y=height - ROW - MARGIN, total=max(root.count, 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="monospace" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n<text x="{MARGIN}" y="{ROW}">'
        f"{html.escape(title)}</text>\n" + "\n".join(boxes) + "\n</svg>\n"
    )


def _boxes(box: _Box, name: str, *, x: float, y: int, total: int) -> list[str]:
    width = WIDTH * box.count / total
    if width < 0.5:
        return []
    part = box.parts.most_common(1)[0][0]
    label = html.escape(name[: int(width / 6.8)]) if width > 30 else ""
    said = html.escape(f"{name}: {100 * box.count / total:.1f} %, {part}")
    fill = f"hsl({HUES[part]},{0 if part == OTHER else 65}%,78%)"
    drawn = [
        (
            f"<g><title>{said}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" fill="{fill}"/>'
            f'<text x="{x + 3:.1f}" y="{y + 12}">{label}</text></g>'
        )
    ]
    for inner_name, inner in sorted(box.inner.items()):
        drawn += _boxes(inner, inner_name, x=x, y=y - ROW, total=total)
        x += WIDTH * inner.count / total
    return drawn
