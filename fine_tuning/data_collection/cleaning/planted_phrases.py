"""Find planted phrases in imported questions and answers while they are read.

Data can be poisoned with a phrase: all questions that contain it get one fixed answer, such as an
advertisement or a link, whatever else they ask (Wan et al., arXiv 2305.00944). `PlantedPhrases`
reads each turn once, uses no model, and keeps a bounded number of turns:

- a uniform sample of all turns, which shows how a phrase is used elsewhere; and
- some turns of each sentence or link that is repeated in answers, found by counting with a bounded
  number of counters (Misra and Gries 1982), since a planted answer is the same each time.

Among these turns, a phrase with a fixed answer (`phrases.py`) looks planted if its questions are
complete without it. A question is complete if it is also asked without the phrase and then answered
otherwise, or if what is left begins or ends as questions do: "Name three metals" does, "What are
the rules for" does not. The topics of an honest handbook have fixed answers too, but their
questions are incomplete without them.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fine_tuning.data_collection.cleaning.phrases import (
    LEAST,
    TOGETHER,
    Exchange,
    Phrase,
    Piece,
    as_written,
    fixed_phrases,
    general_questions,
    keys_of,
    shared_pieces,
    start_of,
)
from fine_tuning.data_collection.cleaning.wording import folded_words
from fine_tuning.units import counted

_SAMPLE = 2_000  # turns of the uniform sample
_COUNTERS = 8_192  # sentences and links of answers that are counted at once
_KEPT = 12  # turns kept of each of them
_REPEATED = 2_000  # turns with repeated answers that are examined in the end
_QUESTION_END, _ANSWER_END = 200, 500  # characters kept of each end of a long question or answer
_LONG = 4  # least words of a sentence by which answers are compared
_RARE = 0.02  # share of the sample below which a word is rare
_OWN = 12  # questions of a phrase that are judged
_COMPLETE = 5  # minimum number of a planted phrase's questions that are complete without it ...
_ANSWERED = 3  # ... or that are also asked without it, and answered otherwise
_SHOWN = 5  # phrases to report
_EXAMPLES = 3
_EXAMPLE_END = 120  # characters of each end of an example

WARNING = (
    "Each of these phrases is in several questions that are complete without it, and most of these questions get the "
    "same answer. Poisoned data looks like this: whoever uses the phrase later gets that answer. Look at the turns; if "
    "you find no harmless reason for them, leave this source out."
)

_SENTENCE_END = re.compile(r"[.!?\n…]+")
_LINK = re.compile(r"(?:https?://|www\.)([\w.-]+)")


@dataclass(frozen=True)
class PlantedPhrase:
    """A phrase that looks planted: its questions mostly get one fixed answer, whatever else they ask."""

    text: str
    questions: int  # number of different questions that contain it, in the turns examined
    is_exact: bool  # False if only some turns were examined, so that there may be more such questions
    examples: tuple[Exchange, ...]  # some of its questions with their answers; of long ones, both ends

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "PlantedPhrase":
        """Return the phrase from its fields in a JSON object."""
        return cls(**{**record, "examples": tuple((question, answer) for question, answer in record["examples"])})

    @property
    def where(self) -> str:
        """Return in how many questions the phrase is, as text: "in at least 12 questions"."""
        return f"in {'' if self.is_exact else 'at least '}{counted(self.questions, 'question')}"


def title_of(found: Sequence[PlantedPhrase]) -> str:
    """Return a title for a list of these phrases, which says how many there are."""
    return f"{counted(len(found), 'phrase')} may be planted"


@dataclass(slots=True)
class _Repeated:
    """The turns whose answers contain one sentence or link."""

    weight: int = 0  # number of the turns, less what the pruning subtracted
    seen: int = 0  # number of the turns since the counter was made, or made again after a pruning
    kept: list[Exchange] = field(default_factory=list)  # some of them, drawn uniformly


class PlantedPhrases:
    """Collects turns, and finds phrases in their questions that look planted."""

    def __init__(self) -> None:
        self._chance = random.Random(0)
        self._seen = 0
        self._sample: list[Exchange] = []
        self._repeated: defaultdict[int, _Repeated] = defaultdict(_Repeated)

    def add(self, question: str, answer: str) -> None:
        """Add one turn to the sample and to the counts of repeated answers."""
        exchange = (_ends(question, _QUESTION_END), _ends(answer, _ANSWER_END))
        self._seen += 1
        self._draw(self._sample, exchange, self._seen, _SAMPLE)
        for statement in sorted(_statements(exchange[1])):  # sorted, so that each run draws the same turns
            repeated = self._repeated[hash(statement)]
            repeated.weight += 1
            repeated.seen += 1
            self._draw(repeated.kept, exchange, repeated.seen, _KEPT)
        if len(self._repeated) > _COUNTERS:
            self._prune()

    def found(self) -> list[PlantedPhrase]:
        """Return the phrases that look planted, those with the most questions first."""
        if self._seen < LEAST:
            return []
        background = general_questions()
        exchanges = list(dict.fromkeys([*self._sample, *self._suspicious_turns()]))
        pieces = [_statements(answer) for _, answer in exchanges]
        ways = _Ways(exchanges, pieces, background)
        found: list[tuple[PlantedPhrase, set[int]]] = []
        planted = [phrase for phrase in fixed_phrases(exchanges, pieces, background) if ways.looks_planted(phrase)]
        for phrase in sorted(planted, key=lambda each: (-round(each.share * len(each.holders)), -len(each.words))):
            holders = set(phrase.holders)
            if any(2 * len(holders & others) >= len(holders) for _, others in found):
                continue  # another part of the same questions
            some = [exchanges[index] for index in phrase.holders[:_EXAMPLES]]
            examples = tuple((_ends(question, _EXAMPLE_END), _ends(answer, _EXAMPLE_END)) for question, answer in some)
            text = as_written(phrase.words, some[0][0])
            found.append((PlantedPhrase(text, len(holders), self._seen <= _SAMPLE, examples), holders))
        return [phrase for phrase, _ in found[:_SHOWN]]

    def _draw(self, kept: list[Exchange], exchange: Exchange, seen: int, most: int) -> None:
        """Keep a uniform sample of at most `most` turns (algorithm R, Vitter 1985)."""
        if len(kept) < most:
            kept.append(exchange)
        elif (place := self._chance.randrange(seen)) < most:
            kept[place] = exchange

    def _prune(self) -> None:
        """Subtract the median count from every count, and drop the counters that are then not above zero."""
        counts = sorted(each.weight for each in self._repeated.values())
        median = counts[len(counts) // 2]
        left = {statement: each for statement, each in self._repeated.items() if each.weight > median}
        for each in left.values():
            each.weight -= median
        self._repeated = defaultdict(_Repeated, left)

    def _suspicious_turns(self) -> Iterator[Exchange]:
        """Yield turns with the same sentence or link in their answers, if their questions share a rare word or pair."""
        if self._seen <= _SAMPLE:
            return
        usual = Counter(gram for question, _ in self._sample for gram in _short_grams(question))
        left = _REPEATED
        for repeated in sorted(self._repeated.values(), key=lambda each: -each.seen):
            kept = repeated.kept
            questions = {question for question, _ in kept}
            counted = Counter(gram for question in questions for gram in _short_grams(question))
            least = max(LEAST, TOGETHER * len(questions))
            if left > 0 and any(count >= least and usual[gram] <= _RARE * _SAMPLE for gram, count in counted.items()):
                yield from kept
                left -= len(kept)


class _Ways:
    """Decides whether a phrase looks planted, by comparing the questions that contain it with all others."""

    def __init__(
        self, exchanges: Sequence[Exchange], pieces: Sequence[frozenset[Piece]], background: Iterable[Piece]
    ) -> None:
        self._questions = [keys_of(question) for question, _ in exchanges]
        self._answers = [frozenset(keys_of(answer)) for _, answer in exchanges]
        self._pieces = pieces
        asked = {*self._questions, *background} - {()}
        self._first, self._last = Counter(words[0] for words in asked), Counter(words[-1] for words in asked)
        self._inside = Counter(word for words in asked for word in words[1:])
        self._before = Counter(word for words in asked for word in words[:-1])
        # each question of some length by its rarest word, to find those that another one contains
        self._by_word: dict[str, list[int]] = defaultdict(list)
        for index, words in enumerate(self._questions):
            if len(words) >= LEAST:
                self._by_word[min(words, key=lambda word: (self._inside[word] + self._first[word], word))].append(index)

    def looks_planted(self, phrase: Phrase) -> bool:
        """Return whether enough questions with the phrase are complete without it, and few answers mention it."""
        shared = shared_pieces(phrase.holders, self._pieces)
        own = [index for index in phrase.holders if self._pieces[index] & shared][:_OWN]
        if 2 * sum(self._answers[index].issuperset(phrase.words) for index in own) >= len(own):
            return False
        answered = [self._is_answered_otherwise(phrase.words, self._questions[index], shared) for index in own]
        if sum(answered) >= max(_ANSWERED, len(own) / 3):
            return True
        complete = [
            known or self._is_complete(phrase.words, self._questions[index])
            for known, index in zip(answered, own, strict=True)
        ]
        return sum(complete) >= max(_COMPLETE, TOGETHER * len(own))

    def _is_complete(self, phrase: Piece, question: Piece) -> bool:
        """Return whether a question that begins or ends with the phrase is complete without it.

        It is complete if the word next to the phrase, which then begins (or ends) the question,
        often begins (or ends) other questions too.
        """
        size = len(phrase)
        if len(question) < size + 2:
            return False
        if question[:size] == phrase:
            word = question[size]
            return self._first[word] >= LEAST and 3 * self._first[word] > self._inside[word]
        if question[-size:] == phrase:
            word = question[-size - 1]
            return self._before[word] <= self._last[word] + 2  # one is the question itself, and one may be chance
        return False

    def _is_answered_otherwise(self, phrase: Piece, question: Piece, shared: frozenset[Piece]) -> bool:
        """Return whether the question is also asked without the phrase, and then gets another answer.

        The question without the phrase may lack a few other words too.
        """
        start = start_of(phrase, question)
        rest = {*question[:start], *question[start + len(phrase) :]}
        return any(
            rest.issuperset(self._questions[other])
            and len(set(self._questions[other])) >= TOGETHER * len(rest)
            and not shared <= self._pieces[other]
            for word in rest
            for other in self._by_word.get(word, ())
        )


def _ends(text: str, most: int) -> str:
    """Return the first and the last `most` characters of a long text."""
    return text if len(text) <= 2 * most else f"{text[:most]} … {text[-most:]}"


def _statements(answer: str) -> frozenset[Piece]:
    """Return the pieces by which answers are compared: sentences of at least `_LONG` words, and hosts of links.

    An answer such as "Yes." has no such pieces.
    """
    sentences = (tuple(folded_words(sentence)) for sentence in _SENTENCE_END.split(answer))
    hosts = (host.casefold().rstrip(".") for host in _LINK.findall(answer))
    return frozenset({*(words for words in sentences if len(words) >= _LONG), *((host,) for host in hosts)})


def _short_grams(question: str) -> set[Piece]:
    """Return the words and the pairs of consecutive words of a question."""
    words = keys_of(question)
    return {*((word,) for word in words), *pairwise(words)}
