"""Read WhatsApp's exported chats, which have one message per line.

The lines are those of Android ("31/12/23, 21:15 - Name: text") or iOS ("[31.12.23, 21:15:00] Name:
text").
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from fine_tuning.data_collection.importers.chats import Chat, Fault, iso
from fine_tuning.data_collection.importers.people import Line, conversations
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_HEAD = re.compile(
    r"(?P<open>\[)?(?P<date>\d{1,4}[./-]\d{1,2}[./-]\d{1,4})\.?(?:,|,? (?:klo|um|à|a "
    r"las|at))?\s+(?P<time>\d{1,2}[:.]\d{2}(?:[:.]\d{2})?)"
    r"\s?(?P<half>[ap]\.?\s?m\.?)?(?(open)\]\s?|\s[-–]\s)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_MARKS = "\u200e\u200f\u202a\u202c\ufeff"  # invisible characters; iOS puts one before what is not text
_MEDIA = re.compile(
    r"<[^<>\n]{3,80}>|\S.*\.\w{2,5} \((?:file attached|Datei angehängt|archivo adjunto|fichier joint|file "
    r"allegato|bestand bijgevoegd|"
    r"arquivo anexado)\)(?:\n.*)?|(?:image|video|audio|sticker|GIF|document|Contact card) omitted|null",
    re.DOTALL,
)
_GONE = re.compile(
    r"(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht|Du hast diese "
    r"Nachricht gelöscht|"
    r"Se eliminó este mensaje|Eliminaste este mensaje|Ce message a été supprimé|Vous avez supprimé ce message|"
    r"Esta mensagem foi apagada|Hai eliminato questo messaggio|Questo messaggio è stato eliminato|Dit bericht is "
    r"verwijderd|"
    r"(?:Messages and calls|Nachrichten und Anrufe|Los mensajes y las llamadas|Les messages et les appels) .*|"
    r"Missed (?:voice|video) call.*|Waiting for this message.*)\.?"
)
_EDITED = re.compile(
    r"\s*<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje|Ce message a été modifié)>$"
)


def _fits(lines: Sequence[str]) -> bool:
    heads = [head for line in lines if (head := _head(line))]
    named = sum(bool(_named(head["rest"])[0]) for head in heads)
    return named > 0 and len(heads) * 4 >= sum(bool(line.strip()) for line in lines)


def _head(line: str) -> re.Match[str] | None:
    bare = line.lstrip(_MARKS)
    return _HEAD.match(bare) if bare[:1].isdigit() or bare[:1] == "[" else None


def _named(rest: str) -> tuple[str, str]:
    """Return (sender, text) of a message. The sender is "" for a message of WhatsApp itself."""
    name, colon, text = rest.partition(":")
    if not colon or len(name) > 60 or any(sign in name for sign in '"“”'):
        return "", rest
    return name.strip(_MARKS + " ~\u202f\u00a0"), text.removeprefix(" ")


def _read(source: Source) -> Iterator[Chat | Fault]:
    day_first = _day_first(source.found.lines)
    with source.member.text(source.read) as text:
        yield from conversations(_lines(numbered_lines(text), day_first), source.me, source.member.name)


def _lines(lines: Iterable[tuple[int, str]], day_first: bool) -> Iterator[Line | Fault]:
    now: tuple[int, re.Match[str]] | None = None
    more: list[str] = []
    for number, raw in lines:
        line = raw.rstrip("\r\n")
        if head := _head(line):
            if now:
                yield from _line(*now, more, day_first)
            now, more = (number, head), []
        elif now and len(more) < 10_000:
            more.append(line)
        elif not now and line.strip(_MARKS + " "):
            yield Fault(f"line {number}", "expected a date, a name and a message")
    if now:
        yield from _line(*now, more, day_first)


def _line(number: int, head: re.Match[str], more: Sequence[str], day_first: bool) -> Iterator[Line | Fault]:
    name, text = _named("\n".join((head["rest"], *more)) if more else head["rest"])
    if not name:
        return
    if not (time := _time(head, day_first)):
        yield Fault(f"line {number}", f"expected a date and a time, found {head['date']} {head['time']}")
        return
    told = _EDITED.sub("", text.strip(_MARKS + " \n")).strip(_MARKS + " \n")
    if _GONE.fullmatch(told):
        return
    is_media = text.startswith(tuple(_MARKS)) or _MEDIA.fullmatch(told)
    yield Line(name, "" if is_media else told, time, [{"media": told}] if is_media else (), place=f"line {number}")


def _time(head: re.Match[str], day_first: bool) -> str:
    one, two, three = map(int, re.split("[./-]", head["date"]))
    if one > 31:
        year, month, day = one, two, three
    else:
        day, month = (one, two) if (day_first or one > 12) and two <= 12 else (two, one)
        year = three + 2000 if three < 100 else three
    hour, minute, second = (*map(int, re.split("[:.]", head["time"])), 0)[:3]
    if half := head["half"]:
        hour = hour % 12 + (12 if half[0] in "pP" else 0)
    try:
        return iso(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except ValueError:
        return ""


def _day_first(lines: Sequence[str]) -> bool:
    """Return whether the day comes before the month in the dates.

    A number above 12 decides; if there is none, the order in which the dates ascend.
    """
    heads = [head for line in lines if (head := _head(line))]
    for head in heads:
        one, two, _ = map(int, re.split("[./-]", head["date"]))
        if 12 < one <= 31 or two > 12:
            return two <= 12
    for order in (True, False):
        times = [_time(head, order) for head in heads]
        if times != sorted(times):
            return not order
    return not (heads and heads[0]["half"] and "/" in heads[0]["date"])


WHATSAPP = Importer("WhatsApp chat export", _fits, _read, frozenset({"text"}))
