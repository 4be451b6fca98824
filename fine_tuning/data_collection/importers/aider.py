"""Read the history of aider, `.aider.chat.history.md`: the user's lines begin with "####", aider's notices with ">"."""

import re
from collections.abc import Iterable, Iterator, Sequence

from fine_tuning.data_collection.importers.chats import Chat, Fault, Role, Said, moment
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_START = re.compile(r"# aider chat started at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s*")
_ASKS = re.compile(r"/(?:ask|code|architect)\s+")  # commands with which a question may begin
_COMMAND = re.compile(r"/[a-z-]+(?:\s.*)?", re.DOTALL)  # "/add file.py", which aider answers itself


def _fits(lines: Sequence[str]) -> bool:
    return any(_START.fullmatch(line) for line in lines[:20])


def _read(source: Source) -> Iterator[Chat | Fault]:
    with source.member.text(source.read) as text:
        start, place, said = "", "", list[tuple[Role, list[str]]]()
        for number, raw in numbered_lines(text):
            line = raw.rstrip()
            if begun := _START.fullmatch(line):
                yield from _chat(said, start, place)
                start, place, said = begun[1], f"line {number}", []
            elif line.startswith("####"):
                _add(said, "user", line[4:].removeprefix(" "))
            elif line.startswith("> "):
                _add(said, "tool", line[2:])
            elif line or (said and said[-1][0] == "assistant"):
                _add(said, "assistant", line)
        yield from _chat(said, start, place)


def _add(said: list[tuple[Role, list[str]]], role: Role, line: str) -> None:
    if not said or said[-1][0] != role:
        said.append((role, []))
    said[-1][1].append(line)


def _chat(said: Iterable[tuple[Role, list[str]]], start: str, place: str) -> Iterator[Chat]:
    texts = [(role, "\n".join(told).strip()) for role, told in said]
    messages = [Said(role, _ASKS.sub("", text) if role == "user" else text, moment(start)) for role, text in texts]
    kept = [each for each in messages if each.role != "user" or not _COMMAND.fullmatch(each.text)]
    if kept:
        yield Chat(kept, f"aider {start}" if start else "", place=place)


AIDER = Importer("history of aider (.aider.chat.history.md)", _fits, _read, frozenset({"text"}))
