"""What a model thought before its answer, told apart from the answer: `<think>…</think>` and its relatives.

Thoughts stand before an answer. A tag further on, in prose or in code, is part of what is said; so
is one that is a word of a sentence ("<think> is a tag of Qwen's").
"""

import re
from typing import NamedTuple


class Said(NamedTuple):
    """A text in parts: thoughts and answer.

    Without thoughts all of it is `answer`; thoughts that do not end, since the answer was cut off,
    leave none.
    """

    opening: str
    thoughts: str
    closing: str
    answer: str


_WORD = r"(?:think|thinking|thoughts?|reasoning|seed:think)"
_TAGS = [  # an opening, and what closes it
    (re.compile(rf"<\s*{_WORD}\s*>", re.IGNORECASE), re.compile(rf"<\s*/\s*{_WORD}\s*>", re.IGNORECASE)),
    (re.compile(r"\[THINK\]"), re.compile(r"\[/THINK\]")),  # Magistral
    (re.compile(r"◁think▷"), re.compile(r"◁/think▷")),  # Kimi
    (re.compile(r"<\|START_THINKING\|>"), re.compile(r"<\|END_THINKING\|>")),  # Command
    (re.compile(r"<\|begin_of_thought\|>"), re.compile(r"<\|end_of_thought\|>")),  # Sky-T1
]
# an answer
_AROUND = re.compile(
    r"\A<\|(?:begin_of_solution|START_RESPONSE)\|>\s*|\s*<\|(?:end_of_solution|END_RESPONSE|return|end)\|>\Z"
)
# gpt-oss (Harmony) answers in channels, and only the final one is the answer. The second form is
# what shows without control tokens.
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>\s*(?:analysis|commentary)\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|analysis(?=.*assistantfinal)",
    re.DOTALL,
)
_FINAL = re.compile(
    r"(?:<\|end\|>\s*)?(?:<\|start\|>assistant)?<\|channel\|>\s*final\b[^<]*<\|message\|>|assistantfinal"
)
# A closing whose opening stood in the prompt (DeepSeek R1): on a line of its own, or right behind the thoughts.
_LONE_CLOSING = re.compile(rf"(?:^|(?<=[^\s`'\"“(]))<\s*/\s*{_WORD}\s*>(?!`)", re.IGNORECASE | re.MULTILINE)
_SIGNS = ("<", "[THINK]", "◁", "assistantfinal")  # without one of these nothing above is there
_NEXT = re.compile(r"[ \t]+([^\W\d_])|[ \t]*([,;:.)`'\"])")  # a letter of a next word, or a sign behind the one before


def split_thoughts(text: str) -> Said:
    """Return `text` in parts. The white space beside thoughts goes with their tags."""
    if not any(map(text.__contains__, _SIGNS)):
        return Said("", "", "", text)
    rest = text.strip()
    said = _tagged(rest) or _channelled(rest) or _closed(rest)
    return said._replace(answer=_AROUND.sub("", said.answer)) if said else Said("", "", "", text)


def with_thoughts(thoughts: str, answer: str) -> str:
    """Return what a model that thinks says: its thoughts as most models mark them, then the answer."""
    return f"<think>\n{thoughts}\n</think>\n\n{answer}" if thoughts else answer


def _tagged(text: str) -> Said | None:
    for opening, closing in _TAGS:
        if not (begin := opening.match(text)):
            continue
        end = _end(text, begin.end(), opening, closing)
        in_sentence = _goes_on(text, begin.end()) and (end is None or _goes_on(text, end[1]))
        if in_sentence:
            return None
        said = _parts(text, begin.end(), *(end or (len(text), len(text))))
        if (more := _tagged(said.answer)) is None:
            return said
        # thought in several pieces
        return more._replace(opening=said.opening, thoughts=f"{said.thoughts}\n\n{more.thoughts}")
    return None


def _goes_on(text: str, at: int) -> bool:
    """Return whether a sentence goes on at `at`, behind a tag that is then one of its words."""
    following = _NEXT.match(text, at)
    return bool(following and (following[2] or following[1].islower()))


def _end(text: str, start: int, opening: re.Pattern[str], closing: re.Pattern[str]) -> tuple[int, int] | None:
    """Return where the tag that opened before `start` closes, passing over those inside it; else the last there is."""
    depth, last = 1, None
    for tag in sorted([*opening.finditer(text, start), *closing.finditer(text, start)], key=lambda tag: tag.start()):
        closes = tag.re is closing
        depth += -1 if closes else 1
        last = tag.span() if closes else last
        if depth == 0:
            break
    return last


def _channelled(text: str) -> Said | None:
    final = _FINAL.search(text) if "final" in text else None  # most texts are told by this at once
    if begin := _CHANNEL.match(text):
        return _parts(text, begin.end(), *(final.span() if final else (len(text), len(text))))
    return _parts(text, 0, *final.span()) if final and final.start() == 0 and text.startswith("<|") else None


def _closed(text: str) -> Said | None:
    opening, closing = _TAGS[0]
    end = _LONE_CLOSING.search(text) if "<" in text else None
    if end is None or opening.search(text) or len(closing.findall(text)) > 1 or _goes_on(text, end.end()):
        return None
    return _parts(text, 0, *end.span()) if text.count("```", 0, end.start()) % 2 == 0 else None


def _parts(text: str, begin: int, end: int, after: int) -> Said:
    """Return the parts of `text`, whose thoughts lie between `begin` and `end`."""
    inner = text[begin:end]
    lead, trail = len(inner) - len(inner.lstrip()), len(inner) - len(inner.rstrip())
    answer = text[after:].lstrip()
    if lead == len(inner):
        trail = 0
    return Said(text[: begin + lead], inner.strip(), text[end - trail : len(text) - len(answer)], answer)
