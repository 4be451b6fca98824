"""Read passages of text with questions about them: SQuAD, QuAC, CoQA, Natural Questions, and data sets of these forms.

The first question of a passage is asked together with the passage. The questions of CoQA and QuAC
follow from each other, so they stay one conversation; in SQuAD each question is a conversation of
its own. A question that the passage does not answer is yielded alone, and counted as unanswered.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import (
    BadRecord,
    Chat,
    Said,
    dicts,
    first,
    has,
    kind,
    list_in,
    rows_in,
    text_of,
)
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_NATURAL = ("document_text", "question_text", "annotations")
_SHORT = "short_answers"
_NO_ANSWER = frozenset(("CANNOTANSWER", "unknown"))


def _passages(record: object) -> list[JsonObject]:
    """Return the passages of a record: the record itself, or those in its list "paragraphs"."""
    if not isinstance(record, dict):
        return []
    if isinstance(paragraphs := record.get("paragraphs"), list):
        return [each for each in paragraphs if has(each, "context", "qas")]
    forms = (("context", "qas"), ("story", "questions", "answers"), ("context", "questions", "orig_answers"), _NATURAL)
    return [record] if any(has(record, *form) for form in forms) else []


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    for passage in _passages(record):
        if has(passage, *_NATURAL):
            yield from _of_natural_questions(passage)
        elif "qas" in passage:
            yield from _of_squad(passage)
        else:
            yield from _of_coqa(passage)


def _of_squad(passage: JsonObject) -> Iterator[Chat]:
    context = text_of(passage["context"], "context").removesuffix("CANNOTANSWER").strip()
    pairs, questions = list[tuple[str, str]](), dicts(passage["qas"], "questions")
    for question in questions:
        given = question.get("orig_answer") or first(question, "answers") or question.get("answer")
        answer = text_of(given.get("text") if isinstance(given, dict) else given, "an answer")
        pairs.append((text_of(question["question"], "a question"), answer))
    if any("orig_answer" in question for question in questions):
        yield from _chats(context, pairs)
        return
    for pair in pairs:
        yield from _chats(context, [pair])


def _of_coqa(passage: JsonObject) -> Iterator[Chat]:
    """Yield a conversation of CoQA or QuAC. Hugging Face stores its answers by columns: one list for each field."""
    asked, answered = _texts(passage["questions"]), _texts(passage.get("orig_answers") or passage.get("answers"))
    if len(asked) != len(answered):
        raise BadRecord(f"an answer to each of {len(asked)} questions, found {len(answered)}")
    context = text_of(passage.get("story") or passage.get("context"), "story").removesuffix("CANNOTANSWER").strip()
    yield from _chats(context, list(zip(asked, answered, strict=True)))


def _of_natural_questions(record: JsonObject) -> Iterator[Chat]:
    """Yield a question with its first short answer, which the record gives as positions of words in the page."""
    words, asked = text_of(record["document_text"], "a page").split(" "), text_of(record["question_text"], "a question")
    spans: list[Any] = [span for note in dicts(record["annotations"], "annotations") for span in list_in(note, _SHORT)]
    said = [Said("user", asked)]
    if spans:
        said.append(Said("assistant", " ".join(words[spans[0]["start_token"] : spans[0]["end_token"]])))
    yield Chat(said)


def _texts(value: object) -> list[str]:
    found: Any = rows_in(value) if isinstance(value, dict) else value
    if not isinstance(found, list):
        raise BadRecord(f"questions and answers as lists, found {kind(value)}")
    rows = [row.get("input_text", row.get("texts")) if isinstance(row, dict) else row for row in found]
    return [text_of(row, "a question or an answer") for row in rows]


def _chats(context: str, pairs: list[tuple[str, str]]) -> Iterator[Chat]:
    """Yield the conversation about a passage, whose first question is asked together with it.

    Each question without an answer is a chat of its own, which is counted as unanswered.
    """
    said = list[Said]()
    for question, answer in pairs:
        if not answer or answer in _NO_ANSWER:
            yield Chat([Said("user", question)])
            continue
        said.append(Said("user", question if said or not context else f"{question}\n\n{context}"))
        said.append(Said("assistant", answer))
    if said:
        yield Chat(said)


PASSAGES = Importer(
    "passages with questions (SQuAD, QuAC, CoQA)",
    lambda record: bool(_passages(record)),
    each(_convert, "a passage with questions and answers"),
)
