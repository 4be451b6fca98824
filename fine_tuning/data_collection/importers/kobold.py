"""Read saved stories of KoboldAI and KoboldCpp: one text, in a prompt and a list of actions that continue it.

Who says what depends on the mode: tags around instructions, names at the beginning of lines (chat), or
"> " before what the player does (adventure). A story without any of these has no questions and answers.
"""

import re
from collections.abc import Iterable, Sequence

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, has, object_in, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.data_collection.importers.templated import said_in
from fine_tuning.json_values import JsonObject

_PLACEHOLDERS = ("{{[INPUT]}}", "{{[OUTPUT]}}")
_REST = re.compile(r"\{\{\[\w+\]\}\}")  # such as "{{[INPUT_END]}}"
_BETWEEN = "||$||"  # between the names of several characters
_USUAL_NAMES = (("chatname", "You"), ("chatopponent", "KoboldGPT"))
_ADVENTURE = re.compile(r"(?:^|\n)> ?(?P<asked>[^\n]+)\n*")


def _fits(record: object) -> bool:
    return has(record, "prompt", "actions", "gamestarted") and isinstance(record["actions"], list)


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    actions = record["actions"]
    text = "".join(text_of(piece, "an action") for piece in [record["prompt"], *(actions or [])])  # type: ignore[misc]
    settings = object_in(record, "savedsettings")
    said = _instructed(text, settings) or _chatted(text, settings) or said_in(text) or _played(text)
    if not said:
        raise BadRecord(
            "turns of two sides, found a story without them. Only instruct, chat and adventure mode have two sides"
        )
    system = text_of(record.get("memory"), "memory").strip()
    yield Chat([*([Said("system", system)] if system else []), *said])


def _instructed(text: str, settings: JsonObject) -> list[Said]:
    tags = tuple(text_of(settings.get(f"instruct_{side}tag"), "a tag").strip() for side in ("start", "end"))
    for user, assistant in (_PLACEHOLDERS, tags):
        if user and assistant and user in text and assistant in text:
            return _split(text, [user], [assistant])
    return []


def _chatted(text: str, settings: JsonObject) -> list[Said]:
    name, others = (text_of(settings.get(key), "a name") or usual for key, usual in _USUAL_NAMES)
    starts = [[f"\n{each}:" for each in names if each] for names in ([name], others.split(_BETWEEN))]
    text = f"\n{text}"
    if not all(any(start in text for start in side) for side in starts):
        return []
    return _split(text, *starts)


def _split(text: str, user: Sequence[str], assistant: Sequence[str]) -> list[Said]:
    """Return the messages of a text in which each begins with one of the marks of its side.

    The text before the first mark is the assistant's: the character's greeting.
    """
    roles: dict[str, Role] = {**dict.fromkeys(assistant, "assistant"), **dict.fromkeys(user, "user")}
    pieces = re.split(f"({'|'.join(map(re.escape, roles))})", text)
    said = [Said(roles[mark], told) for mark, told in zip(pieces[1::2], pieces[2::2], strict=True)]
    opening = Said("assistant", pieces[0])
    plain = [Said(each.role, _REST.sub("", each.text).strip()) for each in (opening, *said)]
    return [each for each in plain if each.text]


def _played(text: str) -> list[Said]:
    before, *pieces = _ADVENTURE.split(text)
    said = [Said("assistant", before.strip())]
    for asked, told in zip(pieces[::2], pieces[1::2], strict=True):
        said += [Said("user", asked.strip()), Said("assistant", told.strip())]
    return [each for each in said if each.text] if pieces else []


KOBOLD = Importer("KoboldAI or KoboldCpp story", _fits, each(_convert, "a story with a prompt and actions"))
