"""Message, Turn, Conversation: the one record that all stages share.

A *turn* is what a person said and what the model answered. A *conversation* is a session's turns in order.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fine_tuning.errors import DataError
from fine_tuning.thoughts import split_thoughts, with_thoughts

Role = Literal["system", "user", "assistant"]


def whole_characters(text: object) -> object:
    """Return a text whose halves of characters are joined, or U+FFFD where one is alone.

    A cut emoji leaves such a half: no file, engine or tokenizer takes it. Anything else is returned
    as it is.
    """
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


Text = Annotated[str, BeforeValidator(whole_characters)]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: Role
    content: Text


class Turn(BaseModel):
    """One exchange, as the log holds it.

    `metadata["model"]` names the tag that answered, `["thoughts"]` is what it thought, `["system"]`
    the system prompt under which it did; `["parent"]` is its place in the session (branches.py).
    """

    # The parser keeps no short strings for their next use: what was said must not outlive its turn in the memory.
    model_config = ConfigDict(frozen=True, cache_strings="keys")

    id: str = Field(min_length=1)
    session_id: str = Field(min_length=1)
    timestamp: str
    user_message: Text
    bot_response: Text
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _without_thoughts(cls, record: object) -> object:
        """Move what was thought into the metadata; also of what was logged before the two were told apart."""
        if not isinstance(record, dict) or not isinstance(answer := record.get("bot_response"), str):
            return record
        said, facts = split_thoughts(answer), record.get("metadata") or {}
        if said.answer == answer or not isinstance(facts, dict):
            return record
        thoughts = "\n\n".join(filter(None, [facts.get("thoughts"), said.thoughts]))
        return {
            **record,
            "bot_response": said.answer,
            "metadata": {**facts, "thoughts": thoughts} if thoughts else facts,
        }

    @property
    def state_hash(self) -> str:
        """Return what changes with an edit or another rating, and with nothing else: a short hash."""
        told = json.dumps([self.bot_response, self.metadata.get("rating")])
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def messages(self, thoughts: bool = False) -> list[Message]:
        """Return the question and the answer, which begins with the `thoughts` if they are wanted."""
        answer = (
            with_thoughts(str(self.metadata.get("thoughts", "")), self.bot_response) if thoughts else self.bot_response
        )
        return [Message(role="user", content=self.user_message), Message(role="assistant", content=answer)]


class Conversation(BaseModel):
    """A session's turns, oldest first, with at least one."""

    model_config = ConfigDict(frozen=True)

    id: str
    turns: tuple[Turn, ...] = Field(min_length=1)
    system: Text | None = None

    def messages(self, thoughts: bool = False) -> list[Message]:
        """Return the system message (if any), then user and assistant in turn."""
        head = [Message(role="system", content=self.system)] if self.system else []
        return head + [message for turn in self.turns for message in turn.messages(thoughts)]


def approved(turn: Turn) -> bool:
    """Return whether its owner approves of the answer: thumbs up, or written anew."""
    return turn.metadata.get("rating") == "up" or "original_response" in turn.metadata


def conversations_of(turns: Iterable[Turn]) -> list[Conversation]:
    """Group turns by session, in order of first appearance."""
    sessions: dict[str, list[Turn]] = {}
    for turn in turns:
        sessions.setdefault(turn.session_id, []).append(turn)
    return [Conversation(id=session, turns=tuple(items)) for session, items in sessions.items()]


def order_faults(messages: Sequence[Message]) -> list[str]:
    """Return what is wrong with the order of the roles.

    A system message may lead, then user and assistant alternate, user first.
    """
    lead = 1 if messages and messages[0].role == "system" else 0
    return [
        f"message {index} is {message.role!r}, and must be {expected!r}"
        for index, message in enumerate(messages[lead:], lead)
        if message.role != (expected := ("user", "assistant")[(index - lead) % 2])
    ]


def parse_conversations(records: Sequence[Conversation | dict[str, object]]) -> list[Conversation]:
    """Return the conversations in what people pass in.

    That may be Conversations, or dicts of a whole conversation or of a single turn. Turn dicts need
    only `user_message` and `bot_response`. DataError names every bad record by its index.
    """
    found: list[Conversation] = []
    faults: list[str] = []
    for index, record in enumerate(records):
        try:
            found.append(_parse(index, record))
        except ValidationError as error:
            first = error.errors()[0]
            faults.append(f"record {index}: {'.'.join(map(str, first['loc'])) or 'value'}: {first['msg']}")
    if faults:
        raise DataError("not conversations:\n  " + "\n  ".join(faults))
    return found


def _parse(index: int, record: Conversation | dict[str, object]) -> Conversation:
    if isinstance(record, Conversation):
        return record
    if isinstance(record, dict) and "turns" not in record and "user_message" in record:
        name = str(record.get("session_id") or f"record-{index}")
        turn = {"id": f"{name}-{index}", "timestamp": "", **record, "session_id": name}
        return Conversation.model_validate({"id": name, "turns": [turn]})
    return Conversation.model_validate(record)
