"""A problem in a configuration is reported at the line where its reader will find it."""

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.config.toml_lines import Path, find_lines


def paths_of(value: object, path: Path = ()) -> Iterator[Path]:
    """Every path that a parsed document has, its tables and array items included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths_of(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths_of(inner, (*path, index))


def lines_of(document: str) -> dict[Path, int]:
    """The found lines, after checking that exactly the document's own paths are there."""
    lines = dict(find_lines(document))
    assert sorted(map(str, lines)) == sorted(map(str, paths_of(tomllib.loads(document))))
    return lines


EXAMPLES: list[tuple[str, str, dict[Path, int]]] = [
    ("an empty document", "", {}),
    ("comments and blank lines alone", "\n# a = 1\n\n", {}),
    ("no line break at the end", "a = 1", {("a",): 1}),
    ("windows line breaks", "\r\na = 1\r\n[b]\r\nc = 2\r\n", {("a",): 2, ("b",): 3, ("b", "c"): 4}),
    ("a dotted key", "\na.b.c = 1\n", {("a",): 2, ("a", "b"): 2, ("a", "b", "c"): 2}),
    ("spaces around dots", "a . b = 1", {("a",): 1, ("a", "b"): 1}),
    ("a quoted dot is no dot", '"a.b" = 1', {("a.b",): 1}),
    ("a literal key", "'a\"b' = 1", {('a"b',): 1}),
    ("an escape in a key", '"a\\u0042\\"" = 1', {('aB"',): 1}),
    ("an empty key", '"" = 1', {("",): 1}),
    ("brackets in a quoted header", '\n["a]b"."c#d"]\n', {("a]b",): 2, ("a]b", "c#d"): 2}),
    (
        "a table whose parent comes later",
        "[a.b]\nx = 1\n[a]\ny = 2\n",
        {("a",): 1, ("a", "b"): 1, ("a", "b", "x"): 2, ("a", "y"): 4},
    ),
    ("a hash in a string", 'a = "#"\nb = 1', {("a",): 1, ("b",): 2}),
    ("a comment that looks like a key", "a = 1 # b = 2\nc = 3", {("a",): 1, ("c",): 2}),
    ("an escaped quote", 'a = "\\"\\\\"\nb = 1', {("a",): 1, ("b",): 2}),
    (
        "a text of several lines that looks like keys",
        'a = """\n[b]\nc = 1\n\\"""\n"" """\nd = 2',
        {("a",): 1, ("d",): 6},
    ),
    ("quotes at a text's end", 'a = """x"""""\nb = 1', {("a",): 1, ("b",): 2}),
    ("a literal text of several lines", "a = '''\nb = 1\\'''''\nc = 1", {("a",): 1, ("c",): 3}),
    ("an empty text", 'a = """"""\nb = \'\'\nc = ""', {("a",): 1, ("b",): 2, ("c",): 3}),
    (
        "an array of several lines",
        'a = [ # one\n  "x", # two ]\n\n  "y"\n  ,\n]\nb = 1',
        {("a",): 1, ("a", 0): 2, ("a", 1): 4, ("b",): 7},
    ),
    (
        "arrays within arrays",
        "a = [[1, 2],\n[], [3]]",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, 0): 1,
            ("a", 0, 1): 1,
            ("a", 1): 2,
            ("a", 2): 2,
            ("a", 2, 0): 2,
        },
    ),
    (
        "an inline table",
        'a = { b.c = "}", "d" = [1] }\ne = {}',
        {
            ("a",): 1,
            ("a", "b"): 1,
            ("a", "b", "c"): 1,
            ("a", "d"): 1,
            ("a", "d", 0): 1,
            ("e",): 2,
        },
    ),
    (
        "inline tables in an array of several lines",
        "a = [\n{ b = 1 },\n{ b = 2 },\n]",
        {("a",): 1, ("a", 0): 2, ("a", 0, "b"): 2, ("a", 1): 3, ("a", 1, "b"): 3},
    ),
    (
        "an array of tables, with a table in its last",
        "[[a]]\nx = 1\n[[a]]\n[a.b]\ny = 2\n[[a.c]]\nz = 3\n[[a.c]]\n",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, "x"): 2,
            ("a", 1): 3,
            ("a", 1, "b"): 4,
            ("a", 1, "b", "y"): 5,
            ("a", 1, "c"): 6,
            ("a", 1, "c", 0): 6,
            ("a", 1, "c", 0, "z"): 7,
            ("a", 1, "c", 1): 8,
        },
    ),
    (
        "numbers, words and dates",
        "a = 1979-05-27 07:32:00Z # b = 1\nc = -1.5e+3\nd = [ true,1979-05-27,0xff ]\ne = inf",
        {("a",): 1, ("c",): 2, ("d",): 3, ("d", 0): 3, ("d", 1): 3, ("d", 2): 3, ("e",): 4},
    ),
]


@pytest.mark.parametrize(
    ("document", "lines"), [row[1:] for row in EXAMPLES], ids=[row[0] for row in EXAMPLES]
)
def test_each_key_is_found_on_its_line(document: str, lines: dict[Path, int]) -> None:
    assert lines_of(document) == lines


# What follows writes a document at random and keeps account of the line of every key.

TRICKY = st.sampled_from(["#", "[x]", "a = 1", '"', "'", "\\", "]", "}", ",", "=", ".", "é", " "])
WORDS = st.lists(TRICKY | st.text("abz09_-", min_size=1, max_size=3), max_size=4).map("".join)
KEYS = st.text("abcd", min_size=1, max_size=2) | WORDS


def basic(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def written_keys(draw: st.DrawFn, key: str) -> str:
    """A key as one may write it: bare where that is allowed, else quoted."""
    forms = [basic(key)]
    if "'" not in key:
        forms.append(f"'{key}'")
    if key and all(character in "abcdefghijklmnopqrstuvwxyz0123456789_-" for character in key):
        forms.append(key)
    return draw(st.sampled_from(forms))


@st.composite
def written_strings(draw: st.DrawFn) -> str:
    words = draw(st.lists(WORDS, min_size=1, max_size=3))
    plain = [word.replace("\\", "").replace("'", "") for word in words]
    escaped = [basic(word)[1:-1] for word in words]
    return draw(
        st.sampled_from(
            [
                basic(words[0]),
                f"'{plain[0]}'",
                '"""\n' + "\n".join(escaped) + '"""',
                "'''" + "\n".join(plain) + "'''",
                '"""' + "\\\n  ".join(escaped) + '\\""""',
            ]
        )
    )


class Writer:
    """A growing document, and where its keys are."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def blank(self) -> None:
        self.text += self.draw(st.sampled_from(["", " ", "\n", " # a = [\n\n", "\r\n\t"]))

    def value(self, path: Path, depth: int) -> None:
        kinds = ["scalar", "string"] + (["array", "table"] if depth else [])
        match self.draw(st.sampled_from(kinds)):
            case "scalar":
                scalars = ["1", "-0.5e3", "true", "1979-05-27 07:32:00", "0x1F", "nan"]
                self.text += self.draw(st.sampled_from(scalars))
            case "string":
                self.text += self.draw(written_strings())
            case "array":
                self.array(path, depth - 1)
            case _:
                self.inline_table(path, depth - 1)

    def array(self, path: Path, depth: int) -> None:
        self.text += "["
        count = self.draw(st.integers(0, 3))
        for index in range(count):
            self.blank()
            self.note((*path, index))
            self.value((*path, index), depth)
            self.blank()
            if index < count - 1 or self.draw(st.booleans()):
                self.text += ","
        self.blank()
        self.text += "]"

    def inline_table(self, path: Path, depth: int) -> None:
        self.text += "{ "
        for number, key in enumerate(self.draw(st.lists(KEYS, max_size=3, unique=True))):
            self.text += ", " if number else ""
            self.pair(path, key, depth)
        self.text += " }"

    def pair(self, path: Path, key: str, depth: int) -> None:
        self.note((*path, key))
        written = self.draw(written_keys(key))
        # A dot only where no other key of the table could mean the same inner table.
        inner = self.draw(st.none() | KEYS)
        if inner is not None:
            self.note((*path, key, inner))
            written += " . " + self.draw(written_keys(inner))
            path = (*path, key, inner)
        else:
            path = (*path, key)
        self.text += f"{written} = "
        self.value(path, depth)

    def tables(self) -> None:
        """Tables and arrays of tables, one level or two deep."""
        for name in self.draw(st.lists(KEYS, max_size=4, unique=True)):
            header = self.draw(written_keys(name))
            inner = self.draw(st.none() | KEYS)
            count = self.draw(st.integers(0, 2))
            for index in range(max(count, 1)):
                self.text += "\n"
                self.blank()
                self.text += "\n"
                self.note((name,))
                path: Path = (name,)
                if count:
                    path = (name, index)
                    self.note(path)
                    self.text += f"[[ {header} ]]\n"
                    if inner is not None:
                        self.text += "\n"
                if inner is not None:
                    path = (*path, inner)
                    self.note(path)
                    self.text += f"[{header}.{self.draw(written_keys(inner))}] # [no]\n"
                elif not count:
                    self.text += f"[{header}]\n"
                for key in self.draw(st.lists(KEYS, max_size=3, unique=True)):
                    self.pair(path, key, 2)
                    self.text += "\n"


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    writer = Writer(draw)
    writer.blank()
    writer.tables()
    return writer.text, writer.lines


@given(documents())
def test_any_document_gives_the_lines_on_which_it_was_written(
    written: tuple[str, dict[Path, int]],
) -> None:
    document, lines = written
    assert lines_of(document) == lines


@given(st.text("ab.[]{}=\"'#,\\\n 1", max_size=60))
def test_a_document_that_tomllib_accepts_is_understood_and_no_other_hangs(document: str) -> None:
    try:
        tomllib.loads(document)
    except tomllib.TOMLDecodeError:
        return
    lines_of(document)
