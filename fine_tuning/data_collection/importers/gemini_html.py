"""Read Gemini's activity from Google Takeout as HTML: `MyActivity.html`, Takeout's usual form.

Each activity is a card: a heading with the app, then the prompt, the time in the words of the
account's language, and the answer.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TextIO

from fine_tuning.data_collection.importers.chats import Chat, Fault, Said, iso
from fine_tuning.data_collection.importers.gemini import asked_in
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.shape import Importer, Source

_CARD = '<div class="outer-cell'
_APP = re.compile(r"<p[^>]*>([^<]*)")
_BODY = re.compile(
    r'<div class="content-cell[^>]*>(.*?)</div>\s*(?:<div class="content-cell|</div>\s*</div>|$)', re.DOTALL
)
_WHEN = re.compile(r"<br\s*/?>\s*((?=[^<]*\d{4})[^<>]{6,50}?\d{1,2}:\d{2}:\d{2}[^<>]{0,20})(?=<|$)")
_FOOT = re.compile(r"<b>Products:</b>.*", re.DOTALL)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})\s*([AaPp])?")
_PIECE = 1 << 18
_MONTHS = ["jan", "feb|fév|fev", "mar|mär|mrz", "apr|avr|abr", "may|mai|mag", "jun|juin|giu", "jul|juil|lug"]
_MONTHS += ["aug|aoû|ago", "sep|set", "oct|okt|out|ott", "nov", "dec|dez|déc|dic"]
_ZONES: dict[str, float] = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}
_ZONES |= {"UTC": 0, "GMT": 0, "BST": 1, "CET": 1, "CEST": 2, "MEZ": 1, "MESZ": 2, "EET": 2, "EEST": 3, "BRT": -3}
_ZONES |= {"MSK": 3, "IST": 5.5, "JST": 9, "KST": 9}


def _fits(lines: Sequence[str]) -> bool:
    return any(_CARD in line and ("Gemini" in line or "Bard" in line) for line in (*lines, "".join(lines)))


def _read(source: Source) -> Iterator[Chat | Fault]:
    """Yield a conversation for each activity, which is a prompt and its answer, the oldest first."""
    with source.member.text(source.read) as text:
        found = [chat for number, card in enumerate(_cards(text), 1) if (chat := _chat(card, f"activity {number}"))]
    yield from reversed(found)


def _cards(text: TextIO) -> Iterator[str]:
    """Yield the HTML of each card."""
    waiting, has_begun = "", False
    while piece := text.read(_PIECE):
        before, *cards = (waiting + piece).split(_CARD)
        if has_begun and cards:
            yield before
        yield from cards[:-1]
        waiting = cards[-1] if cards else before if has_begun else before[-len(_CARD) :]
        has_begun |= bool(cards)
    if has_begun:
        yield waiting


def _chat(card: str, place: str) -> Chat | Fault | None:
    app, body = _APP.search(card), _BODY.search(card)
    if not app or not ("Gemini" in app[1] or "Bard" in app[1]):
        return None
    when = _WHEN.search(body[1]) if body else None
    if not body or not when:
        return Fault(place, "expected a prompt, a time and an answer")
    time = _time(when[1].strip())
    title = text_of_html(body[1][: when.start()])
    answer = text_of_html(_FOOT.sub("", body[1][when.end() :]))
    said = [Said("user", asked_in(title), time), Said("assistant", answer, time)]
    return Chat(said, f"{time or when[1].strip()} {title[:200]}", place=place)


def _time(text: str) -> str:
    """Return a time such as "Apr 12, 2026, 3:34:31 PM EDT" in ISO 8601; "" if its month or zone is not known."""
    clock, year = _CLOCK.search(text), re.search(r"\b\d{4}\b|\d{4}(?=年)", text)
    date = text[: clock.start()].replace(year[0], " ") if clock and year else ""
    numbers = [int(number) for number in re.findall(r"\d{1,4}", date)]
    words = date.lower()
    month = next((number for number, names in enumerate(_MONTHS, 1) if re.search(rf"\b(?:{names})", words)), 0)
    if not month and len(numbers) == 2 and ("年" in date or "." in date):
        month, *numbers = numbers if "年" in date else numbers[::-1]
    zone = 8 if "年" in date and text.endswith("CST") else _ZONES.get(text.split()[-1].upper())
    if not (clock and year and month and numbers) or zone is None:
        return ""
    hour = int(clock[1]) if not clock[4] else int(clock[1]) % 12 + 12 * (clock[4] in "Pp")
    try:
        local = datetime(int(year[0]), month, numbers[0], hour, int(clock[2]), int(clock[3]), tzinfo=UTC)
        return iso(local - timedelta(hours=zone))
    except (ValueError, OverflowError):
        return ""


GEMINI_HTML = Importer("Gemini activity from Google Takeout (MyActivity.html)", _fits, _read, frozenset({"text"}))
