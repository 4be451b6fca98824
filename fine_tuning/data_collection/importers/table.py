"""List the formats that byoai can import, by name, and recognise the format of a file."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from itertools import islice

from fine_tuning.data_collection.importers.agnai import AGNAI
from fine_tuning.data_collection.importers.aider import AIDER
from fine_tuning.data_collection.importers.amazon_q import AMAZON_Q
from fine_tuning.data_collection.importers.annotations import ANNOTATIONS
from fine_tuning.data_collection.importers.batch import BATCH
from fine_tuning.data_collection.importers.calls import CALLS
from fine_tuning.data_collection.importers.chat_log import CHAT_LOG
from fine_tuning.data_collection.importers.chatgpt import CHATGPT
from fine_tuning.data_collection.importers.cherry_studio import CHERRY_STUDIO
from fine_tuning.data_collection.importers.claude import CLAUDE
from fine_tuning.data_collection.importers.columns import COLUMNS
from fine_tuning.data_collection.importers.custom import custom
from fine_tuning.data_collection.importers.database import LLM, OPEN_WEBUI_DATABASE
from fine_tuning.data_collection.importers.dialogue_lines import DIALOGUE_LINES
from fine_tuning.data_collection.importers.dialogue_text import DIALOGUE_TEXT
from fine_tuning.data_collection.importers.dialogues import DIALOGUES
from fine_tuning.data_collection.importers.discord import DISCORD, DISCORD_TEXT
from fine_tuning.data_collection.importers.document import DOCUMENT
from fine_tuning.data_collection.importers.faq import FAQ
from fine_tuning.data_collection.importers.files import Member
from fine_tuning.data_collection.importers.gemini import GEMINI
from fine_tuning.data_collection.importers.gemini_html import GEMINI_HTML
from fine_tuning.data_collection.importers.hangouts import HANGOUTS
from fine_tuning.data_collection.importers.huggingface import Dataset
from fine_tuning.data_collection.importers.instances import INSTANCES
from fine_tuning.data_collection.importers.intents import INTENTS
from fine_tuning.data_collection.importers.jan import JAN
from fine_tuning.data_collection.importers.json_ld import JSON_LD
from fine_tuning.data_collection.importers.kobold import KOBOLD
from fine_tuning.data_collection.importers.lm_studio import LM_STUDIO
from fine_tuning.data_collection.importers.messages import MESSAGE_LIST, MESSAGES
from fine_tuning.data_collection.importers.messenger import MESSENGER
from fine_tuning.data_collection.importers.nested import NESTED
from fine_tuning.data_collection.importers.oasst import OASST, OASST_MESSAGES
from fine_tuning.data_collection.importers.ollama_history import NO_ANSWERS, is_history
from fine_tuning.data_collection.importers.open_webui import OPEN_WEBUI
from fine_tuning.data_collection.importers.pairs import ALPACA, COMPLETION, DOLLY, OWN
from fine_tuning.data_collection.importers.passages import PASSAGES
from fine_tuning.data_collection.importers.people_records import PEOPLE
from fine_tuning.data_collection.importers.preference import PREFERENCE
from fine_tuning.data_collection.importers.rasa import RASA
from fine_tuning.data_collection.importers.records import (
    SAMPLE,
    Look,
    Record,
    look,
    look_at_headless,
    look_at_table,
    opened,
)
from fine_tuning.data_collection.importers.refusals import THE_LIST, refusal, told
from fine_tuning.data_collection.importers.replies import MAIL, REPLIES
from fine_tuning.data_collection.importers.shape import RECORDS, Importer, Inside, has_format
from fine_tuning.data_collection.importers.sharegpt import SHAREGPT
from fine_tuning.data_collection.importers.sillytavern import SILLYTAVERN
from fine_tuning.data_collection.importers.slack import SLACK
from fine_tuning.data_collection.importers.sms import SMS
from fine_tuning.data_collection.importers.sqlite_records import look_at_tables
from fine_tuning.data_collection.importers.telegram import TELEGRAM
from fine_tuning.data_collection.importers.templated import TEMPLATED
from fine_tuning.data_collection.importers.text_generation_webui import TEXT_GENERATION_WEBUI
from fine_tuning.data_collection.importers.tickets import TICKETS
from fine_tuning.data_collection.importers.voiceflow import VOICEFLOW, VOICEFLOW_TURNS
from fine_tuning.data_collection.importers.vscode import VSCODE
from fine_tuning.data_collection.importers.whatsapp import WHATSAPP
from fine_tuning.data_collection.importers.zed import ZED
from fine_tuning.errors import ConfigError, DataError

# More specific formats come first: of those that fit equally well, the first is chosen.
IMPORTERS: dict[str, Importer] = {
    "chatgpt": CHATGPT,
    "claude": CLAUDE,
    "gemini": GEMINI,
    "open-webui": OPEN_WEBUI,
    "open-webui-database": OPEN_WEBUI_DATABASE,
    "lm-studio": LM_STUDIO,
    "jan": JAN,
    "cherry-studio": CHERRY_STUDIO,
    "sillytavern": SILLYTAVERN,
    "text-generation-webui": TEXT_GENERATION_WEBUI,
    "kobold": KOBOLD,
    "agnai": AGNAI,
    "vscode": VSCODE,
    "zed": ZED,
    "amazon-q": AMAZON_Q,
    "voiceflow": VOICEFLOW,
    "voiceflow-turns": VOICEFLOW_TURNS,
    "llm": LLM,
    "telegram": TELEGRAM,
    "messenger": MESSENGER,
    "hangouts": HANGOUTS,
    "discord": DISCORD,
    "slack": SLACK,
    "sms": SMS,
    "byoai": OWN,
    "oasst": OASST,
    "oasst-messages": OASST_MESSAGES,
    "preference": PREFERENCE,
    "sharegpt": SHAREGPT,
    "annotations": ANNOTATIONS,
    "calls": CALLS,
    "batch": BATCH,
    "tickets": TICKETS,
    "messages": MESSAGES,
    "message-list": MESSAGE_LIST,
    "instances": INSTANCES,
    "dolly": DOLLY,
    "alpaca": ALPACA,
    "prompt-completion": COMPLETION,
    "replies": REPLIES,
    "mail": MAIL,
    "passages": PASSAGES,
    "columns": COLUMNS,
    "intents": INTENTS,
    "rasa": RASA,
    "people": PEOPLE,
    "templated": TEMPLATED,
    "dialogues": DIALOGUES,
    "nested": NESTED,
    "gemini-html": GEMINI_HTML,
    "json-ld": JSON_LD,
    "whatsapp": WHATSAPP,
    "discord-text": DISCORD_TEXT,
    "aider": AIDER,
    "chat-log": CHAT_LOG,
    "dialogue-lines": DIALOGUE_LINES,
    "text": DIALOGUE_TEXT,
    "faq": FAQ,
    "document": DOCUMENT,
}

# name of a format, its importer, and if the file is one large object, its lists of records (else None)
Found = tuple[str, Importer, Inside | None]


def importer_named(name: str) -> Importer:
    """Return the importer with this name; for "module:function", one that calls the user's function.

    Raises ConfigError if no importer has this name.
    """
    if ":" in name:
        return custom(name)
    if name not in IMPORTERS:
        near = get_close_matches(name.lower(), IMPORTERS, 3) or ["messages", "columns", "text"]
        raise ConfigError(
            f"--format {name!r} is not known: use {', '.join(near)} or another name ({THE_LIST}), or module:function "
            "for a function of your own"
        )
    return IMPORTERS[name]


def looked_at(member: Member) -> Look:
    """Return the layout and first records of a file; for a database, its tables.

    Raises DataError if it cannot be read.
    """
    found = look(member)
    if found.layout == "database":
        return look_at_tables(member)
    if found.layout not in ("text", "table") or _best(_formats(found), found, found.sample):
        return found
    table = found if found.layout == "table" else look_at_table(member)
    for other in (table, look_at_headless(member, table) if table else None):
        if other and _best(_formats(other), other, other.sample):
            return other
    return found


def dataset_look(dataset: Dataset) -> Look:
    """Return the first rows of a Hugging Face dataset. Raises DataError if it cannot be reached."""
    return opened(Look("parquet", [row.value for row in islice(dataset.rows(), SAMPLE) if isinstance(row, Record)]))


def recognised(found: Look, name: str) -> Found:
    """Return the format of a file. Raises DataError, which says what it lacks, if it has none."""
    formats = _formats(found)
    surface = {name: importer for name, importer in formats.items() if importer is not NESTED}
    if best := _best(surface, found, found.sample):
        return best, IMPORTERS[best], None
    if found.layout == "database":  # the rows of a table may have any format of records
        surface = {name: each for name, each in IMPORTERS.items() if each.layouts == RECORDS and each is not NESTED}
    if best := next((best for values in found.lists.values() if (best := _best(surface, found, values))), ""):
        return best, IMPORTERS[best], _inside(IMPORTERS[best], found)
    if inside := _inside(NESTED, found):  # rather the lists, whose elements are read one by one, than the whole
        return "nested", NESTED, inside
    if NESTED in formats.values() and _best({"nested": NESTED}, found, found.sample):
        return "nested", NESTED, None
    if found.layout == "text" and is_history(found.lines, name.rpartition("/")[2]):
        raise DataError(f"{name} {NO_ANSWERS}")
    raise DataError(refusal(found, name))


def forced(name: str, found: Look, file: str, surely: bool = False) -> Found:
    """Return the format that the user named for a file, with its importer and the key of the list of records.

    `surely`: raise DataError also if none of the first records has the format, so that other files
    of a folder are skipped. Raises ConfigError for an unknown name, and DataError if a file of this
    layout cannot have the format.
    """
    importer = importer_named(name)
    if found.layout not in importer.layouts:
        raise DataError(
            f"{file} contains {told(found)}, so it cannot be in the format {importer.title}: leave out --format, or "
            "name another one"
        )
    seen = (
        [found.lines]
        if found.layout == "text"
        else [*found.sample, *(value for values in found.lists.values() for value in values)]
    )
    if surely and not any(has_format(importer, value) for value in seen):
        raise DataError(
            f"{file} contains {told(found)}, which does not fit the format {importer.title}: leave out --format, or "
            "name another one"
        )
    is_whole = any(has_format(importer, value) for value in found.sample)
    return name, importer, None if is_whole else _inside(importer, found)


def _inside(importer: Importer, found: Look) -> Inside | None:
    """Return the lists of a large object whose elements have the format; None if there is none."""
    keys = frozenset(key for key, values in found.lists.items() if any(has_format(importer, value) for value in values))
    return Inside(keys, frozenset(found.lists) - keys, partial(has_format, importer)) if keys else None


def _formats(found: Look) -> dict[str, Importer]:
    return {name: importer for name, importer in IMPORTERS.items() if found.layout in importer.layouts}


def _best(formats: dict[str, Importer], found: Look, sample: Sequence[object]) -> str:
    """Return the name of the format that the sampled records have; "" if there is none.

    This is the first format that more than half of the records have. If there is none, it is the format
    that the most records have, but at least a third of them.
    """
    if found.layout == "text":
        return next((name for name, importer in formats.items() if has_format(importer, found.lines)), "")
    counts: dict[str, int] = {}
    for name, importer in formats.items():
        counts[name] = sum(has_format(importer, value) for value in sample)
        if counts[name] * 2 > len(sample):
            return name
    best = max(counts, key=lambda name: counts[name], default="")
    return best if best and counts[best] * 3 >= max(len(sample), 1) else ""
