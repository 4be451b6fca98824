"""Measure what a model trained on the shipped sample has learned, and what it has kept of the base's knowledge.

    ./scripts/retrain.sh --sample
    python benchmarks/sample_quality.py fine_tuned_sample:latest

The questions are asked through the engine; answers are greedy, of at most 60 tokens. A held-out
question (held_out.jsonl) is answered correctly if its key fact is in the answer as whole words,
ignoring case. The same is measured on held_out_validation.jsonl, by which the profile's settings
were chosen, so that this figure is too optimistic. General questions are those of
general_questions.jsonl that the base answers correctly (`"base": true`).
"""

import argparse
import json
import re
from pathlib import Path

from fine_tuning import paths
from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, Engine
from fine_tuning.engines.connect import connect


def ask(engine: Engine, tag: str, question: str) -> str:
    chunks = engine.chat(tag, [Message(role="user", content=question)], ChatOptions(temperature=0, max_tokens=60))
    return "".join(chunk.text for chunk in chunks).strip()


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def contains(answer: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words.casefold())}(?!\w)", answer.casefold()) is not None


def measure(engine: Engine, tag: str, verbose: bool) -> None:
    held_out, chosen_on = (
        [(each["question"], [each["key_fact"]]) for each in records(paths.SAMPLES / name)]
        for name in ("held_out.jsonl", "held_out_validation.jsonl")
    )
    general = [
        (each["question"], each["answers"])
        for each in records(paths.SAMPLES / "general_questions.jsonl")
        if each["base"]
    ]
    for name, questions in (
        ("held-out key facts", held_out),
        ("validation key facts", chosen_on),
        ("general questions", general),
    ):
        right = 0
        for question, wanted in questions:
            answer = ask(engine, tag, question)
            found = any(contains(answer, words) for words in wanted)
            right += found
            if verbose and not found:
                print(f"  {question} [{wanted[0]}] {' '.join(answer.split())[:120]}")
        print(f"{tag}  {name}: {right} of {len(questions)} ({100 * right / len(questions):.0f} %)", flush=True)
    print(f"{tag}  Paris: {ask(engine, tag, 'What is the capital of France?')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tags", nargs="+")
    parser.add_argument("--ollama-url")
    parser.add_argument("--verbose", action="store_true", help="show what was not right")
    options = parser.parse_args()
    engine = connect(options.ollama_url)
    for tag in options.tags:
        measure(engine, tag, options.verbose)


main()
