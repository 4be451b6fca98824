"""Keep text that people type from acting as a model's structure, in chat and in training.

A marker is a text that acts as structure: a control or user-defined token of the vocabulary
(`<|im_end|>`, `<tool_call>`), or text that the chat template writes around messages (`[INST]`,
`### Instruction:`). Engines accept only text, so this module changes the text: it inserts a space
into every marker, as in `< |im_end|>`. People still read it the same, but no tokenizer recognises
the marker.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from fine_tuning.conversation import Message, Role
from fine_tuning.errors import EngineError, EngineUnavailable, ModelNotFound
from fine_tuning.thoughts import split_thoughts

Render = Callable[[Sequence[Message]], str]


class Neutraliser:
    """Inserts spaces into the markers in texts. Applying it to a text a second time changes nothing more."""

    def __init__(self, markers: Iterable[str]) -> None:
        cores = {core for marker in markers if (core := _fold(marker).strip())}
        self._cores = {core for core in cores if len(core) > 1}
        self._single = {ord(core): " " for core in cores if len(core) == 1}
        self._sizes: dict[str, list[int]] = {}  # lengths of the markers, longest first, by their first two characters
        for size, start in sorted({(len(core), core[:2]) for core in self._cores}, reverse=True):
            self._sizes.setdefault(start, []).append(size)
        self._first = re.compile(
            f"[{''.join(sorted({re.escape(start[0]) for start in self._sizes}))}]" if self._sizes else r"(?!)"
        )
        # A template may join two contents directly, so the end of one and the beginning of the next
        # must not form a marker. Only bracketed markers count, since the beginning of `USER:` is an
        # ordinary word.
        tags = [core for core in self._cores if _is_tag(core)]
        self._heads = {core[:size] for core in tags for size in range(2, len(core))}
        self._tails = {core[-size:] for core in tags for size in range(2, len(core))}
        self._longest = max(map(len, tags), default=0) - 1

    def __call__(self, text: str) -> str:
        """Return `text` with a space inside every marker."""
        text = text.translate(self._single) if self._single else text
        while cuts := self._cuts(text):  # repeated, since a marker with spaces may form when another is broken
            text = " ".join(text[start:end] for start, end in pairwise([0, *cuts, len(text)]))
        return text

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages in the form in which they are sent to engines.

        Markers are broken in messages of every role, and the thoughts in answers are removed.
        """
        return [message.model_copy(update={"content": self(_content(message))}) for message in messages]

    def chats(self, chats: Sequence[Sequence[Message]]) -> list[list[Message]]:
        """Return each of `chats` as `messages` does. A message object that is in several is only read once."""
        found = {id(message): message for messages in chats for message in messages}
        clean = dict(zip(found, self.messages(list(found.values())), strict=True))
        return [[clean[id(message)] for message in messages] for messages in chats]

    def data(self, value: Any) -> Any:
        """Return JSON data, such as a tool's definition, with a space in each marker in its texts and field names."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(name): self.data(each) for name, each in value.items()}
        return [self.data(each) for each in value] if isinstance(value, list | tuple) else value

    def answer(self, text: str, prompt: str = "") -> str:
        """Return the answer `text` in the form in which a model is trained to give it after `prompt`.

        Markers are broken, except the two that enclose the answer's thoughts (`<think>`,
        `</think>`). The first of the two is left out if the prompt already ends with it.
        """
        said = split_thoughts(text.strip())
        opened = said.opening and prompt.rstrip().endswith(said.opening.strip())
        return f"{'' if opened else said.opening}{self(said.thoughts)}{said.closing}{self(said.answer)}"

    def _cuts(self, text: str) -> list[int]:
        """Return the positions in `text` at which a space must be inserted, in order."""
        folded = _fold(text)
        found = {_break(folded, start, start + size) for start, size in self._found(folded)}
        return sorted(found | self._cuts_at_ends(folded))

    def _found(self, folded: str) -> Iterator[tuple[int, int]]:
        """Yield the start and the length of every marker in `folded`, including markers that overlap."""
        for match in self._first.finditer(folded):
            start = match.start()
            for size in self._sizes.get(folded[start : start + 2], ()):
                if folded[start : start + size] in self._cores:
                    yield start, size

    def _cuts_at_ends(self, folded: str) -> set[int]:
        """Return the positions at which to break incomplete markers at the ends of the text.

        They are a marker's end where the text starts (`im_end|>`), and a marker's beginning where
        the text ends (`<|im_`). White space there is ignored, since templates trim it.
        """
        first, last = len(folded) - len(folded.lstrip()), len(folded.rstrip())
        sizes = range(min(self._longest, last - first), 1, -1)
        tail = next(({first + size - 1} for size in sizes if folded[first : first + size] in self._tails), set())
        head = next(({last - size + 1} for size in sizes if folded[last - size : last] in self._heads), set())
        return tail | head


@functools.lru_cache(maxsize=16)
def _neutraliser(markers: tuple[str, ...]) -> Neutraliser:
    return Neutraliser(markers)


def neutralise(text: str, markers: Collection[str]) -> str:
    """Return `text` with a space inside each occurrence of `markers`: `<|im_end|>` becomes `< |im_end|>`."""
    return _neutraliser(tuple(markers))(text)


def neutraliser_for(tokens: Collection[str], render: Render) -> Neutraliser:
    """Return the neutraliser for a model.

    It breaks the vocabulary's structural `tokens` (structure.structural_tokens) and the template's
    markers, which are found by rendering test messages with `render`. Raises what
    `template_markers` raises.
    """
    return Neutraliser([*tokens, *template_markers(render, tokens)])


def _fold(text: str) -> str:
    # SentencePiece writes a space as U+2581, and reads U+2581 as a space.
    return text.replace("\u2581", " ")


def _break(folded: str, start: int, end: int) -> int:
    """Return the position at which to insert a space into the marker from `start` to `end`.

    It is after the opening bracket (`< |im_end|>`), or, in a marker that does not begin with a
    bracket, before the last character (`USER :`).
    """
    return end - 1 if folded[start].isalnum() or folded[start] in "#*" else start + 1


def _content(message: Message) -> str:
    said = split_thoughts(message.content) if message.role == "assistant" else None
    return said.answer if said and said.answer.strip() else message.content


# Finding a template's markers

_CONTENTS = ("qzsystemzq", "qzquestionzq", "qzanswerzq", "qzfollowupzq")
_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "user")
_PROBE = [Message(role=role, content=content) for role, content in zip(_ROLES, _CONTENTS, strict=True)]
_TAG = re.compile(r"<{1,3}[^\s<>]+>{1,3}|\[{1,2}[^\s\[\]]+\]{1,2}|\([^\s()]+\)")
_SIGN = r"[^\w\s.,;!?'\"()…]"  # a character with which prose neither begins nor ends
_MARKED = re.compile(rf"(?=.*\w)(?:{_SIGN}.*|.*{_SIGN}|\(.*\))", re.DOTALL)
_MOST_WORDS = 4  # words in a marker; longer texts are prose


def is_marker(text: str) -> bool:
    """Return whether `text` looks like a marker: a word with special characters around it.

    Examples are `<tool>`, `### Instruction:` and `USER:`.
    """
    return len(text) > 1 and len(text.split()) <= _MOST_WORDS and bool(_MARKED.fullmatch(text))


def template_markers(render: Render, tokens: Collection[str]) -> list[str]:
    """Return the markers that a template writes around messages, apart from `tokens`, sorted.

    Plain words, such as `user` after a token, are not markers. Return [] for a template that
    rejects all test messages. Raises EngineUnavailable and ModelNotFound if `render` does.
    """
    found: set[str] = set()
    for piece in _written(render):
        present = sorted((token for token in tokens if token in piece), key=len, reverse=True)
        for token in present:
            piece = piece.replace(token, "\n")
        for line in piece.splitlines():
            tags = _TAG.findall(line)
            rest = _TAG.sub("\n", line).splitlines()
            found.update(filter(is_marker, (part.strip() for part in [*tags, *rest])))
    return sorted(found)


def _written(render: Render) -> list[str]:
    """Return the texts that a template writes between and around messages.

    Only the last line of the text before the first message is used; the rest may be a system text.
    """
    for probe in (_PROBE, _PROBE[1:], _PROBE[1:2]):
        try:
            text = render(probe)
        except (EngineUnavailable, ModelNotFound):
            raise
        except EngineError:  # the template rejects a role, or the order of roles
            continue
        first, *others = re.split("|".join(_CONTENTS), text)
        return [*first.rstrip().splitlines()[-1:], *others]
    return []


def _is_tag(core: str) -> bool:
    return not core[0].isalnum() and core[0] not in "#*" and not core[-1].isalnum()
