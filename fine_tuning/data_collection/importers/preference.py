"""Read pairs of a chosen and a rejected answer: as texts, lists of messages, or whole dialogues in plain text.

In the log, the rejected answer becomes the original one and the chosen answer its edit, so that they
form a preference pair. A dialogue in plain text has the form "Human: ... Assistant: ...".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, dicts, has, object_in, text_of
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_PROMPTS = ("prompt", "question", "instruction", "input", "query", "conversations", "conversation", "messages")
_CHOSEN = ("chosen", "chosen_messages", "chosen_response", "response_j", "messages")
_REJECTED = ("rejected", "rejected_messages", "rejected_response", "response_k")


def _fits(record: object) -> bool:
    return _is_judged(record) or (
        isinstance(record, dict) and any(key in record for key in _CHOSEN) and any(key in record for key in _REJECTED)
    )


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    if _is_judged(record):
        record = _chosen_of(record)
    chosen, rejected = (_side(record, keys) for keys in (_CHOSEN, _REJECTED))
    if not chosen or not rejected or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        raise BadRecord("a chosen and a rejected answer")
    if not any(said.role == "user" for said in chosen):
        raise BadRecord("a question before the chosen answer")
    better, worse = chosen[-1], rejected[-1]
    if better.text.strip() == worse.text.strip() or not worse.text.strip():
        raise BadRecord("a rejected answer that differs from the chosen one")
    yield Chat([*chosen[:-1], replace(better, rejected=worse.text)])


def _is_judged(record: object) -> bool:
    """Return whether a record has two answers, and says elsewhere which one is better."""
    return (
        has(record, "input", "preferred_output", "non_preferred_output")
        or has(record, "human_ref_A", "human_ref_B", "labels")
        or has(record, "conversation_a", "conversation_b", "winner")
    )


def _chosen_of(record: JsonObject) -> JsonObject:
    """Return the record of two answers of which one was preferred, in the form with "chosen" and "rejected".

    These are the forms of OpenAI, of the Stanford Human Preferences, and of the Chatbot Arena.
    """
    if "preferred_output" in record:
        asked = object_in(record, "input")["messages"]
        return {"prompt": asked, "chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    names = ("conversation_a", "conversation_b") if "winner" in record else ("human_ref_A", "human_ref_B")
    best = {"model_a": 0, "model_b": 1, 1: 0, 0: 1}.get(record["winner" if "winner" in record else "labels"])
    if best is None:
        raise BadRecord("which of the two answers is better: it is a tie")
    return {"prompt": record.get("history"), "chosen": record[names[best]], "rejected": record[names[1 - best]]}


def _side(record: JsonObject, keys: Sequence[str]) -> list[Said]:
    """Return the dialogue that ends with the chosen (or the rejected) answer.

    The answer is the value of the first of `keys` that the record has. If this value contains no
    question, the record's prompt is put before it.
    """
    key = next((name for name in keys if name in record), keys[0])
    asked = next((record[name] for name in _PROMPTS if record.get(name)), None)
    before = (
        [said_of(each) for each in dicts(asked, "messages")]
        if isinstance(asked, list)
        else dialogue(text_of(asked, "a prompt"), "user")
    )
    if system := text_of(record.get("system"), "a system prompt"):
        before.insert(0, Said("system", system))
    value = record[key]
    if isinstance(value, dict):
        value = [value]
    said = (
        [said_of(each) for each in dicts(value, "messages")]
        if isinstance(value, list)
        else dialogue(text_of(value, key), "assistant")
    )
    if any(each.role == "user" for each in said):
        return said
    while before and before[-1].role == "assistant":  # a list that ends with the chosen answer
        before.pop()
    return before + said


def dialogue(text: str, role: Role) -> list[Said]:
    """Return the messages of a dialogue in plain text ("Human: … Assistant: …"); any other text is one of `role`."""
    pieces = _TURN.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        return [Said(role, text)] if text.strip() else []
    roles = ("user" if name == "Human" else "assistant" for name in pieces[1::2])
    return [Said(who, said.strip()) for who, said in zip(roles, pieces[2::2], strict=True)]  # type: ignore[arg-type]


PREFERENCE = Importer("preference pairs (chosen, rejected)", _fits, each(_convert, "chosen and rejected"))
