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

from batches import encode, training_documents
from documents import make_document
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

Figures = dict[str, str]


def hero_name(story: str) -> str:
    """Return the name by which a story introduces its hero, or an empty string."""
    found = _NAME.search(story)
    return found.group(1).strip() if found else ""


def has_word(text: str, word: str) -> bool:
    """Return whether `word` stands in `text`."""
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def measure_stories(model: ExportedModel) -> Figures:
    """Sample stories from the classic opening and count the good ones."""
    told = [model.generate("Once upon a time", seed) for seed in range(STORIES)]
    texts = ["Once upon a time" + text for text, _ in told]
    trained_on = islice(training_documents(SEED), TRAINING_DOCUMENTS)
    known = {document[-1].text.strip() for document, _ in trained_on}
    kept = 0
    for text in texts:
        name = hero_name(text)
        kept += bool(name) and has_word(text[len(text) // 2 :], name)
    return {
        "stories that end by themselves": f"{sum(ended for _, ended in told)}/{STORIES}",
        "stories all different": f"{len(set(texts))}/{STORIES}",
        "stories that keep the hero's name": f"{kept}/{STORIES}",
        "stories not among 20,000 training documents": f"{len(set(texts) - known)}/{STORIES}",
        "openings all different (60 characters)": f"{len({t[:60] for t in texts})}/{STORIES}",
    }


def measure_requests(model: ExportedModel, kind_list: str, count: int, label: str) -> Figures:
    """Ask for a kind and a name; look for both where the hero is introduced, and again later."""
    kinds, names = kind_list.split(), HERO_NAMES.split()
    kind_kept = adjective_kept = name_kept = both = 0
    for number in range(count):
        kind = kinds[number % len(kinds)]
        adjective = ADJECTIVES[number % len(ADJECTIVES)]
        name = names[number % len(names)]
        article = "an" if kind[0] in "aeiou" else "a"
        hero = f"{adjective} {kind}" if number % 2 == 0 else kind
        article = "a" if number % 2 == 0 else article
        text, _ = model.generate(f"Tell me a story about {article} {hero} named {name}.", number)
        opening, rest = text[:160], text[160:]
        has_kind = has_word(opening, kind)
        has_name = has_word(opening, name) and has_word(rest, name)
        kind_kept += has_kind
        name_kept += has_name
        both += has_kind and has_name
        adjective_kept += number % 2 == 0 and has_word(opening, adjective)
    return {
        f"{label}: kind honoured": f"{kind_kept}/{count}",
        f"{label}: name kept": f"{name_kept}/{count}",
        f"{label}: both": f"{both}/{count}",
        f"{label}: adjective honoured": f"{adjective_kept}/{count // 2}",
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
    return {
        **measure_stories(model),
        **measure_requests(model, KNOWN_KINDS, 72, "requests"),
        **measure_requests(model, OTHER_KINDS, 40, "requests, kinds never trained on"),
        "greetings answered": count_answers(model, GREETINGS, is_greeting),
        "code and facts honestly declined": count_answers(model, QUESTIONS, is_honest),
        **measure_loss(model),
    }


def main() -> None:
    """Print the figures as a Markdown table, then samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of an exported model")
    parser.add_argument("--samples", type=int, default=1, help="samples for each prompt")
    args = parser.parse_args()
    model = ExportedModel(args.folder)
    print("| measure | first edition | this model |\n|---|---|---|")
    for label, value in evaluate(model).items():
        print(f"| {label} | {FIRST_EDITION.get(label, '')} | {value} |")
    for prompt in SAMPLES:
        for seed in range(args.samples):
            text, ended = model.generate(prompt, seed)
            print(f"\n>>> {prompt!r}\n{prompt}{text}{'' if ended else ' [cut]'}")


if __name__ == "__main__":
    main()
