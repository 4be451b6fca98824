"""Read LM Studio's conversations: `*.conversation.json`.

Each message has several versions, one of which is selected; an answer has several steps.
"""

from collections.abc import Iterable

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Said,
    dicts,
    first,
    has,
    moment,
    object_in,
    text_of,
)
from fine_tuning.data_collection.importers.message_forms import content_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject


def _fits(record: object) -> bool:
    return has(first(record, "messages"), "versions")


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    created = record.get("createdAt")
    system = text_of(record.get("systemPrompt"), "a system prompt")
    said = [Said("system", system)] if system else []
    said += [_said(message, moment(created)) for message in dicts(record["messages"], "messages")]
    yield Chat(said, str(created) if created else "")


def _said(message: JsonObject, time: str) -> Said:
    versions, selected = dicts(message["versions"], "versions"), message.get("currentlySelected", 0)
    if not isinstance(selected, int) or not 0 <= selected < len(versions):
        raise BadRecord("a selected version that exists")
    version = versions[selected]
    role = ROLES.get(text_of(version.get("role"), "a role"))
    if role is None:
        raise BadRecord("a role (user, assistant)")
    model = text_of(object_in(version, "senderInfo").get("senderName"), "a model") if role == "assistant" else ""
    if version.get("type") != "multiStep":
        text, parts, _ = content_of(version.get("content"))
        return Said(role, text, time, model=model, parts=parts)
    texts, thoughts, parts = list[str](), list[str](), list[object]()
    for step in dicts(version.get("steps"), "steps"):
        if step.get("type") != "contentBlock":
            parts += [step] if step.get("type") == "toolStatus" else []  # but not steps shown for debugging
            continue
        text, more, _ = content_of(step.get("content"))
        parts += more
        (thoughts if object_in(step, "style").get("type") == "thinking" else texts).append(text)
    return Said(role, "\n\n".join(filter(None, texts)), time, "\n\n".join(filter(None, thoughts)), model, parts)


LM_STUDIO = Importer("LM Studio conversation", _fits, each(_convert, "messages with versions"))
