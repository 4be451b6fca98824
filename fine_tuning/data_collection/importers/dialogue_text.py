"""Read a dialogue in plain text: a line that begins with the speaker ("User: ...") begins a message.

If the labels show which speaker is the machine, nothing else is needed; otherwise the option `me`
names the speaker whose messages are the answers. Text without speakers is refused.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fine_tuning.data_collection.importers.chats import Chat, Fault, Role, Said, moment
from fine_tuning.data_collection.importers.people import Line, conversations
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_LABEL = re.compile(
    r"(?:[#>*\s]*?)(?:\*\*|__)?([^\W\d_][\w .'’&-]{0,38}?)(?:\*\*|__)?\s?[:：](?:\*\*|__)?(?:\s+|$)(.*)", re.DOTALL
)
# a heading or a line in bold that is only a label: "## 👤 User · 2025-03-01T10:00:00Z", "**Assistant**"
_HEADING = re.compile(
    r"(?:#{1,6}\s+[^\w\s]*\s*(?:\*\*)?([^\W\d_][^\W\d_ ]{0,20}?)(?:\*\*)?|"
    r"_?\*\*([^*:(]{1,20}?)\s*(?:\([^*]*\))?\*\*_?)"
    r"\s*(?:[:：]?\s*|[(\[|·–—-].*)"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?")
_BREAK = re.compile(r"\s*(?:([-=*_#]\s?){3,}|<hr[^<>]*>)\s*")
_ASKS = frozenset(
    (
        *("user", "human", "you", "you said", "me", "q", "question", "customer", "client", "prompt", "instruction"),
        *("frage", "nutzer", "benutzer", "mensch", "kunde"),
    )
)
_ANSWERS = frozenset(
    (
        *(
            "assistant",
            "ai",
            "bot",
            "chatbot",
            "chatgpt",
            "chatgpt said",
            "gpt",
            "claude",
            "gemini",
            "model",
            "a",
            "answer",
            "agent",
        ),
        *("response", "support", "antwort", "assistent", "ki", "deepseek", "grok", "copilot"),
    )
)
_LONGEST = 10_000  # lines of one message


def _fits(lines: Sequence[str]) -> bool:
    if _has_headings(lines):
        return True
    labels = Counter(label for line in lines if (label := _label(line)[0]))
    told = {label.casefold() for label in labels}
    roles = sum(count for label, count in labels.items() if label.casefold() in _ASKS | _ANSWERS)
    # most labels must be roles: a file of settings may have "user: ...", too
    if told & _ASKS and told & _ANSWERS and (sum(labels.values()) - roles) * 3 <= roles:
        return True
    spoken = [label for label, count in labels.items() if count >= 2 and label[:1].isupper()]
    return 2 <= len(spoken) <= 12 and sum(labels[label] for label in spoken) * 2 >= sum(
        bool(line.strip()) for line in lines
    )


def _heading(line: str) -> str:
    """Return the speaker that a heading, or a line in bold, names; "" if it names none."""
    found = _HEADING.fullmatch(line)
    label = (found[1] or found[2]).strip() if found else ""
    return label if label.casefold() in _ASKS | _ANSWERS else ""


def _has_headings(lines: Sequence[str]) -> bool:
    """Return whether the messages of both sides begin with headings, and not with labels such as "User:".

    At least a quarter of the headings of one level must name speakers, since a manual may have a few
    headings that do.
    """
    levels: dict[str, list[str]] = {}
    for line in lines:
        if line[:1] == "#" or line.lstrip("_")[:2] == "**":
            level = line.split(" ")[0] if line[0] == "#" else "**"
            levels.setdefault(level, []).append(_heading(line).casefold())
    return any(
        not _ASKS.isdisjoint(names) and not _ANSWERS.isdisjoint(names) and sum(map(bool, names)) * 4 >= len(names)
        for names in levels.values()
    )


def _label(line: str) -> tuple[str, str]:
    found = _LABEL.fullmatch(line)
    if not found or len(found[1].split()) > 4:
        return "", line
    is_bold = line.startswith("**") and line.count("**") == 2  # the whole line: "**Q: What is tea?**"
    return found[1].strip(), found[2].removesuffix("**") if is_bold else found[2]


def _read(source: Source) -> Iterator[Chat | Fault]:
    has_headings = not source.me and _has_headings(source.found.lines)
    counts = Counter(label for line in source.found.lines if (label := _label(line)[0].casefold()))
    knows_roles = has_headings or bool(not source.me and counts.keys() & _ASKS and counts.keys() & _ANSWERS)
    all_speak = sum(counts.values()) * 10 >= 9 * sum(bool(line.strip()) for line in source.found.lines)
    known = (
        _ASKS | _ANSWERS | {"system"}
        if knows_roles
        else {label for label, count in counts.items() if count >= 2 or all_speak}
    )
    divides = not (knows_roles and (has_headings or _breaks_within(source.found.lines)))
    with source.member.text(source.read) as text:
        spoken = _spoken(numbered_lines(text), frozenset(known), has_headings, divides)
        for dialogue in _dialogues(spoken):
            if knows_roles:
                yield Chat([Said(_role(line.name), line.text, line.time) for line in dialogue], place=dialogue[0].place)
            else:
                yield from conversations(dialogue, source.me, source.member.name)


def _breaks_within(lines: Sequence[str]) -> bool:
    """Return whether a line such as "---" is between a question and its answer.

    If so, such lines do not separate dialogues.
    """
    last, broken = "", False
    for line in lines:
        label = _label(line)[0].casefold()
        if label in _ANSWERS and last in _ASKS and broken:
            return True
        if label in _ASKS | _ANSWERS:
            last, broken = label, False
        broken |= bool(_BREAK.fullmatch(line))
    return False


def _role(label: str) -> Role:
    return "system" if label.casefold() == "system" else "assistant" if label.casefold() in _ANSWERS else "user"


def _spoken(
    lines: Iterable[tuple[int, str]], known: frozenset[str], has_headings: bool, divides: bool
) -> Iterator[Line | None]:
    """Yield the messages. If `divides`, lines such as "---" separate dialogues: yield None for each of them."""
    name, told, place, time = "", list[str](), "", ""
    for number, raw in lines:
        line = raw.rstrip("\r\n")
        label, rest = (_heading(line), "") if has_headings else _label(line)
        begins, breaks = label.casefold() in known, divides and bool(_BREAK.fullmatch(line))
        if name and (begins or breaks):
            yield _line(name, told, time, place)
            name, told = "", []
        if begins:
            name, told, place = label, [rest], f"line {number}"
            time = "" if rest else next(map(moment, _TIME.findall(line)), "")
        elif breaks:
            yield None
        elif name and len(told) < _LONGEST:
            told.append(line)
    if name:
        yield _line(name, told, time, place)


def _line(name: str, told: list[str], time: str, place: str) -> Line:
    while told and (not told[-1].strip() or _BREAK.fullmatch(told[-1])):
        told.pop()  # a blank line, or a line such as "---", below the message
    return Line(name, "\n".join(told).strip(), time, place=place)


def _dialogues(lines: Iterable[Line | None]) -> Iterator[list[Line]]:
    now: list[Line] = []
    for line in lines:
        if now and (line is None or (len(now) >= 400 and line.name == now[0].name)):
            yield now
            now = []
        if line is not None:
            now.append(line)
    if now:
        yield now


DIALOGUE_TEXT = Importer("dialogue in plain text", _fits, _read, frozenset({"text"}))
