"""Read pairs of a chosen and a rejected answer: as texts, lists of messages, or whole dialogues in plain text.

In the log, the rejected answer becomes the original one and the chosen answer its edit, so that they
form a preference pair. A dialogue in plain text has the form "Human: ... Assistant: ...".
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, dicts, has, object_in, text_of
from fine_tuning.data_collection.importers.message_forms import said_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, JsonValue

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_PROMPTS = (
    *("prompt", "question", "instruction", "input", "query", "conversations", "conversation", "messages", "context"),
)
_CHOSEN = (
    *("chosen", "chosen_messages", "chosen_response", "chosen_conversations", "chosen_answer", "response_j"),
    *("pos_resp", "messages"),
)
_TWO = (
    *(("response_0", "response_1"), ("response_1", "response_2"), ("response_a", "response_b")),
    *(("answer_0", "answer_1"), ("answer_a", "answer_b"), ("response1", "response2"), ("answer1", "answer2")),
)
_FIRST = {"0": True, "1": False, "a": True, "b": False, "model_a": True, "model_b": False}
# names of verdicts, and what they say about the first answer: whether it is better, None for a tie
_VERDICTS: dict[str, Callable[[str], bool | None]] = {
    "better_response_id": _FIRST.get,
    "winner": _FIRST.get,
    "preferred": _FIRST.get,
    # HelpSteer: -3 to 3
    "overall_preference": lambda verdict: {"-": True, "0": None}.get(verdict[:1], False),
    "preference_strength": lambda verdict: {"-": True, "0": None}.get(verdict[:1], False),
}
_REJECTED = (
    *("rejected", "rejected_messages", "rejected_response", "rejected_conversations", "rejected_answer", "response_k"),
    "neg_resp",
)


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
        or _numbered(record) is not None
    )


def _numbered(record: object) -> tuple[str, str] | None:
    """Return the keys of the better and the worse of two answers, such as "response_0" and "response_1".

    Return None if a record has no such answers, or does not say which is better; ("", "") for a tie.
    """
    if not isinstance(record, dict):
        return None
    one, other = next((keys for keys in _TWO if has(record, *keys)), ("", ""))
    if not one or not any(key in record for key in _PROMPTS):
        return None
    for key, first_is_better in _VERDICTS.items():
        if key in record and isinstance(verdict := record[key], str | int | float):
            better = first_is_better(str(verdict).strip().lower())
            return ("", "") if better is None else (one, other) if better else (other, one)
    scores = [(record.get(f"score_{end}"), record.get(f"winner_model_{end}")) for end in (one[-1], other[-1])]
    marks = [mark for both in scores for mark in both if isinstance(mark, int | float | str)]
    if len(marks) != 2:
        return None
    first, second = float(marks[0]), float(marks[1])
    return ("", "") if first == second else (one, other) if first > second else (other, one)


def _chosen_of(record: JsonObject) -> JsonObject:
    """Convert a record with two answers, one of which was preferred, to the form with "chosen" and "rejected".

    It may be in the form of OpenAI, of the Stanford Human Preferences, or of the Chatbot Arena.
    """
    if numbered := _numbered(record):
        if not all(numbered):
            raise BadRecord("one of the two answers to be better, but it is a tie")
        return _rounds({**record, "chosen": record[numbered[0]], "rejected": record[numbered[1]]})
    if "preferred_output" in record:
        asked = object_in(record, "input")["messages"]
        return {"prompt": asked, "chosen": record["preferred_output"], "rejected": record["non_preferred_output"]}
    names = ("conversation_a", "conversation_b") if "winner" in record else ("human_ref_A", "human_ref_B")
    best = {"model_a": 0, "model_b": 1, 1: 0, 0: 1}.get(record["winner" if "winner" in record else "labels"])
    if best is None:
        raise BadRecord("one of the two answers to be better, but it is a tie")
    return {"prompt": record.get("history"), "chosen": record[names[best]], "rejected": record[names[1 - best]]}


def _rounds(record: JsonObject) -> JsonObject:
    """Return a record with messages in place of a prompt and answers that are lists of texts, written as JSON.

    Tables of the Chatbot Arena have such cells: '["first question", "second question"]'.
    """
    try:
        texts = (text_of(record[key], key) for key in ("prompt", "chosen", "rejected"))
        asked, *answers = map(json.loads, texts)
    except (BadRecord, KeyError, ValueError, RecursionError):
        return record
    if not all(isinstance(each, list) and len(each) == len(asked) > 0 for each in (asked, *answers)):
        return record
    told: list[JsonValue] = [
        [
            {"role": role, "content": text}
            for both in zip(asked, some, strict=True)
            for role, text in zip(("user", "assistant"), both, strict=True)
        ]
        for some in answers
    ]
    return {"chosen": told[0], "rejected": told[1]}


def _side(record: JsonObject, keys: Sequence[str]) -> list[Said]:
    """Return the dialogue that ends with the chosen (or the rejected) answer.

    The answer is the value of the first of `keys` that the record has. If this value contains no
    question, the record's prompt is put before it.
    """
    key = next((name for name in keys if name in record), keys[0])
    asked = next((record[name] for name in _PROMPTS if record.get(name)), None)
    if isinstance(asked, dict):
        asked = asked.get("full_text")  # WebGPT
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
