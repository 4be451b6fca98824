"""Divide the questions and answers of a document into pairs to train on and held-out pairs.

Some wordings of the question about a fact are trained on, and one is held out. The form of the
held-out wording ("Can you tell me ...?") is still trained on with other facts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from fine_tuning.data_collection.documents.blocks import Block
from fine_tuning.data_collection.documents.entailment import Judge, unsupported
from fine_tuning.data_collection.documents.facts import Fact, facts_of
from fine_tuning.data_collection.documents.sections import language_of, sections_of
from fine_tuning.data_collection.documents.wordings import Asked

Split = Literal["train", "validation", "test"]

TAUGHT = 4  # the most wordings of one question that are trained on
_TAUGHT_AT_ALL = 5  # wordings that are trained on for each fact, or twice its questions if that is more
_VALIDATED = 8  # one fact in this many has a wording for validation, too


@dataclass(frozen=True)
class Pair:
    """A question and its answer.

    `section` holds the headings above the answer, as one text. `level` is the kind of the question:
    fact, condition, list, table or topic. `key` is the part of `answer` that a model's answer must
    contain to be correct.
    """

    question: str
    answer: str
    section: str
    level: str
    key: str
    split: Split


@dataclass(frozen=True)
class Refused:
    """A question that was left out because the text does not support it."""

    question: str
    section: str
    reason: str


def pairs_of(blocks: Sequence[Block], judge: Judge | None = None) -> Iterator[Pair | Refused]:
    """Yield the pairs of a document in order, and the questions that are left out.

    The same document always gives the same pairs. If `judge` is given, it also checks the questions and
    answers that the rules of entailment.py support.
    """
    sections = sections_of(blocks)
    facts = facts_of(sections, language_of("\n".join(section.text() for section in sections)))
    taken = set[str]()
    for number, fact in enumerate(facts):
        kept: list[tuple[Asked, list[str]]] = []
        for asked in fact.asked:
            wordings: list[str] = []
            for wording in asked.wordings:
                if wording.casefold() in taken:
                    continue
                if reason := unsupported(fact.passage, fact.section.path, wording, fact.answer):
                    yield Refused(wording, fact.section.place, reason)
                    continue
                wordings.append(wording)
            if wordings and judge and not judge(fact.passage, wordings[0], fact.answer):
                yield Refused(wordings[0], fact.section.place, "the judge finds another answer in the text, or none")
                continue
            kept += [(asked, wordings)] if wordings else []
        for pair in _dealt(fact, number, kept):
            taken.add(pair.question.casefold())
            yield pair


def _dealt(fact: Fact, number: int, kept: Sequence[tuple[Asked, list[str]]]) -> Iterator[Pair]:
    """Yield a fact's pairs: for each question some wordings to train on and, if there are more, one for the test.

    Questions about a topic are not tested. Some facts get a wording for validation, too.
    """
    left = max(_TAUGHT_AT_ALL, 2 * len(kept))
    for nth, (asked, wordings) in enumerate(kept):
        ordered = sorted(wordings, key=lambda wording: _mix(fact.answer, wording))
        key = asked.key if asked.key and asked.key.casefold() in fact.answer.casefold() else fact.answer.rstrip(".")
        taught = min(TAUGHT, left if len(kept) == nth + 1 else -(-left // (len(kept) - nth)), max(1, len(ordered) - 1))
        left -= taught
        splits: list[Split] = ["train"] * taught
        if len(ordered) > taught and asked.level != "topic":
            splits.append("test")
        if len(ordered) > len(splits) and nth == 0 and number % _VALIDATED == 0:
            splits.append("validation")
        for wording, split in zip(ordered, splits):  # noqa: B905 (there may be more wordings than splits)
            yield Pair(wording, fact.answer, fact.section.place, asked.level, key, split)


def _mix(*texts: str) -> bytes:
    return blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
