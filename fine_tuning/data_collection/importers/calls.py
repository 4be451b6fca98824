"""Read logs of calls to a model: each record has what was sent to it, and what it answered.

LangSmith, Langfuse, Weave, Helicone, promptfoo, OpenAI Evals and programs of one's own write such
records, and so are data sets of examples for evaluations. What was sent is a text, a list of messages,
or a request that contains them; the answer is a text, a message, or a response with choices.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fine_tuning.data_collection.importers.chats import ROLES, BadRecord, Chat, Role, Said, rated, text_of
from fine_tuning.data_collection.importers.message_forms import content_of, role_of, said_of, time_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject, parse_json

_PAIRS = (
    *(("inputs", "outputs"), ("inputs", "output"), ("input", "output"), ("request", "response")),
    *(("request_body", "response_body"), ("input", "choices"), ("input", "ideal"), ("input", "expectedOutput")),
    *(("input", "expected_output"), ("inputs", "reference_outputs"), ("prompt", "sampled"), ("prompt", "response")),
    *(("modelInput", "modelOutput"), ("params", "result"), ("messages", "response"), ("messages", "completion")),
    *(("input_messages", "output_messages"), ("inputTranscript", "messages")),
    *(("messages", "output"), ("messages", "answer"), ("messages", "choices"), ("item", "sample")),
)
# OpenAI Evals: {"type": "sampling", "data": {"prompt": [...], "sampled": [...]}}; spans of OpenTelemetry
_WITHIN = ("data", "run", "attributes", "gen_ai", "llm")
_ASKED = (
    *("messages", "body", "input", "inputs", "prompt", "question", "query", "contents", "raw", "text", "content"),
    "inputBodyJson",
)
_ANSWERED = (
    *(
        "body",
        "choices",
        "candidates",
        "generations",
        "message",
        "messages",
        "output",
        "outputs",
        "output_text",
        "answer",
    ),
    *("response", "completion", "content", "parts", "generic", "text", "result", "generation", "outputBodyJson"),
)
_PARTS = frozenset(("generic", "text"))  # of `_ANSWERED`, lists of which each element belongs to the answer
_SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")
_TIMES = ("start_time", "startTime", "started_at", "timestamp", "created_at", "created")
_CLASSES: dict[str, Role] = {"HumanMessage": "user", "AIMessage": "assistant", "SystemMessage": "system"}
_DEEPEST = 8


def _call(record: object) -> tuple[object, object] | None:
    """Return what was sent and what was answered.

    Return None if the record lacks one of them, or if both are plain text, as in tables of questions and answers.
    """
    if not isinstance(record, dict):
        return None
    for holder in _holders(record):
        for asked, answered in _PAIRS:
            sent, got = holder.get(asked), holder.get(answered)
            is_list = isinstance(got, list) and bool(got) and isinstance(got[0], dict)
            is_told = bool(sent) and bool(got) and (isinstance(sent, dict | list) or isinstance(got, dict) or is_list)
            if is_told and not (asked == "prompt" and isinstance(got, list) and answered != "sampled"):
                return None if asked == "messages" and _is_answered(sent) else (sent, got)
    return None


def _holders(record: JsonObject, depth: int = 0) -> Iterator[JsonObject]:
    """Yield a record, and the objects within it that may hold the call."""
    yield record
    for key in _WITHIN if depth < 2 else ():
        if isinstance(inner := record.get(key), dict):
            yield from _holders(inner, depth + 1)


def _is_answered(messages: Any) -> bool:
    """Return whether a list of messages ends with an answer.

    If it does, the list is the whole conversation, and the value beside it is not the answer to it.
    """
    last = messages[-1] if isinstance(messages, list) and messages else None
    return not isinstance(last, dict) or role_of(last) not in ("user", "tool", "system")


def _fits(record: object) -> bool:
    if not (found := _call(record)):
        return False
    return any(said.role == "user" for said in sent(found[0])) and bool(list(_got(found[1])))


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    yield chat_of(record)


def chat_of(record: JsonObject, place: str = "") -> Chat:
    """Return the chat of a call. Raises BadRecord, or another exception of UNREADABLE, if the record is no call."""
    if not (found := _call(record)):
        raise BadRecord("a call of a model: what was sent, and the answer")
    time, model = time_of({"timestamp": next((record[key] for key in _TIMES if record.get(key)), None)}), ""
    for holder in (record, *found):
        if isinstance(holder, dict) and isinstance(holder.get("model"), str):
            model = model or str(holder["model"])
    said = [
        replace(one, time=one.time or time, model=one.model or (model if one.role == "assistant" else ""))
        for one in (*sent(found[0]), *_got(found[1]))
    ]
    success = record.get("success")  # promptfoo: whether the answer passed the test
    return Chat(rated(said, {"label": success} if isinstance(success, bool) else {}), place=place)


def sent(value: Any, depth: int = 0) -> Iterator[Said]:
    """Yield the messages that were sent to the model."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        with suppress(ValueError):  # promptfoo writes a list of messages as its JSON
            if value.lstrip().startswith("[{"):
                yield from sent(parse_json(value), depth + 1)
                return
        yield Said("user", value)
    elif isinstance(value, list) and value and isinstance(value[0], list):  # LangChain: one list for each prompt
        yield from sent(value[0], depth + 1)
    elif isinstance(value, list):
        for message in value:
            yield Said("user", message) if isinstance(message, str) else _message(message)
    elif isinstance(value, dict):
        if system := content_of(next((value[key] for key in _SYSTEM if value.get(key)), None))[0]:
            yield Said("system", system)
        inner = next((value[key] for key in _ASKED if value.get(key)), None)
        texts = [text for text in value.values() if isinstance(text, str)]
        if inner is not None:
            yield from sent(inner, depth + 1)
        elif len(texts) == 1 == len(value):
            yield Said("user", texts[0])


def _got(value: Any, depth: int = 0) -> Iterator[Said]:
    """Yield the messages of the answer; if the response has several choices, those of the first."""
    if depth > _DEEPEST or not value:
        return
    if isinstance(value, str):
        yield Said("assistant", value)
    elif isinstance(value, list) and isinstance(value[0], dict) and ("type" in value[0] or "role" in value[0]):
        for message in value:  # the items of a response, or a list of messages
            if isinstance(message, dict) and ROLES.get(str(message.get("role"))) in ("assistant", "tool"):
                yield _message(message)
    elif isinstance(value, list):
        yield from _got(value[0], depth + 1)
    elif isinstance(value, dict) and (value.get("role") or value.get("kwargs")):
        yield replace(_message(value), role="assistant")
    elif isinstance(value, dict):
        key = next((key for key in _ANSWERED if value.get(key)), "")
        texts = [text for text in value.values() if isinstance(text, str)]
        inner = value[key] if key else texts[0] if len(texts) == 1 == len(value) else ""
        # Watson: {"output": {"generic": [{"text": "…"}, {"text": "…"}]}} is one answer; of choices the first is read
        for each in inner if key in _PARTS and isinstance(inner, list) else [inner]:
            yield from _got(each, depth + 1)


def _message(message: JsonObject) -> Said:
    """Return a message. It is in a form that `said_of` reads, or in LangChain's.

    LangChain writes {"id": [..., "AIMessage"], "kwargs": {...}}.
    """
    names, inner = message.get("id"), message.get("kwargs")
    if isinstance(names, list) and names and isinstance(inner, dict):
        role = _CLASSES.get(text_of(names[-1], "a class").removesuffix("Chunk"), "tool")
        return said_of({**inner, "role": role})
    return said_of(message)


CALLS = Importer("calls of a model, with what was sent and the answer", _fits, each(_convert, "a call of a model"))
