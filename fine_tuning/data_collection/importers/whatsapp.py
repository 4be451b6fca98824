"""Read WhatsApp's exported chats, which have one message per line.

The lines are those of Android ("31/12/23, 21:15 - Name: text") or iOS ("[31.12.23, 21:15:00] Name:
text"), with dates and times as the phone's language writes them: the time may come first, digits
may be Arabic, and years may be Buddhist (2567) or of a Japanese era (R6).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fine_tuning.data_collection.importers.chats import Chat, Fault, iso
from fine_tuning.data_collection.importers.people import Line, answering, conversations
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_SPLIT = re.compile(r"\[(?P<ios>[^\[\]\n]{8,50})\]\s?(?P<a>.*)|(?P<android>[^\[\n]{8,50}?)\s[-–]\s(?P<b>.*)", re.DOTALL)
_OLD_IOS = re.compile(
    r"(?P<android>[\d./-]{6,10},? \d{1,2}[:.]\d\d[:.]\d\d(?: [AP]M)?): (?P<b>[^:]{1,60}:.*)", re.DOTALL
)
_HALF = r"(?:\s?(?P<{}>[ap]\.?\s?m\.?|[مص]|午前|午後|上午|下午|오전|오후|SA|CH)\s?)"
_DATE = r"(?P<date>\d{1,4}[./-]\s?\d{1,2}[./-]\s?(?P<era>[RHS])?\d{1,4})\.?(?:\s?(?P<buddhist>BE|พ\.ศ\.))?"
_TIME = (
    f"{_HALF.format('before')}?"
    r"(?P<time>\d{1,2}[:.]\d{2}(?:[:.]\d{2})?)"
    f"{_HALF.format('after')}?"
)
_DATE_FIRST = re.compile(rf"{_DATE}(?:[,،]|,? (?:klo|kl\.?|um|à|a las|alle|at|às|om))?\s*{_TIME}", re.IGNORECASE)
_TIME_FIRST = re.compile(rf"{_TIME}(?:[,،]|\s)\s*{_DATE}", re.IGNORECASE)
_IN_AFTERNOON = ("p", "م", "午後", "下午", "오후", "ch")
_ERAS = {"R": 2018, "H": 1988, "S": 1925}  # years before the first of a Japanese era
_BUDDHIST = 543  # years from the beginning of the Buddhist era to that of the common era
_MARKS = (
    "\u200e\u200f\u202a\u202b\u202c\u2068\u2069\ufeff"  # invisible characters; iOS puts one before what is not text
)
_NO_MARKS = dict.fromkeys(map(ord, _MARKS))
_ANY_MARK, _BLANK = tuple(_MARKS), _MARKS + " \n"
_NUMBER, _COLON = re.compile(r"\d+"), re.compile(r"[:.]")
_QUOTES = frozenset('"“”')
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
    r"Missed (?:voice|video) call.*|Waiting for this message.*|"
    r"Данное сообщение удалено|Вы удалили данное сообщение|Це повідомлення було видалено|Ви видалили це повідомлення|"
    r"Tato zpráva byla odstraněna|Tuto zprávu jste odstranil/a|[UJ]e? hebt dit bericht verwijderd|"
    r"Ta wiadomość została usunięta|(?:Você a|A)pag(?:ou|aste) esta mensagem|Mensagem apagada|"
    r"Bu mesaj silindi|Bu mesajı sildiniz|Pesan ini (?:telah )?dihapus|Anda (?:telah )?menghapus pesan ini|"
    r"تم حذف هذه الرسالة|لقد حذفت هذه الرسالة|यह संदेश हटाया गया|आपने यह संदेश हटाया)\.?"
)
_EDITED = re.compile(
    r"\s*<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje|Ce message a été modifié)>$"
)


def _fits(lines: Sequence[str]) -> bool:
    heads = [head for line in lines if (head := _head(line))]
    named = sum(bool(_named(head.rest)[0]) for head in heads)
    return named > 0 and len(heads) * 4 >= sum(bool(line.strip()) for line in lines)


@dataclass(frozen=True, slots=True)
class _Head:
    """The date and time at the beginning of a message, and what follows them."""

    numbers: tuple[int, int, int]  # of the date, in the order in which they are written
    clock: Sequence[int]  # hour, minute, perhaps second
    rest: str
    written: str
    half: str = ""  # "am" or "pm" in the phone's language, in lower case
    era: str = ""
    is_buddhist: bool = False


def _head(line: str) -> _Head | None:
    bare = line.lstrip(_MARKS)
    if not (bare[:1].isdigit() or bare[:1] in "[午上下오"):
        return None
    for form in (_SPLIT, _OLD_IOS):
        if (found := form.match(bare)) and (head := _when(found)):
            return head
    return None


def _when(found: re.Match[str]) -> _Head | None:
    parts = found.groupdict()
    written = parts.get("ios") or parts["android"]
    written = written if written.isascii() else written.translate(_NO_MARKS)
    bare = written.strip()
    time = _DATE_FIRST.fullmatch(bare) or _TIME_FIRST.fullmatch(bare)
    if not time:
        return None
    one, two, three = map(int, _NUMBER.findall(time["date"]))
    clock = [int(number) for number in _COLON.split(time["time"])]
    half, era = (time["before"] or time["after"] or "").lower(), (time["era"] or "").upper()
    return _Head(
        (one, two, three), clock, parts.get("a") or parts["b"] or "", written, half, era, bool(time["buddhist"])
    )


def _named(rest: str) -> tuple[str, str]:
    """Return (sender, text) of a message. The sender is "" for a message of WhatsApp itself."""
    name, colon, text = rest.partition(":")
    if not colon or len(name) > 60 or not _QUOTES.isdisjoint(name):
        return "", rest
    return name.strip(_MARKS + " ~\u202f\u00a0"), text.removeprefix(" ")


def _read(source: Source) -> Iterator[Chat | Fault]:
    day_first = _day_first(source.found.lines)
    heads = [head for line in source.found.lines if (head := _head(line))]
    me = source.me or answering(_named(head.rest)[0] for head in heads)
    with source.member.text(source.read) as text:
        yield from conversations(_lines(numbered_lines(text), day_first), me, source.member.name)


def _lines(lines: Iterable[tuple[int, str]], day_first: bool) -> Iterator[Line | Fault]:
    now: tuple[int, _Head] | None = None
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


def _line(number: int, head: _Head, more: Sequence[str], day_first: bool) -> Iterator[Line | Fault]:
    name, text = _named("\n".join((head.rest, *more)) if more else head.rest)
    if not name:
        return
    if not (time := _time(head, day_first)):
        yield Fault(f"line {number}", f"expected a date and a time, found {head.written}")
        return
    told = text.strip(_BLANK)
    if told.endswith(">"):
        told = _EDITED.sub("", told).strip(_BLANK)
    if _GONE.fullmatch(told):
        return
    is_media = text.startswith(_ANY_MARK) or _MEDIA.fullmatch(told)
    yield Line(name, "" if is_media else told, time, [{"media": told}] if is_media else (), place=f"line {number}")


def _time(head: _Head, day_first: bool) -> str:
    one, two, three = head.numbers
    if one > 31:
        year, month, day = one, two, three
    else:
        day, month = (one, two) if (day_first or one > 12) and two <= 12 else (two, one)
        year = three + _ERAS[head.era] if head.era else three + 2000 if three < 100 else three
    year -= _BUDDHIST if head.is_buddhist or year > 2400 else 0
    hour, minute, second = (*head.clock, 0)[:3]
    if head.half:
        hour = hour % 12 + (12 if head.half.startswith(_IN_AFTERNOON) else 0)
    try:
        return iso(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except ValueError:
        return ""


def _day_first(lines: Sequence[str]) -> bool:
    """Return whether the day comes before the month in the dates.

    A number above 12 shows the order. If there is none, the order in which the dates ascend is
    chosen. If they ascend in both orders, the month comes first only if the dates have slashes and
    the times "am" or "pm".
    """
    heads = [head for line in lines if (head := _head(line))]
    for head in heads:
        one, two, _ = head.numbers
        if 12 < one <= 31 or two > 12:
            return two <= 12
    for order in (True, False):
        times = [_time(head, order) for head in heads]
        if times != sorted(times):
            return not order
    return not (heads and heads[0].half and "/" in heads[0].written)


WHATSAPP = Importer("WhatsApp chat export", _fits, _read, frozenset({"text"}))
