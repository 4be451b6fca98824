"""Read chats of Visual Studio Code: the `chat.json` that its command "Chat: Export Chat..." writes, and its own files.

Each request has the question and a list with the parts of the response, in the order in which they were
shown: Markdown, names of files within a sentence, thoughts, edits and calls of tools. The form is
`IExportableChatData` in chatModel.ts of VS Code. Copilot and every other chat extension share it.
In its folder chatSessions, VS Code keeps the same object in a `.json`, or as a log of changes in a
`.jsonl` (objectMutationLog.ts): the first line is the object, each further line sets, deletes or
adds to what is at a path.
"""

import re
from collections.abc import Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import Chat, Fault, Rating, Said, dicts, has, list_in, moment, text_of
from fine_tuning.data_collection.importers.records import Record, within
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject, JsonValue

_EMPTY_CODE = re.compile(r"\n*```\w*\s*```\n*")  # around an edit, which is a part of its own
_PUSH, _DELETE = 2, 3  # kinds of changes
_VOTES: dict[int, Rating] = {0: "down", 1: "up"}


def _fits(record: object) -> bool:
    if has(record, "kind") and isinstance(record["kind"], int):
        return isinstance(record.get("k"), list) or _fits(record.get("v"))
    requests = record.get("requests") if isinstance(record, dict) else None
    return isinstance(requests, list) and any(has(each, "message", "response") for each in requests[:20])


def _read(source: Source) -> Iterator[Chat | Fault]:
    said: list[Said] = []
    place = ""
    is_log = source.found.layout == "lines"
    for record in _replayed(source) if is_log else within(source.member, "requests", source.read):
        if isinstance(record, Fault):
            yield record
            continue
        try:
            said += _exchange(record.value)
            place = place or record.place
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a request with a message and a response", record.value)
    if said:
        yield Chat(said, place=place)


def _replayed(source: Source) -> Iterator[Record | Fault]:
    """Yield the requests of a chat that is stored as a log of changes. A change that fits nothing is a Fault."""
    chat: Any = {}
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            if "v" in record.value and not record.value.get("k"):
                chat = record.value["v"]
            else:
                _change(chat, record.value)
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a change of a chat", record.value)
    requests = chat.get("requests") if isinstance(chat, dict) else None
    for number, request in enumerate(requests if isinstance(requests, list) else (), 1):
        yield Record(f"request {number}", request)


def _change(chat: Any, change: JsonObject) -> None:
    """Change what is at the path "k": set it to "v" (kind 1), delete it (3), or add "v" to a list, cut at "i" (2)."""
    *path, last = list_in(change, "k")
    holder = chat
    for key in path:
        holder = holder[key]
    if change["kind"] == _PUSH:
        target = holder.setdefault(last, []) if isinstance(holder, dict) else holder[last]
        if isinstance(cut := change.get("i"), int):
            del target[cut:]
        target.extend(list_in(change, "v"))
    elif change["kind"] == _DELETE:
        del holder[last]
    elif isinstance(holder, list) and last == len(holder):
        holder.append(change.get("v"))
    else:
        holder[last] = change.get("v")


def _exchange(request: JsonObject) -> list[Said]:
    message = request["message"]
    asked = text_of(message["text"] if isinstance(message, dict) else message, "a message")
    told, thoughts, parts = "", list[str](), list[object]()
    for part in dicts(request.get("response") or [], "response"):
        if text := _markdown(part):
            told += text
        elif part.get("kind") == "thinking":
            thoughts.append(_thought(part.get("value")))
        elif part.get("kind") == "inlineReference":
            told += f"`{_name(part)}`"
        else:
            told += "\n\n" if told.strip() else ""
            parts.append(part)
    time, vote = moment(request.get("timestamp")), request.get("vote")
    answer = Said(
        "assistant",
        re.sub(r"\n{3,}", "\n\n", _EMPTY_CODE.sub("\n\n", told)).strip(),
        time,
        "\n\n".join(each for each in thoughts if each),
        text_of(request.get("modelId"), "a model"),
        parts,
        rating=_VOTES.get(vote) if isinstance(vote, int) else None,
    )
    return [Said("user", asked, time), answer]


def _markdown(part: JsonObject) -> str:
    """Return the text of a part of Markdown; "" for any other part."""
    if part.get("kind") in ("markdownContent", "markdownVuln"):
        content = part.get("content")
        return text_of(content.get("value") if isinstance(content, dict) else content, "content")
    return "" if part.get("kind") else text_of(part.get("value"), "a value")


def _thought(value: JsonValue) -> str:
    return "".join(text_of(each, "a thought") for each in (value if isinstance(value, list) else [value]))


def _name(part: JsonObject) -> str:
    """Return the name of a file or a symbol that is mentioned within a sentence."""
    target = part.get("inlineReference")
    if isinstance(name := part.get("name"), str) and name:
        return name
    while isinstance(target, dict):
        if isinstance(name := target.get("name") or target.get("path"), str) and name:
            return name.rpartition("/")[2]
        target = target.get("uri") or target.get("location")
    return "a file"


VSCODE = Importer("VS Code chat (chat.json)", _fits, _read, frozenset({"object", "lines"}))
