"""Read ChatGPT's export, `conversations.json`, and DeepSeek's export of the same name.

Each conversation is a tree of messages (`mapping`), with the message that was shown last
(`current_node`). A message of DeepSeek consists of fragments: a request, or thoughts and a
response.
"""

import re
from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import (
    ROLES,
    BadRecord,
    Chat,
    Said,
    dicts,
    has,
    list_in,
    moment,
    object_in,
    text_of,
)
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.trees import paths
from fine_tuning.json_values import JsonObject

# marks of citations, which are not text
_CITED = re.compile("\ue200.*?\ue201|[\ue200-\ue206]|【[^【】\n]*?(?:†|turn\\d)[^【】\n]*?】", re.DOTALL)
_TEXTS = ("text", "multimodal_text")


def _fits(record: object) -> bool:
    return has(record, "mapping") and isinstance(record["mapping"], dict)


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    mapping = record["mapping"]
    nodes = {key: node for key, node in mapping.items() if isinstance(node, dict)} if isinstance(mapping, dict) else {}
    if not isinstance(mapping, dict) or len(nodes) < len(mapping):
        raise BadRecord("a mapping of nodes")
    id = text_of(record.get("conversation_id") or record.get("id"), "an id")
    model = text_of(record.get("default_model_slug"), "a model")
    for number, path in enumerate(paths(nodes, record.get("current_node"), "parent", source.branches == "all")):
        said = [said for node in path if node.get("message") for said in _said(object_in(node, "message"), model)]
        yield Chat(said, f"{id} {path[-1].get('id')}" if number and id else id)


def _of_fragments(message: JsonObject, model: str) -> Said:
    texts: dict[str, list[str]] = {"REQUEST": [], "RESPONSE": [], "THINK": []}
    parts: list[object] = [{"attachment": file} for file in list_in(message, "files")]
    for fragment in dicts(message["fragments"], "fragments"):
        kind = text_of(fragment.get("type"), "a type")
        if kind in texts:
            texts[kind].append(text_of(fragment.get("content"), "content"))
        else:
            parts.append(fragment)
    request, response, thoughts = ("\n\n".join(each) for each in texts.values())
    time = moment(message.get("inserted_at"))
    if request:
        return Said("user", request, time, parts=parts)
    return Said("assistant", response, time, thoughts, text_of(message.get("model"), "a model") or model, parts)


def _said(message: JsonObject, model: str) -> Iterator[Said]:
    if "fragments" in message:
        yield _of_fragments(message, model)
        return
    about, content = object_in(message, "metadata"), object_in(message, "content")
    role = ROLES.get(text_of(object_in(message, "author").get("role"), "a role"))
    if role is None:
        raise BadRecord("an author's role (user, assistant, system, tool)")
    kind = content.get("content_type")
    if (
        about.get("is_visually_hidden_from_conversation")
        or message.get("weight") == 0
        or kind in ("user_editable_context", "model_editable_context")
    ):
        return  # hidden, deleted, or ChatGPT's memory of its user
    time = moment(message.get("create_time"))
    model = text_of(about.get("model_slug"), "a model") or model
    text, parts = _content(content) if kind in _TEXTS else ("", [])
    if role == "tool" or message.get("recipient") not in (None, "all"):
        part = {
            "name": object_in(message, "author").get("name"),
            "to": message.get("recipient") if role != "tool" else None,
            "content": content,
        }
        yield Said("assistant", time=time, model=model, parts=[{key: value for key, value in part.items() if value}])
    elif kind == "thoughts":
        thoughts = [each for each in list_in(content, "thoughts") if isinstance(each, dict)]
        yield Said(
            "assistant",
            time=time,
            model=model,
            thoughts="\n\n".join(text_of(each.get("content"), "a thought") for each in thoughts),
        )
    elif kind == "reasoning_recap":
        return
    elif kind not in _TEXTS:
        yield Said(role, time=time, model=model, parts=[content])
    elif text.strip() or parts:
        files = list_in(about, "attachments")
        yield Said(
            role,
            text,
            time,
            model=model if role == "assistant" else "",
            parts=[*parts, *({"attachment": file} for file in files)],
        )


def _content(content: JsonObject) -> tuple[str, list[object]]:
    texts, parts = list[str](), list[object]()
    for part in list_in(content, "parts"):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("content_type") == "audio_transcription":
            texts.append(text_of(part.get("text"), "a transcription"))
        else:
            parts.append(part)
    text = "\n\n".join(text for text in texts if text.strip())
    return text if text.isascii() else _CITED.sub("", text), parts  # the marks are not ASCII


CHATGPT = Importer(
    "ChatGPT or DeepSeek export (conversations.json)", _fits, each(_convert, "a conversation with a mapping")
)
