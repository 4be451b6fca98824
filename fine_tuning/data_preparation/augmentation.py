"""Make variants of training conversations, in which questions are reworded and the answers are the same.

In the train split a variant follows its original, and is repeated as many times as the original.
Its record says how it was made and which turns it changes: `"augmented": {"how": "noise", "of":
["turn-id"]}`. The conversations of the other splits get no variants, and no variant asks a question
that occurs in the other splits, so the evaluation is not affected.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from fine_tuning.config.augmentation import Augmentation
from fine_tuning.conversation import trained_answers
from fine_tuning.data_preparation.noise import names_in, noisy
from fine_tuning.data_preparation.paraphrase import BACK_TRANSLATION, PARAPHRASE, Rewording
from fine_tuning.token_rows import VARIANT

Record = dict[str, Any]

Maker = Callable[[Record, int, int], str]
"""A function of (record, place, number) that returns a rewording of the question at messages[place].

`number` counts the variants of one kind from 1, so that each is worded differently. If no rewording
is found, the question is returned unchanged.
"""

_WORD = re.compile(r"\w+")


class Augmenter:
    """Makes the variants of the conversations of an epoch, and counts them."""

    def __init__(self, makers: Mapping[str, tuple[int, Maker]], most: int, taboo: Collection[str] = ()) -> None:
        """Set what variants to make.

        Args:
            makers: For each kind of variant ("noise", ...), the number of variants per
                conversation and the function that makes them.
            most: The maximum number of variants of one turn, of all kinds together.
            taboo: Questions that no variant may ask, in the form that `wording` returns.
        """
        self._makers, self._most, self._taboo = makers, most, taboo
        self._made: dict[str, Counter[str]] = {}

    @property
    def made(self) -> dict[str, dict[str, int]]:
        """The number of conversations and turns that were added so far, by kind of variant."""
        return {how: dict(counts) for how, counts in self._made.items()}

    def beside(self, epoch: Iterable[tuple[Record, Sequence[str], int]]) -> Iterator[Record]:
        """Yield each record, then its variants, each of them as often as the record is repeated.

        `epoch` yields (record, ids of its turns, number of repeats).
        """
        for record, turn_ids, often in epoch:
            yield from (record for _ in range(often))
            for variant in self._variants(record, turn_ids):
                counts = self._made.setdefault(variant["augmented"]["how"], Counter(conversations=0, turns=0))
                counts.update(conversations=often, turns=often * trained_answers(variant["messages"]))
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
    """Return the Augmenter for the variants that the configuration asks for.

    Args:
        settings: The numbers of variants of each kind.
        seed: Determines the typing errors.
        texts: Returns all texts of the dataset. A typing error never turns a word into another word
            of these texts.
        held_out: The records of the validation and test split, whose questions no variant asks.
        reword: Makes paraphrases and back-translations; without it there are none.
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
    """Return a maker of variants with typing errors, which makes the same errors in each build.

    `rate` is the share of the words that are mistyped. No error turns a word into one of the words
    in `known`.
    """

    def make(record: Record, place: int, number: int) -> str:
        key = f"{seed}:{record['id']}:{place}:{number}".encode("utf-8", "surrogatepass")
        names = names_in("\n".join(message["content"] for message in record["messages"]))
        return noisy(record["messages"][place]["content"], Random(hashlib.sha256(key).digest()), rate, names, known)

    return make


def wording(text: str) -> str:
    """Return the words of a text in lower case, without punctuation.

    Two questions with the same result count as the same question.
    """
    return " ".join(_WORD.findall(text.casefold()))
