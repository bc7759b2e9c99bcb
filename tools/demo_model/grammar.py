"""Make one short story from the plots and words; it does not know about tokens or training.

A story has a hero and a friend. Each is introduced with kind and name, and later called by either:
the kind stands in a third of the places, so that a model has a reason to remember it.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import words

KIND_SHARE = 1 / 3
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU]|honest|hour)(?!uni|use|one\b)")
_PRONOUNS = {
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
}


@dataclass(frozen=True)
class Plot:
    """Steps in order; each step is a tuple of ways to tell it."""

    title: str
    themes: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    steps: tuple[tuple[str, ...], ...]


@dataclass
class Character:
    """Someone in a story: `kind`, `adjective` and `name` are as they are to be printed."""

    name: str
    kind: str
    adjective: str
    home: str
    gender: str

    @property
    def pronouns(self) -> tuple[str, str, str, str]:
        """Subject, object, possessive and reflexive."""
        return _PRONOUNS[self.gender]


@dataclass
class Request:
    """What a story must honour; an empty string means free choice."""

    kind: str = ""
    name: str = ""
    adjective: str = ""
    friend_kind: str = ""
    friend_name: str = ""
    plot: Plot | None = None
    slots: dict[str, str] = field(default_factory=dict)


def read_plots(path: Path) -> list[Plot]:
    """Read the plots; the file's own head describes its format."""
    plots = []
    for part in path.read_text("utf-8").split("\n== ")[1:]:
        head, *blocks = part.strip().split("\n\n")
        title, *settings = head.split("\n")
        themes: tuple[str, ...] = ()
        slots = {}
        for line in settings:
            if line.startswith("themes: "):
                themes = tuple(line.removeprefix("themes: ").split(", "))
            else:
                name, values = line.split(" = ")
                slots[name] = tuple(values.split(" | "))
        steps = tuple(tuple(block.strip().split("\n")) for block in blocks)
        plots.append(Plot(title, themes, slots, steps))
    return plots


PLOTS = read_plots(Path(__file__).with_name("plots.txt"))


def _syllable(rng: random.Random, closed: float, *, soft: bool) -> str:
    onsets, vowels, codas = (
        (words.SOFT_ONSETS, "aeiou", words.SOFT_CODAS)
        if soft
        else (words.ONSETS, words.VOWELS, words.CODAS)
    )
    coda = rng.choice(codas) if rng.random() < closed else ""
    return rng.choice(onsets) + rng.choice(vowels) + coda


def invent_name(rng: random.Random, soft: float = 0.5) -> str:
    """Make up a name such as Tarlo, Zorblax or Captain Frand; a `soft` one is easy to say."""
    is_soft = rng.random() < soft
    count = rng.choices((1, 2, 3), (2, 6, 1 if is_soft else 2))[0]
    name = "".join(_syllable(rng, 0.3, soft=is_soft) for _ in range(count - 1))
    name += _syllable(rng, 0.65, soft=is_soft)
    if rng.random() < 0.2:
        name += rng.choice(words.NAME_ENDINGS)
    if rng.random() < 0.15:
        name = rng.choice("aeiou") + name
    name = name.capitalize()
    if is_soft or rng.random() > 0.15:
        return name
    if rng.random() < 0.5:
        return f"{rng.choice(words.TITLES)} {name}"
    return f"{name}-{name if rng.random() < 0.5 else _syllable(rng, 0.5, soft=True).capitalize()}"


def pick_name(rng: random.Random, invented: float = 0.2) -> str:
    """Pick a name from the list, or invent a soft one with the probability `invented`."""
    return invent_name(rng, 1.0) if rng.random() < invented else rng.choice(words.NAMES)


def pick_kind(rng: random.Random, invented: float = 0.02) -> str:
    """Pick a kind of hero; now and then an invented word, so that any word can be copied."""
    if rng.random() < invented:
        return invent_name(rng).lower().split(" ")[-1].split("-")[0]
    group = rng.choices(tuple(words.KINDS), (40, 12, 12, 15, 13, 12))[0]
    if group in words.GENDERED and rng.random() < 0.4:
        return rng.choice(words.GENDERED[group])
    return rng.choice(words.KINDS[group])


def _gender_of(name: str) -> str:
    return "she" if name in words.HER_NAMES else "he" if name in words.HIS_NAMES else ""


def make_character(
    rng: random.Random, kind: str = "", name: str = "", adjective: str = ""
) -> Character:
    """Make a character, filling in what is not given."""
    kind = kind or pick_kind(rng)
    noun = kind.split()[-1]
    group = next((g for g, kinds in words.KINDS.items() if noun in kinds), None)
    if group is None:
        group = next((g for g, kinds in words.GENDERED.items() if noun in kinds), None)
    if group is None:
        group = rng.choice(tuple(words.KINDS))
    fixed = "she" if noun in words.FEMALE else "he" if noun in words.MALE else ""
    while not name:
        candidate = pick_name(rng)
        name = candidate if {_gender_of(candidate), fixed} != {"he", "she"} else ""
    gender = fixed or _gender_of(name) or rng.choice(("he", "she"))
    return Character(
        name=name,
        kind=kind,
        adjective=adjective or rng.choice(words.ADJECTIVES),
        home=rng.choice(words.HOMES[group]),
        gender=gender,
    )


_TIMES = ("day", "morning", "afternoon", "evening")


class Story:
    """Expands templates for one cast of characters."""

    def __init__(self, rng: random.Random, request: Request) -> None:
        self.rng = rng
        self.request = request
        self.plot = request.plot or rng.choice(PLOTS)
        self.hero = make_character(rng, request.kind, request.name, request.adjective)
        self.pal = make_character(rng, request.friend_kind, request.friend_name)
        while self.pal.kind == self.hero.kind and not request.friend_kind:
            self.pal = make_character(rng, name=request.friend_name)
        while self.pal.name == self.hero.name:
            self.pal.name = pick_name(rng)
        self.slots = {name: rng.choice(values) for name, values in self.plot.slots.items()}

    def expand(self, template: str) -> str:
        """Replace choices and slots, and put `an` where it belongs."""
        while (found := _CHOICE.search(template)) is not None:
            choice = self.rng.choice(found.group(1).split("|"))
            template = template[: found.start()] + choice + template[found.end() :]
        text = _SLOT.sub(lambda match: self._fill(match.group(1)), template)
        return _ARTICLE.sub(r"\1n ", text)

    def _fill(self, slot: str) -> str:
        if slot in self.slots:
            return self.slots[slot]
        key = slot[0].lower() + slot[1:]
        value = self._value(key)
        return value if slot == key else value[0].upper() + value[1:]

    def _value(self, key: str) -> str:
        rng = self.rng
        if key in ("one_day", "one_night"):
            word = rng.choice(_TIMES) if key == "one_day" else "night"
            if rng.random() < 0.5:
                word = f"{rng.choice(words.DAY_WORDS)} {word}"
            return f"one {word}"
        if key == "hobby":
            return rng.choice(words.HOBBIES)
        if key == "possession":
            return rng.choice(words.POSSESSIONS)
        who, part = self.hero, key
        if key == "a_pal":
            return self._introduce(self.pal)
        if key == "pal":
            return self._mention(self.pal)
        if key == "hero":
            return self._mention(self.hero)
        if key.startswith("pal_"):
            who, part = self.pal, key.removeprefix("pal_")
        pronouns = dict(zip(("he", "him", "his", "himself"), who.pronouns, strict=True))
        return pronouns[part] if part in pronouns else str(getattr(who, part))

    def _mention(self, who: Character) -> str:
        chance = self.rng.random()
        if chance > KIND_SHARE:
            return who.name
        return f"the {who.adjective} {who.kind}" if chance < 0.05 else f"the {who.kind}"

    def _introduce(self, who: Character) -> str:
        adjective = f"{who.adjective} " if self.rng.random() < 0.5 else ""
        verb = self.rng.choice(("named", "called", "named"))
        return f"a {adjective}{who.kind} {verb} {who.name}"

    def steps(self) -> list[str]:
        """Tell the plot's steps, one string each."""
        told = (self.expand(self.rng.choice(step)) for step in self.plot.steps)
        return [text for text in told if text != "-"]


ONCE = (
    "Once upon a time, there was a {adjective} {kind} named {name}.",
    "Once upon a time, there was a {adjective} {kind} called {name}.",
    "Once upon a time, there was a {kind} named {name}.",
    "Once upon a time there was a {adjective} {kind} named {name}, who lived {home}.",
    "Once upon a time, a {adjective} {kind} named {name} lived {home}.",
    "Once upon a time, {home}, there lived a {adjective} {kind} called {name}.",
    "Once upon a time there lived a {adjective} {kind} whose name was {name}.",
    "Once upon a time, there was a {adjective} {kind} who lived {home}. {His} name was {name}.",
)
OTHER_OPENINGS = (
    "The {adjective} {kind} was called {name}, and {he} lived {home}.",
    "The {kind} who lived {home} was called {name}.",
    "The name of the {kind} was {name}, and everybody said that {he} was {adjective}.",
    "The story begins {home}, where a {adjective} {kind} named {name} was just waking up.",
    "The [sun|moon|rain|wind|snow] woke {name}, a {adjective} {kind} who lived {home}.",
    (
        "The [wind|rain|river|road|clock] knew everybody's name, and it liked one name best: "
        "{name}. {Name} was a {adjective} {kind}."
    ),
    "There once was a {adjective} {kind} named {name}, who lived {home}.",
    "There was once a {kind} named {name}.",
    "Long ago, {home}, there lived a {adjective} {kind} named {name}.",
    (
        "In a [far away|small|quiet] [land|village|country] there lived a {adjective} {kind} "
        "named {name}."
    ),
    "Far away, {home}, lived {name}, a {adjective} {kind}.",
    "{Name} was a {adjective} {kind} who lived {home}.",
    "{Name} the {kind} lived {home}.",
    "A {adjective} {kind} named {name} lived {home}.",
    "A long time ago, a {adjective} {kind} named {name} lived {home}.",
    "This is the story of {name}, a {adjective} {kind}.",
    "Not so long ago there was a {adjective} {kind} called {name}.",
    "My grandmother told me about a {adjective} {kind} named {name}, who lived {home}.",
    "Everybody knew {name}, the {adjective} {kind}.",
    "Do you know the story of {name}, the {adjective} {kind}? It goes like this.",
    "Have you heard of {name}? {He} was a {adjective} {kind} who lived {home}.",
    "When the world was young, there was a {adjective} {kind} named {name}.",
    "Deep in the night, while everyone slept, a {adjective} {kind} named {name} was wide awake.",
)
TRAITS = (
    "{He} loved {hobby}.",
    "{Hero} loved {hobby} more than anything else.",
    "What {hero} liked best was {hobby}.",
    "{Hero} had {possession}.",
    "{He} had {possession}, and {he} was very proud of it.",
    "Everyone who met {hero} knew about {possession} and liked {him} for it.",
    "{Hero} was {adjective}, and {he} did not mind at all.",
    "No other {kind} was as {adjective} as {name}.",
    "The others said that {he} was the most {adjective} {kind} they had ever met.",
    "It is not easy to be a {adjective} {kind}, but {name} did {his} best.",
    "In the morning {he} liked {hobby}, and in the evening {he} liked {hobby} even more.",
    "{Hero} was never bored, because {he} loved {hobby}.",
    "Like every {kind}, {he} was fond of {hobby}.",
)
CODAS = ("The end.", "And that is the whole story.", "And that was that.", "The end.")


def tell_story(rng: random.Random, request: Request | None = None, once: float = 0.7) -> list[str]:
    """Tell one story as a list of pieces; with the probability `once` in the classic opening."""
    story = Story(rng, request or Request())
    opening = rng.choice(ONCE if rng.random() < once else OTHER_OPENINGS)
    pieces = [story.expand(opening)]
    if rng.random() < 0.7:
        pieces.append(story.expand(rng.choice(TRAITS)))
    pieces += story.steps()
    if rng.random() < 0.12:
        pieces.append(rng.choice(CODAS))
    return pieces
