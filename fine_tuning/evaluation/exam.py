"""The test set: held-out chats, general knowledge and chosen prompts, the same tokens for every model."""

import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.config import Evaluation as Settings
from fine_tuning.conversation import Message
from fine_tuning.errors import DataError
from fine_tuning.token_rows import read_token_rows

GENERAL_TEXT = paths.SAMPLES / "general_text.jsonl"
GENERAL_QUESTIONS = paths.SAMPLES / "general_questions.jsonl"
_OTHERS = 3  # other questions after which an answer is also scored
_PAIRED = 60  # the most conversations that are scored so

Row = tuple[list[int], list[int]]
"""Token ids of a conversation, and the indices of those that are supervised."""

Pair = tuple[Row, list[Row]]
"""An answer after its own question, and after others' questions."""


@dataclass(frozen=True)
class Reader:
    """How the engine reads text: the rendering and the tokens that the training used."""

    render: Callable[[Sequence[Message]], str]  # messages that end with a user's, generation prompt included
    encode: Callable[[str], list[int]]  # rendered text
    rows: Callable[[Sequence[Message]], list[Row]]  # a whole conversation
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
        """Return whether one of the answers is in `said` as a whole word, whatever the case."""
        return any(re.search(rf"(?<!\w){re.escape(answer.casefold())}(?!\w)", said.casefold()) for answer in self.answers)


@dataclass(frozen=True)
class Exam:
    own: list[Row]  # held-out conversations
    paired: list[Pair]
    general: list[Row]
    questions: list[Question]
    prompts: list[Prompt]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        rows = [*self.own, *self.general, *(row for own, others in self.paired for row in [own, *others])]
        asked = [*(question.tokens for question in self.questions), *(prompt.tokens for prompt in self.prompts)]
        return max([len(ids) for ids, _ in rows] + [len(ids) for ids in asked], default=0)


def build_exam(test: Path, rows: Path, reader: Reader, settings: Settings, learned: Path | None = None) -> Exam:
    """Build the test set of the held-out conversations in `test` ({"id", "messages"} a line), whose
    token rows are in `rows`, and of the project's general texts and questions.

    Conversations in `learned`, which taught the live model, would favour it: they are left out,
    unless none would be left. Of more than `settings.held_out` conversations a fixed sample is
    taken. Raises DataError, which names a bad line.
    """
    known = {_session(record["id"]) for record in _records(learned, "id")} if learned and learned.exists() else set()
    held_out = _records(test, "id", "messages")
    unknown = [record for record in held_out if _session(record["id"]) not in known] or held_out
    own = held_out_rows(rows, {_session(record["id"]) for record in unknown})
    if len(own) > settings.held_out:
        own = random.Random(0).sample(own, settings.held_out)
    texts = [(str(record["question"]), str(record["answer"])) for record in _records(GENERAL_TEXT, "question", "answer")][
        : settings.general
    ]
    questions = [(str(record["question"]), tuple(record["answers"])) for record in _records(GENERAL_QUESTIONS, "question", "answers")][
        : settings.general
    ]
    return Exam(
        own=own,
        paired=_paired([record["messages"] for record in unknown], reader),
        general=[row for question, answer in texts for row in exchange_rows(question, answer, reader)],
        questions=[Question(text, reader.prompt(text), answers) for text, answers in questions],
        prompts=[Prompt(text, reader.prompt(text)) for text in settings.test_prompts],
    )


def held_out_rows(file: Path, sessions: Collection[str]) -> list[Row]:
    """Return the token rows of these sessions that have supervised tokens. Raises DataError, which names a bad line."""
    rows = [row for row in read_token_rows(file) if _session(row.id) in sessions]
    return [(row.input_ids, row.targets) for row in rows if row.targets]


def _session(id: str) -> str:
    """Return the session of a conversation or of a row: a session may have several of both (`id/2`, `id#2`)."""
    return re.split("[/#]", id)[0]


def _paired(conversations: list[list[dict[str, str]]], reader: Reader) -> list[Pair]:
    """Return each conversation's first answer, once after its own question and then after some others:
    do the two belong together?

    Only conversations that have others with another answer are paired.
    """
    chosen = conversations if len(conversations) <= _PAIRED else random.Random(0).sample(conversations, _PAIRED)
    firsts = [_first(conversation) for conversation in chosen]
    pairs = []
    for index, (question, answer) in enumerate(firsts):
        others = [(asked, said) for asked, said in firsts[index + 1 :] + firsts[:index] if said != answer and asked != question]
        own = exchange_rows(question, answer, reader)
        swapped = [row for asked, _ in others[:_OTHERS] for row in exchange_rows(asked, answer, reader)]
        if own and swapped:
            pairs.append((own[0], swapped))
    return pairs


def _first(messages: list[dict[str, str]]) -> tuple[str, str]:
    said = {role: next(message["content"] for message in messages if message["role"] == role) for role in ("user", "assistant")}
    return said["user"], said["assistant"]


def exchange_rows(question: str, answer: str, reader: Reader) -> list[Row]:
    """Return the rows of one question and its answer, as a conversation."""
    return reader.rows([Message(role="user", content=question), Message(role="assistant", content=answer)])


def _records(file: Path, *keys: str) -> list[dict[str, Any]]:
    def wanted(record: Any) -> dict[str, Any]:
        return {key: record[key] for key in keys}

    return paths.read_jsonl(file, wanted, f"a record with {' and '.join(keys)}", DataError)
