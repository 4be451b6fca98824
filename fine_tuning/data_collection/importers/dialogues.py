"""Read dialogues that do not name a user and an assistant, as data sets of dialogues have them.

They are lists of texts, {"dialog": ["…", "…"]} (DailyDialog, LIMA, UltraChat), or of objects with a
text and any speaker, {"turns": [{"speaker": "agent_1", "utterance": "…"}]} (Topical-Chat), or one text
with a name before each line, {"dialogue": "Ann: …\\nBo: …"} (SAMSum). Words such as "patient" and
"doctor" show who asks and who answers; without them, whoever speaks first asks. The option `me` names
the speaker whose messages are the answers.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from fine_tuning.data_collection.importers.chats import ROLES, BadRecord, Chat, Role, Said, first, has, rows_in, text_of
from fine_tuning.data_collection.importers.message_forms import content_of, time_of
from fine_tuning.data_collection.importers.shape import Importer, Source
from fine_tuning.data_collection.importers.shape import each as each_record
from fine_tuning.json_values import JsonObject

_LISTS = (
    *("dialog", "dialogue", "conversations", "conversation", "turns", "utterances", "messages", "chat", "history"),
    *("log", "content", "data", "segments", "sentences", "u"),
)
_WRITTEN = re.compile(r"dialog|conversation|transcript|chat", re.IGNORECASE)  # in the name of a dialogue in one text
_LINE = re.compile(r"#?([^\W\d_][\w .'-]{0,30}?)#?\s?[:：]\s*(.*)")
_SPEAKERS = (
    "speaker",
    "role",
    "from",
    "sender",
    "author",
    "agent",
    "user",
    "id",
    "name",
    "speaker_id",
    "turker",
    "who",
    "speaker_name",
)
_SESSIONS = ("conv_id", "dialog_id", "dialogue_id", "conversation_id")
_TEXTS = ("text", "utterance", "content", "message", "value", "body", "sentence", "transcript")
_SIDES: dict[str, Role] = {
    **{name: role for name, role in ROLES.items() if role in ("user", "assistant") and name not in ("agent", "char")},
    **dict.fromkeys(("patient", "seeker", "student", "caller", "apprentice", "asker", "questioner"), "user"),
    **dict.fromkeys(
        (
            *("doctor", "nurse", "therapist", "counselor", "supporter", "teacher", "tutor", "wizard", "expert"),
            *("representative", "advisor", "clerk", "support"),
        ),
        "assistant",
    ),
}
_LABEL = re.compile(r"\s*([^\W\d_][\w ]{0,20}?)\s?[:：]\s+(.*)", re.DOTALL)

_LETTER = re.compile(r"(?:speaker|person|agent|turker)?[ _-]?(?:\d|[A-Z])", re.IGNORECASE)  # a speaker without a name

# (name of the speaker or "", text, time)
Spoken = tuple[str, str, str]


def _dialogue(record: object) -> list[Spoken]:
    """Return what is spoken in a record; [] if it has no dialogue."""
    if isinstance(record, list) and len(record) > 1 and all(isinstance(each, dict) for each in record):
        return _spoken(record)
    if isinstance(record, list):
        return _spoken(record) if _is_dialogue_of_texts(record) else []
    if not isinstance(record, dict):
        return []
    history, candidates = record.get("history"), record.get("candidates")
    if isinstance(history, list) and isinstance(candidates, list) and history and candidates:
        # Persona-Chat with a record for each turn: before an even number of utterances, the other side speaks
        return _spoken([history[-1], candidates[-1]]) if len(history) % 2 else []
    speakers = record.get("speakers")
    for key in _LISTS:
        found = record.get(key)
        if isinstance(found, dict):  # Hugging Face: {"utterance": [...], "speaker": [...]}
            found = rows_in(found)
        if not isinstance(found, list) or len(found) < 1 or (key == "data" and len(record) > 1 and "id" not in record):
            continue
        spoken = _spoken(found)
        if isinstance(speakers, list) and len(speakers) == len(spoken):
            spoken = [(str(name), text, time) for name, (_, text, time) in zip(speakers, spoken, strict=True)]
        # else an article's paragraphs, or what a recogniser of speech heard from anybody
        is_told = key not in ("content", "segments", "sentences") or all(name for name, _, _ in spoken)
        if len(spoken) > 1 and is_told:
            return spoken
    return next((told for key, text in record.items() if _WRITTEN.search(key) and (told := _lines(text))), [])


def _lines(text: object) -> list[Spoken]:
    """Return the messages of a text in which each line is a message that begins with a name; [] for any other text."""
    heads = [_LINE.fullmatch(line) for line in text.splitlines() if line.strip()] if isinstance(text, str) else []
    spoken = [(head[1], head[2], "") for head in heads if head]
    return spoken if len(heads) == len(spoken) > 1 and len({name for name, _, _ in spoken}) > 1 else []


def _is_dialogue_of_texts(record: list[Any]) -> bool:
    """Return whether a list has several texts, of which at least half have more than one word."""
    texts = [each for each in record if isinstance(each, str)]
    is_long = 2 * sum(" " in text.strip() or not text.isascii() for text in texts) >= len(texts)
    return len(record) == len(texts) > 1 and is_long


def _spoken(found: list[Any]) -> list[Spoken]:
    """Return the messages in a list; [] if an element of the list is not a message."""
    spoken = list[Spoken]()
    if isinstance(last := found[-1], dict) and isinstance(last.get("history"), list) and last.get("candidates"):
        found = [*last["history"], last["candidates"][-1]]  # Persona-Chat: each element has all before it
    for each in found:
        if isinstance(each, list) and each and all(isinstance(inner, dict) for inner in each):
            spoken += _spoken(each)  # ParlAI: exchanges of two messages
        elif isinstance(each, list) and len(each) == 2 and all(isinstance(inner, str) for inner in each):
            is_named = bool(_LETTER.fullmatch(each[0])) or (" " not in each[0] and _side(each[0]) is not None)
            spoken += [(each[0], each[1], "")] if is_named else [("", each[0], ""), ("", each[1], "")]
        elif isinstance(each, str) and (label := _LABEL.fullmatch(each)) and label[1].lower() in _SIDES:
            spoken.append((label[1], label[2], ""))
        elif isinstance(each, str):
            spoken.append(("", each, ""))
        elif isinstance(each, dict) and (key := next((key for key in _TEXTS if key in each), "")):
            name = next((each[key] for key in _SPEAKERS if isinstance(each.get(key), str | int)), "")
            spoken.append((str(name), content_of(each[key])[0].strip(), time_of(each)))
        else:
            return []
    return spoken


def _is_of_objects(record: object) -> bool:
    """Return whether a record has a dialogue whose messages are objects."""
    return (
        isinstance(record, dict)
        and any(isinstance(first(record, key), dict) for key in _LISTS)
        and bool(_dialogue(record))
    )


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    spoken = _dialogue(record)
    if not spoken:
        raise BadRecord("a dialogue")
    system = text_of(record.get("system") or "", "a system prompt") if isinstance(record, dict) else ""
    sides = _sides([name for name, _, _ in spoken], source.me)
    facts = record if isinstance(record, dict) else {}
    session = text_of(next((facts[key] for key in _SESSIONS if key in facts and "candidates" in facts), None), "an id")
    # what a recogniser of speech heard is cut where somebody paused
    joint = " " if has(first(facts, "segments", "utterances"), "start", "end") else "\n\n"
    yield Chat([*([Said("system", system)] if system else []), *_said(spoken, sides)], session, joint)


def _said(spoken: list[Spoken], sides: dict[str, Role]) -> Iterator[Said]:
    for number, (name, text, time) in enumerate(spoken):
        yield Said(sides.get(name) or ("assistant" if number % 2 else "user"), text, time)


def _sides(names: list[str], me: str) -> dict[str, Role]:
    """Return the role of each name; {} if `names` holds no names, so that user and assistant alternate.

    Raises BadRecord if it is unclear who answers.
    """
    different = list(dict.fromkeys(names))
    if not any(different) or (len(different) > 2 and all(name.isdigit() for name in different)):  # numbers of messages
        return {}
    if me and any(name.casefold() == me.strip().casefold() for name in different):
        return {name: "assistant" if name.casefold() == me.strip().casefold() else "user" for name in different}
    known = {name: role for name in different if (role := _side(name))}
    rest = [name for name in different if name not in known]
    if len(set(known.values())) == 1 and rest:
        other: Role = "user" if "assistant" in known.values() else "assistant"
        known.update(dict.fromkeys(rest, other))
    elif len(different) == 2 and len(set(known.values())) < 2:  # "User 1" and "User 2", too
        known = {different[0]: "user", different[1]: "assistant"}
    elif rest:
        raise BadRecord(f"two speakers, found {len(different)}: say with --me NAME whose messages are the answers")
    return known


def _side(name: str) -> Role | None:
    return next((_SIDES[word] for word in re.split(r"[\W\d_]+", name.lower()) if word in _SIDES), None)


DIALOGUES = Importer(
    "dialogues of two speakers", lambda record: bool(_dialogue(record)), each_record(_convert, "a dialogue")
)
# within other objects a list of texts can be anything, so messages must be objects there
SPOKEN = Importer("dialogues of two speakers", _is_of_objects, DIALOGUES.read)
