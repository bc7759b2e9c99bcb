"""Read the word lists of the story grammar from words.txt; it makes no choices."""

from pathlib import Path


def read_lists(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the lists by name; the file's own head describes its format."""
    lists = {}
    for part in path.read_text("utf-8").split("\n== ")[1:]:
        name, *lines = part.strip().split("\n")
        if lines[0].startswith("- "):
            lists[name] = tuple(line.removeprefix("- ") for line in lines)
        else:
            lists[name] = tuple(word for line in lines for word in line.split())
    return lists


_LISTS = read_lists(Path(__file__).with_name("words.txt"))
KINDS = {group: _LISTS[group] for group in ("wood", "water", "air", "folk", "magic", "made")}
HOMES = {group: _LISTS[f"homes of {group}"] for group in KINDS}
GENDERED = {group: _LISTS[f"gendered {group}"] for group in ("folk", "magic")}
FEMALE = _LISTS["female"]
MALE = _LISTS["male"]
ADJECTIVES = _LISTS["adjectives"]
NAMES = _LISTS["names"]
HER_NAMES = frozenset(_LISTS["her names"])
HIS_NAMES = frozenset(_LISTS["his names"])
TITLES = _LISTS["titles"]
NAME_ENDINGS = _LISTS["name endings"]
SOFT_ONSETS = _LISTS["soft onsets"]
SOFT_CODAS = _LISTS["soft codas"]
ONSETS = _LISTS["onsets"]
VOWELS = _LISTS["vowels"]
CODAS = _LISTS["codas"]
HOBBIES = _LISTS["hobbies"]
POSSESSIONS = _LISTS["possessions"]
DAY_WORDS = _LISTS["day words"]
