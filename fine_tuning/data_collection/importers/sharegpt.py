"""Read the format of ShareGPT and FineTome: {"conversations": [{"from": "human", "value": ...}]}.

The list may also consist of pairs with the keys "human" and "assistant".
"""

from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Said,
    dicts,
    first,
    has,
    one_of,
    rated,
    text_of,
)
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.marks import is_learned
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_PAGE = ('<div class="markdown', "<p>")  # the first dumps of ShareGPT hold answers as the page showed them
_TURNS = ("turns", "dialogue", "dialog")
_LISTS = ("conversations", "conversation", "items", "messages", *_TURNS)
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("input", "output"))
# of these, the elements of other lists may each be a question of its own
_TURN_PAIRS = (
    *(("human", "ai"), ("user", "bot"), ("prompt", "response"), ("query", "response"), ("question", "answer")),
    *(("user_utterance", "system_utterance"), ("user_message", "bot_response")),
)


def _fits(record: object) -> bool:
    message, turn = first(record, *_LISTS), first(record, *_TURNS)
    return (
        has(message, "from", "value")
        or any(has(message, *pair) for pair in _PAIRS)
        or any(has(turn, *pair) for pair in _TURN_PAIRS)
    )


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    messages = dicts(one_of(record, *_LISTS), "conversations")
    head = text_of(record.get("system"), "a system prompt")
    said = [Said("system", head)] if head else []
    yield Chat(rated([*said, *(each for message in messages for each in _said(message))], record))


def _said(message: JsonObject) -> Iterator[Said]:
    pairs = [] if "from" in message else [pair for pair in (*_PAIRS, *_TURN_PAIRS) if pair[0] in message]
    if pairs:  # the last question may have no answer
        asked, answered = next((pair for pair in pairs if pair[1] in message), pairs[0])
        yield Said("user", text_of(message[asked], asked))
        yield Said("assistant", text_of(message.get(answered), answered))
        return
    role = ROLES.get(text_of(message.get("from"), '"from"').lower())
    if role is None:
        raise BadRecord(f'"from" as human, gpt, system or tool, found {str(message.get("from"))[:40]!r}')
    text = text_of(message.get("value"), '"value"')
    yield Said(role, text_of_html(text) if text.startswith(_PAGE) else text, learned=is_learned(role, message))


SHAREGPT = Importer("ShareGPT, FineTome", _fits, each(_convert, 'conversations with "from" and "value"'))
