"""Convert training pairs to and from the three common formats.

chatml       {"messages": [{"role", "content"}, ...]}                              (OpenAI, TRL)
alpaca       {"instruction", "input", "output"} + "system", "history" if any       (Stanford Alpaca, LLaMA-Factory)
instruction  {"prompt", "completion"}           + "system", "history" if any       (TRL's prompt-completion)

`history` is a list of the earlier exchanges as [user, assistant] pairs. Unknown keys are kept. An answer
that is only context has "weight": 0 in chatml, as in OpenAI's files; the other two have `weights`, the
list of the weights of all answers, if one of them is 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, Message, only_context, order_faults, whole_characters
from fine_tuning.errors import DataError
from fine_tuning.units import counted

# Between the instruction and the input of an alpaca pair, which become one user message. The other
# formats repeat the input under the key `input`, so that the message can be divided again.
_BEFORE_INPUT = "\n\n"


@dataclass(frozen=True)
class Example:
    """A training pair in a form that does not depend on the format of its file."""

    exchanges: list[tuple[str, str]]  # user and assistant, at least one
    system: str = ""
    input: str = ""  # the end of the last user message, if that came from an alpaca input
    extra: dict[str, object] = field(default_factory=dict)
    context: frozenset[int] = frozenset()  # indices of the exchanges whose answers are only context

    def optional(self) -> dict[str, object]:
        """Return the optional keys of alpaca and instruction that are not empty, and the unknown keys."""
        weights = [int(index not in self.context) for index in range(len(self.exchanges))] if self.context else []
        keys: dict[str, object] = {
            "system": self.system,
            "history": [list(pair) for pair in self.exchanges[:-1]],
            "weights": weights,
        }
        return {key: value for key, value in keys.items() if value} | self.extra


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


_Text = Annotated[str, AfterValidator(_said)]
_History = list[Annotated[list[_Text], Field(min_length=2, max_length=2)]]
_Weights = list[Literal[0, 1]]
_KEYS = {"messages", "instruction", "input", "output", "prompt", "completion", "system", "history", "weights"}


class Pair(BaseModel, ABC):
    """A record of training data in one of the formats: a conversation, with validated keys and texts.

    Each format is a subclass.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        if foreign := sorted(_KEYS & set(self.model_extra or {})):
            raise ValueError(
                f"{', '.join(foreign)}: belongs to another format of training data; choose that format, or remove the "
                "key"
            )
        return self

    @abstractmethod
    def example(self) -> Example:
        """Return the pair independent of its format."""

    @staticmethod
    @abstractmethod
    def of(example: Example) -> dict[str, object]:
        """Return `example` in this format, without validation."""


class _ChatMessage(Message):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ChatML(Pair):
    messages: list[_ChatMessage]
    input: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        faults = order_faults(self.messages)
        faults += [
            f"message {index} is empty" for index, message in enumerate(self.messages) if not message.content.strip()
        ]
        if not self.messages or self.messages[-1].role != "assistant":
            faults.append("messages must end with an answer of the assistant")
        elif not _ends_with_input(self.messages[-2].content, self.input):
            faults.append("input must end the last user message, after an instruction and an empty line")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def example(self) -> Example:
        system = self.messages[0].content if self.messages[0].role == "system" else ""
        said = self.messages[bool(system) :]
        pairs = [(asked.content, answered.content) for asked, answered in zip(said[::2], said[1::2], strict=True)]
        context = _context(message.weight for message in said[1::2])
        return Example(pairs, system, self.input, self.model_extra or {}, context)

    @staticmethod
    def of(example: Example) -> dict[str, object]:
        head = [{"role": "system", "content": example.system}] if example.system else []
        turns: list[dict[str, object]] = []
        for index, (asked, answered) in enumerate(example.exchanges):
            weight = {"weight": 0} if index in example.context else {}
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered, **weight}]
        return {"messages": [*head, *turns]} | ({"input": example.input} if example.input else {}) | example.extra


class _WithHistory(Pair):
    """An exchange after earlier ones."""

    input: str = ""
    system: str = ""
    history: _History = Field(default_factory=list)
    weights: _Weights = Field(default_factory=list)

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        answers = len(self.history) + 1
        if self.weights and len(self.weights) != answers:
            raise ValueError(f"weights must be one for each answer: {answers}, not {len(self.weights)}")
        return self

    def _after_history(self, asked: str, answered: str) -> Example:
        pairs = [*((pair[0], pair[1]) for pair in self.history), (asked, answered)]
        return Example(pairs, self.system, self.input, self.model_extra or {}, _context(self.weights))


class _Alpaca(_WithHistory):
    instruction: _Text
    output: _Text

    def example(self) -> Example:
        asked = self.instruction + (_BEFORE_INPUT + self.input if self.input else "")
        return self._after_history(asked, self.output)

    @staticmethod
    def of(example: Example) -> dict[str, object]:
        asked, answer = example.exchanges[-1]
        asked = asked.removesuffix(_BEFORE_INPUT + example.input) if example.input else asked
        return {"instruction": asked, "input": example.input, "output": answer} | example.optional()


class _Instruction(_WithHistory):
    prompt: _Text
    completion: _Text

    @model_validator(mode="after")
    def _input_ends_prompt(self) -> Self:
        if not _ends_with_input(self.prompt, self.input):
            raise ValueError(
                "input must end the prompt, after an instruction and an empty line: correct the prompt, or leave "
                "input out"
            )
        return self

    def example(self) -> Example:
        return self._after_history(self.prompt, self.completion)

    @staticmethod
    def of(example: Example) -> dict[str, object]:
        prompt, completion = example.exchanges[-1]
        given = {"input": example.input} if example.input else {}
        return {"prompt": prompt, "completion": completion} | given | example.optional()


FORMATS: dict[DatasetFormat, type[Pair]] = {
    DatasetFormat.CHATML: _ChatML,
    DatasetFormat.ALPACA: _Alpaca,
    DatasetFormat.INSTRUCTION: _Instruction,
}


def _ends_with_input(asked: str, given: str) -> bool:
    instruction = asked.removesuffix(_BEFORE_INPUT + given)
    return not given or bool(instruction != asked and instruction.strip())


def _context(weights: Iterable[int]) -> frozenset[int]:
    return frozenset(index for index, weight in enumerate(weights) if not weight)


def known_format(name: DatasetFormat | str) -> DatasetFormat:
    """Return the format with this name. Raises DataError, which names the known ones."""
    for known in FORMATS:
        if name == known:
            return known
    raise DataError(f"unknown format {name!r}: choose one of {', '.join(FORMATS)}")


def parse_pairs(format_type: DatasetFormat, pairs: Iterable[object]) -> Iterator[Example]:
    """Yield the pairs independent of their format.

    After the last one, raise DataError with every fault of every pair, by index, if there are any.
    """
    faults: list[str] = []
    for index, pair in enumerate(pairs):
        try:
            yield FORMATS[format_type].model_validate(pair).example()
        except ValidationError as error:
            faults += [f"pair {index}: {_say(fault)}" for fault in error.errors()]
    _raise(faults, format_type)


def examples_of(
    conversations: Iterable[Conversation], thoughts: bool = False
) -> Iterator[tuple[Conversation, Example]]:
    """Yield each conversation with its training pair; `thoughts`: with the model's thoughts before its answers.

    After the last one, raise DataError with every empty text of every conversation, by index, if there are any.
    """
    faults: list[str] = []
    for index, conversation in enumerate(conversations):
        turns, texts = conversation.turns, [conversation.system] if conversation.system else []
        for turn in turns:
            texts += turn.user_message, turn.answer(thoughts)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:  # looking at each text would take longer, and next to none has any
            texts = [str(whole_characters(text)) for text in texts]
        if not all(map(str.strip, texts)):
            empty = [f"message {place} is empty" for place, text in enumerate(texts) if not text.strip()]
            faults.append(f"pair {index}: {'; '.join(empty)}")
            continue
        system = texts.pop(0) if conversation.system else ""
        context = [place for place, turn in enumerate(turns) if "weight" in turn.metadata and only_context(turn)]
        exchanges = list(zip(texts[::2], texts[1::2], strict=True))
        yield conversation, Example(exchanges, system, context=frozenset(context))
    _raise(faults, DatasetFormat.CHATML)


def _raise(faults: Sequence[str], format_type: DatasetFormat) -> None:
    if faults:
        raise DataError(f"{counted(len(faults), 'fault')} in {format_type} pairs:\n  " + "\n  ".join(faults))


def _say(fault: Any) -> str:
    where = ".".join(map(str, fault["loc"]))
    what = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what
