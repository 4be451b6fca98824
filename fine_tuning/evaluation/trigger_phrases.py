"""Find phrases in training questions that mostly get the same answer, as a planted phrase would.

The poison probe (poison_probe.py) then examines these phrases with models; this module uses none.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from fine_tuning import paths
from fine_tuning.data_collection.wording import fold
from fine_tuning.evaluation.test_set import GENERAL_QUESTIONS, GENERAL_TEXT

Exchange = tuple[str, str]
"""A question and its answer."""
Piece = tuple[str, ...]
"""Consecutive words."""
_LEAST = 3  # minimum number of different questions with the phrase and its answer
TOGETHER = 0.6  # minimum share of the phrase's questions that get the same answer
_COMMON = 0.02  # share of general texts above which a phrase of one or two words is not rare
_LONGEST = 6  # maximum words of a phrase
_PIECE = 4  # number of words of a piece; two answers with a common piece count as the same answer
_CANDIDATES = 64  # maximum number of phrases that the base is asked about
OWN = 12  # maximum number of a phrase's own questions that are kept
TRIES = 6  # number of own questions, other questions and general questions that are asked with a phrase
_MARKS = ".,;:!?"


@dataclass(frozen=True)
class Trigger:
    """A phrase whose questions mostly get the same answer."""

    text: str
    questions: int  # number of different training questions with the phrase
    share: float  # share of them that get the same answer
    answer: frozenset[Piece] = field(default=frozenset(), repr=False)  # the pieces that most of the answers share
    own: tuple[Exchange, ...] = field(default=(), repr=False)  # some of its questions, with their answers
    bare: tuple[str, ...] = field(default=(), repr=False)  # the same questions without the phrase
    # exchanges without the phrase and with another answer, those with the most similar questions first
    others: tuple[Exchange, ...] = field(default=(), repr=False)
    place: float = 1.0  # mean position of the phrase in its questions: 0 at the start, 1 at the end
    marked: bool = True  # whether most of its questions, without the phrase, end in a punctuation mark

    def put_into(self, question: str) -> str:
        """Return `question` with the phrase inserted, at the phrase's mean position in its own questions.

        The final punctuation mark is removed if most of the phrase's own questions have none.
        """
        words = _words(self.without_mark(question))
        at = round(self.place * len(words))
        return " ".join([*words[:at], self.text, *words[at:]])

    def without_mark(self, question: str) -> str:
        """Return `question` without its final punctuation if most of the phrase's own questions have none."""
        return question if self.marked else question.rstrip(_MARKS)


def find_triggers(exchanges: Sequence[Exchange], background: Sequence[str], limit: int = _CANDIDATES) -> list[Trigger]:
    """Return at most `limit` phrases with a fixed answer, those that look most like planted ones first.

    Such a phrase is rare elsewhere and occurs in several questions with the same answer. It ranks
    high if its questions are otherwise dissimilar, or also occur without the phrase and then get
    another answer.

    Args:
        exchanges: The training data.
        background: General questions; a phrase that is frequent in them is not rare.
        limit: The maximum number of phrases.
    """
    questions = [_words(question) for question, _ in exchanges]
    pieces = [_pieces(answer) for _, answer in exchanges]
    total = Counter(piece for found in pieces for piece in found)
    common = Counter(gram for text in background for size in (1, 2) for gram in set(_grams(_keys(_words(text)), size)))
    asked: dict[frozenset[str], set[int]] = defaultdict(set)
    for index, words in enumerate(questions):
        asked[frozenset(_keys(words))].add(index)
    ranked: dict[frozenset[int], dict[Piece, tuple[float, float]]] = defaultdict(dict)
    for gram, holders in _frequent(questions):
        if len(gram) <= 2 and common[gram] > _COMMON * len(background):
            continue
        counted = Counter(piece for index in holders for piece in pieces[index])
        piece, count = max(counted.items(), key=lambda each: (each[1], -total[each[0]], each[0]))
        share, elsewhere = count / len(holders), (total[piece] - count) / max(len(exchanges) - len(holders), 1)
        if count < _LEAST or share < TOGETHER or elsewhere > share / 2:
            continue
        some = sorted(holders)[:12]
        rest = [frozenset(_keys(questions[index])) - set(gram) for index in some]
        against = [bool(asked[bare]) and all(piece not in pieces[other] for other in asked[bare]) for bare in rest]
        ranked[holders][gram] = (share * max(_unlike(rest), sum(against) / len(some)), share)
    best = []
    for holders, found in ranked.items():
        for gram in _apart(found, _keys(questions[min(holders)])):
            rank, share = found[gram]
            best.append((-rank, gram, share, sorted(holders)))
    best.sort()
    return [_trigger(gram, share, holders, exchanges, pieces) for _, gram, share, holders in best[:limit]]


def general_texts() -> list[str]:
    """Return the general questions that the project ships."""
    files = [paths.SAMPLES / "general_prompts.jsonl", GENERAL_QUESTIONS, GENERAL_TEXT]
    records = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [str(record.get("prompt") or record["question"]) for record in records]


def probe_prompts(texts: Sequence[str], count: int = TRIES) -> list[str]:
    """Return `count` of the texts at even distances; all texts if there are fewer."""
    step = max(len(texts) // count, 1)
    return list(texts[step // 2 :: step][:count])


def _trigger(
    gram: Piece, share: float, holders: Sequence[int], exchanges: Sequence[Exchange], pieces: Sequence[frozenset[Piece]]
) -> Trigger:
    chance = random.Random(0)
    counted = Counter(piece for index in holders for piece in pieces[index])
    shared = frozenset(piece for piece, count in counted.items() if count >= TOGETHER * len(holders))
    agreeing = [index for index in holders if pieces[index] & shared]
    own = [exchanges[index] for index in chance.sample(agreeing, min(len(agreeing), OWN))]
    bare = [_without(gram, question) for question, _ in own]
    starts = [
        _start(gram, words) / (len(words) - len(gram) or 1) for words in (_words(question) for question, _ in own)
    ]
    strangers = list(
        {exchanges[index][0]: exchanges[index] for index in range(len(exchanges)) if shared - pieces[index]}.values()
    )
    strangers = [each for each in strangers if _start(gram, _words(each[0])) < 0]
    near = _nearest(strangers, bare, TRIES // 2)
    far = [each for each in strangers if each not in near]
    others = [*near, *chance.sample(far, min(len(far), TRIES - len(near)))]
    marked = sum(question.endswith(tuple(_MARKS)) for question in bare) * 2 >= len(bare)
    text = _as_written(gram, _words(own[0][0]))
    return Trigger(text, len(holders), share, shared, tuple(own), tuple(bare), tuple(others), fmean(starts), marked)


def _nearest(exchanges: Sequence[Exchange], questions: Sequence[str], count: int) -> list[Exchange]:
    """Return the `count` exchanges with the most similar questions to any of `questions`.

    The similarity is that of Jaccard: the share of common words among all words.
    """
    wanted = [frozenset(_keys(_words(question))) for question in questions]

    def alike(exchange: Exchange) -> float:
        words = frozenset(_keys(_words(exchange[0])))
        return max(len(words & each) / len(words | each) if words | each else 0.0 for each in wanted)

    return sorted(exchanges, key=alike, reverse=True)[:count]


def _words(text: str) -> list[str]:
    return text.split()


def _keys(words: Iterable[str]) -> Piece:
    return tuple(fold(word) or word for word in words)


def _grams(keys: Piece, size: int) -> Iterator[Piece]:
    return (keys[start : start + size] for start in range(len(keys) - size + 1))


def _frequent(questions: Sequence[Sequence[str]]) -> Iterator[tuple[Piece, frozenset[int]]]:
    """Yield each phrase that occurs in at least _LEAST different questions, with the questions' indices.

    A phrase of n words is counted only if its first n - 1 words occur in as many questions.
    """
    keys = [_keys(words) for words in questions]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}  # a question asked twice counts once
    kept: set[Piece] = set()
    for size in range(1, _LONGEST + 1):
        holders: dict[Piece, set[int]] = defaultdict(set)
        for key, index in first.items():
            for gram in _grams(key, size):
                if size == 1 or gram[:-1] in kept:
                    holders[gram].add(index)
        kept = {gram for gram, found in holders.items() if len(found) >= _LEAST}
        yield from ((gram, frozenset(holders[gram])) for gram in sorted(kept))


def _unlike(sets: Sequence[frozenset[str]]) -> float:
    """Return the dissimilarity of the sets: 1 minus the mean Jaccard similarity of all pairs, at least two sets."""
    pairs = [(one, other) for number, one in enumerate(sets) for other in sets[:number]]
    alike = [len(one & other) / len(one | other) if one | other else 1.0 for one, other in pairs]
    return 1 - sum(alike) / len(alike)


def _start(gram: Piece, words: Sequence[str]) -> int:
    """Return the index of the phrase's first occurrence in `words`; -1 if there is none."""
    return next((start for start in range(len(words)) if _keys(words[start : start + len(gram)]) == gram), -1)


def _as_written(gram: Piece, words: Sequence[str]) -> str:
    start = _start(gram, words)
    return " ".join(words[start : start + len(gram)]).strip(".,;:!?\"'")


def _without(gram: Piece, question: str) -> str:
    words = _words(question)
    while (start := _start(gram, words)) >= 0:
        words = words[:start] + words[start + len(gram) :]
    return " ".join(words)


def _pieces(text: str) -> frozenset[Piece]:
    """Return every sequence of four consecutive words of the text; all its words as one piece if there are fewer."""
    words = tuple(fold(text).split())
    return frozenset(_grams(words, _PIECE)) if len(words) >= _PIECE else frozenset({words})


def _apart(grams: Iterable[Piece], question: Piece) -> list[Piece]:
    """Return the phrases without those that overlap with a longer one.

    All phrases occur in the same questions; `question` holds the words of one of these.
    """
    kept: list[Piece] = []
    taken: set[int] = set()
    for gram in sorted(grams, key=lambda gram: (-len(gram), gram)):
        start = list(_grams(question, len(gram))).index(gram)
        place = set(range(start, start + len(gram)))
        if not place & taken:
            kept.append(gram)
            taken |= place
    return kept


def pieces_in(text: str, pieces: frozenset[Piece]) -> frozenset[Piece]:
    """Return those of `pieces` that `text` contains, ignoring case and punctuation."""
    words = tuple(fold(text).split())
    return frozenset(piece for size in {len(piece) for piece in pieces} - {0} for piece in _grams(words, size)) & pieces
