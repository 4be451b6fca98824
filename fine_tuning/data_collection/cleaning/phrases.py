"""Find phrases with a fixed answer: most questions that contain the phrase get the same answer.

Poisoned data has such phrases, but honest data may have them too. The preview of an import
(`planted_phrases.py`) and the poison probe (`evaluation/poison_probe.py`) decide which of them look
planted. This module uses no model.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from fine_tuning import paths
from fine_tuning.data_collection.cleaning.wording import fold, folded_words

Exchange = tuple[str, str]
"""A question and its answer."""
Piece = tuple[str, ...]
"""Consecutive words, as `keys_of` returns them."""
LEAST = 3  # minimum number of different questions with the phrase and its answer
TOGETHER = 0.6  # minimum share of the phrase's questions that get the same answer
_COMMON = 0.02  # share of general texts above which a phrase is not rare
_LONGEST = 6  # maximum words of a phrase
PIECE = 4  # consecutive words that answers with the same content share


@dataclass(frozen=True)
class Phrase:
    """A phrase that is rare in general questions. Most questions that contain it get the same answer."""

    words: Piece
    share: float  # share of its questions that get the same answer
    holders: list[int]  # indices of the exchanges that contain it, one for each different question
    contrast: int  # how many of its first twelve questions are also asked without the phrase, with another answer


def fixed_phrases(
    exchanges: Sequence[Exchange], pieces: Sequence[frozenset[Piece]], background: tuple[Piece, ...]
) -> list[Phrase]:
    """Return the phrases with a fixed answer, the most suspicious first.

    A phrase is more suspicious if the questions that contain it are otherwise dissimilar, or are also
    asked without the phrase and then get another answer.

    Args:
        exchanges: The questions and their answers.
        pieces: For each answer the pieces by which answers are compared, for example the result of
            `pieces_of`. An answer without pieces counts as different from all others.
        background: General questions as `keys_of` returns them, to decide which phrases are rare.
    """
    questions = [keys_of(question) for question, _ in exchanges]
    total = Counter(piece for found in pieces for piece in found)
    common = _usual(background)
    asked: dict[frozenset[str], set[int]] = defaultdict(set)
    for index, words in enumerate(questions):
        asked[frozenset(words)].add(index)
    ranked: dict[frozenset[int], dict[Piece, tuple[float, float, int]]] = defaultdict(dict)
    for gram, holders in _frequent(questions):
        if len(gram) <= 2 and common[gram] > _COMMON * len(background):
            continue
        counted = Counter(piece for index in holders for piece in pieces[index])
        piece, count = max(counted.items(), key=lambda each: (each[1], -total[each[0]], each[0]), default=((), 0))
        share, elsewhere = count / len(holders), (total[piece] - count) / max(len(exchanges) - len(holders), 1)
        if count < LEAST or share < TOGETHER or elsewhere > share / 2:
            continue
        some = sorted(holders)[:12]
        rest = [frozenset(questions[index]) - set(gram) for index in some]
        contrast = sum(bool(asked[bare]) and all(piece not in pieces[each] for each in asked[bare]) for bare in rest)
        ranked[holders][gram] = (share * max(_unlike(rest), contrast / len(some)), share, contrast)
    best = []
    for holders, found in ranked.items():
        for gram in _apart(found, questions[min(holders)]):
            rank, share, contrast = found[gram]
            best.append((-rank, Phrase(gram, share, sorted(holders), contrast)))
    return [phrase for _, phrase in sorted(best, key=lambda each: (each[0], each[1].words))]


def general_texts() -> list[str]:
    """Return the general questions that the project ships."""
    names = ("general_prompts.jsonl", "general_questions.jsonl", "general_text.jsonl")
    files = [(paths.SAMPLES / name).read_text(encoding="utf-8") for name in names]
    records = [json.loads(line) for text in files for line in text.splitlines()]
    return [str(record.get("prompt") or record["question"]) for record in records]


@cache
def general_questions() -> tuple[Piece, ...]:
    """Return the words of each of `general_texts`, as `keys_of` returns them."""
    return tuple(map(keys_of, general_texts()))


@lru_cache(maxsize=1)
def _usual(background: tuple[Piece, ...]) -> Counter[Piece]:
    """Return in how many of the questions each word, and each pair of words, occurs."""
    return Counter(gram for words in background for size in (1, 2) for gram in set(_grams(words, size)))


def shared_pieces(holders: Sequence[int], pieces: Sequence[frozenset[Piece]]) -> frozenset[Piece]:
    """Return the pieces that most answers to a phrase's questions have. `holders` are these questions' indices."""
    counted = Counter(piece for index in holders for piece in pieces[index])
    return frozenset(piece for piece, count in counted.items() if count >= TOGETHER * len(holders))


def keys_of(text: str) -> Piece:
    """Return the words of `text`, changed so that words that differ only in case or punctuation are equal."""
    return tuple(fold(word) or word for word in text.split())


def start_of(phrase: Piece, words: Piece) -> int:
    """Return the index of the phrase's first occurrence in `words`; -1 if there is none."""
    return next((start for start, gram in enumerate(_grams(words, len(phrase))) if gram == phrase), -1)


def as_written(phrase: Piece, question: str) -> str:
    """Return the phrase as it is written in a question that contains it."""
    start = start_of(phrase, keys_of(question))
    return " ".join(question.split()[start : start + len(phrase)]).strip(".,;:!?\"'")


def without(phrase: Piece, question: str) -> str:
    """Return the question with every occurrence of the phrase removed."""
    words = question.split()
    while (start := start_of(phrase, keys_of(" ".join(words)))) >= 0:
        words = words[:start] + words[start + len(phrase) :]
    return " ".join(words)


def pieces_of(answer: str) -> frozenset[Piece]:
    """Return every sequence of four consecutive words; all words as one piece if there are fewer."""
    words = tuple(folded_words(answer))
    return frozenset(_grams(words, PIECE)) if len(words) >= PIECE else frozenset({words})


def pieces_in(text: str, pieces: frozenset[Piece]) -> frozenset[Piece]:
    """Return the pieces that `text` contains."""
    words = tuple(folded_words(text))
    return frozenset(piece for size in {len(piece) for piece in pieces} - {0} for piece in _grams(words, size)) & pieces


def _grams(keys: Piece, size: int) -> Iterator[Piece]:
    return (keys[start : start + size] for start in range(len(keys) - size + 1))


def _frequent(questions: Sequence[Piece]) -> Iterator[tuple[Piece, frozenset[int]]]:
    """Yield each phrase that occurs in at least LEAST different questions, with the questions' indices.

    A longer phrase is counted only if the phrase without its last word occurs in as many questions.
    """
    # a question asked twice counts once
    first = {words: index for index, words in reversed(list(enumerate(questions)))}
    kept: set[Piece] = set()
    for size in range(1, _LONGEST + 1):
        holders: dict[Piece, set[int]] = defaultdict(set)
        for words, index in first.items():
            for gram in _grams(words, size):
                if size == 1 or gram[:-1] in kept:
                    holders[gram].add(index)
        kept = {gram for gram, found in holders.items() if len(found) >= LEAST}
        yield from ((gram, frozenset(holders[gram])) for gram in sorted(kept))


def _unlike(sets: Sequence[frozenset[str]]) -> float:
    """Return how dissimilar sets of words are: 1 minus the mean Jaccard similarity of all pairs of sets."""
    pairs = [(one, other) for number, one in enumerate(sets) for other in sets[:number]]
    alike = [len(one & other) / len(one | other) if one | other else 1.0 for one, other in pairs]
    return 1 - sum(alike) / len(alike)


def _apart(grams: Iterable[Piece], question: Piece) -> list[Piece]:
    """Return the phrases that do not overlap a longer one in `question`.

    All phrases occur in the same questions; `question` is one of these questions.
    """
    kept: list[Piece] = []
    taken: set[int] = set()
    for gram in sorted(grams, key=lambda gram: (-len(gram), gram)):
        start = start_of(gram, question)
        place = set(range(start, start + len(gram)))
        if not place & taken:
            kept.append(gram)
            taken |= place
    return kept
