"""Read logs and exports of chats in plain text, whose lines begin with a time and a name.

The forms are those of IRC programs (irssi, mIRC, WeeChat, ZNC), LINE, KakaoTalk, Viber, QQ, Zoom,
imessage-exporter, of transcripts (Otter, Rev, Teams), and of the captions of meetings (WebVTT and
SubRip with names). A date may stand once on a line of its own, and in the name of the file.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time

from fine_tuning.data_collection.importers.chats import Chat, Fault, iso
from fine_tuning.data_collection.importers.people import Line, answering, conversations
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_HALF = r"(?:[AaPp]\.?[Mm]\.?|오전|오후|上午|下午|午前|午後)"
_CLOCK = rf"(?:{_HALF}\s?)?\d{{1,2}}:\d\d(?::\d\d)?(?:\s?{_HALF})?"
_DAY = r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}"
_IRC_TIME = rf"(?:(?:{_DAY}|[A-Z][a-z]{{2}} \d{{1,2}})[ T])?{_CLOCK}|"  # IRC programs may write no time


@dataclass(frozen=True)
class _Form:
    """A form of log. `head` matches the line with which a message begins: "time", "name" and "text".

    `continues`: further lines belong to the message; else they are notices, such as that somebody joined.
    `is_caption`: blank lines are between the captions of one message, and not part of it.
    """

    head: re.Pattern[str]
    continues: bool = True
    is_caption: bool = False


_FORMS = [
    _Form(
        re.compile(rf"\[?(?P<time>{_IRC_TIME})\]?\s*<[ @+%~&]?(?P<name>[^<>\s]{{1,40}})>[ \t](?P<text>.*)"),
        False,
    ),
    _Form(re.compile(rf"(?P<time>{_DAY} {_CLOCK})\t[@+%~&]?(?P<name>[\w\[\]{{}}|^`\\-]+)\t(?P<text>.*)"), False),
    _Form(re.compile(rf"(?P<time>{_CLOCK})\t(?P<name>[^\t]{{1,80}})\t(?P<text>.*)")),
    _Form(re.compile(rf"\[(?P<name>[^\]]{{1,80}})\] \[(?P<time>{_CLOCK})\] (?P<text>.*)")),
    _Form(re.compile(rf"(?P<time>\d{{4}}년 \d{{1,2}}월 \d{{1,2}}일 {_CLOCK}), (?P<name>[^:]{{1,80}}?) : (?P<text>.*)")),
    _Form(re.compile(rf"(?P<time>\[ ?{_DAY} ?\],? {_CLOCK}) (?P<name>[^:]{{1,80}}): (?P<text>.*)")),
    _Form(re.compile(rf"(?P<time>{_CLOCK})\s+From\s+(?P<name>[^:]{{1,80}}?)(?:\s+[Tt]o\s+[^:]+?)?\s?:\s*(?P<text>.*)")),
    _Form(re.compile(rf"(?P<time>{_DAY} {_CLOCK}) (?P<name>\S.{{0,60}}?)(?:\(\d{{4,}}\)|<[^<>]+@[^<>]+>)?(?P<text>)")),
    _Form(re.compile(r"(?P<time>)<v (?P<name>[^<>]{1,80})>(?P<text>.*?)(?:</v>)?"), is_caption=True),
    _Form(re.compile(rf"\[?(?P<time>{_CLOCK})(?:\]| -) (?P<name>[^\W\d_][^:\[\]]{{0,79}}): (?P<text>.*)")),
    _Form(
        re.compile(rf"(?P<name>[^\W\d_][^:\t]{{0,60}}?)(?:\s{{2,}}|\s?[(\[])(?P<time>{_CLOCK})[)\]]?:?\s*(?P<text>)"),
    ),
]
_BLOCK = re.compile(rf"(?P<time>[A-Z][a-z]{{2}} \d{{1,2}}, \d{{4}} +{_CLOCK})(?: \(.*\))?")  # then a line with the name
_TIMING = re.compile(r"(?:\d+:)?\d{1,2}:\d\d[.,]\d{3} --> .*")
_CUE = re.compile(rf"WEBVTT.*|NOTE.*|\d+|[\da-f]{{8}}-[\da-f-]{{27}}(?:/[\d-]+)?|{_TIMING.pattern}")
_SPEAKS = re.compile(r"\[?(?P<name>[^\W\d_][\w .'-]{0,40})\]?: (?P<text>.+)")
_ADDED = re.compile(r"Transcribed by https?://\S+")  # Otter's last line
_MEDIA = re.compile(
    r"\[(?:Photo|Sticker|Video|File|Voice message|Gift|Album|Image)\].*|"
    r"\[(?:写真|スタンプ|動画|ファイル|照片|貼圖|影片|图片|表情)\].*|"
    r"사진(?: \d+장)?|동영상|이모티콘|파일: .*"
)
_TAPBACKS = re.compile(r"\n+Tapbacks:[ \t]*\n")  # imessage-exporter: who liked the message
_YEAR_FIRST = re.compile(r"(\d{4})[-./년]\s?(\d{1,2})[-./월]\s?(\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})[-./](\d{1,2})[-./](\d{4})")
_WORDS = (
    (re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} [\d:]{8} \d{4}"), "%a %b %d %H:%M:%S %Y"),
    (re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d{4}"), "%a %b %d %Y"),
    (re.compile(r"[A-Z][a-z]{2} \d{1,2}, \d{4}"), "%b %d, %Y"),
)
_LONGEST = 10_000  # lines of one message


def _fits(lines: Sequence[str]) -> bool:
    return _form(lines) is not None


def _form(lines: Sequence[str]) -> _Form | None:
    """Return the form in which at least a quarter of the lines begin a message; None if there is none."""
    lines = [each for each in _prepared(lines) if each.strip()]
    counts = [sum(bool(form.head.fullmatch(line)) for line in lines) for form in _FORMS]
    most = max(counts, default=0)
    return _FORMS[counts.index(most)] if most >= 2 and most * 4 >= len(lines) else None


def _prepared(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines with a message's head on one line, and captions with their speaker as "<v Name>text"."""
    has_cues, head = False, ""
    for raw in lines:
        line = raw.rstrip("\r\n").lstrip("\ufeff\u200e")
        has_cues = has_cues or line.startswith("WEBVTT") or bool(_TIMING.fullmatch(line))
        if head:  # "Jan 15, 2024 10:00:00 AM", and the name on the next line
            yield f"{head} {line}"
            head = ""
        elif found := _BLOCK.fullmatch(line):
            head = _iso_time(found["time"])
        elif (has_cues and _CUE.fullmatch(line)) or _ADDED.fullmatch(line):
            yield ""
        elif has_cues and (spoken := _SPEAKS.fullmatch(line)):
            yield f"<v {spoken['name']}>{spoken['text']}"
        else:
            yield line


def _iso_time(text: str) -> str:
    day, clock = _day(text), _clock(text)
    return f"{day or date(1970, 1, 1)} {clock or time()}"


def _read(source: Source) -> Iterator[Chat | Fault]:
    form = _form(source.found.lines) or _FORMS[0]
    heads = map(form.head.fullmatch, _prepared(source.found.lines))
    me = source.me or answering(head["name"] for head in heads if head)
    with source.member.text(source.read) as text:
        lines = _prepared(line for _, line in numbered_lines(text))
        yield from conversations(_messages(lines, form, _day(source.member.name)), me, source.member.name)


def _messages(lines: Iterable[str], form: _Form, day: date | None) -> Iterator[Line]:
    now: re.Match[str] | None = None
    told, at, place = list[str](), "", ""
    for number, line in enumerate(lines, 1):
        head = form.head.fullmatch(line)
        header = None if head or "\t" in line or len(line) > 80 else _day(line)
        if head or (header and _stands_alone(line)):
            if now:
                yield _line(now["name"], told, at, place)
            now, day = head, header or day
            if head:
                told, at, place = [head["text"]], _at(head["time"], day), f"line {number}"
        elif now and form.continues and len(told) < _LONGEST and (line or not form.is_caption):
            told.append(line)
    if now:
        yield _line(now["name"], told, at, place)


def _stands_alone(line: str) -> bool:
    """Return whether a line with a date contains at most a few other words, such as the day of the week."""
    return len(re.sub(r"[\d\W_]+", " ", line).split()) <= 5


def _line(name: str, told: Sequence[str], at: str, place: str) -> Line:
    text = _TAPBACKS.split("\n".join(told), 1)[0].strip()
    if text.startswith('"') and text.endswith('"') and "\n" in text:  # LINE quotes a text of several lines
        text = text[1:-1]
    is_media = bool(_MEDIA.fullmatch(text))
    return Line(name.strip(), "" if is_media else text, at, [{"media": text}] if is_media else (), place=place)


def _at(written: str, day: date | None) -> str:
    """Return the time of a message; "" if its date is unknown. `day`: the date of the message before it, if known."""
    day, clock = _day(written) or _day_of_month(written, day), _clock(written)
    return iso(datetime.combine(day, clock)) if day and clock else ""


def _day_of_month(written: str, day: date | None) -> date | None:
    """Return the date in a text such as "Jan 15 10:00:00" (HexChat), in the year of `day`; `day` if it has none."""
    with suppress(ValueError):
        if day and (found := re.match(r"[A-Z][a-z]{2} \d{1,2}\b", written)):
            return datetime.strptime(f"{found[0]} {day.year}", "%b %d %Y").date()
    return day


def _clock(text: str) -> time | None:
    found = re.search(r"(\d{1,2}):(\d\d)(?::(\d\d))?", text)
    if not found:
        return None
    hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
    if half := re.search(_HALF, text):
        hour = hour % 12 + (12 if half[0][0] in "Pp" or half[0] in ("오후", "下午", "午後") else 0)
    with suppress(ValueError):
        return time(hour, minute, second)
    return None


def _day(text: str) -> date | None:
    """Return the date in a text. If it can be read in two ways, a day of the week beside it decides."""
    for form, written in _WORDS:
        if found := form.search(text):
            with suppress(ValueError):
                return datetime.strptime(re.sub(" +", " ", found[0]), written).date()
    options: list[tuple[int, int, int]] = []
    if found := _YEAR_FIRST.search(text):
        options = [(int(found[1]), int(found[2]), int(found[3]))]
    elif found := _YEAR_LAST.search(text):
        one, two, year = map(int, found.groups())
        options = [(year, one, two), (year, two, one)] if "/" in found[0] else [(year, two, one), (year, one, two)]
    days = []
    for option in options:
        with suppress(ValueError):
            days.append(date(*option))
    return next((day for day in days if day.strftime("%a") in text), days[0] if days else None)


CHAT_LOG = Importer("chat log with times and names", _fits, _read, frozenset({"text"}))
