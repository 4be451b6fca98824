"""Convert conversations to training records for other programs.

chatml       one conversation per record
sharegpt     one conversation per record, with `from` and `value`, as many data sets have it
alpaca       one turn per record, with the turns before it as its history
instruction  one turn per record, with the turns before it as its history
dpo          one preference per record: `prompt`, `chosen` and `rejected` as lists of messages
dpo-text     the same as texts; an earlier exchange is part of the prompt, as in Anthropic's HH-RLHF

An answer that is rated down, or incomplete and not approved, is in none of the first four: the
conversation ends before it, and what follows is another one, as in byoai's own training. An answer
that is only context has "weight": 0 in chatml and sharegpt, which OpenAI and axolotl read; alpaca and
instruction have no record for it, and its weight in `weights` where it is in a history.

The first four have one answer to each question; pair_formats.py shows the keys of chatml, alpaca and
instruction. The last two are TRL's conversational and standard preference format. Their pairs are
those that byoai itself learns from (preferences.py): an edited answer and the model's own, or an
answer with a thumb up and one without.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from fine_tuning.branches import stretches, system_of
from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, Message, only_context, refused
from fine_tuning.data_collection.pair_formats import FORMATS, Example
from fine_tuning.data_collection.preferences import Preference, preferences_of
from fine_tuning.data_collection.record_files import Kind, Record


class TrainingFormat(NamedTuple):
    columns: dict[str, Kind]  # keys of its records
    records: Callable[[Iterable[Conversation]], Iterator[Record]]
    of_pairs: bool = False  # whether its records are preferences, of which a log may have none


def _chatml(conversations: Iterable[Conversation]) -> Iterator[Record]:
    return (FORMATS[DatasetFormat.CHATML].of(example) for each in conversations for example in _examples(each))


def _sharegpt(conversations: Iterable[Conversation]) -> Iterator[Record]:
    """Yield each conversation as importers/sharegpt.py reads it."""
    for example in (example for conversation in conversations for example in _examples(conversation)):
        said: list[dict[str, object]] = [{"from": "system", "value": example.system}] if example.system else []
        for index, (question, answer) in enumerate(example.exchanges):
            weight = {"weight": 0} if index in example.context else {}
            said += [{"from": "human", "value": question}, {"from": "gpt", "value": answer, **weight}]
        yield {"conversations": said}


def _alpaca(conversations: Iterable[Conversation]) -> Iterator[Record]:
    return (FORMATS[DatasetFormat.ALPACA].of(example) for example in _by_turn(conversations))


def _instruction(conversations: Iterable[Conversation]) -> Iterator[Record]:
    return (FORMATS[DatasetFormat.INSTRUCTION].of(example) for example in _by_turn(conversations))


def _dpo(conversations: Iterable[Conversation]) -> Iterator[Record]:
    for pair in _pairs(conversations):
        yield {
            "prompt": _plain(pair.said),
            "chosen": _plain([Message(role="assistant", content=pair.chosen)]),
            "rejected": _plain([Message(role="assistant", content=pair.rejected or "")]),
        }


def _dpo_text(conversations: Iterable[Conversation]) -> Iterator[Record]:
    for pair in _pairs(conversations):
        system = "".join(message.content for message in pair.said if message.role == "system")
        said = [message for message in pair.said if message.role != "system"]
        prompt = said[0].content if len(said) == 1 else "\n\n".join(map(_dialogue_line, said))
        texts = {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected or ""}
        yield texts | ({"system": system} if system else {})


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _dialogue_line(message: Message) -> str:
    return f"{'Human' if message.role == 'user' else 'Assistant'}: {message.content}"


def _pairs(conversations: Iterable[Conversation]) -> Iterator[Preference]:
    """Yield the pairs of answers, as they were recorded."""
    # imported here, since it loads much, and every program that opens the log loads this module
    from fine_tuning.data_collection.cleaning.clean_turns import CleanTurn

    for conversation in conversations:
        turns = [
            turn.model_copy(update={"metadata": {**turn.metadata, "system": system_of(turn, conversation.system)}})
            for turn in conversation.turns
        ]
        as_recorded = {turn.id: CleanTurn(turn, {}, turn.metadata.get("original_response")) for turn in turns}
        yield from (each for each in preferences_of(turns, as_recorded) if each.rejected)


def _examples(conversation: Conversation) -> Iterator[Example]:
    """Yield the chosen path of a conversation as one example.

    Yield several if the system prompt changes, or if an answer on it is refused, which is left out.
    """
    for stretch in stretches(conversation):
        for is_refused, group in groupby(stretch.turns, refused):
            if not is_refused:
                turns = [*group]
                while turns and only_context(turns[-1]):  # context for nothing
                    turns.pop()
                if not turns:
                    continue
                context = frozenset(index for index, turn in enumerate(turns) if only_context(turn))
                exchanges = [(turn.user_message, turn.bot_response) for turn in turns]
                yield Example(exchanges, stretch.system, context=context)


def _by_turn(conversations: Iterable[Conversation]) -> Iterator[Example]:
    """Yield one example for each answer that is learned: the exchange, after those before it."""
    for whole in (example for conversation in conversations for example in _examples(conversation)):
        for last in range(len(whole.exchanges)):
            if last not in whole.context:
                before = frozenset(index for index in whole.context if index < last)
                yield Example(whole.exchanges[: last + 1], whole.system, context=before)


_PAIR = ("prompt", "chosen", "rejected")
_BEFORE: dict[str, Kind] = {"system": "text", "history": "exchanges", "weights": "numbers"}

TRAINING: dict[str, TrainingFormat] = {
    DatasetFormat.CHATML.value: TrainingFormat({"messages": "chatml"}, _chatml),
    "sharegpt": TrainingFormat({"conversations": "sharegpt"}, _sharegpt),
    DatasetFormat.ALPACA.value: TrainingFormat(
        {"instruction": "text", "input": "text", "output": "text", **_BEFORE}, _alpaca
    ),
    DatasetFormat.INSTRUCTION.value: TrainingFormat({"prompt": "text", "completion": "text", **_BEFORE}, _instruction),
    "dpo": TrainingFormat(dict.fromkeys(("prompt", "chosen", "rejected"), "messages"), _dpo, of_pairs=True),
    "dpo-text": TrainingFormat(
        dict.fromkeys(("prompt", "chosen", "rejected", "system"), "text"), _dpo_text, of_pairs=True
    ),
}
