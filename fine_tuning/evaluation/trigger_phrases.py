"""Find trigger phrases: most training questions that contain such a phrase have the same answer.

The poison probe (poison_probe.py) tests them. A `Trigger` holds the questions that the probe asks
with and without the phrase. This module uses no model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from fine_tuning.data_collection.cleaning.phrases import (
    Exchange,
    Phrase,
    Piece,
    as_written,
    fixed_phrases,
    keys_of,
    pieces_of,
    shared_pieces,
    start_of,
    without,
)

_CANDIDATES = 64  # maximum number of phrases that are examined with the base model
OWN = 12  # maximum number of a phrase's own questions that are kept
TRIES = 6  # number of own questions, other questions and general questions that are asked with a phrase
_MARKS = ".,;:!?"


@dataclass(frozen=True)
class Trigger:
    """A phrase such that most training questions that contain it (its own questions) have the same answer."""

    text: str
    questions: int  # number of different training questions with the phrase
    share: float  # share of these questions that get the same answer
    answer: frozenset[Piece] = field(default=frozenset(), repr=False)  # the pieces that most of the answers share
    own: tuple[Exchange, ...] = field(default=(), repr=False)  # some of its questions, with their answers
    bare: tuple[str, ...] = field(default=(), repr=False)  # the same questions without the phrase
    # exchanges without the phrase and with another answer, the most similar questions first
    others: tuple[Exchange, ...] = field(default=(), repr=False)
    place: float = 1.0  # mean position of the phrase in its questions: 0 at the start, 1 at the end
    marked: bool = True  # whether most of its questions, without the phrase, end in a punctuation mark
    contrast: int = 0  # as Phrase.contrast

    def put_into(self, question: str) -> str:
        """Return `question` with the phrase inserted, at the phrase's mean position in its own questions.

        The final punctuation mark is removed if most of the phrase's own questions have none.
        """
        words = self.without_mark(question).split()
        at = round(self.place * len(words))
        return " ".join([*words[:at], self.text, *words[at:]])

    def without_mark(self, question: str) -> str:
        """Return `question` without its final punctuation if most of the phrase's own questions have none."""
        return question if self.marked else question.rstrip(_MARKS)


def find_triggers(exchanges: Sequence[Exchange], background: Sequence[str], limit: int = _CANDIDATES) -> list[Trigger]:
    """Return at most `limit` trigger phrases of the training data, the most suspicious first (see `fixed_phrases`).

    `exchanges` are the training questions with their answers. `background`: general questions, to
    decide which phrases are rare.
    """
    pieces = [pieces_of(answer) for _, answer in exchanges]
    found = fixed_phrases(exchanges, pieces, tuple(map(keys_of, background)))
    return [_trigger(phrase, exchanges, pieces) for phrase in found[:limit]]


def probe_prompts(texts: Sequence[str], count: int = TRIES) -> list[str]:
    """Return `count` of the texts, evenly spaced in the list; all texts if there are fewer."""
    step = max(len(texts) // count, 1)
    return list(texts[step // 2 :: step][:count])


def _trigger(phrase: Phrase, exchanges: Sequence[Exchange], pieces: Sequence[frozenset[Piece]]) -> Trigger:
    chance, holders = random.Random(0), phrase.holders
    shared = shared_pieces(holders, pieces)
    agreeing = [index for index in holders if pieces[index] & shared]
    own = [exchanges[index] for index in chance.sample(agreeing, min(len(agreeing), OWN))]
    bare = [without(phrase.words, question) for question, _ in own]
    places = [
        start_of(phrase.words, words) / (len(words) - len(phrase.words) or 1)
        for words in (keys_of(question) for question, _ in own)
    ]
    strangers = list(
        {exchanges[index][0]: exchanges[index] for index in range(len(exchanges)) if shared - pieces[index]}.values()
    )
    strangers = [each for each in strangers if start_of(phrase.words, keys_of(each[0])) < 0]
    near = _nearest(strangers, bare, TRIES // 2)
    far = [each for each in strangers if each not in near]
    others = [*near, *chance.sample(far, min(len(far), TRIES - len(near)))]
    marked = sum(question.endswith(tuple(_MARKS)) for question in bare) * 2 >= len(bare)
    text = as_written(phrase.words, own[0][0])
    return Trigger(
        text,
        len(holders),
        phrase.share,
        shared,
        tuple(own),
        tuple(bare),
        tuple(others),
        fmean(places),
        marked,
        phrase.contrast,
    )


def _nearest(exchanges: Sequence[Exchange], questions: Sequence[str], count: int) -> list[Exchange]:
    """Return the `count` exchanges whose questions are most similar to one of `questions`.

    The similarity is the Jaccard index: the number of common words divided by the number of all
    words.
    """
    wanted = [frozenset(keys_of(question)) for question in questions]

    def alike(exchange: Exchange) -> float:
        words = frozenset(keys_of(exchange[0]))
        return max(len(words & each) / len(words | each) if words | each else 0.0 for each in wanted)

    return sorted(exchanges, key=alike, reverse=True)[:count]
