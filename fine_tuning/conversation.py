"""Define Message, Turn and Conversation, the records that all stages use.

A *turn* is a user's message and the model's answer. A *conversation* is the turns of one session,
in order.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema
from pydantic_core.core_schema import json_or_python_schema, no_info_before_validator_function

from fine_tuning.errors import DataError
from fine_tuning.thoughts import may_hold_thoughts, split_thoughts, with_thoughts

Role = Literal["system", "user", "assistant"]


def whole_characters(text: object) -> object:
    """Return a text with each surrogate pair replaced by its character, and unpaired surrogates by U+FFFD.

    An emoji cut in two leaves an unpaired surrogate, which no file, engine or tokenizer accepts. A
    value that is not text is returned unchanged.
    """
    if not isinstance(text, str) or text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _WholeCharacters:
    """Applies `whole_characters` to a text that Python code passes in. JSON has no surrogates left once it is parsed.

    A call for each text would take a good part of the time in which a log is read.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = handler(source)
        return json_or_python_schema(text, no_info_before_validator_function(whole_characters, text))


Text = Annotated[str, _WholeCharacters()]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: Role
    content: Text
    # 0 for an answer that is only context and never trained on (OpenAI's name for it)
    weight: Literal[0, 1] = Field(1, exclude_if=lambda weight: weight == 1)


class Turn(BaseModel):
    """A user's message and the model's answer, as recorded in the log.

    `metadata["model"]` is the tag of the model that answered, `["thoughts"]` its thoughts,
    `["system"]` the system prompt; `["parent"]` is the turn before it (branches.py). `["weight"]` is 0
    if the answer is only context (`only_context`).
    """

    # pydantic must not cache short texts: they would stay in memory after their turn was deleted
    model_config = ConfigDict(frozen=True, cache_strings="keys")

    id: str = Field(min_length=1)
    session_id: str = Field(min_length=1)
    timestamp: str
    user_message: Text
    bot_response: Text
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")  # before the validation, JSON would have to become a dictionary first
    def _without_thoughts(self) -> Self:
        """Move the thoughts in an answer to the metadata, as in logs written before they were separated."""
        if not may_hold_thoughts(self.bot_response):
            return self
        said = split_thoughts(self.bot_response)
        if said.answer != self.bot_response:
            known = self.metadata.get("thoughts")
            thoughts = "\n\n".join(filter(None, [known if isinstance(known, str) else None, said.thoughts]))
            facts = {**self.metadata, "thoughts": thoughts} if thoughts else self.metadata
            self.__dict__.update(bot_response=said.answer, metadata=facts)  # a frozen model has no other way
        return self

    @property
    def state_hash(self) -> str:
        """Return a hash of the answer and its rating (8 hexadecimal digits), to detect that one of them has changed."""
        rating = self.metadata.get("rating")
        # the JSON of [answer, rating]; json.dumps takes twice as long for it
        told = f"[{encode_basestring_ascii(self.bot_response)}, {'null' if rating is None else json.dumps(rating)}]"
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def messages(self, thoughts: bool = False) -> list[Message]:
        """Return the question and the answer as messages. `thoughts`: begin the answer with the model's thoughts."""
        said, weight = self.answer(thoughts), 0 if only_context(self) else 1
        asked = Message(role="user", content=self.user_message)
        return [asked, Message(role="assistant", content=said, weight=weight)]

    def answer(self, thoughts: bool = False) -> str:
        """Return the answer; with `thoughts`, the model's thoughts before it."""
        if not thoughts:
            return self.bot_response
        return with_thoughts(str(self.metadata.get("thoughts", "")), self.bot_response)


class Conversation(BaseModel):
    """The turns of a session, oldest first; at least one."""

    model_config = ConfigDict(frozen=True)

    id: str
    turns: tuple[Turn, ...] = Field(min_length=1)
    system: Text | None = None

    @property
    def learned(self) -> list[Turn]:
        """The turns whose answers are trained on; the others are only context."""
        return [turn for turn in self.turns if not is_context(turn.metadata)]

    def messages(self, thoughts: bool = False) -> list[Message]:
        """Return the system message (if any), then the question and answer of each turn; `thoughts` as in Turn."""
        head = [Message(role="system", content=self.system)] if self.system else []
        return head + [message for turn in self.turns for message in turn.messages(thoughts)]


def approved(turn: Turn) -> bool:
    """Return whether the user approved the answer: rated it up, or edited it."""
    return _approve(turn.metadata)


def is_judged(turn: Turn) -> bool:
    """Return whether the user rated or edited the answer."""
    return "rating" in turn.metadata or "original_response" in turn.metadata


def _approve(facts: Mapping[str, Any]) -> bool:
    return facts.get("rating") == "up" or "original_response" in facts


def only_context(turn: Turn) -> bool:
    """Return whether the answer is only context for the turns after it, and never trained on.

    Its source marked it so ("weight": 0), and the user has not approved it since.
    """
    return is_context(turn.metadata)


def is_context(facts: Mapping[str, Any]) -> bool:
    """Return `only_context` of a turn with this metadata."""
    return facts.get("weight") == 0 and not _approve(facts)


def refused(turn: Turn) -> bool:
    """Return whether an answer must not be trained on: rated down, or incomplete and not approved by the user."""
    return is_refused(turn.metadata)


def is_refused(facts: Mapping[str, Any]) -> bool:
    """Return `refused` of a turn with this metadata."""
    return facts.get("rating") == "down" or (bool(facts.get("incomplete")) and not _approve(facts))


def trained_answers(messages: Iterable[Mapping[str, Any]]) -> int:
    """Return how many answers of a dataset's record are trained on: all but those that are only context."""
    return sum(message["role"] == "assistant" and message.get("weight", 1) != 0 for message in messages)


def of_document(turn: Turn) -> bool:
    """Return whether a turn was made from an imported document."""
    source = turn.metadata.get("source")
    return isinstance(source, dict) and source.get("format") == "document"


def conversations_of(turns: Iterable[Turn]) -> list[Conversation]:
    """Return a conversation for each session of the turns, in the order in which the sessions first appear."""
    sessions: dict[str, list[Turn]] = {}
    for turn in turns:
        sessions.setdefault(turn.session_id, []).append(turn)
    # without a second validation of the turns
    return [Conversation.model_construct(id=session, turns=tuple(items)) for session, items in sessions.items()]


def order_faults(messages: Sequence[Message]) -> list[str]:
    """Return a message for each role at a wrong place; [] if the order is right.

    The first message may be a system message; after it, user and assistant alternate, user first.
    """
    lead = 1 if messages and messages[0].role == "system" else 0
    return [
        f"message {index} is {message.role!r}, but must be {expected!r}"
        for index, message in enumerate(messages[lead:], lead)
        if message.role != (expected := ("user", "assistant")[(index - lead) % 2])
    ]


def parse_conversations(records: Sequence[Conversation | dict[str, object]]) -> list[Conversation]:
    """Return a Conversation for each of `records`, which callers of the Python API pass in.

    A record is a Conversation, or a dict of a whole conversation or of a single turn. The dict of a
    turn needs only `user_message` and `bot_response`. Raises DataError that lists every bad record
    by its index.
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
