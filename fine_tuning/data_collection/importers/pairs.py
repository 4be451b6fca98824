"""Read records with a question and its answer.

The formats are Alpaca, prompt and completion, Dolly, and byoai's own export.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from fine_tuning.data_collection.importers.chats import (
    BadRecord,
    Chat,
    Rating,
    Role,
    Said,
    dicts,
    first,
    has,
    is_learned,
    kind,
    moment,
    one_of,
    rated,
    task_in,
    text_of,
)
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.templated import said_in
from fine_tuning.json_values import JsonObject, parse_json

# after which the answer is expected; Anthropic's former form: "\n\nHuman: What is tea?\n\nAssistant:"
_CUES = ("\nAssistant:", "\nASSISTANT:", "\nAI:", "\nBot:")
_COMPLETIONS = ("completion", "response")


def _alpaca(record: JsonObject, source: Source) -> Iterable[Chat]:
    answer = text_of(record["output"], "output")
    asked = _messages(_with(record, "instruction", "input", "context"), "user")
    yield Chat(rated([*before(record), *asked, Said("assistant", answer)], record))


def before(record: JsonObject) -> Iterator[Said]:
    """Yield the system prompt and the earlier exchanges ("history") of a record, if it has them."""
    if system := text_of(record.get("system") or record.get("system_prompt"), "a system prompt"):
        yield Said("system", system)
    history = record.get("history") or record.get("chat_history") or record.get("conversation_history")
    weights = str(record.get("weights") or "").strip("[]").split(",")  # a list, or its text in a table
    for number, earlier in enumerate(history if isinstance(history, list) else ()):
        if isinstance(earlier, dict):
            yield said_of(earlier)
        elif isinstance(earlier, list | tuple) and len(earlier) == 2:
            yield Said("user", text_of(earlier[0], "a question"))
            learned = number >= len(weights) or weights[number].strip() != "0"
            yield Said("assistant", text_of(earlier[1], "an answer"), learned=learned)
        else:
            raise BadRecord("history as pairs of a question and an answer")


def _with(record: JsonObject, *keys: str) -> str:
    return "\n\n".join(text for key in keys if (text := text_of(record.get(key), key)).strip())


def _completion(record: JsonObject, source: Source) -> Iterable[Chat]:
    """Yield the chat of a prompt and its completion."""
    asked, answered = record["prompt"], one_of(record, *_COMPLETIONS)
    said = _messages(asked, "user") + _messages(answered, "assistant")
    yield Chat(rated([*before(record), *said], record))


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
    yield Chat([*before(record), Said("user", asked), Said("assistant", answer)])


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
        learned=is_learned("assistant", facts),
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
    told = {key: record.get(key) for key in ("model", "rating", "weight")}
    return {**told, **(facts if isinstance(facts, dict) else {})}


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
