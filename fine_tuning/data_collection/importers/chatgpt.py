"""ChatGPT's export: `conversations.json`, in each conversation a tree of messages (`mapping`) and the one last shown (`current_node`)."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import ROLES, BadRecord, Chat, Said, has, moment, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.trees import paths

_CITED = re.compile("\ue200.*?\ue201|【[^【】\n]*?(?:†|turn\\d)[^【】\n]*?】", re.DOTALL)  # marks of sources, which are no text
_TEXTS = ("text", "multimodal_text")


def _fits(record: Any) -> bool:
    return has(record, "mapping") and isinstance(record["mapping"], dict)


def _convert(record: Any, source: Source) -> Iterable[Chat]:
    mapping = record["mapping"]
    if not all(isinstance(node, dict) for node in mapping.values()):
        raise BadRecord("a mapping of nodes")
    id = text_of(record.get("conversation_id") or record.get("id"), "an id")
    model = text_of(record.get("default_model_slug"), "a model")
    for number, path in enumerate(paths(mapping, record.get("current_node"), "parent", source.branches == "all")):
        said = [said for node in path if node.get("message") for said in _said(node["message"], model)]
        yield Chat(said, f"{id} {path[-1].get('id')}" if number and id else id)


def _said(message: dict[str, Any], model: str) -> Iterator[Said]:
    about, content = message.get("metadata") or {}, message.get("content") or {}
    role = ROLES.get(text_of((message.get("author") or {}).get("role"), "a role"))
    if role is None:
        raise BadRecord("an author's role (user, assistant, system, tool)")
    kind = content.get("content_type")
    if (
        about.get("is_visually_hidden_from_conversation")
        or message.get("weight") == 0
        or kind in ("user_editable_context", "model_editable_context")
    ):
        return  # hidden, deleted, or what ChatGPT remembers of its user
    time = moment(message.get("create_time"))
    model = text_of(about.get("model_slug"), "a model") or model
    text, parts = _content(content) if kind in _TEXTS else ("", [])
    if role == "tool" or message.get("recipient") not in (None, "all"):
        part = {
            "name": (message.get("author") or {}).get("name"),
            "to": message.get("recipient") if role != "tool" else None,
            "content": content,
        }
        yield Said("assistant", time=time, model=model, parts=[{key: value for key, value in part.items() if value}])
    elif kind == "thoughts":
        thoughts = [each for each in content.get("thoughts") or () if isinstance(each, dict)]
        yield Said(
            "assistant", time=time, model=model, thoughts="\n\n".join(text_of(each.get("content"), "a thought") for each in thoughts)
        )
    elif kind == "reasoning_recap":
        return
    elif kind not in _TEXTS:
        yield Said(role, time=time, model=model, parts=[content])
    elif text.strip() or parts:
        files = about.get("attachments") or []
        yield Said(role, text, time, model=model if role == "assistant" else "", parts=[*parts, *({"attachment": file} for file in files)])


def _content(content: dict[str, Any]) -> tuple[str, list[Any]]:
    texts, parts = [], []
    for part in content.get("parts") or ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("content_type") == "audio_transcription":
            texts.append(text_of(part.get("text"), "a transcription"))
        else:
            parts.append(part)
    return _CITED.sub("", "\n\n".join(text for text in texts if text.strip())), parts


CHATGPT = Importer("ChatGPT export (conversations.json)", _fits, each(_convert, "a conversation with a mapping"))
