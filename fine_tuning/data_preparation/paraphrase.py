"""Reword questions with a model: by paraphrase, or by translation into another language and back.

Models, especially small ones, drop details and add others, so each rewording is checked and most
are discarded. A rewording is kept if its content words are the same (`altered`), and if the base
model gives the recorded answer about the same probability after it as after the original question.
What a model generates here is used as a question only, never as an answer.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fine_tuning.conversation import Message
from fine_tuning.data_collection.cleaning.code_parts import parts
from fine_tuning.data_collection.documents.sections import language_of

PARAPHRASE, BACK_TRANSLATION = "paraphrase", "back_translation"
ATTEMPTS = 2  # maximum number of rewordings that are tried per variant
LONGEST = 300  # characters: longer questions are not reworded

Ask = Callable[[Sequence[Message], int], str]
"""A function of (messages, seed) that returns a model's answer, sampled with the seed."""

Likelihood = Callable[[Sequence[Message]], float | None]
"""A function of messages that returns the base model's mean log-probability (nats per token) of the last answer.

It returns None if the messages are too long.
"""

_PARAPHRASE = "Ask this question in other words: {}"
_SHOWN = (  # without examples, small models answer the question instead
    ("Where is the car park?", "Could you tell me where the car park is?"),
    ("When does the train leave?", "At what time does the train leave?"),
    ("Which floor is the library on?", "What floor is the library on?"),
)
_TRANSLATE = "Translate the following question into {}. Write only the translation.\n\n{}"
_LANGUAGES = {"en": ("German", "English"), "de": ("English", "German")}

_TOKEN = re.compile(r"\[[^\[\]]*\]|\S*\d\S*\d|\S*\d|\w+(?:[-./@_]\w+)*")
_SAME = (  # phrases that are replaced by one equivalent word before two questions are compared
    (r"\b(at|by|on|in)?\s*(what|which)\s+time\b", "when"),
    (r"\b(at|in|on)?\s*(what|which)\s+(place|location)\b", "where"),
    (r"\b(for (what|which) reason|how come)\b", "why"),
    (r"\b(what|which) person\b", "who"),
    (r"\b(can|could|would|will) you (please )?(kindly )?(tell|inform) (me|us)\b", ""),
    (r"\b(please )?(tell|inform) (me|us)\b", ""),
    (r"\bdo you (happen to )?know\b|\b(i|we) (want|need|would like|wish) to know\b", ""),
    (r"'s\b|’s\b", ""),
)
_LABEL = re.compile(r"\A(new question|question|paraphrase|translation|q)\s*:\s*", re.I)
_DRESS = "a an the is are was were be am do does did please kindly hi hello thanks it there that"
_FREE = frozenset(_DRESS.split())
_MAY = frozenset(["can", "could", "may", "might"])
_ASKING = {"which": "what", "whom": "who"}
_KINDS = frozenset(["what", "who", "whose", "when", "where", "why", "how"])
_PERSONS = {"we": "i", "us": "i", "me": "i", "our": "my"}


@dataclass
class Rewording:
    """Rewords questions with one model, and checks the rewordings with the base model."""

    key: str  # identifies both models: with equal keys the rewordings are equal
    ask: Ask  # asks the model that rewords
    likelihood: Likelihood  # asks the base model
    margin: float  # nats per token by which the answer may be less likely than after the original question
    rejected: Counter[str] = field(default_factory=Counter)  # number of discarded rewordings by reason

    def paraphrase(self, record: dict[str, object], place: int, number: int) -> str:
        """Return a paraphrase of the question at messages[place] of the record.

        Another `number`, from 1, gives another paraphrase. Return the question unchanged if no
        paraphrase passes the checks.
        """
        return self._first_right(record, place, number, lambda said, seed: self.ask(_asked(said), seed))

    def back_translation(self, record: dict[str, object], place: int, number: int) -> str:
        """Return the question at messages[place] of the record, translated into another language and back.

        Another `number`, from 1, gives another result. Return the question unchanged if no result
        passes the checks, or if its language is unknown.
        """

        def there_and_back(said: str, seed: int) -> str:
            language = language_of(said)
            if not language:
                return ""
            other, own = _LANGUAGES[language]
            foreign = self.ask(_translating(other, said), seed)
            return self.ask(_translating(own, foreign), seed) if foreign else ""

        return self._first_right(record, place, number, there_and_back)

    def _first_right(self, record: dict[str, Any], place: int, number: int, put: Callable[[str, int], str]) -> str:
        said = record["messages"][place]["content"]
        if len(said) > LONGEST or "\n" in said.strip() or any(part.kind != "prose" for part in parts(said)):
            return str(said)
        for seed in range((number - 1) * ATTEMPTS, number * ATTEMPTS):
            made = tidy(put(said, seed))
            reason = altered(said, made) or self._less_likely(record, place, made)
            if not reason:
                return made
            self.rejected[reason] += 1
        return str(said)

    def _less_likely(self, record: dict[str, Any], place: int, made: str) -> str:
        """Return why the check with the base model rejects the rewording `made`; "" if it accepts it.

        It is rejected if the recorded answer is less likely after it than after the original
        question by more than `margin`, or if the messages are too long.
        """
        until = [Message.model_validate(message) for message in record["messages"][: place + 2]]
        reworded = [*until[:-2], until[-2].model_copy(update={"content": made}), until[-1]]
        before, after = self.likelihood(until), self.likelihood(reworded)
        if before is None or after is None:
            return "too long"
        return "the answer is less likely" if after < before - self.margin else ""


def _asked(question: str) -> list[Message]:
    messages: list[Message] = []
    for example, made in _SHOWN:
        messages += [_user(_PARAPHRASE.format(example)), Message(role="assistant", content=made)]
    return [*messages, _user(_PARAPHRASE.format(question))]


def _translating(language: str, text: str) -> list[Message]:
    return [_user(_TRANSLATE.format(language, text))]


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def tidy(said: str) -> str:
    """Return the question in a model's reply, without quotes, markup and introduction around it.

    Return "" if the reply is not a single line.
    """
    lines = [line.strip(" \t*_\"“”„«»'") for line in said.strip().splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    return _LABEL.sub("", lines[0]) if len(lines) == 1 else ""


def altered(question: str, made: str) -> str:
    """Return why the rewording `made` may ask for something other than `question`; "" if it asks for the same.

    Only words without content may differ: articles, polite phrases, forms of the verb "to be". All
    other words, including numbers, placeholders and names, must be the same and in the same order;
    question words (when, who, how) must be the same.
    """
    if not made:
        return "no single question"
    if made.casefold().strip(" ?.!") == question.casefold().strip(" ?.!"):
        return "the same words"
    if question.rstrip().endswith("?") and not made.endswith("?"):
        return "no question"
    (asked, kinds), (asked_now, kinds_now) = _content(question), _content(made)
    if kinds != kinds_now:
        return "another kind of question"
    return "other words" if asked != asked_now else ""


def _content(question: str) -> tuple[list[str], Counter[str]]:
    """Return a question's content words in order, in a normal form, and how often each question word occurs."""
    text = question
    for pattern, meant in _SAME:
        text = re.sub(pattern, f" {meant} ", text, flags=re.I)
    words = [word if word.startswith("[") else word.casefold() for word in _TOKEN.findall(text)]
    words = [_ASKING.get(word, _PERSONS.get(word, "can" if word in _MAY else word)) for word in words]
    kinds = Counter(word for word in words if word in _KINDS)
    return [_singular(word) for word in words if word not in _FREE and word not in _KINDS], kinds


def _singular(word: str) -> str:
    """Return a word without a final -s, so that the verbs of "he opens" and "does he open" are equal."""
    return word[:-1] if word.isalpha() and len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
