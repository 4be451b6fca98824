"""Read Gemini's activity from Google Takeout, `MyActivity.json`.

A record is a prompt with its answer in HTML; the newest comes first. The records do not show which
prompts belong together, so each becomes a conversation of its own.
"""

import re
from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import Chat, Fault, Said, dicts, has, list_in, moment, text_of
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_VERB = re.compile(
    r"(?:Prompted(?: with:)?|Asked(?: Gemini:| Bard:)?|Said|You said:|Branched|Answered|Eingegebener "
    r"Prompt:|Prompt eingegeben:)\s+"
)
_FILES = re.compile(r"\s*Attached \d+ files?\.\s*$")
_AT_ONCE = 20_000  # activities whose order is reversed together


def _fits(record: object) -> bool:
    apps = (
        [text for text in [record.get("header"), *list_in(record, "products")] if isinstance(text, str)]
        if has(record, "title", "time")
        else []
    )
    return any("Gemini" in app or "Bard" in app for app in apps)


def asked_in(title: str) -> str:
    """Return the prompt in an activity's title, without words such as "Prompted" that Google adds."""
    return _FILES.sub("", _VERB.sub("", title, count=1)).strip()


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    answers = [
        text
        for item in dicts(record.get("safeHtmlItem") or [], "safeHtmlItem")
        if (text := text_of_html(text_of(item.get("html"), "html")))
    ]
    title = text_of(record.get("title"), "a title")
    asked = asked_in(title)
    time = moment(record.get("time"))
    parts = [{"attachment": file} for key in ("attachedFiles", "imageFile") for file in _listed(record.get(key))]
    if not answers:
        yield Chat([Said("user", asked, time, parts=parts)])
    # of several versions of an answer, only the last one is read, unless all are wanted
    for number, answer in enumerate(answers[::-1] if source.branches == "all" else answers[-1:]):
        yield Chat(
            [Said("user", asked, time, parts=parts), Said("assistant", answer, time)],
            f"{time} {title[:200]}" + f" {number}" * bool(number),
        )


def _listed(files: object) -> list[object]:
    return files if isinstance(files, list) else [files] if files else []


def _read(source: Source) -> Iterator[Chat | Fault]:
    """Yield the conversations, oldest first."""
    waiting: list[Chat | Fault] = []
    for chat in each(_convert, "an activity with a title and safeHtmlItem")(source):
        waiting.append(chat)
        if len(waiting) >= _AT_ONCE:
            yield from reversed(waiting)
            waiting.clear()
    yield from reversed(waiting)


GEMINI = Importer(
    "Gemini activity from Google Takeout (MyActivity.json)", _fits, _read, frozenset({"array", "object", "lines"})
)
