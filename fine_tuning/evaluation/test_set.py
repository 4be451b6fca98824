"""Build the test set of an evaluation, tokenised.

It consists of held-out chats, general texts and questions that the project ships, configured
prompts, and held-out questions about imported documents.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config import Evaluation as Settings
from fine_tuning.conversation import Message, Turn
from fine_tuning.errors import DataError
from fine_tuning.token_rows import ScoredRow, TokenRow, read_token_rows

GENERAL_TEXT = paths.SAMPLES / "general_text.jsonl"
GENERAL_QUESTIONS = paths.SAMPLES / "general_questions.jsonl"
_OTHERS = 3  # maximum number of other questions after which an answer is also scored
_PAIRED = 60  # maximum number of conversations whose answers are scored in this way

Pair = tuple[ScoredRow, list[ScoredRow]]
"""The token row of an answer after its own question, and its rows after other questions."""


@dataclass(frozen=True)
class Reader:
    """The functions that render and tokenise text as the engine and the training do."""

    render: Callable[[Sequence[Message]], str]  # renders messages that end with a user's, plus the generation prompt
    encode: Callable[[str], list[int]]  # tokenises rendered text
    rows: Callable[[Sequence[Message]], list[ScoredRow]]  # returns the token rows of a whole conversation
    answer: Callable[[str], str] = str  # returns an answer in its trained form (neutral.Neutraliser)

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of the prompt for the question `text`."""
        return self.encode(self.render([Message(role="user", content=text)]))


@dataclass(frozen=True)
class Prompt:
    text: str
    tokens: list[int]  # the rendered prompt


@dataclass(frozen=True)
class Question:
    text: str
    tokens: list[int]
    answers: tuple[str, ...]  # correct answers

    def is_right(self, said: str) -> bool:
        """Return whether the answer `said` contains a correct answer as whole words.

        Case and the amount of white space are ignored.
        """
        return any(is_said(answer, said) for answer in self.answers)


def is_said(wanted: str, answer: str) -> bool:
    """Return whether an answer contains the text `wanted` as whole words.

    Case and the amount of white space are ignored.
    """
    words = re.escape(" ".join(wanted.casefold().split()))
    return re.search(rf"(?<!\w){words}(?!\w)", " ".join(answer.casefold().split())) is not None


def facts_told(right: int, asked: int) -> str:
    """Return a sentence on correct answers, such as "4 of 6 facts of your document answered right"."""
    return f"{right} of {asked} facts of your document answered right"


@dataclass(frozen=True)
class Key:
    """The text that a correct answer to a held-out question about a document must contain."""

    text: str
    section: str = ""  # heading of the document's section that the question is about; "" if unknown


def keys_of(turns: Iterable[Turn]) -> dict[str, Key]:
    """Return the keys of the held-out questions about imported documents, by session id.

    The import of a document stores one question per session, with the metadata "split" and "key".
    """
    found = {}
    for turn in turns:
        facts, key = turn.metadata, turn.metadata.get("key")
        if facts.get("split") == "test" and isinstance(key, str) and key.strip():
            source = facts.get("source")
            found[turn.session_id] = Key(key, str(source.get("section", "")) if isinstance(source, dict) else "")
    return found


@dataclass(frozen=True)
class EvaluationSet:
    own: list[ScoredRow]  # held-out conversations
    paired: list[Pair]  # answers of held-out conversations, each with its own and with other questions
    general: list[ScoredRow]  # general texts
    questions: list[Question]
    prompts: list[Prompt]
    facts: list[Question] = field(default_factory=list)  # held-out questions about documents, with their key facts
    parts: list[str] = field(default_factory=list)  # the source of each conversation in `own`, or its source/task

    @property
    def longest(self) -> int:
        """Length in tokens of the longest row or prompt; 0 if the test set is empty."""
        rows = [*self.own, *self.general, *(row for own, others in self.paired for row in [own, *others])]
        asked = [each.tokens for each in (*self.questions, *self.facts)] + [each.tokens for each in self.prompts]
        return max([len(ids) for ids, _ in rows] + [len(ids) for ids in asked], default=0)


def build_test_set(
    test: Path,
    rows: Path,
    reader: Reader,
    settings: Settings,
    learned: Path | None = None,
    keys: Mapping[str, Key] | None = None,
    parts: Mapping[str, str] | None = None,
) -> EvaluationSet:
    """Build the test set from held-out conversations and the project's general texts and questions.

    Args:
        test: The file of the held-out conversations, {"id", "messages"} per line.
        rows: The file of their token rows.
        reader: Renders and tokenises messages.
        settings: The section `evaluation` of the configuration. Of more than `held_out`
            conversations a fixed sample is used.
        learned: The file of the conversations that the model in use was trained on. Testing on them
            would favour that model, so they are left out unless none would remain.
        keys: The keys of held-out questions about documents, by session id.
        parts: The source of each session, or its source/task, by session id.

    Raises DataError for a malformed line.
    """
    known = {_session(record["id"]) for record in _records(learned, "id")} if learned and learned.exists() else set()
    held_out = _records(test, "id", "messages")
    unknown = [record for record in held_out if _session(record["id"]) not in known] or held_out
    own = held_out_rows(rows, {_session(record["id"]) for record in unknown})
    if len(own) > settings.held_out:
        own = random.Random(0).sample(own, settings.held_out)
    questions = [
        (str(record["question"]), tuple(record["answers"]))
        for record in _records(GENERAL_QUESTIONS, "question", "answers")
    ][: settings.general]
    return EvaluationSet(
        own=[(row.input_ids, row.targets) for row in own],
        paired=_paired([record["messages"] for record in unknown], reader),
        general=general_rows(reader, settings.general),
        questions=[Question(text, reader.prompt(text), answers) for text, answers in questions],
        prompts=[Prompt(text, reader.prompt(text)) for text in settings.test_prompts],
        facts=_facts(held_out, keys or {}, reader, settings.facts),
        parts=[(parts or {}).get(_session(row.id), "") for row in own],
    )


def _facts(records: Sequence[Mapping[str, Any]], keys: Mapping[str, Key], reader: Reader, most: int) -> list[Question]:
    """Return a fixed sample of at most `most` held-out questions about documents, spread over the sections.

    A question is left out if its recorded answer does not contain the key, for example because the
    answer was edited or redacted.
    """
    found: list[tuple[str, Question]] = []
    for record in records:
        key = keys.get(_session(record["id"]))
        question, answer = _first(record["messages"])
        if key and is_said(key.text, answer) and _begins_learned(record["messages"]):
            found.append((key.section, Question(question, reader.prompt(question), (key.text,))))
    random.Random(0).shuffle(found)
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Question]] = []
    for section, asked in found:
        ranked.append((seen[section], asked))
        seen[section] += 1
    ranked.sort(key=lambda each: each[0])  # one question of every section before any second one
    return [asked for _, asked in ranked[:most]]


def general_rows(reader: Reader, count: int) -> list[ScoredRow]:
    """Return the token rows of the first `count` general texts that the project ships."""
    records = _records(GENERAL_TEXT, "question", "answer")[:count]
    return [row for each in records for row in exchange_rows(str(each["question"]), str(each["answer"]), reader)]


def held_out_rows(file: Path, sessions: Collection[str]) -> list[TokenRow]:
    """Return the rows in `file` of these sessions, without rows that have no supervised tokens.

    Raises DataError for a malformed line.
    """
    return [row for row in read_token_rows(file) if row.targets and _session(row.id) in sessions]


def _session(id: str) -> str:
    """Return the session's id, without the suffix of a conversation (`session/2`) or a row (`session#2`)."""
    return re.split("[/#]", id)[0]


def _paired(conversations: list[list[dict[str, Any]]], reader: Reader) -> list[Pair]:
    """Return a `Pair` for the first answer of each conversation in a fixed sample.

    A pair holds the answer after its own question, and after questions of other conversations, which
    have another answer. Comparing their likelihoods shows whether a model associates answers with their
    questions. A conversation is left out if no other question can be found for its answer, or if this is
    only context.
    """
    conversations = [each for each in conversations if _begins_learned(each)]
    chosen = conversations if len(conversations) <= _PAIRED else random.Random(0).sample(conversations, _PAIRED)
    firsts = [_first(conversation) for conversation in chosen]
    pairs = []
    for index, (question, answer) in enumerate(firsts):
        others = [
            (asked, said)
            for asked, said in firsts[index + 1 :] + firsts[:index]
            if said != answer and asked != question
        ]
        own = exchange_rows(question, answer, reader)
        swapped = [row for asked, _ in others[:_OTHERS] for row in exchange_rows(asked, answer, reader)]
        if own and swapped:
            pairs.append((own[0], swapped))
    return pairs


def _begins_learned(messages: list[dict[str, Any]]) -> bool:
    """Return whether the first answer of a conversation is trained on, and not only context."""
    return bool(next(message.get("weight", 1) for message in messages if message["role"] == "assistant"))


def _first(messages: list[dict[str, Any]]) -> tuple[str, str]:
    said = {
        role: next(message["content"] for message in messages if message["role"] == role)
        for role in ("user", "assistant")
    }
    return said["user"], said["assistant"]


def exchange_rows(question: str, answer: str, reader: Reader) -> list[ScoredRow]:
    """Return the token rows of a conversation of one question and its answer; [] if it is too long."""
    return reader.rows([Message(role="user", content=question), Message(role="assistant", content=answer)])


def _records(file: Path, *keys: str) -> list[dict[str, Any]]:
    def wanted(record: Any) -> dict[str, Any]:
        return {key: record[key] for key in keys}

    return paths.read_jsonl(file, wanted, f"a record with {' and '.join(keys)}", DataError)
