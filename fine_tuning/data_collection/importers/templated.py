"""Read dialogues that are one text with the marks of a chat template: {"text": "### Human: … ### Assistant: …"}.

The marks are those of ChatML, Llama 2 and 3, Gemma, Zephyr and Phi, and words such as "Human:",
"User:" or "Q:" at the beginning of a line. Text before the first mark becomes the system prompt.
"""

import re
from collections.abc import Iterable, Iterator

from fine_tuning.data_collection.importers.chats import BadRecord, Chat, Role, Said, text_of
from fine_tuning.data_collection.importers.shape import Importer, Source, each
from fine_tuning.json_values import JsonObject

_COLUMNS = ("text", "conversation", "dialogue", "dialog", "chat", "prompt", "transcript", "input")
_WORDS = {
    **dict.fromkeys(("human", "user", "prompter", "instruction", "input", "question", "q"), "user"),
    **dict.fromkeys(("assistant", "ai", "bot", "model", "gpt", "response", "output", "answer", "a"), "assistant"),
    "system": "system",
}
_NAMES = "|".join(_WORDS)
# one per template: each finds the marks that begin a message, with the name of its role
_TEMPLATES = [
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"<\|im_start\|>\s*({_NAMES})\s*\n",
        rf"<\|start_header_id\|>\s*({_NAMES})\s*<\|end_header_id\|>",
        rf"<start_of_turn>\s*({_NAMES})\s*\n",
        rf"<\|start\|>({_NAMES})(?:<\|channel\|>\w+)?<\|message\|>",
        rf"<\|(?:start\|>)?({_NAMES})\|>",
        rf"\[\|({_NAMES})\|\]",
        rf"<({_NAMES})>:",
        rf"###\s*({_NAMES})\s*:",
        rf"(?:^|\n)\s*(?:\*\*)?({_NAMES})(?:\*\*)?\s*:(?:\*\*)?",
    )
]
_ENDS = re.compile(r"<\|(?:im_end|eot_id|end|return|endoftext|begin_of_text)\|>|<end_of_turn>|</?s>|<[be]os>")
_FORMS = [  # with what they are replaced, so that they have the form of another template
    (re.compile(r"(<\|channel\|>analysis<\|message\|>)(.*?)<\|end\|>", re.DOTALL), r"\1<think>\2</think>"),
    (re.compile(r"\[INST\]\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL), r"<|system|>\1<|user|>"),
    (re.compile(r"\[INST\]"), "<|user|>"),
    (re.compile(r"\[/INST\]"), "<|assistant|>"),
]


def said_in(text: str) -> list[Said]:
    """Return the messages of a dialogue in one text; [] if it has no marks of both sides."""
    for mark, plain in _FORMS:
        text = mark.sub(plain, text)
    for template in _TEMPLATES:
        before, *pieces = template.split(text)
        said = [Said(role, told) for role, told in _pieces(pieces)]
        if {"user", "assistant"} <= {each.role for each in said}:
            head = _ENDS.sub("", before).strip()
            return [Said("system", head), *said] if head else said
    return []


def _pieces(pieces: list[str]) -> Iterator[tuple[Role, str]]:
    for name, told in zip(pieces[::2], pieces[1::2], strict=True):
        role: Role = _WORDS[name.lower()]  # type: ignore[assignment]
        if text := _ENDS.sub("", told).strip():
            yield role, text


def _text(record: object) -> str:
    """Return the text in the first of `_COLUMNS` that a record has; "" if it has none."""
    if not isinstance(record, dict):
        return ""
    if isinstance(pieces := record.get("segments"), list):  # Axolotl: {"segments": [{"label": true, "text": "…"}]}
        texts = [piece.get("text") for piece in pieces if isinstance(piece, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return next((text for key in _COLUMNS if isinstance(text := record.get(key), str)), "")


def _fits(record: object) -> bool:
    return bool(said_in(_text(record)))


def _convert(record: JsonObject, source: Source) -> Iterable[Chat]:
    said = said_in(_text(record))
    if not said:
        raise BadRecord("a text with the marks of both sides, such as ### Human: and ### Assistant:")
    if system := text_of(record.get("system"), "a system prompt"):
        said.insert(0, Said("system", system))
    yield Chat(said)


TEMPLATED = Importer("dialogues in one text", _fits, each(_convert, "a text with the marks of a chat template"))
