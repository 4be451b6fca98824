"""Read conversations of Amazon Q Developer's command line, and of Kiro's, its successor.

Its command `/save` writes one as JSON: {"conversation_id", "history": [{"user", "assistant"}]}; its
database holds the same under "value". In older files an exchange is a list of the two sides.
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import (
    BadRecord,
    Chat,
    Said,
    first,
    has,
    list_in,
    moment,
    object_in,
    text_of,
)
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue

_ANSWERS = ("Response", "ToolUse")


def _fits(record: object) -> bool:
    if isinstance(record, dict) and isinstance(record.get("value"), dict):
        record = record["value"]
    exchange = first(record, "history")
    if not isinstance(exchange, dict | list):
        return False
    user, assistant = _sides(exchange)
    return has(user, "content") and any(key in assistant for key in _ANSWERS)


def _sides(exchange: JsonValue) -> tuple[JsonObject, JsonObject]:
    """Return what the user and the assistant said in one exchange; {} for an assistant that has not answered."""
    sides = [exchange.get("user"), exchange.get("assistant")] if isinstance(exchange, dict) else exchange
    if isinstance(sides, list) and len(sides) == 2:
        user, assistant = sides[0], sides[1] or {}
        if isinstance(user, dict) and isinstance(assistant, dict):
            return user, assistant
    raise BadRecord("a user and an assistant in each exchange of the history")


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    chat = record if "history" in record else object_in(record, "value")
    said = [message for exchange in list_in(chat, "history") for message in _said(exchange)]
    yield Chat(said, text_of(chat.get("conversation_id"), "an id"))


def _said(exchange: JsonValue) -> Iterator[Said]:
    user, assistant = _sides(exchange)
    content, time = object_in(user, "content"), moment(user.get("timestamp"))
    if not content:
        raise BadRecord("a prompt, or results of tools, in each exchange of the history")
    kind, asked = next(iter(content.items()))
    prompt = text_of(asked.get("prompt"), "a prompt") if isinstance(asked, dict) else ""
    results = [content] if kind != "Prompt" else []  # of tools, which go back to the model
    yield Said("user", prompt, time) if prompt else Said("tool", parts=results)
    answer = next((object_in(assistant, key) for key in _ANSWERS if key in assistant), {})
    calls = list_in(answer, "tool_uses")
    yield Said(
        "assistant", text_of(answer.get("content"), "content"), time, parts=[{"tool_uses": calls}] if calls else []
    )


AMAZON_Q = Importer("Amazon Q or Kiro conversation", _fits, each(_convert, "a history of a user and an assistant"))
