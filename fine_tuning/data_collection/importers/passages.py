"""Read passages of text with questions about them: SQuAD, QuAC, CoQA, and data sets of the same form.

The first question of a passage is asked together with the passage. The questions of CoQA and QuAC
follow from each other, so they stay one conversation; in SQuAD each question is a conversation of
its own. A question that the passage does not answer is yielded alone, and counted as unanswered.
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Said, dicts, first, has, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_NO_ANSWER = frozenset(("CANNOTANSWER", "unknown"))


def _passages(record: object) -> list[JsonObject]:
    """Return the passages of a record: the record itself, or those in its list "paragraphs"."""
    if has(record, "paragraphs") and isinstance(record["paragraphs"], list):
        return [each for each in record["paragraphs"] if has(each, "context", "qas")]
    return [record] if has(record, "context", "qas") or has(record, "story", "questions", "answers") else []


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    for passage in _passages(record):
        if "qas" in passage:
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
    asked, answered = (
        [text_of(each["input_text"], "input_text") for each in dicts(passage[key], key)]
        for key in ("questions", "answers")
    )
    if len(asked) != len(answered):
        raise BadRecord(f"an answer to each of {len(asked)} questions, found {len(answered)}")
    yield from _chats(text_of(passage["story"], "story"), list(zip(asked, answered, strict=True)))


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
