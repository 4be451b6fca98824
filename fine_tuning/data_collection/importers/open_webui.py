"""Read Open WebUI's exported chats: a tree of messages in `chat.history`, in old exports the list `chat.messages`."""

import html
import re
from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Rating,
    Said,
    dicts,
    has,
    moment,
    object_in,
    text_of,
)
from fine_tuning.data_collection.importers.message_forms import content_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.trees import paths
from fine_tuning.json_values import JsonObject

_DETAILS = re.compile(r'<details type="(\w+)"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*', re.DOTALL)


def _fits(record: object) -> bool:
    if has(record, "chat"):
        messages = record["chat"].get("messages") if isinstance(record["chat"], dict) else None
        has_roles = isinstance(messages, list) and (not messages or has(messages[0], "role"))
        return has(record["chat"], "history") or has_roles
    return has(record, "history", "models") and has(record["history"], "messages")


def convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    chat = record.get("chat", record)  # a single chat is exported without the record around it
    if not isinstance(chat, dict):
        raise BadRecord("a chat with its history")
    history = object_in(chat, "history")
    messages = object_in(history, "messages")
    nodes = {key: node for key, node in messages.items() if isinstance(node, dict)}
    if len(nodes) < len(messages):
        raise BadRecord("a history of messages")
    id = text_of(record.get("id"), "an id")
    system = text_of(object_in(chat, "params").get("system"), "a system prompt")
    head = [Said("system", system)] if system else []
    found = (
        paths(nodes, history.get("currentId"), "parentId", source.branches == "all")
        if nodes
        else [dicts(chat.get("messages"), "messages")]
    )
    for number, path in enumerate(found):
        yield Chat([*head, *map(_said, path)], f"{id} {path[-1].get('id')}" if number and id else id)


def _said(message: JsonObject) -> Said:
    role = ROLES.get(text_of(message.get("role"), "a role"))
    if role is None:
        raise BadRecord("a role (user, assistant, system)")
    text, parts, _ = content_of(message.get("content") or message.get("content_list"))
    folded = _DETAILS.findall(text)  # sections that the page shows folded: thoughts, and tool calls
    thoughts = "\n\n".join(_unquoted(inner) for kind, inner in folded if kind == "reasoning")
    parts += [{"type": kind, "text": inner.strip()} for kind, inner in folded if kind != "reasoning"]
    parts += [{"attachment": file} for file in dicts(message.get("files") or [], "files")]
    rating = object_in(message, "annotation").get("rating")
    thumb: Rating | None = "up" if rating == 1 else "down" if rating == -1 else None
    model = text_of(message.get("model"), "a model")
    return Said(role, _DETAILS.sub("", text), moment(message.get("timestamp")), thoughts, model, parts, rating=thumb)


def _unquoted(text: str) -> str:
    return html.unescape(
        "\n".join(line.removeprefix("&gt;").removeprefix(">").removeprefix(" ") for line in text.strip().split("\n"))
    )


OPEN_WEBUI = Importer("Open WebUI export", _fits, each(convert, "a chat with its history"))
