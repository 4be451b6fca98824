"""Read pages of frequently asked questions in Markdown: each question is a heading, a line in bold, or a summary.

The answer is what follows, until the next question or the next heading of the same level.
"""

import re
from collections.abc import Iterator, Sequence

from fine_tuning.data_collection.importers.chats import QUESTION_MARKS, Chat, Fault, Said
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_FORMS = (
    re.compile(r"(?P<level>#{1,6})\s+(?P<text>.*?)[\s#]*"),
    re.compile(r"(?P<level>\*\*|__)(?P<text>[^*]+?)(?:\*\*|__):?\s*"),
    re.compile(r"\s*(?P<level><summary>)(?:<\w+>)*(?P<text>[^<]+)(?:</\w+>)*</summary>\s*"),
)
_NUMBER = re.compile(r"(?:Q(?:uestion)?\s*\d*\s*[:.)]|\d+[.)])\s*", re.IGNORECASE)  # "Q1:", "3."
_ANSWER = re.compile(r"\s*(?:\*\*)?A(?:nswer)?\s*\d*\s*[:.)](?:\*\*)?\s*", re.IGNORECASE)
_BREAKS = re.compile(r"(?:([-*_])\s?){3,}|</?details[^>]*>|<br\s*/?>")
# the text of a footnote, and lines of HTML without words, as Perplexity writes them
_NOTE = re.compile(r"\[\^[\w-]+\]:.*|<(div|center|p|img)\b[^>]*>(?:[^\w<]*</\1>)?")
_MARK = re.compile(r"\[\^[\w-]+\]")  # of a footnote
_LONGEST = 10_000  # lines of one answer


def _heading(line: str) -> tuple[str, str]:
    """Return (level, text) of a line that may be a question: "##", "**" or "<summary>"; ("", "") for another line."""
    for form in _FORMS:
        if found := form.fullmatch(line.rstrip()):
            return found["level"], found["text"].strip().strip("*_").strip()
    return "", ""


def _level(lines: Sequence[str]) -> str:
    """Return the level at which at least half of the headings are questions, two at least; "" if there is none."""
    levels: dict[str, list[bool]] = {}
    for line in lines:
        level, text = _heading(line)
        if level:
            levels.setdefault(level, []).append(text.endswith(QUESTION_MARKS))
    fit = {level: sum(asks) for level, asks in levels.items() if sum(asks) >= 2 and 2 * sum(asks) >= len(asks)}
    return max(fit, key=lambda level: fit[level], default="")


def _read(source: Source) -> Iterator[Chat | Fault]:
    wanted = _level(source.found.lines)
    question, told, place, is_code = "", list[str](), "", False
    with source.member.text(source.read) as text:
        for number, raw in numbered_lines(text):
            line = raw.rstrip()
            is_code ^= line.lstrip().startswith("```")
            level, title = ("", "") if is_code else _heading(line)
            ends = level == wanted or (level[:1] == "#" and (wanted[:1] != "#" or len(level) < len(wanted)))
            if ends:
                yield from _chat(question, told, place)
                question, told, place = title if title.endswith(QUESTION_MARKS) else "", [], f"line {number}"
            elif question and len(told) < _LONGEST:
                told.append(line)
    yield from _chat(question, told, place)


def _chat(question: str, told: list[str], place: str) -> Iterator[Chat]:
    lines = [_MARK.sub("", line) for line in told if not _NOTE.fullmatch(line.strip())]
    while lines and (not lines[-1].strip() or _BREAKS.fullmatch(lines[-1].strip())):
        lines.pop()
    text = "\n".join(lines).strip()
    found = _ANSWER.match(text)
    answer = text[found.end() :] if found else text
    if question:
        yield Chat([Said("user", _NUMBER.sub("", question, count=1)), Said("assistant", answer)], place=place)


FAQ = Importer(
    "questions as headings, and their answers", lambda lines: bool(_level(lines)), _read, frozenset({"text"})
)
