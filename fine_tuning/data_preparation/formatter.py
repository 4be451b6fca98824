"""Training pairs in the three common formats, and conversion between them without loss.

chatml       {"messages": [{"role", "content"}, ...]}                              (OpenAI, TRL)
alpaca       {"instruction", "input", "output"} + "system", "history" if any       (Stanford Alpaca, LLaMA-Factory)
instruction  {"prompt", "completion"}           + "system", "history" if any       (TRL's prompt-completion)

`history` holds the earlier exchanges as [user, assistant] pairs. One conversation is one pair. Keys that no format knows are carried along.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, Message, parse_conversations
from fine_tuning.errors import DataError

# An alpaca `input` follows its instruction in one user message. The other formats keep it under the key `input` as well,
# so that the way back knows where to cut.
_BEFORE_INPUT = "\n\n"


class TrainingDataFormatter:
    def __init__(self, format_type: DatasetFormat | str = DatasetFormat.CHATML) -> None:
        """Raises DataError for an unknown format."""
        self.format = _known(format_type)

    def create_training_pairs(self, conversations: Sequence[Conversation | dict[str, Any]], thoughts: bool = False) -> list[dict[str, Any]]:
        """Return one pair a conversation, in order, with the `thoughts` before the answers if they are wanted.

        Raises DataError naming every conversation that cannot be one (an empty answer, ...)."""
        parsed = parse_conversations(conversations)
        chatml = [{"messages": [message.model_dump() for message in conversation.messages(thoughts)]} for conversation in parsed]
        return [_PAIRS[self.format].of(example) for example in _parse(DatasetFormat.CHATML, chatml)]

    def validate(self, pairs: Sequence[Any]) -> None:
        """Raises DataError with every fault of every pair, by index."""
        _parse(self.format, pairs)

    def convert(self, pairs: Sequence[Any], to: DatasetFormat | str) -> list[dict[str, Any]]:
        """`pairs` of this format in the format `to`; converted back they are the same. Raises DataError as `validate` does."""
        target = _PAIRS[_known(to)]
        return [target.of(example) for example in _parse(self.format, pairs)]


def order_faults(messages: Sequence[Message]) -> list[str]:
    """What is wrong with the order of the roles: one system message may lead, then user and assistant alternate, user first."""
    lead = 1 if messages and messages[0].role == "system" else 0
    return [
        f"message {index} is {message.role!r}, and must be {expected!r}"
        for index, message in enumerate(messages[lead:], lead)
        if message.role != (expected := ("user", "assistant")[(index - lead) % 2])
    ]


@dataclass(frozen=True)
class _Example:
    """What every format says in its own way."""

    exchanges: list[tuple[str, str]]  # user and assistant, at least one
    system: str = ""
    input: str = ""  # how the last user message ends, if it came from an alpaca input
    extra: dict[str, Any] = field(default_factory=dict)

    def optional(self) -> dict[str, Any]:
        """The keys of alpaca and instruction that appear only when they say something."""
        keys: dict[str, Any] = {"system": self.system, "history": [list(pair) for pair in self.exchanges[:-1]]}
        return {key: value for key, value in keys.items() if value} | self.extra


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


_Text = Annotated[str, AfterValidator(_said)]
_History = list[Annotated[list[_Text], Field(min_length=2, max_length=2)]]
_KEYS = {"messages", "instruction", "input", "output", "prompt", "completion", "system", "history"}


class _Pair(BaseModel, ABC):
    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        if foreign := sorted(_KEYS & set(self.model_extra or {})):
            raise ValueError(f"{', '.join(foreign)}: belongs to another format")
        return self

    @abstractmethod
    def example(self) -> _Example: ...

    @staticmethod
    @abstractmethod
    def of(example: _Example) -> dict[str, Any]: ...


class _ChatMessage(Message):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ChatML(_Pair):
    messages: list[_ChatMessage]
    input: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        faults = order_faults(self.messages)
        faults += [f"message {index} is empty" for index, message in enumerate(self.messages) if not message.content.strip()]
        if not self.messages or self.messages[-1].role != "assistant":
            faults.append("messages must end with an answer of the assistant")
        elif not _ends_with_input(self.messages[-2].content, self.input):
            faults.append("input must end the last user message, after an instruction and an empty line")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def example(self) -> _Example:
        system = self.messages[0].content if self.messages[0].role == "system" else ""
        said = [message.content for message in self.messages[bool(system) :]]
        return _Example(list(zip(said[::2], said[1::2], strict=True)), system, self.input, self.model_extra or {})

    @staticmethod
    def of(example: _Example) -> dict[str, Any]:
        head = [{"role": "system", "content": example.system}] if example.system else []
        turns = [
            {"role": role, "content": text} for pair in example.exchanges for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        return {"messages": head + turns} | ({"input": example.input} if example.input else {}) | example.extra


class _Alpaca(_Pair):
    instruction: _Text
    output: _Text
    input: str = ""
    system: str = ""
    history: _History = Field(default_factory=list)

    def example(self) -> _Example:
        asked = self.instruction + (_BEFORE_INPUT + self.input if self.input else "")
        return _Example([*map(_two, self.history), (asked, self.output)], self.system, self.input, self.model_extra or {})

    @staticmethod
    def of(example: _Example) -> dict[str, Any]:
        asked, answer = example.exchanges[-1]
        asked = asked.removesuffix(_BEFORE_INPUT + example.input) if example.input else asked
        return {"instruction": asked, "input": example.input, "output": answer} | example.optional()


class _Instruction(_Pair):
    prompt: _Text
    completion: _Text
    input: str = ""
    system: str = ""
    history: _History = Field(default_factory=list)

    @model_validator(mode="after")
    def _input_ends_prompt(self) -> Self:
        if not _ends_with_input(self.prompt, self.input):
            raise ValueError("input must end the prompt, after an instruction and an empty line")
        return self

    def example(self) -> _Example:
        return _Example([*map(_two, self.history), (self.prompt, self.completion)], self.system, self.input, self.model_extra or {})

    @staticmethod
    def of(example: _Example) -> dict[str, Any]:
        prompt, completion = example.exchanges[-1]
        given = {"input": example.input} if example.input else {}
        return {"prompt": prompt, "completion": completion} | given | example.optional()


_PAIRS: dict[DatasetFormat, type[_Pair]] = {
    DatasetFormat.CHATML: _ChatML,
    DatasetFormat.ALPACA: _Alpaca,
    DatasetFormat.INSTRUCTION: _Instruction,
}


def _ends_with_input(asked: str, given: str) -> bool:
    instruction = asked.removesuffix(_BEFORE_INPUT + given)
    return not given or bool(instruction != asked and instruction.strip())


def _two(pair: list[str]) -> tuple[str, str]:
    return pair[0], pair[1]


def _known(name: DatasetFormat | str) -> DatasetFormat:
    try:
        return DatasetFormat(name)
    except ValueError as error:
        raise DataError(f"unknown format {name!r}: choose one of {', '.join(DatasetFormat)}") from error


def _parse(format_type: DatasetFormat, pairs: Iterable[Any]) -> list[_Example]:
    examples: list[_Example] = []
    faults: list[str] = []
    for index, pair in enumerate(pairs):
        try:
            examples.append(_PAIRS[format_type].model_validate(pair).example())
        except ValidationError as error:
            faults += [f"pair {index}: {_say(fault)}" for fault in error.errors()]
    if faults:
        raise DataError(f"{len(faults)} fault(s) in {format_type} pairs:\n  " + "\n  ".join(faults))
    return examples


def _say(fault: Any) -> str:
    where = ".".join(map(str, fault["loc"]))
    what = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
