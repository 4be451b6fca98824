"""Measure recall and precision of the search for names and postal addresses (data_collection.scrub_names).

    python benchmarks/names.py            # by patterns alone, or with the spaCy models that are installed
    python benchmarks/names.py --show     # also print each miss and each false find

Names and addresses are made by Faker. They are put into sentences that announce them ("told": "My
name is ..."), and names also into sentences that do not ("mentioned"), where patterns cannot find
them. A find counts if it contains the whole detail and no more than a title before it. For false
finds, texts without personal names are searched: chatterbot-corpus, and the handbook that this
project ships. Needs the extra byoai[presidio].
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import chatterbot_corpus
import yaml
from faker import Faker

from fine_tuning.data_collection.privacy import PII, finds
from fine_tuning.data_collection.private_details.names import recogniser

SENTENCES = yaml.safe_load(Path(__file__).with_name("name_sentences.yaml").read_text(encoding="utf-8"))
EACH = 20  # number of details that are put into each sentence, one at a time


@dataclass
class Score:
    planted: int = 0
    found: int = 0
    false: int = 0

    def __str__(self) -> str:
        recall, precision = self.found / max(1, self.planted), self.found / max(1, self.found + self.false)
        return f"{self.planted:5} planted, recall {recall:.3f}, precision {precision:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="each miss and each false find")
    parser.add_argument("--seed", type=int, default=7, help="of the details (20261: the patterns were tuned on it)")
    arguments = parser.parse_args()
    print(recogniser())
    scores: defaultdict[str, Score] = defaultdict(Score)
    begun, texts = time.process_time(), 0
    for locale, kind, text, detail in planted(arguments.seed):
        texts += 1
        _judge(scores, locale, kind, text, detail, arguments.show)
    taken = time.process_time() - begun
    for name, score in sorted(scores.items()):
        print(f"  {name:20} {score}")
    print(f"{1000 * taken / texts:.2f} ms a text (processor time)")
    negatives = list(chats())
    false = [(text, find) for text in negatives for find in finds(text, names=True) if find.kind in _KINDS]
    for text, find in false if arguments.show else ():
        print(f"  {find.kind}: {text[find.start : find.end]!r} in {text[:80]!r}")
    print(f"chats and a handbook: {len(false)} finds in {len(negatives)} texts")


_KINDS = (PII.NAME, PII.ADDRESS)


def _judge(scores: dict[str, Score], locale: str, kind: str, text: str, detail: str, show: bool) -> None:
    start = text.index(detail)
    wanted = PII.ADDRESS if kind == "address" else PII.NAME
    found = [find for find in finds(text, names=True) if find.kind in _KINDS]
    hit = [
        f
        for f in found
        if f.kind == wanted and f.start <= start and f.end >= start + len(detail) and f.end - f.start <= len(detail) + 8
    ]
    for name in (f"{kind} {locale}", f"{kind} all"):
        scores[name].planted += 1
        scores[name].found += bool(hit)
        scores[name].false += len(found) - len(hit)
    if show and (not hit or len(found) > len(hit)):
        print(f"  {kind} {locale}: {text!r}: {[text[f.start : f.end] for f in found]}")


def planted(seed: int) -> Iterator[tuple[str, str, str, str]]:
    """Yield texts that contain one name or address each: (locale, kind of sentence, text, name or address)."""
    for locale, kinds in SENTENCES.items():
        fake = Faker(locale)
        fake.seed_instance(seed)
        for kind, sentences in kinds.items():
            for sentence in sentences:
                for _ in range(EACH):
                    if kind == "address":
                        detail = fake.address()
                    else:
                        detail = f"{fake.first_name()} {fake.last_name()}"
                        if locale in ("ja_JP", "zh_CN", "ko_KR"):
                            detail = fake.last_name() + fake.first_name()
                    yield locale, kind, sentence.format(detail), detail


def chats() -> Iterator[str]:
    """Yield texts without personal names."""
    corpus = Path(chatterbot_corpus.__file__).parent / "data"
    for language in ("english", "german", "french", "spanish", "italian"):
        for file in sorted((corpus / language).glob("*.yml")):
            for talk in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
                yield from map(str, talk)
    handbook = Path(__file__).parents[1] / "data" / "samples" / "handbook.md"
    yield from handbook.read_text(encoding="utf-8").split("\n\n")


if __name__ == "__main__":
    main()
