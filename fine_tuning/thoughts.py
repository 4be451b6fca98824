"""Separate a model's thoughts from its answer: `<think>…</think>` and similar markup.

Thoughts come before the answer. A tag further on, in prose or code, belongs to the answer, and so
does a tag that is a word in a sentence ("<think> is a tag of Qwen's").
"""

import re
from typing import NamedTuple


class Said(NamedTuple):
    """A text split into thoughts and answer, with the markup before and after the thoughts.

    Without thoughts, the whole text is `answer`. If the text ends within the thoughts, because the
    output was cut off, `answer` is empty.
    """

    opening: str
    thoughts: str
    closing: str
    answer: str


_WORD = r"(?:think|thinking|thoughts?|reasoning|seed:think)"
_TAGS = [  # opening and closing tag
    (re.compile(rf"<\s*{_WORD}\s*>", re.IGNORECASE), re.compile(rf"<\s*/\s*{_WORD}\s*>", re.IGNORECASE)),
    (re.compile(r"\[THINK\]"), re.compile(r"\[/THINK\]")),  # Magistral
    (re.compile(r"◁think▷"), re.compile(r"◁/think▷")),  # Kimi
    (re.compile(r"<\|START_THINKING\|>"), re.compile(r"<\|END_THINKING\|>")),  # Command
    (re.compile(r"<\|begin_of_thought\|>"), re.compile(r"<\|end_of_thought\|>")),  # Sky-T1
]
# markup around an answer
_AROUND = re.compile(
    r"\A<\|(?:begin_of_solution|START_RESPONSE)\|>\s*|\s*<\|(?:end_of_solution|END_RESPONSE|return|end)\|>\Z"
)
# gpt-oss (Harmony) writes to channels, and only the final channel is the answer. The second form is
# what remains when control tokens are not shown.
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>\s*(?:analysis|commentary)\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>|analysis(?=.*assistantfinal)",
    re.DOTALL,
)
_FINAL = re.compile(
    r"(?:<\|end\|>\s*)?(?:<\|start\|>assistant)?<\|channel\|>\s*final\b[^<]*<\|message\|>|assistantfinal"
)
# A closing tag whose opening tag was in the prompt (DeepSeek R1): on its own line, or directly after the thoughts.
_LONE_CLOSING = re.compile(rf"(?:^|(?<=[^\s`'\"“(]))<\s*/\s*{_WORD}\s*>(?!`)", re.IGNORECASE | re.MULTILINE)
_NEXT = re.compile(r"[ \t]+([^\W\d_])|[ \t]*([,;:.)`'\"])")  # the first letter of the next word, or punctuation


def split_thoughts(text: str) -> Said:
    """Return `text` split into thoughts and answer. White space around the thoughts is part of the markup."""
    if not may_hold_thoughts(text):
        return Said("", "", "", text)
    rest = text.strip()
    said = _tagged(rest) or _channelled(rest) or _closed(rest)
    return said._replace(answer=_AROUND.sub("", said.answer)) if said else Said("", "", "", text)


def may_hold_thoughts(text: str) -> bool:
    """Return whether `text` contains one of the signs with which all markup of thoughts begins: a fast first check."""
    return "<" in text or "[THINK]" in text or "◁" in text or "assistantfinal" in text


def with_thoughts(thoughts: str, answer: str) -> str:
    """Return the output of a thinking model: the thoughts in the most common markup, then the answer."""
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
        # thoughts in several parts
        return more._replace(opening=said.opening, thoughts=f"{said.thoughts}\n\n{more.thoughts}")
    return None


def _goes_on(text: str, at: int) -> bool:
    """Return whether a sentence continues at the position `at`, so that the tag before it is a word of the sentence."""
    following = _NEXT.match(text, at)
    return bool(following and (following[2] or following[1].islower()))


def _end(text: str, start: int, opening: re.Pattern[str], closing: re.Pattern[str]) -> tuple[int, int] | None:
    """Return the span of the closing tag that belongs to the opening tag before `start`, skipping nested pairs.

    If a nested pair is not closed, return the span of the last closing tag; None if there is none.
    """
    depth, last = 1, None
    for tag in sorted([*opening.finditer(text, start), *closing.finditer(text, start)], key=lambda tag: tag.start()):
        closes = tag.re is closing
        depth += -1 if closes else 1
        last = tag.span() if closes else last
        if depth == 0:
            break
    return last


def _channelled(text: str) -> Said | None:
    final = _FINAL.search(text) if "final" in text else None  # a quick check for most texts
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
    """Return the parts of `text`, whose thoughts are from `begin` to `end`, and whose answer begins at `after`."""
    inner = text[begin:end]
    lead, trail = len(inner) - len(inner.lstrip()), len(inner) - len(inner.rstrip())
    answer = text[after:].lstrip()
    if lead == len(inner):
        trail = 0
    return Said(text[: begin + lead], inner.strip(), text[end - trail : len(text) - len(answer)], answer)
