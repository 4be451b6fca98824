"""The test set: held-out chats, general knowledge and chosen prompts, the same tokens for every model."""

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
from fine_tuning.token_rows import ScoredRow, read_token_rows

GENERAL_TEXT = paths.SAMPLES / "general_text.jsonl"
GENERAL_QUESTIONS = paths.SAMPLES / "general_questions.jsonl"
_OTHERS = 3  # other questions after which an answer is also scored
_PAIRED = 60  # the most conversations that are scored so

Pair = tuple[ScoredRow, list[ScoredRow]]
"""An answer after its own question, and after others' questions."""


@dataclass(frozen=True)
class Reader:
    """How the engine reads text: the rendering and the tokens that the training used."""

    render: Callable[[Sequence[Message]], str]  # messages that end with a user's, generation prompt included
    encode: Callable[[str], list[int]]  # rendered text
    rows: Callable[[Sequence[Message]], list[ScoredRow]]  # a whole conversation
    answer: Callable[[str], str] = str  # an answer as it is learned, behind a rendering (neutral.Neutraliser)

    def prompt(self, text: str) -> list[int]:
        """Return the tokens before the answer to `text`."""
        return self.encode(self.render([Message(role="user", content=text)]))


@dataclass(frozen=True)
class Prompt:
    text: str
    tokens: list[int]  # as the engine renders and tokenises it


@dataclass(frozen=True)
class Question:
    text: str
    tokens: list[int]
    answers: tuple[str, ...]  # each of them right

    def is_right(self, said: str) -> bool:
        """Return whether one of the answers is in `said` as whole words, whatever the case and the spaces."""
        return any(is_said(answer, said) for answer in self.answers)


def is_said(wanted: str, answer: str) -> bool:
    """Return whether `wanted` is in an answer as whole words, whatever the case and the spaces."""
    words = re.escape(" ".join(wanted.casefold().split()))
    return re.search(rf"(?<!\w){words}(?!\w)", " ".join(answer.casefold().split())) is not None


def facts_told(right: int, asked: int) -> str:
    """Return in plain words how many questions about imported documents were answered right."""
    return f"{right} of {asked} facts of your document are answered right"


@dataclass(frozen=True)
class Key:
    """What a right answer to a held-out question about a document must have."""

    text: str
    section: str = ""  # of the document


def keys_of(turns: Iterable[Turn]) -> dict[str, Key]:
    """Return the keys of the questions about documents that the import held out, by session."""
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
    paired: list[Pair]
    general: list[ScoredRow]
    questions: list[Question]
    prompts: list[Prompt]
    facts: list[Question] = field(default_factory=list)  # held out of imported documents, each with its key fact

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
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
) -> EvaluationSet:
    """Build the test set of held-out conversations and the project's general texts and questions.

    The conversations are those in `test` ({"id", "messages"} a line), and their token rows are in
    `rows`. Conversations in `learned`, which taught the live model, would favour it: they are left
    out, unless none would be left. If there are more than `settings.held_out`, a fixed sample is
    taken. `keys`: of held-out questions about documents, by session. Raises DataError, which names
    a bad line.
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
        own=own,
        paired=_paired([record["messages"] for record in unknown], reader),
        general=general_rows(reader, settings.general),
        questions=[Question(text, reader.prompt(text), answers) for text, answers in questions],
        prompts=[Prompt(text, reader.prompt(text)) for text in settings.test_prompts],
        facts=_facts(held_out, keys or {}, reader, settings.facts),
    )


def _facts(records: Sequence[Mapping[str, Any]], keys: Mapping[str, Key], reader: Reader, most: int) -> list[Question]:
    """Return at most so many of the held-out questions about documents, a fixed sample, spread over their sections.

    Left out is one whose key is not in its answer any more: the answer was edited, or the key is a private detail.
    """
    found: list[tuple[str, Question]] = []
    for record in records:
        key = keys.get(_session(record["id"]))
        question, answer = _first(record["messages"])
        if key and is_said(key.text, answer):
            found.append((key.section, Question(question, reader.prompt(question), (key.text,))))
    random.Random(0).shuffle(found)
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Question]] = []
    for section, asked in found:
        ranked.append((seen[section], asked))
        seen[section] += 1
    ranked.sort(key=lambda each: each[0])  # of every section one, before any gives a second
    return [asked for _, asked in ranked[:most]]


def general_rows(reader: Reader, count: int) -> list[ScoredRow]:
    """Return the token rows of so many of the project's general texts."""
    records = _records(GENERAL_TEXT, "question", "answer")[:count]
    return [row for each in records for row in exchange_rows(str(each["question"]), str(each["answer"]), reader)]


def held_out_rows(file: Path, sessions: Collection[str]) -> list[ScoredRow]:
    """Return the token rows of these sessions that have supervised tokens. Raises DataError, which names a bad line."""
    rows = [row for row in read_token_rows(file) if _session(row.id) in sessions]
    return [(row.input_ids, row.targets) for row in rows if row.targets]


def _session(id: str) -> str:
    """Return the session of a conversation or of a row: a session may have several of both (`id/2`, `id#2`)."""
    return re.split("[/#]", id)[0]


def _paired(conversations: list[list[dict[str, str]]], reader: Reader) -> list[Pair]:
    """Return each conversation's first answer, after its own question and after some others.

    They show whether the model knows that the two belong together. Only conversations that have
    others with another answer are paired.
    """
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


def _first(messages: list[dict[str, str]]) -> tuple[str, str]:
    said = {
        role: next(message["content"] for message in messages if message["role"] == role)
        for role in ("user", "assistant")
    }
    return said["user"], said["assistant"]


def exchange_rows(question: str, answer: str, reader: Reader) -> list[ScoredRow]:
    """Return the rows of one question and its answer, as a conversation."""
    return reader.rows([Message(role="user", content=question), Message(role="assistant", content=answer)])


def _records(file: Path, *keys: str) -> list[dict[str, Any]]:
    def wanted(record: Any) -> dict[str, Any]:
        return {key: record[key] for key in keys}

    return paths.read_jsonl(file, wanted, f"a record with {' and '.join(keys)}", DataError)
