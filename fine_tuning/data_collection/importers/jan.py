"""Read Jan's threads: a folder for each, whose `messages.jsonl` has one message per line."""

from collections.abc import Iterator

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Fault,
    Said,
    dicts,
    has,
    moment,
    object_in,
    text_of,
)
from fine_tuning.data_collection.importers.shape import UNREADABLE, Importer, Source, spoilt
from fine_tuning.json_values import JsonObject


def _fits(record: object) -> bool:
    return has(record, "thread_id", "role", "content") or (
        has(record, "role", "content") and record.get("object") == "thread.message"
    )


def _read(source: Source) -> Iterator[Chat | Fault]:
    """Yield the threads of a file. If a message is there twice, the later line counts."""
    threads: dict[str, dict[str, tuple[str, Said]]] = {}
    for record in source.records():
        if isinstance(record, Fault):
            yield record
            continue
        try:
            message = record.value
            said = _said(message)
            thread, id = text_of(message.get("thread_id"), "a thread"), text_of(message.get("id"), "an id")
            threads.setdefault(thread, {})[id or record.place] = (record.place, said)
        except UNREADABLE as error:
            yield spoilt(error, record.place, "a thread's message", record.value)
    for id, messages in threads.items():
        ordered = (
            sorted(messages.values(), key=lambda each: each[1].time)
            if all(said.time for _, said in messages.values())
            else messages.values()
        )
        yield Chat([said for _, said in ordered], id, place=next(iter(messages.values()))[0])


def _said(message: JsonObject) -> Said:
    role = ROLES.get(text_of(message.get("role"), "a role"))
    if role is None:
        raise BadRecord("a role (user, assistant, system)")
    texts, thoughts, parts = list[str](), list[str](), list[object]()
    for part in dicts(message.get("content") or [], "content"):
        text = part.get("text")
        if part.get("type") in ("text", "reasoning"):
            value = text.get("value") if isinstance(text, dict) else text
            (texts if part["type"] == "text" else thoughts).append(text_of(value, "text"))
        else:
            parts.append(part)
    parts += [{"attachment": file} for file in dicts(message.get("attachments") or [], "attachments")]
    if calls := object_in(message, "metadata").get("tool_calls"):
        parts.append({"tool_calls": calls})
    return Said(
        role,
        "\n\n".join(filter(None, texts)),
        moment(message.get("created_at")),
        "\n\n".join(filter(None, thoughts)),
        parts=parts,
    )


JAN = Importer("Jan thread (messages.jsonl)", _fits, _read, frozenset({"lines", "array", "object"}))
