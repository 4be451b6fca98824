"""Find questions that were answered differently at different times; only one of the answers is learned.

Two questions are the same if they have the same words at the same point of a conversation. Articles
and polite words do not count, and neither do typing errors in long words. Any other difference, for
example in a name, a number or a negation, makes them different questions.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby

from fine_tuning.conversation import Conversation, Turn, approved, only_context
from fine_tuning.data_collection.cleaning.repeats import ANSWER, TOPIC
from fine_tuning.data_collection.cleaning.wording import gist, same_gist, wording
from fine_tuning.data_collection.placeholders import PLACEHOLDER

_CROWD = 64  # recent questions with which a question is compared: more are one template, filled in with different names


Asked = tuple[Turn, int, bytes]
"""A turn that may be learned, and what is compared to find turns with the same question: the number that
`RepeatedTurns` gave the turn before it (NOTHING_BEFORE if there is none), and its `repeats.fingerprint`."""


@dataclass(frozen=True)
class Conflict:
    """Turns with the same question and different answers, in the order in which they were said."""

    turns: tuple[Turn, ...]

    @property
    def stands(self) -> Turn:
        """The turn whose answer is learned: the last that the owner rated up or edited; if none is, the last turn."""
        return next(filter(approved, reversed(self.turns)), self.turns[-1])

    @property
    def losers(self) -> list[Turn]:
        """The turns that are not learned: all except `stands` and those that the owner included by hand."""
        return [turn for turn in self.turns if turn is not self.stands and not turn.metadata.get("included")]


def find_conflicts(asked: Sequence[Asked]) -> list[Conflict]:
    """Return the conflicts among these turns, ordered by their first turns.

    The time grows linearly with the number of turns.
    """
    keys = [(after, said[TOPIC]) for _, after, said in asked]
    several = {key for key, count in Counter(keys).items() if count > 1}
    topics: dict[tuple[int, bytes], list[Asked]] = {}
    for key, each in zip(keys, asked, strict=True) if several else ():
        # two questions with the same placeholder may be about different private details
        if key in several and ("[" not in (question := each[0].user_message) or not PLACEHOLDER.search(question)):
            topics.setdefault(key, []).append(each)
    found = [conflict for topic in topics.values() if len(topic) > 1 for conflict in _within(topic)]
    return [conflict for conflict in found if conflict.losers]


def cut_out(conversations: Iterable[Conversation], losers: Set[str]) -> Iterator[Conversation]:
    """Yield the conversations without the turns whose ids are in `losers`.

    A turn that is removed from the middle splits its conversation into two with the same id. Turns that are
    only context are removed, too, where no turn that is learned follows them.
    """
    for conversation in conversations:
        if losers.isdisjoint(turn.id for turn in conversation.turns):
            yield conversation
            continue
        for lost, turns in groupby(conversation.turns, lambda turn: turn.id in losers):
            left = [] if lost else [*turns]
            while left and only_context(left[-1]):
                left.pop()
            if left:
                yield conversation.model_copy(update={"turns": tuple(left)})


def _within(topic: list[Asked]) -> Iterator[Conflict]:
    """Yield the conflicts among turns whose questions have the same sketch (see `repeats.fingerprint`)."""
    if len({said[ANSWER] for *_, said in topic}) == 1:
        return
    groups: list[list[Asked]] = []
    known: dict[tuple[str, ...], int] = {}  # words of a question: its group
    recent: list[tuple[tuple[str, ...], tuple[bool, ...], int]] = []
    for each in topic:
        words, names = gist(wording(each[0].user_message))
        if (group := known.get(words)) is None:
            alike = (number for other, named, number in recent[-_CROWD:] if same_gist(words, names, other, named))
            if (group := next(alike, None)) is None:
                group = len(groups)
                groups.append([])
            known[words] = group
            recent.append((words, names, group))
        groups[group].append(each)
    for members in groups:
        if len({said[ANSWER] for *_, said in members}) > 1:
            yield Conflict(tuple(sorted((turn for turn, *_ in members), key=lambda turn: turn.timestamp)))
