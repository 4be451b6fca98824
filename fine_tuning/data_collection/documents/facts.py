"""Extract the facts of a section: answers quoted from the text, each with questions for it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fine_tuning.data_collection.documents.blocks import Items, Paragraph, Table
from fine_tuning.data_collection.documents.english import English
from fine_tuning.data_collection.documents.sections import Section, sentences_of
from fine_tuning.data_collection.documents.wordings import (
    Asked,
    cell_wordings,
    entry_wordings,
    list_wordings,
    swapped,
    topic_wordings,
)

LONGEST = 400  # characters of an answer: a small model cannot memorise longer ones
_SHORTEST = 12
_LEANING = re.compile(
    r"(?:It|They|This|That|These|Those|There|He|She|Its|Their|Such|Here|Both|Otherwise|Then|But|And|So|Also)\b"
)
_ENTRY = re.compile(r"(?P<key>[^\W\d_][^:.!?]{0,40}):\s+(?P<value>\S.{0,300})")


@dataclass(frozen=True)
class Fact:
    """An answer with the questions for it. `passage` is the text from which the answer is quoted."""

    section: Section
    passage: str
    answer: str
    asked: tuple[Asked, ...]


def facts_of(sections: Sequence[Section], language: str) -> list[Fact]:
    """Return the facts of a document in order. `language` is "en", "de", or "" for any other language."""
    if language != "en":
        return [fact for section in sections for fact in _quoted(section, language)]
    english = English("\n".join(section.text() for section in sections))
    found = [fact for section in sections for fact in _facts(section, english)]
    return _with_topics(found, english)


def _facts(section: Section, english: English) -> Iterator[Fact]:
    intro = ""  # the sentence that introduces a list or a table
    for block in section.blocks:
        match block:
            case Paragraph(text):
                told = _standing_alone(sentences_of(text))
                intro = told.pop() if told and told[-1].endswith(":") else ""
                for answer in told:
                    if asked := english.asked(sentences_of(answer)[0]):
                        yield Fact(section, text, answer, tuple(asked))
            case Items(items):
                yield from _of_list(section, items, intro, english)
                intro = ""
            case Table():
                yield from _of_table(section, block, english)
                intro = ""


def _standing_alone(sentences: Sequence[str]) -> list[str]:
    """Return the sentences in groups that can be understood alone.

    A sentence that refers to the one before ("It ...") stays with it.
    """
    found: list[str] = []
    for sentence in sentences:
        if found and _LEANING.match(sentence) and len(found[-1]) + len(sentence) < LONGEST:
            found[-1] += f" {sentence}"
        else:
            found.append(sentence)
    return [text for text in found if _SHORTEST <= len(text) <= LONGEST and not _LEANING.match(text)]


def _of_list(section: Section, items: Sequence[str], intro: str, english: English) -> Iterator[Fact]:
    """Yield a fact for each item of a list, if the items are complete by themselves.

    Otherwise the whole list, with the sentence that introduces it, is the answer of one fact.
    """
    entries = [_ENTRY.fullmatch(item) for item in items]
    if all(entries):
        for item, entry in zip(items, entries, strict=True):
            if entry is not None and len(item) <= LONGEST:
                yield Fact(
                    section,
                    item,
                    item,
                    (Asked("list", entry_wordings(entry["key"], section.heading), _value(entry["value"])),),
                )
        return
    told = [item for item in items if item.endswith((".", "!")) and english.clause(item.rstrip(" .!"))]
    if not intro or len(told) * 2 > len(items):
        for item in told:
            if asked := english.asked(item):
                yield Fact(section, item, item, tuple(asked))
        return
    answer = f"{intro} {'; '.join(item.rstrip(' .;,') for item in items)}."
    if len(answer) <= LONGEST:
        lead = re.match(r"(?P<when>(?:On|Before|After|During|When|If) [^,:]{4,60}),", intro)
        if lead:
            wordings = list_wordings(swapped(english.small(lead["when"])))
        else:
            wordings = topic_wordings(english.small(section.heading or section.place))
        yield Fact(section, "\n".join([intro, *items]), answer, (Asked("list", wordings, _value(items[0])),))


def _of_table(section: Section, table: Table, english: English) -> Iterator[Fact]:
    """Yield a fact for each row of a table. Its answer is, for example, "Hall A: floor 2, capacity 40."."""
    if len(table.rows) < 2:
        return
    head, *rows = table.rows
    for row in filter(None, rows):
        # rows may have fewer cells than the head
        cells = [(column, cell) for column, cell in zip(head[1:], row[1:]) if column and cell and cell != "-"]  # noqa: B905
        answer = f"{row[0]}: {', '.join(f'{column} {cell}' for column, cell in cells)}."
        if not row[0] or not cells or len(answer) > LONGEST:
            continue
        passage = "\n".join([row[0], *(f"{column} {cell}" for column, cell in cells)])
        name = swapped(english.small(row[0]))
        asked = tuple(Asked("table", cell_wordings(english.small(column), name), cell) for column, cell in cells)
        yield Fact(section, passage, answer, asked)


def _with_topics(facts: list[Fact], english: English) -> list[Fact]:
    """Return the facts, with a further question for each fact whose topic no other fact shares.

    The topic is the subject of the answer's first sentence; the question asks for all about it.
    """
    topics = [english.topic(sentences_of(fact.answer)[0]) if fact.asked[0].level == "fact" else "" for fact in facts]
    counts = Counter(_bare(topic) for topic in topics)
    return [
        Fact(
            fact.section,
            fact.passage,
            fact.answer,
            (*fact.asked, Asked("topic", topic_wordings(topic), fact.asked[0].key)),
        )
        if topic and counts[_bare(topic)] == 1
        else fact
        for fact, topic in zip(facts, topics, strict=True)
    ]


def _bare(topic: str) -> str:
    return re.sub(r"^(?:the|a|an|your|my|our|every|each) ", "", topic.casefold())


def _value(text: str) -> str:
    return re.split(r"[,;]", text)[0].strip(" .")


# Other languages: the text under a heading is quoted

_BY_HEADING = {
    "de": (
        "Was steht im Handbuch zu „{0}“?",
        "Was gilt zum Punkt „{0}“?",
        "„{0}“: Was steht dazu im Handbuch?",
        "Was ist unter „{0}“ zu lesen?",
        "„{0}“?",
    ),
    "": ("{0}?", "„{0}“?", "? {0}", "{0}…?"),
}


def _quoted(section: Section, language: str) -> Iterator[Fact]:
    """Yield the text under a heading as one answer of at most `LONGEST` characters.

    Each list item of the form "key: value", and each cell of a table, is yielded as a fact of its own.
    """
    told, length = [], 0
    for block in section.blocks:
        if isinstance(block, Paragraph):
            for sentence in sentences_of(block.text):
                if length + len(sentence) + 1 > LONGEST:
                    break
                told.append(sentence)
                length += len(sentence) + 1
        elif isinstance(block, Items):
            yield from _entries(section, block, language)
        elif isinstance(block, Table):
            yield from _rows(section, block, language)
    if section.heading and length >= _SHORTEST:
        answer = " ".join(told)
        wordings = tuple(form.format(section.heading) for form in _BY_HEADING[language])
        yield Fact(section, section.text(), answer, (Asked("topic", wordings, " ".join(answer.split()[:4])),))


def _entries(section: Section, block: Items, language: str) -> Iterator[Fact]:
    for item in block.items:
        if (entry := _ENTRY.fullmatch(item)) and len(item) <= LONGEST:
            wordings = tuple(form.format(entry["key"]) for form in _BY_HEADING[language])
            yield Fact(section, item, item, (Asked("list", wordings, _value(entry["value"])),))


def _rows(section: Section, table: Table, language: str) -> Iterator[Fact]:
    head, *rows = table.rows
    for row in filter(None, rows):
        for column, cell in zip(head[1:], row[1:]):  # noqa: B905 (a ragged table)
            if row[0] and column and cell:
                wordings = tuple(form.format(f"{row[0]} – {column}") for form in _BY_HEADING[language])
                answer = f"{row[0]}, {column}: {cell}"
                yield Fact(section, f"{row[0]}\n{column}\n{cell}", answer, (Asked("table", wordings, cell),))
