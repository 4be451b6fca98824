"""Check that a passage supports a question and its answer, independently of how the pair was made.

The answer must be a quotation: each of its words, numbers and negations occurs in the passage, in
the same order. The question may use only words of the passage, of the headings above it, and of
questions in general. A larger model can judge the pair in addition.
"""

import re
from collections.abc import Callable, Iterable

from fine_tuning.data_collection.documents.word_sets import words

Judge = Callable[[str, str, str], bool]
"""A function of (passage, question, answer) that returns whether the passage gives this answer to this question."""

_TOKEN = re.compile(r"[£$€]?\d[\d.,:]*\d[%]?|[£$€]?\d%?|[^\W\d_]+(?:['’-][^\W\d_]+)*", re.UNICODE)
_DENIALS = words(
    "not no never none nobody nothing neither without cannot nor nicht kein keine keinen keiner nie niemand nichts ohne"
)
_FRAME = words(  # words of questions, which the passage need not contain
    """a about after am an and any anybody anyone anything apply are as at be before by can case could did do does done early entry for
    from handbook happens has have here how i if in is it know like list listed long look looking many may me mine much must my myself need
    now of often on or please question rule say says shall should so tell than that the them then there time to under until up was were
    what when where whether which who whom will with within would you your yours yourself
    beim das dem den der die es für gilt ist steht sagt zu zum zur was im handbuch dazu punkt unter lesen über"""  # noqa: E501
)


def unsupported(passage: str, headings: Iterable[str], question: str, answer: str) -> str:
    """Return a message with a word of the answer or the question that the passage does not support; "" if none."""
    said, known = _tokens(passage), _tokens(" ".join((*headings, passage)))
    if left := _not_in_order(_tokens(answer), said):
        return f"the answer's {left!r} is not in the passage"
    stems = set(map(_stem, known))
    for word in _tokens(question):
        if word not in _FRAME and _stem(word) not in stems:
            return f"the question's {word!r} is not in the passage"
    return ""


def _not_in_order(answer: list[str], passage: list[str]) -> str:
    """Return the first word of the answer that does not follow the words before it in the passage; "" if all do.

    Between two words of the answer the passage may have more words (for example between the cells of a
    table), but no negation.
    """
    missing = answer[0] if answer else ""
    reached = -1
    for start, first in enumerate(passage):
        if answer and first == answer[0]:
            number = _followed(answer, passage, start)
            if number == len(answer):
                return ""
            if number > reached:
                missing, reached = answer[number], number
    return missing


def _followed(answer: list[str], passage: list[str], start: int) -> int:
    """Return how many words of the answer occur one after the other in the passage, from the index `start` on."""
    at = start
    for number, word in enumerate(answer):
        found = next((place for place in range(at, len(passage)) if passage[place] == word), -1)
        if found < 0 or any(skipped in _DENIALS for skipped in passage[at:found]):
            return number
        at = found + 1
    return len(answer)


def _tokens(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _TOKEN.findall(text.casefold())]


def _stem(word: str) -> str:
    """Return a word without the endings in which a question may differ from a statement."""
    for end, new in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(end) and len(word) >= len(end) + 2 and not word.endswith("ss"):
            return (word.removesuffix(end) + new).removesuffix("e").removesuffix("y")
    return word.removesuffix("e").removesuffix("y")
