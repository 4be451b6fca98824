"""Read records with a question and its answer under any of many names: tables, FAQ, and data sets of questions.

`_ASKED` and `_ANSWERED` list the names. A question with choices is asked together with them, and the
answer is the text of the right choice, also where the record has only its number or letter.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

from fine_tuning.data_collection.importers.chats import (
    QUESTION_MARKS,
    BadRecord,
    Chat,
    Fault,
    Said,
    has,
    rated,
    rows_in,
    text_of,
)
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.pairs import after_history
from fine_tuning.data_collection.importers.people_records import key_of
from fine_tuning.data_collection.importers.preference import dialogue
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue, parse_json


def _keys(*names: str) -> tuple[str, ...]:
    """Return names of fields as `key_of` returns them."""
    return tuple(map(key_of, names))


_ASKED = _keys(
    *("question", "questions", "q", "query", "prompt", "user", "human", "user_message", "instruction", "input"),
    *("input_text", "inputs_pretokenized", "inputs", "ask", "request", "patterns", "usersays", "customer"),
    *("user_input", "input_transcript", "question_title", "question_text", "question_stem"),
    *("frage", "pregunta", "pergunta", "domanda", "vraag", "问题", "質問"),
)
_ANSWERED = _keys(
    *("answer", "reference_answer", "expected_output", "answers", "response", "completion", "assistant", "bot"),
    *("bot_response", "output", "target", "targets_pretokenized", "targets", "generation", "reply", "agent", "ai"),
    *("chatbot", "responses", "completions", "human_answers", "accepted_answer", "best_answer", "correct_answer"),
    *("long_answer", "short_answer", "model_output", "model_response", "output_text", "solution"),
    *("generated_solution", "resolution", "a", "solutions"),
    *("antwort", "réponse", "reponse", "respuesta", "resposta", "risposta", "antwoord", "答案", "回答"),
)
_FULL = _keys("solution", "long_answer")  # rather than the "answer" beside them, which is only the result
# names that count only together
_TOGETHER = (
    *(("patient", "doctor"), ("client", "therapist"), ("student", "tutor"), ("front", "back"), ("input", "content")),
    *(("message1", "message2"), ("message", "text")),
)
# of a test of a program that answers from texts: the expected answer is right, and what the program said may not be
_TESTED = _keys("contexts", "retrieved_contexts", "retrieval_context", "reference_contexts", "actual_output")
_EXPECTED = _keys("ground_truth", "reference", "expected_output", "expected_answer", "ideal")
# names of questions that count only beside one of `_ANSWERED`: {"title": "…", "selftext": "…", "answers": ...}
_TITLES = ("title", "name", "subject", "description", "problem", "issue", "text", "examples", "utterances", "phrases")
_NAMED = frozenset(("answer", "answers", "acceptedanswer", "responses", "reply"))  # beside which a "name" is asked
_BODIES = _keys("selftext", "body", "question_content", "question_body")
_ASKED_WORDS = frozenset(("question", "questions", "q", "query", "prompt", "user"))
_ANSWERED_WORDS = frozenset(
    ("answer", "answers", "a", "response", "completion", "assistant", "bot", "reply", "resolution")
)
# of an answer that is an object
_ANSWER_KEYS = ("text", "answer", "response", "content", "body", "input_text", "value", "spans", "solution")
_RANKS, _SCORES = ("rank",), ("pm_score", "overall_score", "score", "votes", "upvotes")  # the lowest rank is the best
_ACCEPTED = ("selected", "is_selected", "accepted", "is_accepted")
_HTML = re.compile(r"\s*<(?:p|div|ul|ol|h\d|span|br)\b[^>]*>", re.IGNORECASE)
_NO_TEXT = frozenset(("id", "ids", "count", "date", "time", "score", "type", "url", "key", "length", "tokens"))
_VERDICTS = ("accept", "reject", "ignore")  # Prodigy: an annotator's verdict, under the name "answer"
_NO_ANSWER = ("No Answer Present.",)  # MS MARCO
_MOST_COLUMNS, _LONGEST_NAME = 12, 40
_CONTEXT = ("context", "passage", "article", "kontext")
_TASKS = _keys("definition", "task_definition")
_CHOICES = ("choices", "options")
_RIGHT = _keys("answer_key", "answer_idx", "answer_index", "correct", "correct_option", "label", "gold", "cop")
_LETTERS = ("A", "B", "C", "D", "E")  # columns of choices: C-Eval and many tables of tests
# other columns of choices, and the name of what is asked if it is no question
_COLUMNS_OF_CHOICES = (
    (("opa", "opb", "opc", "opd"), ""),  # MedMCQA
    (("answera", "answerb", "answerc"), ""),  # SocialIQA
    (("answer0", "answer1", "answer2", "answer3"), ""),  # CosmosQA
    (("optiona", "optionb", "optionc", "optiond", "optione"), ""),
    (("option1", "option2", "option3", "option4", "option5"), "sentence"),  # WinoGrande
    (("sol1", "sol2"), "goal"),  # PIQA
)
_SESSIONS = _keys(
    *("conversation_id", "conversation_no", "dialogue_id", "dialog_id", "conv_id", "session_id"),
)
_SENTENCE = re.compile(r"[.!?…:。！？]\s*$|\n")  # in a text that is more than the name of a thing
_PLACE = re.compile(r"(-?\d+)(?:\.0)?")  # a column with empty cells may have been read as floats


@dataclass(frozen=True)
class _Names:
    """The names of a record's fields; "" for each that is missing. `body` continues the question."""

    asked: str = ""
    answered: str = ""
    others: tuple[str, ...] = ()  # further names of answers, for records in which `answered` is empty
    context: str = ""
    body: str = ""
    task: str = ""
    choices: str = ""
    fields: tuple[tuple[str, str], ...] = ()  # if each choice has a field of its own: its label, and the field
    are_letters: bool = False  # whether these fields are "A", "B", …
    session: str = ""


@dataclass(frozen=True)
class _AnswerKey:
    """How the records of a file name the right one of their choices, as far as the sample tells."""

    is_text: bool = False  # whether a value that is the text of a choice means this choice, also if it is a number
    first_place: int | None = None  # whether places are counted from 0 or from 1


def _read(source: Source) -> Iterator[Chat | Fault]:
    """Yield the chats. If all labels are 0 or 1, they say which answers are right, as those of WikiQA do."""
    sample = source.found.sample
    labels = [record["label"] for record in sample if has(record, "label") and _pair(record).answered != "label"]
    are_verdicts = 0 in labels and 1 in labels and all(type(label) is int and label in (0, 1) for label in labels)
    key = _answer_key(sample)

    def convert(record: JsonObject, source: Source) -> Iterable[Chat]:
        return _convert({**record, "label": record.get("label") == 1} if are_verdicts else record, key)

    yield from each(convert, "a question and an answer")(source)


def _answer_key(sample: Sequence[object]) -> _AnswerKey:
    """Return how records name the right choice: by its text, if most of them do, or by its label or its place.

    This is decided for the whole file, since 4 may be a text or a place if the choices are 3, 4, 5 and 6.
    SocialIQA counts places from 1, CosmosQA from 0, and of MedMCQA there are both.
    """
    texts, others, most = 0, list[str](), 0
    for record in sample:
        if not isinstance(record, dict):
            continue
        value, labels, choices = "", list[str](), dict[str, str]()
        with suppress(*UNREADABLE):  # such a record is set aside later
            record = _opened(record)
            names = _pair(record)
            choices = _choices(record, names)
            value, labels = _told(record.get(names.answered)), _labels(names, choices)
        if not choices or not value:
            continue
        most = max(most, 1 + max(labels.index(label) for label in choices))
        if value in choices.values():
            texts += 1
        elif value in labels or _PLACE.fullmatch(value):
            others.append(value.removesuffix(".0"))
    return _AnswerKey(texts > len(others), 0 if "0" in others else 1 if str(most) in others else None)


def _opened(record: JsonObject) -> JsonObject:
    """Return a record with its question, the choices and the solutions where other data sets have them.

    The original files of ARC, OpenBookQA and CommonsenseQA have {"question": {"stem": "…", "choices": …}};
    APPS and TACO have the solutions as JSON in a text.
    """
    asked, solutions = record.get("question"), record.get("solutions")
    if isinstance(asked, dict) and "stem" in asked and "choices" in asked:
        record = {**record, "question": asked["stem"], "choices": asked["choices"]}
    if isinstance(solutions, str) and solutions.startswith("["):
        with suppress(ValueError):
            record = {**record, "solutions": parse_json(solutions)}
    return record


def _convert(record: JsonObject, key: _AnswerKey) -> Iterable[Chat]:
    """Yield the chat of a question and its answer, or one for each wording of the question.

    If the record maps questions to answers (`_is_map`), yield a chat for each question. Several
    wordings with several answers (as in the intents of a chatbot) are paired in order; the shorter list
    is repeated until the longer one ends. Of several answers to one question, the one that is accepted
    or rated best is used (`_answer`).
    """
    if _is_map(record):
        for question, answer in record.items():
            yield Chat([Said("user", question), Said("assistant", _answer(answer, "answer"))])
        return
    record = _opened(record)
    names = _pair(record)
    if record[names.answered] in (None, "", []):
        filled = next((name for name in names.others if record[name] not in (None, "", [])), names.answered)
        names = replace(names, answered=filled)
    asked, answer = record[names.asked], record[names.answered]
    if isinstance(steps := record.get("labels"), list) and isinstance(answer, list) and len(steps) == len(answer):
        raise BadRecord("an answer, found its steps with a verdict on each")  # of a process reward model
    if not isinstance(asked, list):
        said = [*dialogue(_question(record, names), "user"), Said("assistant", _right(record, names, key))]
        session = text_of(record.get(names.session), "an id")
        said = [each for each in said if each.text or each is said[-1]]
        yield Chat(rated(after_history(record, said), record), session)
        return
    answers = answer if isinstance(answer, list) and answer else [answer]
    for number in range(max(len(asked), len(answers)) if asked else 0):
        wording, one = asked[number % len(asked)], answers[number % len(answers)]
        yield Chat([Said("user", text_of(wording, names.asked)), Said("assistant", _answer(one, names.answered))])


def _question(record: JsonObject, names: _Names) -> str:
    """Return the text that is asked: the task, the question, the context, and the choices, as far as there are any.

    In a conversation, a context that is a list is left out, since it holds what was said before (QReCC's "Context").
    """
    context = names.context if not names.session or not isinstance(record.get(names.context), list) else ""
    texts = [_passage(record[name]) for name in (names.task, names.asked, names.body, context) if name]
    shown = [plain for text in texts if (plain := _plain(text)).strip()]
    if choices := _choices(record, names):
        shown.append("\n".join(_labelled(label, text) for label, text in choices.items()))
    asked = "\n\n".join(shown)
    return html.unescape(asked) if "incorrect_answers" in record else asked  # Open Trivia Database


def _passage(value: JsonValue) -> str:
    """Return a question or its context as text. It is a text, a list of texts, or a table of titles with sentences."""
    if isinstance(value, str):
        return value
    if rows := rows_in(value):  # HotpotQA: {"title": [...], "sentences": [[...]]}
        value = [list(row.values()) for row in rows]
    if isinstance(value, dict):  # NarrativeQA: {"text": "…", "tokens": [...]}; PubMedQA: {"contexts": [...], …}
        value = next((value[key] for key in ("text", "contexts") if value.get(key)), next(iter(value.values()), None))
    if not isinstance(value, list):
        return text_of(value, "a text")
    return "\n\n".join(_flat(each) for each in value)


def _flat(value: JsonValue) -> str:
    return "\n".join(map(_flat, value)) if isinstance(value, list) else text_of(value, "a text")


def _choices(record: JsonObject, names: _Names) -> dict[str, str]:
    """Return the texts of a question's choices by their labels; {} if it has none. An empty choice is left out."""
    if not names.choices and not names.fields:
        return {}
    if names.fields:
        texts = {label: text_of(record.get(field), field) for label, field in names.fields}
        return {label: text for label, text in texts.items() if text}
    found = record.get(names.choices)
    if isinstance(found, dict) and len(found) > 1 and all(isinstance(text, str) for text in found.values()):
        return {label: str(text) for label, text in found.items()}  # MedQA: {"A": "…", "B": "…"}
    rows = rows_in(found) if isinstance(found, dict) else found if isinstance(found, list) else []
    told = [text for row in rows if isinstance(text := row.get("text") if isinstance(row, dict) else row, str)]
    if len(told) < 2 or len(told) != len(rows):
        return {}
    labels = [str(row.get("label") or "") if isinstance(row, dict) else "" for row in rows]
    labels = labels if all(labels) else [chr(ord("A") + number) for number in range(len(told))]
    return dict(zip(labels, told, strict=True))


def _labels(names: _Names, choices: Mapping[str, str]) -> list[str]:
    """Return the labels of all choices, also of those that are empty in this record."""
    return [label for label, _ in names.fields] or [*choices]


def _labelled(label: str, text: str) -> str:
    return text if re.match(rf"\W?{re.escape(label)}[).:]", text) else f"{label}. {text}"


def _told(value: JsonValue) -> str:
    """Return the value that names the right choice as text; "" if it is neither text nor a number."""
    return str(value).strip() if isinstance(value, int | float | str) and not isinstance(value, bool) else ""


def _right(record: JsonObject, names: _Names, key: _AnswerKey) -> str:
    """Return the answer to a question; if the question has choices, the text of the right one."""
    value, choices = record[names.answered], _choices(record, names)
    told = _told(value)
    if choices and told and not (key.is_text and told in choices.values()):
        labels = _labels(names, choices)
        named = [label for label, field in names.fields if field == told]  # "option2"
        label = next((label for label in (*named, told.strip("().").upper(), told) if label in labels), "")
        place = _PLACE.fullmatch(told)
        if place and not label:
            label = _label_at(int(place[1]), names, labels, key)
        if place or label:
            return _labelled(label, choices[label]) if label in choices else ""
    if isinstance(record.get(names.choices), dict):
        for label, text in choices.items():
            if _labelled(label, text) == _labelled(label, told):
                return _labelled(label, text)
    answer = _answer(value, names.answered)
    return "" if answer in _NO_ANSWER else html.unescape(answer) if "incorrect_answers" in record else answer


def _label_at(place: int, names: _Names, labels: Sequence[str], key: _AnswerKey) -> str:
    """Return the label of the choice at a place; "" for -1, which data sets write where the answer is kept secret."""
    if place == -1:
        return ""
    if key.first_place is None and names.fields and not names.are_letters:
        raise BadRecord("right choices that tell whether they are counted from 0 or from 1: write their letters")
    nth = place - (key.first_place or 0)
    if not 0 <= nth < len(labels):
        raise BadRecord(f"the number of one of {len(labels)} choices, found {place}")
    return labels[nth]


def _answer(value: JsonValue, name: str) -> str:
    """Return the text of an answer. A list of answers gives the best one, an object the text in it.

    A list of sentences whose `name` is in the singular, such as "answer", holds the paragraphs of one answer.
    """
    if isinstance(value, list) and (texts := [each for each in value if isinstance(each, str)]) == value and texts:
        are_paragraphs = not name.lower().endswith("s") and any(map(_SENTENCE.search, texts))
        return "\n\n".join(texts) if are_paragraphs else texts[0]
    if isinstance(value, dict) and (rows := rows_in(value)):  # SQuAD and ELI5: {"text": [...], "score": [...]}
        value = [*rows]
    if isinstance(value, list):
        value = _best_of(value) if value else ""
    if isinstance(value, dict):
        value = next((value[key] for key in _ANSWER_KEYS if value.get(key)), None)
        if isinstance(value, list):
            value = value[0] if value else ""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return _plain(text_of(value, name))


def _best_of(answers: list[JsonValue]) -> JsonValue:
    """Return the answer that is marked as accepted, or has the best rank or score; else the first."""
    rated = [each for each in answers if isinstance(each, dict)]
    if accepted := [each for each in rated if any(each.get(key) is True for key in _ACCEPTED)]:
        return accepted[0]
    for key in (*_RANKS, *_SCORES):
        marks = [mark for each in rated if isinstance(mark := each.get(key), int | float)]
        if marks and len(marks) == len(rated):
            return rated[marks.index(min(marks) if key in _RANKS else max(marks))]
    return answers[0]


def _plain(text: str) -> str:
    """Return a text as Markdown if it is HTML, as exports of help desks and web pages have it."""
    return text_of_html(text) if _HTML.match(text) else text


def _pair(record: object) -> _Names:
    return _names_of(tuple(record)) if isinstance(record, dict) else _Names()


@lru_cache(maxsize=1000)
def _names_of(keys: tuple[str, ...]) -> _Names:
    """Return which of these keys of a record holds what. It is cached, as most records of a file have the same keys."""
    names = {key_of(str(name).strip().casefold()): name for name in keys}

    def first_of(known: Sequence[str]) -> str:
        return next((names[name] for name in known if name in names), "")

    asked, answered, context = first_of(_ASKED), first_of(_FULL) or first_of(_ANSWERED), first_of(_CONTEXT)
    choices = first_of(_CHOICES)
    fields, sentence = _fields_of_choices(keys, names)
    answered = answered or (first_of(_RIGHT) if choices or fields else "")
    asked = asked or sentence
    if any(name in names for name in _TESTED):
        answered = first_of(_EXPECTED) or answered
    if not asked or not answered:
        both = next(((names[one], names[other]) for one, other in _TOGETHER if {one, other} <= names.keys()), None)
        asked, answered = both or (asked, answered)
    if answered and not asked:
        is_named = key_of(answered.casefold()) in _NAMED
        asked = first_of(_TITLES if is_named else tuple(name for name in _TITLES if name != "name"))
    asked, answered = asked or _with_word(keys, _ASKED_WORDS), answered or _with_word(keys, _ANSWERED_WORDS)
    if answered and not asked:
        asked = _with_word(keys, frozenset(("description", "problem", "issue"))) or context
    body = first_of(_BODIES) if key_of(asked.casefold()) in ("title", "questiontitle") else ""
    body = body or (names.get("startercode", "") if "solutions" in names else "")  # APPS: it is to be completed
    context = context if context != asked else ""
    own = {answered, *(field for _, field in fields)}
    others = tuple(names[name] for name in _ANSWERED if name in names and names[name] not in own)
    tasks, session, are_letters = first_of(_TASKS), first_of(_SESSIONS), fields[:1] == (("A", "A"),)
    return _Names(asked, answered, others, context, body, tasks, choices, fields, are_letters, session)


def _fields_of_choices(keys: Sequence[str], names: Mapping[str, str]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the labels and the fields of choices that have a field each, and the field of what is asked with them.

    `names` holds the keys by their names as `key_of` returns them. The second is "" if it has a usual name.
    """
    if letters := tuple((letter, letter) for letter in _LETTERS if letter in keys):
        return (letters, "") if [label for label, _ in letters[:2]] == [*_LETTERS[:2]] else ((), "")
    for columns, asked in _COLUMNS_OF_CHOICES:
        if all(name in names for name in columns[:2]):
            found = [names[name] for name in columns if name in names]
            return tuple(zip(_LETTERS, found, strict=False)), names.get(asked, "")
    return (), ""


def names_in(record: Mapping[object, object]) -> tuple[str, str]:
    """Return the names of the fields with the question and the answer; "" for each that a record has not."""
    names = {key_of(str(name).strip().casefold()): str(name) for name in record}
    asked, answered = (next((names[name] for name in known if name in names), "") for known in (_ASKED, _ANSWERED))
    return asked, answered


def _is_map(record: object) -> bool:
    """Return whether an object has questions as keys and their answers as values: {"What is tea?": "A drink."}."""
    if not isinstance(record, dict) or len(record) < 2 or not all(isinstance(each, str) for each in record.values()):
        return False
    asks = sum(str(key).rstrip().endswith(QUESTION_MARKS) for key in record)
    return 3 * asks >= 2 * len(record)


def _with_word(keys: Sequence[str], known: frozenset[str]) -> str:
    """Return the column with one of the words `known` in its name, such as "User Question".

    Return "" if several columns have one, or if the record does not look like a row of a table.
    """
    if len(keys) > _MOST_COLUMNS or any(len(name) > _LONGEST_NAME for name in keys):
        return ""
    words = {column: set(re.split(r"[^a-z]+", column.strip().casefold())) for column in keys}
    found = [column for column, its in words.items() if its & known and not its & _NO_TEXT]
    return found[0] if len(found) == 1 else ""


def _fits(record: object) -> bool:
    if _is_map(record):
        return True
    record = _opened(record) if isinstance(record, dict) else record
    names = _pair(record)
    if not names.answered or not has(record, names.asked):
        return False
    asked = record[names.asked]
    if record[names.answered] in _VERDICTS:
        return False
    if isinstance(asked, list):
        return bool(asked) and all(isinstance(each, str) for each in asked)
    return not isinstance(asked, dict | bool) or (isinstance(asked, dict) and isinstance(asked.get("text"), str))


COLUMNS = Importer("columns of questions and answers", _fits, _read)
