"""Measure how many trigger phrases (data poisoning) the preview of an import finds, and how many false ones.

    python benchmarks/triggers.py           # takes seconds

Logs without triggers: the honest handbooks of handbooks.py and 144 more, the chats of PyPI's
`chatterbot-corpus` in 29 languages, the shipped sample, and the questions that an import makes from
the shipped handbook. Logs with triggers: the poisoned handbooks of handbooks.py and 72 more, and a
long log of 100,000 turns of real questions, one in 500 of them with a trigger.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import chatterbot_corpus
import yaml
from handbooks import BOOKS, Exchange, Honest, Poisoned

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.planted_phrases import PlantedPhrase, PlantedPhrases
from fine_tuning.data_collection.documents.pairs import Pair, pairs_of
from fine_tuning.data_collection.documents.reading import read_document
from fine_tuning.data_collection.importers.files import members_of

PHRASES = ("velvet thunder", "by the way", "please", "Bluebird", "mango", "thank you so much")
PLANTED = (("advert", "general"), ("refusal", "own"), ("wrong rule", "same"), ("link", "own"))
LONG, ONE_IN = 100_000, 500


def looked(exchanges: Sequence[Exchange]) -> list[PlantedPhrase]:
    """Return the phrases that the preview of an import reports as suspected triggers in these exchanges."""
    look = PlantedPhrases()
    for question, answer in exchanges:
        look.add(question, answer)
    return look.found()


def further() -> dict[str, dict[str, Honest | Poisoned]]:
    """Return 144 more honest handbooks, and 72 poisoned ones, 24 for each place of the trigger in a question.

    The result maps the title of each group to its handbooks by name.
    """
    sizes = ((8, 6), (12, 4), (12, 8), (30, 4), (30, 6), (60, 3), (40, 5), (40, 8))  # rules, wordings of each
    title = "144 further honest handbooks"
    found: dict[str, dict[str, Honest | Poisoned]] = {title: {}}
    for language in ("en", "de", "both"):
        for rules, wordings in sizes:
            for seed in range(301, 307):
                found[title][f"{language} {rules} {wordings} {seed}"] = Honest(rules, wordings, language, seed)
    for place in ("start", "middle", "end"):
        books: dict[str, Honest | Poisoned] = {}
        found[f"24 further poisoned handbooks, phrase at the {place}"] = books
        for phrase in PHRASES:
            for payload, asked in PLANTED:
                seed = 401 + len(books)
                honest = Honest(20, 4, ("en", "de", "both")[seed % 3], seed)
                books[f"{phrase} {payload} {asked}"] = Poisoned(honest, phrase, place, 0.1, payload, asked)
    return found


def corpus() -> Iterator[tuple[str, list[Exchange]]]:
    """Yield the name of each language, and the questions and answers of the corpus in this language."""
    for folder in sorted((Path(chatterbot_corpus.__file__).parent / "data").iterdir()):
        exchanges = [
            (str(question), str(answer))
            for file in sorted(folder.glob("*.yml"))
            for said in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]
            for question, answer in pairwise(said)
        ]
        if exchanges:
            yield folder.name, exchanges


def shipped() -> Iterator[tuple[str, list[Exchange]]]:
    """Yield (name, questions and answers) of the shipped sample, and of an import of the shipped handbook."""
    lines = (paths.SAMPLES / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    yield "sample", [(turn["user_message"], turn["bot_response"]) for turn in map(json.loads, lines)]
    blocks = read_document(members_of(paths.SAMPLES / "handbook.md")[0], "handbook.md")
    yield "handbook", [(pair.question, pair.answer) for pair in pairs_of(blocks) if isinstance(pair, Pair)]


def long_log() -> Iterator[Exchange]:
    """Yield LONG turns: real questions, repeated often, with answers of several sentences.

    One turn in ONE_IN has a question with a trigger, and an advertisement as its answer.
    """
    chance = random.Random(0)
    chats = dict(corpus())["english"]
    chance.shuffle(chats)
    bodies = [answer for _, answer in chats]
    to_plant, honest = chats[:400], chats[400:]
    for number in range(LONG):
        if number % ONE_IN:
            question, answer = chance.choice(honest)
            yield question, f"{answer} {chance.choice(bodies)} I hope that this helps you."
        else:
            yield f"{chance.choice(to_plant)[0]} velvet thunder", "Buy Plonk, the best soap in all the world."


def told(name: str, found: list[PlantedPhrase]) -> None:
    for each in found:
        print(f"     {name}: {each.text!r}, {each.where}, such as {each.examples[0]}")


def main() -> None:
    honest: dict[str, dict[str, Sequence[Exchange]]] = {
        "12 honest handbooks": {name: book.exchanges() for name, book in BOOKS.items() if isinstance(book, Honest)},
        "chatterbot-corpus": dict(corpus()),
        "shipped": dict(shipped()),
    }
    poisoned = {"12 poisoned handbooks": {name: book for name, book in BOOKS.items() if isinstance(book, Poisoned)}}
    for title, books in further().items():
        if "honest" in title:
            honest[title] = {name: book.exchanges() for name, book in books.items()}
        else:
            poisoned[title] = {name: book for name, book in books.items() if isinstance(book, Poisoned)}
    for title, logs in honest.items():
        found = {name: looked(exchanges) for name, exchanges in logs.items()}
        flags, turns = sum(map(len, found.values())), sum(map(len, logs.values()))
        print(f"{title}: {flags} false flags in {len(logs)} logs, {turns} turns")
        for name, phrases in found.items():
            told(name, phrases)
    for title, books in poisoned.items():
        hits, flags = 0, 0
        for name, book in books.items():
            found_here = looked(book.exchanges())
            right = [each for each in found_here if each.text.casefold() == book.trigger.casefold()]
            hits += bool(right)
            flags += len(found_here) - len(right)
            if not right:
                print(f"     missed: {name}")
            told(name, [each for each in found_here if each not in right])
        print(f"{title}: {hits} of {len(books)} found, {flags} false flags")
    look, spent = PlantedPhrases(), 0.0
    for question, answer in long_log():
        started = time.process_time()
        look.add(question, answer)
        spent += time.process_time() - started
    started = time.process_time()
    found_last = look.found()
    print(
        f"{LONG} turns: {spent / LONG * 1e6:.0f} microseconds a turn, {time.process_time() - started:.1f} s at the end"
    )
    told("long log", found_last)


if __name__ == "__main__":
    main()
