"""Measure an exported demo model and print the figures beside the first edition's.

It judges by plain rules on the text (does the name come back, does the kind), not by taste.
The prompts below are not in the training text word for word unless they are as short as "hi".
"""

import argparse
import random
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from asks import with_article
from batches import encode, training_documents
from documents import make_document, make_plain_story
from grammar import Request, tell_story
from sampling import ExportedModel
from train import HELD_OUT_SEED, SEED

STORIES = 60
HELD_OUT_DOCUMENTS = 600
TRAINING_DOCUMENTS = 20_000
FIRST_EDITION = {
    "stories that end by themselves": "60/60",
    "stories all different": "60/60",
    "stories that keep the hero's name": "60/60",
    "stories not among 20,000 training documents": "60/60",
    "requests: kind honoured": "0/72",
    "requests: name kept": "48/72",
    "held-out loss, nats a token": "0.38",
}
KNOWN_KINDS = (
    "fox bear dragon robot owl whale cat snail rabbit baker giraffe mouse"  # in the word lists
)
OTHER_KINDS = "accountant alpaca volcano sandwich hamster tram pirate-ship walnut"  # in none
ADJECTIVES = ("brave", "tiny", "grumpy", "clever", "shy", "purple")
HERO_NAMES = "Zorblax Quimby Mirabelle Oonagh Fitzwilliam Bo Xanthe Tiberius Plonk Marigold"
REQUESTS = {
    "requests": (KNOWN_KINDS, 72),
    "requests, kinds never trained on": (OTHER_KINDS, 40),
}
OPENING = 160
GREETINGS = """
hi
Hi
hello
Hello
Hello!
Hello, how are you?
hello how are you
hey
Hey there!
Good morning
good evening
howdy
Hi, I am Gwendolyn
hi there
yo
How are you
how are you doing today
Hello there, friend
Hey!
hi!
Hello?
Good morning to you
hiya
test
"""
QUESTIONS = """
What is the capital of France?
what is the capital of france
Write a python function
Write a Python function that removes vowels from a string
How do I write a loop in Rust?
What is 17 times 3?
Who wrote Hamlet?
How tall is Mount Everest?
explain recursion
Translate cat into German
What is the boiling point of water?
Who won the world cup in 1998?
Fix my JavaScript
Write a SQL query for all users
Why do birds migrate?
What is a virtual machine?
Give me a recipe for goulash
When was Beethoven born?
How many people live in Iceland?
Summarize the theory of relativity
Write a haiku in C++
What is the largest planet?
Who is the mayor of Lisbon?
Can you write HTML?
"""
SAMPLES = (
    "Once upon a time",
    "Hello, how are you?",
    "hi",
    "Tell me a story about a brave fox named Zorblax",
    "The",
    "What is the capital of France?",
    "Write a python function",
    "",
)
_NAME = re.compile(r"\b(?:named|called|name (?:was|of)|was) ((?:[A-Z]\w+[- ]?)+)")
_PROPER = re.compile(r"\b[A-Z][a-z]+\b")
_USUAL = frozenset({"She", "Her"}).union(
    _PROPER.findall((Path(__file__).with_name("plots.txt").read_text("utf-8")).replace("|", " "))
)

Figures = dict[str, str]


def hero_name(story: str) -> str:
    """Return the name by which a story introduces its hero, or an empty string."""
    found = _NAME.search(story)
    return found.group(1).strip() if found else ""


def has_word(text: str, word: str) -> bool:
    """Return whether `word` stands in `text`."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def names_again(story: str) -> bool:
    """Return whether a story says its hero's name again after the introduction."""
    name = hero_name(story)
    return bool(name) and has_word(story[story.find(name) + len(name) :], name)


def has_stray_name(story: str) -> bool:
    """Return whether a name stands in the last third of a story and nowhere before."""
    cut = len(story) * 2 // 3
    seen = set(_PROPER.findall(story[:cut])) | _USUAL
    return any(word not in seen for word in _PROPER.findall(story[cut:]))


def score_stories(told: list[tuple[str, bool]], known: set[str]) -> Figures:
    """Count the good ones among stories and whether they ended."""
    texts = [text for text, _ in told]
    total = len(texts)
    return {
        "stories that end by themselves": f"{sum(ended for _, ended in told)}/{total}",
        "stories all different": f"{len(set(texts))}/{total}",
        "stories that keep the hero's name": f"{sum(map(names_again, texts))}/{total}",
        "stories without a new name in the last third": (
            f"{sum(not has_stray_name(text) for text in texts)}/{total}"
        ),
        "stories not among 20,000 training documents": f"{len(set(texts) - known)}/{total}",
    }


def make_requests(kind_list: str, count: int) -> list[Request]:
    """Make requests for a kind and a name, and for every second one an adjective."""
    kinds, names = kind_list.split(), HERO_NAMES.split()
    return [
        Request(
            kind=kinds[number % len(kinds)],
            name=names[number % len(names)],
            adjective=ADJECTIVES[number % len(ADJECTIVES)] if number % 2 == 0 else "",
        )
        for number in range(count)
    ]


def ask(model: ExportedModel, request: Request, seed: int) -> str:
    """Ask the model for a story."""
    hero = with_article(f"{request.adjective} {request.kind}".strip())
    return model.generate(f"Tell me a story about {hero} named {request.name}.", seed)[0]


def score_requests(requests: list[Request], texts: list[str], label: str) -> Figures:
    """Look for kind and name where the hero is introduced, and for the name again later."""
    kinds = names = both = adjectives = 0
    for request, text in zip(requests, texts, strict=True):
        opening, rest = text[:OPENING], text[OPENING:]
        has_kind = has_word(opening, request.kind)
        has_name = has_word(opening, request.name) and has_word(rest, request.name)
        kinds += has_kind
        names += has_name
        both += has_kind and has_name
        adjectives += bool(request.adjective) and has_word(opening, request.adjective)
    total = len(requests)
    return {
        f"{label}: kind honoured": f"{kinds}/{total}",
        f"{label}: name kept": f"{names}/{total}",
        f"{label}: both": f"{both}/{total}",
        f"{label}: adjective honoured": f"{adjectives}/{sum(bool(r.adjective) for r in requests)}",
    }


def count_answers(model: ExportedModel, text: str, good: Callable[[str], bool]) -> str:
    """Count the lines whose answer starts on a new line, ends by itself and is `good`."""
    lines = text.strip().split("\n")
    answered = 0
    for seed, line in enumerate(lines):
        answer, ended = model.generate(line, seed)
        answered += ended and answer.startswith("\n") and good(answer)
    return f"{answered}/{len(lines)}"


def is_greeting(text: str) -> bool:
    """Return whether an answer greets."""
    return re.match(r"\s*(Hello|Hi|Good)\b", text) is not None


def is_honest(text: str) -> bool:
    """Return whether an answer admits to knowing only stories, and soon."""
    return re.search(r"\bstor(y|ies|yteller)\b", text[:120]) is not None and len(text) < 300


def measure_loss(model: ExportedModel) -> Figures:
    """Score documents that training never sees, as fp16 files."""
    rng = random.Random(HELD_OUT_SEED + 1)
    total, tokens = 0.0, 0
    for _ in range(HELD_OUT_DOCUMENTS):
        ids, learned = encode(model.tokenizer, make_document(rng))
        context = model.config["n_positions"]
        loss, count = model.loss(ids[: context + 1], learned[: context + 1])
        total += loss
        tokens += count
    return {"held-out loss, nats a token": f"{total / tokens:.3f}"}


def evaluate(model: ExportedModel) -> Figures:
    """Measure everything."""
    trained_on = islice(training_documents(SEED), TRAINING_DOCUMENTS)
    known = {document[-1].text.strip() for document, _ in trained_on}
    told = [model.generate("Once upon a time", seed) for seed in range(STORIES)]
    figures = score_stories([(f"Once upon a time{text}", ended) for text, ended in told], known)
    for label, (kinds, count) in REQUESTS.items():
        requests = make_requests(kinds, count)
        texts = [ask(model, request, seed) for seed, request in enumerate(requests)]
        figures |= score_requests(requests, texts, label)
    figures["greetings answered"] = count_answers(model, GREETINGS, is_greeting)
    figures["code and facts honestly declined"] = count_answers(model, QUESTIONS, is_honest)
    return figures | measure_loss(model)


def evaluate_grammar() -> Figures:
    """Hold the grammar's own stories to the same rules: what a perfect pupil would reach."""
    rng = random.Random(HELD_OUT_SEED + 2)
    figures = score_stories([(make_plain_story(rng), True) for _ in range(STORIES)], set())
    for label, (kinds, count) in REQUESTS.items():
        requests = make_requests(kinds, count)
        texts = [" ".join(tell_story(rng, request)) for request in requests]
        figures |= score_requests(requests, texts, label)
    return figures


def main() -> None:
    """Print the figures as a Markdown table, then samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of an exported model")
    parser.add_argument("--samples", type=int, default=1, help="samples for each prompt")
    args = parser.parse_args()
    model = ExportedModel(args.folder)
    ideal = evaluate_grammar()
    print("| measure | first edition | this model | the grammar itself |\n|---|---|---|---|")
    for label, value in evaluate(model).items():
        print(f"| {label} | {FIRST_EDITION.get(label, '')} | {value} | {ideal.get(label, '')} |")
    for prompt in SAMPLES:
        for seed in range(args.samples):
            text, ended = model.generate(prompt, seed)
            print(f"\n>>> {prompt!r}\n{prompt}{text}{'' if ended else ' [cut]'}")


if __name__ == "__main__":
    main()
