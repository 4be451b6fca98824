"""Read records with a question and its answer.

The formats are Alpaca, prompt and completion, Dolly, and byoai's own export.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from fine_tuning.data_collection.importers.chats import (
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
from fine_tuning.data_collection.importers.marks import answers_learned, own_facts
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.templated import said_in
from fine_tuning.json_values import JsonObject

# after which the answer is expected; Anthropic's former form: "\n\nHuman: What is tea?\n\nAssistant:"
_CUES = ("\nAssistant:", "\nASSISTANT:", "\nAI:", "\nBot:")
_COMPLETIONS = ("completion", "response")


def _alpaca(record: JsonObject, source: Source) -> Iterable[Chat]:
    answer = text_of(record["output"], "output")
    asked = _messages(_with(record, "instruction", "input", "context"), "user")
    yield Chat(rated(after_history(record, [*asked, Said("assistant", answer)]), record))


def after_history(record: JsonObject, said: Iterable[Said]) -> list[Said]:
    """Return messages of a record after its system prompt and its earlier exchanges ("history"), if it has them.

    Its `weights` may mark answers as context. Raises BadRecord if they do, but are not one for each answer.
    """
    messages, learned = [*_before(record), *said], answers_learned(record)
    if all(learned):
        return messages
    answers = sum(message.role == "assistant" for message in messages)
    if len(learned) != answers:
        raise BadRecord(f"as many weights as answers ({answers}), found {len(learned)}")
    marks = iter(learned)
    return [
        replace(message, learned=next(marks) and message.learned) if message.role == "assistant" else message
        for message in messages
    ]


def _before(record: JsonObject) -> Iterator[Said]:
    if system := text_of(record.get("system") or record.get("system_prompt"), "a system prompt"):
        yield Said("system", system)
    history = record.get("history") or record.get("chat_history") or record.get("conversation_history")
    for earlier in history if isinstance(history, list) else ():
        if isinstance(earlier, dict) and {"question", "answer"} <= earlier.keys():
            yield Said("user", text_of(earlier["question"], "a question"))
            yield Said("assistant", text_of(earlier["answer"], "an answer"))
        elif isinstance(earlier, dict):
            yield said_of(earlier)
        elif isinstance(earlier, list | tuple) and len(earlier) == 2:
            yield Said("user", text_of(earlier[0], "a question"))
            yield Said("assistant", text_of(earlier[1], "an answer"))
        else:
            raise BadRecord("history as pairs of a question and an answer")


def _with(record: JsonObject, *keys: str) -> str:
    return "\n\n".join(text for key in keys if (text := text_of(record.get(key), key)).strip())


def _completion(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield the chat of a prompt and its completion."""
    asked, answered = record["prompt"], one_of(record, *_COMPLETIONS)
    said = _messages(asked, "user") + _messages(answered, "assistant")
    yield Chat(rated(after_history(record, said), record))


def _messages(value: object, role: Role) -> list[Said]:
    if isinstance(value, list):
        return [said_of(message) for message in dicts(value, "messages")]
    text = text_of(value, "text")
    if role == "user" and text.rstrip().endswith(_CUES):
        said = said_in(text)
        return said if said[-1:] and said[-1].role == "user" else [Said(role, text)]
    return [Said(role, text)]


def _dolly(record: JsonObject, source: Source) -> Iterable[Chat]:
    asked, answer = _with(record, "instruction", "context", "input"), text_of(record["response"], "response")
    yield Chat(after_history(record, [Said("user", asked), Said("assistant", answer)]))


def _own(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield each turn in a record of byoai's own export (a turn, or a conversation) as a chat of its own."""
    return map(_own_turn, dicts(record["turns"], "turns") if "turns" in record else [record])


def _own_turn(record: JsonObject) -> Chat:
    """Return the chat of one turn, with the system prompt, edit, rating, weight and incompleteness that the log had.

    A CSV has no system prompt and no edit. The weight is not a mark of the message (`Said.learned`), because such
    marks outweigh edits and ratings, and these are the owner's.
    """
    facts = own_facts(record)
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
    kept = task_in(facts, "task") | ({} if facts["weight"] else {"weight": 0})
    if incomplete := text_of(facts.get("incomplete"), "how the answer ended"):
        kept["incomplete"] = incomplete
    return Chat([Said("system", system), *said] if system else said, session, facts=kept)


def _is_text(*keys: str) -> Callable[[object], bool]:
    return lambda record: has(record, *keys) and all(not isinstance(record[key], list | dict) for key in keys)


def _fits_completion(record: object) -> bool:
    return has(record, "prompt") and any(
        key in record and kind(record[key]) == kind(record["prompt"]) for key in _COMPLETIONS
    )


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
