"""Read chats of Visual Studio Code: the `chat.json` that its command "Chat: Export Chat..." writes.

Each request has the question and a list with the parts of the response, in the order in which they were
shown: Markdown, names of files within a sentence, thoughts, edits and calls of tools. The form is
`IExportableChatData` in chatModel.ts of VS Code. Copilot and every other chat extension share it.
"""

import re
from collections.abc import Iterator

from fine_tuning.data_collection.importers.chats import Chat, Fault, Rating, Said, dicts, has, moment, text_of
from fine_tuning.data_collection.importers.records import within
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject, JsonValue

_EMPTY_CODE = re.compile(r"\n*```\w*\s*```\n*")  # around an edit, which is a part of its own
_VOTES: dict[int, Rating] = {0: "down", 1: "up"}


def _fits(record: object) -> bool:
    requests = record.get("requests") if isinstance(record, dict) else None
    return isinstance(requests, list) and any(has(each, "message", "response") for each in requests[:20])


def _read(source: Source) -> Iterator[Chat | Fault]:
    said: list[Said] = []
    place = ""
    for record in within(source.member, "requests", source.read):
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


VSCODE = Importer("VS Code chat (chat.json)", _fits, _read, frozenset({"object"}))
