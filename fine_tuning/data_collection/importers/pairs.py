"""Read records with a question and its answer.

The formats are Alpaca, prompt and completion, Dolly, byoai's own export, and tables with named
columns.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fine_tuning.data_collection.importers.chats import (
    QUESTION_MARKS,
    BadRecord,
    Chat,
    Rating,
    Role,
    Said,
    dicts,
    first,
    has,
    kind,
    moment,
    one_of,
    rated,
    task_in,
    text_of,
)
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.preference import dialogue
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue, parse_json

_ASKED = (
    *("question", "questions", "q", "query", "prompt", "user", "human", "user_message", "instruction", "input"),
    *(
        "input_text",
        "inputs",
        "ask",
        "request",
        "patterns",
        "usersays",
        "customer",
        "frage",
        "pregunta",
        "pergunta",
        "domanda",
    ),
    *("vraag", "问题", "質問"),
)
_ANSWERED = (
    *("answer", "answers", "a", "response", "completion", "assistant", "bot", "bot_response", "output", "target"),
    *(
        "targets",
        "generation",
        "reply",
        "agent",
        "ai",
        "chatbot",
        "responses",
        "completions",
        "acceptedanswer",
        "best_answer",
    ),
    *(
        "output_text",
        "solution",
        "resolution",
        "antwort",
        "réponse",
        "reponse",
        "respuesta",
        "resposta",
        "risposta",
        "antwoord",
    ),
    *("答案", "回答"),
)
# names of questions that count only beside one of `_ANSWERED`: {"title": "…", "selftext": "…", "answers": ...}
_TITLES = ("title", "name", "subject", "description", "problem", "issue", "text", "examples", "utterances", "phrases")
_BODIES = ("selftext", "body")
_ASKED_WORDS = frozenset(("question", "questions", "q", "query", "prompt", "user"))
_ANSWERED_WORDS = frozenset(
    ("answer", "answers", "a", "response", "completion", "assistant", "bot", "reply", "resolution")
)
_ANSWER_KEYS = ("text", "answer", "response", "content", "body", "input_text")  # of an answer that is an object
_RANKS, _SCORES = ("rank",), ("pm_score", "overall_score", "score", "votes", "upvotes")  # the lowest rank is the best
_ACCEPTED = ("selected", "is_selected", "accepted", "is_accepted")
_HTML = re.compile(r"\s*<(?:p|div|ul|ol|h\d|span|br)\b[^>]*>", re.IGNORECASE)
_CUE = re.compile(r"\n\nAssistant:\s*$")  # Anthropic's former form: "\n\nHuman: What is tea?\n\nAssistant:"
_NO_TEXT = frozenset(("id", "ids", "count", "date", "time", "score", "type", "url", "key", "length", "tokens"))
_VERDICTS = ("accept", "reject", "ignore")  # Prodigy: an annotator's verdict, under the name "answer"
_MOST_COLUMNS, _LONGEST_NAME = 12, 40
_CONTEXT = ("context", "passage", "kontext")
_COMPLETIONS = ("completion", "response")


def _alpaca(record: JsonObject, source: Source) -> Iterable[Chat]:
    answer = text_of(record["output"], "output")
    asked = Said("user", _with(record, "instruction", "input"))
    yield Chat(rated([*_before(record), asked, Said("assistant", answer)], record))


def _before(record: JsonObject) -> Iterator[Said]:
    """Yield the system prompt and the earlier exchanges ("history") of a record, if it has them."""
    if system := text_of(record.get("system") or record.get("system_prompt"), "a system prompt"):
        yield Said("system", system)
    history = record.get("history")
    for earlier in history if isinstance(history, list) else ():
        if isinstance(earlier, dict):
            yield said_of(earlier)
        elif isinstance(earlier, list | tuple) and len(earlier) == 2:
            yield Said("user", text_of(earlier[0], "a question"))
            yield Said("assistant", text_of(earlier[1], "an answer"))
        else:
            raise BadRecord("history as pairs of a question and an answer")


def _with(record: JsonObject, question: str, more: str) -> str:
    texts = text_of(record[question], question), text_of(record.get(more), more)
    return "\n\n".join(text for text in texts if text.strip())


def _completion(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield the chat of a prompt and its completion."""
    asked, answered = record["prompt"], one_of(record, *_COMPLETIONS)
    said = _messages(asked, "user") + _messages(answered, "assistant")
    yield Chat(rated([*_before(record), *said], record))


def _messages(value: object, role: Role) -> list[Said]:
    if isinstance(value, list):
        return [said_of(message) for message in dicts(value, "messages")]
    text = text_of(value, "text")
    if role == "user" and _CUE.search(text) and (said := dialogue(_CUE.sub("", text), role)):
        return said
    return [Said(role, text)]


def _dolly(record: JsonObject, source: Source) -> Iterable[Chat]:
    asked, answer = _with(record, "instruction", "context"), text_of(record["response"], "response")
    yield Chat([*_before(record), Said("user", asked), Said("assistant", answer)])


def _own(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield each turn in a record of byoai's own export (a turn, or a conversation) as a chat of its own."""
    return map(_own_turn, dicts(record["turns"], "turns") if "turns" in record else [record])


def _own_turn(record: JsonObject) -> Chat:
    """Return the chat of one turn, with the system prompt, edit and rating that the log had (a CSV has the rating)."""
    facts = _facts_of(record)
    system, time = text_of(facts.get("system"), "a system prompt"), moment(record.get("timestamp"))
    original, given = facts.get("original_response"), facts.get("rating")
    rating: Rating | None = "up" if given == "up" else "down" if given == "down" else None
    answer = Said(
        "assistant",
        text_of(record["bot_response"], "bot_response"),
        time,
        thoughts=text_of(facts.get("thoughts"), "thoughts"),
        model=text_of(facts.get("model"), "a model"),
        rejected=original if isinstance(original, str) else None,
        rating=rating,
    )
    said = [Said("user", text_of(record["user_message"], "user_message"), time), answer]
    session = text_of(record["session_id"], "an id")
    return Chat([Said("system", system), *said] if system else said, session, facts=task_in(facts, "task"))


def _facts_of(record: JsonObject) -> JsonObject:
    """Return the metadata of a turn: an object, or in Parquet its JSON, and the columns of a table."""
    facts = record.get("metadata")
    if isinstance(facts, str):
        with suppress(ValueError):
            facts = parse_json(facts)
    return {"model": record.get("model"), "rating": record.get("rating"), **(facts if isinstance(facts, dict) else {})}


def _columns(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield the chat of a question and its answer, or one for each wording of the question.

    Several wordings with several answers (as in the intents of a chatbot) are paired in order; the
    shorter list is repeated until the longer one ends. Of several answers to one question, the one
    that is accepted or rated best is used (`_answer`).
    """
    if _is_map(record):
        for question, answer in record.items():
            yield Chat([Said("user", question), Said("assistant", _answer(answer, "answer"))])
        return
    names = _pair(record)
    asked, answer = record[names.asked], record[names.answered]
    if not isinstance(asked, list):
        more = [text_of(record[name], name) for name in (names.body, names.context) if name]
        texts = [text_of(asked, names.asked), *more]
        shown = "\n\n".join(plain for text in texts if (plain := _plain(text)).strip())
        said = [*dialogue(shown, "user"), Said("assistant", _answer(answer, names.answered))]
        yield Chat(rated([*_before(record), *(each for each in said if each.text or each is said[-1])], record))
        return
    answers = answer if isinstance(answer, list) and answer else [answer]
    for number in range(max(len(asked), len(answers)) if asked else 0):
        wording, one = asked[number % len(asked)], answers[number % len(answers)]
        yield Chat([Said("user", text_of(wording, names.asked)), Said("assistant", _answer(one, names.answered))])


def _answer(value: JsonValue, name: str) -> str:
    """Return the text of an answer; of a list of answers the best one, of an object the text in it.

    A list of texts under a name in the singular, such as "answer", holds the paragraphs of one answer.
    """
    if isinstance(value, list) and (texts := [each for each in value if isinstance(each, str)]) == value and texts:
        return texts[0] if name.lower().endswith("s") else "\n\n".join(texts)
    if isinstance(value, list):
        value = _best_of(value) if value else ""
    if isinstance(value, dict):
        value = next((value[key] for key in _ANSWER_KEYS if value.get(key)), None)
        if isinstance(value, list):  # in SQuAD and ELI5: {"text": [...]}
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


@dataclass(frozen=True)
class _Names:
    """The names of a record's fields; "" for each that is missing. `body` continues the question."""

    asked: str = ""
    answered: str = ""
    context: str = ""
    body: str = ""


def _pair(record: object) -> _Names:
    names = {str(name).strip().casefold(): name for name in record} if isinstance(record, dict) else {}

    def first_of(known: Sequence[str]) -> str:
        return next((names[name] for name in known if name in names), "")

    asked, answered = first_of(_ASKED), first_of(_ANSWERED)
    if answered and not asked:
        asked = first_of(_TITLES)
    asked, answered = asked or _with_word(names, _ASKED_WORDS), answered or _with_word(names, _ANSWERED_WORDS)
    if answered and not asked:
        asked = _with_word(names, frozenset(("description", "problem", "issue")))
    body = first_of(_BODIES) if asked.casefold() == "title" else ""
    return _Names(asked, answered, first_of(_CONTEXT), body)


def _is_map(record: object) -> bool:
    """Return whether an object has questions as keys and their answers as values: {"What is tea?": "A drink."}."""
    if not isinstance(record, dict) or len(record) < 2 or not all(isinstance(each, str) for each in record.values()):
        return False
    asks = sum(str(key).rstrip().endswith(QUESTION_MARKS) for key in record)
    return 3 * asks >= 2 * len(record)


def _with_word(names: dict[str, str], known: frozenset[str]) -> str:
    """Return the column with one of these words in its name, such as "User Question".

    Return "" if it is not the only such column, or if the record looks like settings and not like a
    row.
    """
    if len(names) > _MOST_COLUMNS or any(len(name) > _LONGEST_NAME for name in names):
        return ""
    words = {column: set(re.split(r"[^a-z]+", name)) for name, column in names.items()}
    found = [column for column, its in words.items() if its & known and not its & _NO_TEXT]
    return found[0] if len(found) == 1 else ""


def _is_text(*keys: str) -> Callable[[object], bool]:
    return lambda record: has(record, *keys) and all(not isinstance(record[key], list | dict) for key in keys)


def _fits_completion(record: object) -> bool:
    return has(record, "prompt") and any(
        key in record and kind(record[key]) == kind(record["prompt"]) for key in _COMPLETIONS
    )


def _fits_columns(record: object) -> bool:
    if _is_map(record):
        return True
    names = _pair(record)
    if not names.answered or not has(record, names.asked):
        return False
    asked = record[names.asked]
    if record[names.answered] in _VERDICTS:
        return False
    if isinstance(asked, list):
        return bool(asked) and all(isinstance(each, str) for each in asked)
    return not isinstance(asked, dict | bool)


ALPACA = Importer("Alpaca", _is_text("instruction", "output"), each(_alpaca, "instruction, input and output"))
COMPLETION = Importer("prompt and completion", _fits_completion, each(_completion, "prompt and completion"))
DOLLY = Importer(
    "Dolly", _is_text("instruction", "response"), each(_dolly, "instruction, context and response", "category")
)
_is_own_turn = _is_text("session_id", "user_message", "bot_response")
OWN = Importer(
    "byoai's own turns",
    lambda record: _is_own_turn(record) or _is_own_turn(first(record, "turns")),
    each(_own, "turns of byoai"),
)
COLUMNS = Importer("columns of questions and answers", _fits_columns, each(_columns, "a question and an answer"))
