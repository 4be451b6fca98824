"""Variants of training conversations: the same answers to questions in other words.

A variant lies in the train split behind its original, as often as that, and tells how it was made
and which turns it changes: `"augmented": {"how": "noise", "of": ["turn-id"]}`. Only questions
differ. What is held out has no variants, and no variant asks a held-out question, so that the
evaluation stays what it is.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from fine_tuning.config_augmentation import Augmentation
from fine_tuning.data_preparation.noise import names_in, noisy
from fine_tuning.data_preparation.paraphrase import BACK_TRANSLATION, PARAPHRASE, Rewording
from fine_tuning.token_rows import VARIANT

Record = dict[str, Any]

Maker = Callable[[Record, int, int], str]
"""Returns of (record, place, number) the question at that place of the record's messages in other
words, for the variant of that number; or as it is.
"""

_WORD = re.compile(r"\w+")


class Augmenter:
    """Makes the variants of an epoch's conversations, and counts them."""

    def __init__(self, makers: Mapping[str, tuple[int, Maker]], most: int, taboo: Collection[str] = ()) -> None:
        """`makers`: by kind, how many variants of a conversation are wanted, and who makes them;
        `most` variants of one turn are made. No variant asks one of the `taboo` questions, which
        are given as `wording` returns them.
        """
        self._makers, self._most, self._taboo = makers, most, taboo
        self._made: dict[str, Counter[str]] = {}

    @property
    def made(self) -> dict[str, dict[str, int]]:
        """Return how many conversations and turns an epoch has of each kind."""
        return {how: dict(counts) for how, counts in self._made.items()}

    def beside(self, epoch: Iterable[tuple[Record, Sequence[str], int]]) -> Iterator[Record]:
        """Yield each record as often as it is said, and behind it its variants, as often.

        `epoch` holds (record, ids of its turns, how often).
        """
        for record, turn_ids, often in epoch:
            yield from (record for _ in range(often))
            for variant in self._variants(record, turn_ids):
                counts = self._made.setdefault(variant["augmented"]["how"], Counter(conversations=0, turns=0))
                counts.update(conversations=often, turns=often * len(turn_ids))
                yield from (variant for _ in range(often))

    def _variants(self, record: Record, turn_ids: Sequence[str]) -> Iterator[Record]:
        asked = [place for place, message in enumerate(record["messages"]) if message["role"] == "user"]
        known = {place: {record["messages"][place]["content"]} for place in asked}
        for how, (wanted, make) in self._makers.items():
            for number in range(1, wanted + 1):
                messages, of = list(record["messages"]), []
                for place, turn_id in zip(asked, turn_ids, strict=True):
                    question = make(record, place, number) if len(known[place]) <= self._most else ""
                    if question and question not in known[place] and wording(question) not in self._taboo:
                        known[place].add(question)
                        messages[place] = {**messages[place], "content": question}
                        of.append(turn_id)
                if of:
                    label = {"how": how, "of": of}
                    yield {
                        **record,
                        "id": f"{record['id']}{VARIANT}{how}-{number}",
                        "messages": messages,
                        "augmented": label,
                    }


def augmenter(
    settings: Augmentation,
    seed: int,
    texts: Callable[[], Iterable[str]],
    held_out: Iterable[Record],
    reword: Rewording | None = None,
) -> Augmenter:
    """Return what makes the variants that the configuration asks for; those in other words only with `reword`.

    `texts` returns all that is in the dataset: no typing error makes one of its words of another.
    `held_out` are the records of the other splits.
    """
    if not settings.wanted:
        return Augmenter({}, 0)
    known = {word.lower() for text in texts() for word in _WORD.findall(text)} if settings.noise else set()
    asked = (message for record in held_out for message in record["messages"] if message["role"] == "user")
    makers: dict[str, tuple[int, Maker]] = {}
    if reword:
        makers[PARAPHRASE] = settings.paraphrase, reword.paraphrase
        makers[BACK_TRANSLATION] = settings.back_translation, reword.back_translation
    makers["noise"] = settings.noise, typist(settings.noise_rate, seed, known)
    return Augmenter(makers, settings.most_per_turn, {wording(message["content"]) for message in asked})


def typist(rate: float, seed: int, known: Collection[str]) -> Maker:
    """Return a maker of typing errors, which are the same each time."""

    def make(record: Record, place: int, number: int) -> str:
        key = f"{seed}:{record['id']}:{place}:{number}".encode("utf-8", "surrogatepass")
        names = names_in("\n".join(message["content"] for message in record["messages"]))
        return noisy(record["messages"][place]["content"], Random(hashlib.sha256(key).digest()), rate, names, known)

    return make


def wording(text: str) -> str:
    """Return the words of a text, by which two questions are the same."""
    return " ".join(_WORD.findall(text.casefold()))
