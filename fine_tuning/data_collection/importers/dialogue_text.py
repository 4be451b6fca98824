"""Read a dialogue in plain text: a line that begins with the speaker ("User: ...") begins a message.

If the labels show which speaker is the machine, nothing else is needed; otherwise the option `me`
names the speaker whose messages are the answers. Text without speakers is refused.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fine_tuning.data_collection.importers.chats import Chat, Fault, Role, Said
from fine_tuning.data_collection.importers.people import Line, conversations
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_LABEL = re.compile(
    r"(?:[#>*\s]*?)(?:\*\*|__)?([^\W\d_][\w .'’&-]{0,38}?)(?:\*\*|__)?\s?[:：](?:\*\*|__)?(?:\s+|$)(.*)", re.DOTALL
)
_BREAK = re.compile(r"\s*([-=*_#]\s?){3,}\s*")
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
        *("response", "support", "antwort", "assistent", "ki"),
    )
)
_LONGEST = 10_000  # lines of one message


def _fits(lines: Sequence[str]) -> bool:
    labels = Counter(label for line in lines if (label := _label(line)[0]))
    told = {label.casefold() for label in labels}
    roles = sum(count for label, count in labels.items() if label.casefold() in _ASKS | _ANSWERS)
    # but no file of settings, such as "user: ..., port: ..."
    if told & _ASKS and told & _ANSWERS and (sum(labels.values()) - roles) * 3 <= roles:
        return True
    spoken = [label for label, count in labels.items() if count >= 2 and label[:1].isupper()]
    return 2 <= len(spoken) <= 12 and sum(labels[label] for label in spoken) * 2 >= sum(
        bool(line.strip()) for line in lines
    )


def _label(line: str) -> tuple[str, str]:
    found = _LABEL.fullmatch(line)
    return (found[1].strip(), found[2]) if found and len(found[1].split()) <= 4 else ("", line)


def _read(source: Source) -> Iterator[Chat | Fault]:
    counts = Counter(label for line in source.found.lines if (label := _label(line)[0].casefold()))
    knows_roles = bool(counts.keys() & _ASKS and counts.keys() & _ANSWERS) and not source.me
    all_speak = sum(counts.values()) * 10 >= 9 * sum(bool(line.strip()) for line in source.found.lines)
    known = (
        _ASKS | _ANSWERS | {"system"}
        if knows_roles
        else {label for label, count in counts.items() if count >= 2 or all_speak}
    )
    with source.member.text(source.read) as text:
        spoken = _spoken(numbered_lines(text), frozenset(known))
        for dialogue in _dialogues(spoken):
            if knows_roles:
                yield Chat([Said(_role(line.name), line.text) for line in dialogue], place=dialogue[0].place)
            else:
                yield from conversations(dialogue, source.me, source.member.name)


def _role(label: str) -> Role:
    return "system" if label.casefold() == "system" else "assistant" if label.casefold() in _ANSWERS else "user"


def _spoken(lines: Iterable[tuple[int, str]], known: frozenset[str]) -> Iterator[Line | None]:
    """Yield the messages; None for a line that separates two dialogues."""
    name, told, place = "", list[str](), ""
    for number, raw in lines:
        line = raw.rstrip("\r\n")
        label, rest = _label(line)
        begins, breaks = label.casefold() in known, bool(_BREAK.fullmatch(line))
        if name and (begins or breaks):
            yield Line(name, "\n".join(told).strip(), place=place)
            name, told = "", []
        if begins:
            name, told, place = label, [rest], f"line {number}"
        elif breaks:
            yield None
        elif name and len(told) < _LONGEST:
            told.append(line)
    if name:
        yield Line(name, "\n".join(told).strip(), place=place)


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
