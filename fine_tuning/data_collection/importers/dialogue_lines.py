"""Read dialogues in plain text with a turn or a whole dialogue on each line, as research data sets have them.

ParlAI writes "text:…<tab>labels:…", and its older form "3 question<tab>answer", in which 1 begins another
dialogue; DailyDialog puts "__eou__" after each utterance.
"""

import re
from collections.abc import Iterator, Sequence

from fine_tuning.data_collection.importers.chats import Chat, Fault, Said
from fine_tuning.data_collection.importers.records import numbered_lines
from fine_tuning.data_collection.importers.shape import Importer, Source

_END = "__eou__"
_TURN = re.compile(r"text:(?P<asked>[^\t]*)\t(?:.*\t)?(?:eval_)?labels:(?P<told>[^\t|]*).*")
_NUMBERED = re.compile(r"(?P<number>\d{1,3}) (?P<asked>[^\t]+)\t(?P<told>[^\t]*)(?:\t.*)?")
_ABOUT = re.compile(r"\d{1,3} (?:your|partner's) persona: .*")
_LONGEST = 800  # messages of one dialogue


def _fits(lines: Sequence[str]) -> bool:
    told = [line for line in lines if line.strip()]
    fit = sum(bool(_is_turn(line) or _ABOUT.fullmatch(line)) for line in told)
    return len(told) > 0 and 10 * fit >= 9 * len(told) and any(map(_is_turn, told))


def _is_turn(line: str) -> bool:
    return line.count(_END) > 1 or bool(_TURN.fullmatch(line) or _NUMBERED.fullmatch(line))


def _read(source: Source) -> Iterator[Chat | Fault]:
    said: list[Said] = []
    place = ""
    with source.member.text(source.read) as text:
        for number, raw in numbered_lines(text):
            line = raw.rstrip("\r\n")
            if said and (line.startswith("1 ") or _END in line or len(said) >= _LONGEST):
                yield Chat(said, place=place)
                said = []
            if _END in line:
                yield Chat(list(_spoken(line)), place=f"line {number}")
                continue
            turn = _TURN.fullmatch(line) or _NUMBERED.fullmatch(line)
            if turn:
                place = place if said else f"line {number}"
                said += [Said("user", _plain(turn["asked"])), Said("assistant", _plain(turn["told"]))]
            elif line.strip() and not _ABOUT.fullmatch(line):
                yield Fault(f"line {number}", "expected a question and an answer, with a tab between them")
            if said and "episode_done:True" in line:
                yield Chat(said, place=place)
                said = []
    if said:
        yield Chat(said, place=place)


def _spoken(line: str) -> Iterator[Said]:
    for number, text in enumerate(line.removesuffix(_END).split(_END)):
        yield Said("assistant" if number % 2 else "user", text.strip())


def _plain(text: str) -> str:
    return text.replace("\\n", "\n").strip()


DIALOGUE_LINES = Importer("dialogues with a turn on each line (ParlAI, DailyDialog)", _fits, _read, frozenset({"text"}))
