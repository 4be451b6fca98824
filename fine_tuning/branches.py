"""Represent a session as a tree of turns, because answers can be regenerated and questions edited.

The chat may continue from any of these answers. Two entries of a turn's metadata define the tree:

parent       The id of the turn before this one in the conversation; "" for a first turn. A turn
             without this entry, as in old logs and imports, continues the chosen path (see below)
             of the turns before it in the log. If the parent was deleted, all of its children
             continue the chosen path as it was before the first of them.
regenerates  The id of an older turn whose question this turn answers again. The two turns are
             siblings: they have the same parent, and count as answers to the same question.

The *chosen path* is the path that is shown first, trained on and exported. It leads to the newest
turn, with one exception: if an answer on it is not approved, but other answers to the same question
are, the path continues with the one of these that was approved last.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fine_tuning.conversation import Conversation, Message, Turn, approved, conversations_of
from fine_tuning.errors import TurnNotFound

_TOP = -1  # the parent of all first turns


class Tree:
    """The turns of one session as a tree, in the order of the log.

    A parent always comes before its children in the log, so no path is circular.
    """

    def __init__(self, turns: Iterable[Turn], parents: Mapping[str, str] | None = None) -> None:
        """Build the tree.

        `parents` maps ids of turns to ids of their parents, and overrides `metadata["parent"]`
        where the given parent is in the tree.
        """
        self.turns = list(turns)
        self._parents: list[int] = []
        self._children: dict[int, list[int]] = {_TOP: []}
        self._first: list[int] = []  # for each turn, the first turn with the same question and parent
        self._approved: dict[int, int] = {}  # by the first turn with a question, the last approved answer to it
        self._place: dict[str, int] = {}  # index of each turn in `turns`, by id
        self._leaf: int | None = _TOP  # the last turn of the chosen path; None: not computed
        self._grow(parents or {})

    def _grow(self, parents: Mapping[str, str]) -> None:
        asked: dict[tuple[int, str], int] = {}
        lost: dict[str, int] = {}  # the new parent for the children of a deleted parent
        for here, turn in enumerate(self.turns):
            sibling = self._place.get(str(turn.metadata.get("regenerates")))
            parent = self._parent(turn, parents.get(turn.id), sibling, lost)
            self._parents.append(parent)
            self._children[parent].append(here)
            self._children[here] = []
            same = sibling is not None and self._parents[sibling] == parent
            first = (
                self._first[sibling] if same and sibling is not None else asked.get((parent, turn.user_message), here)
            )
            asked.setdefault((parent, turn.user_message), first)
            self._first.append(first)
            if approved(turn):
                self._approved[first] = here
            self._place[turn.id] = here
            self._move_leaf(here)

    def _parent(self, turn: Turn, known: str | None, sibling: int | None, lost: dict[str, int]) -> int:
        told = turn.metadata.get("parent")
        for id in (known, told):
            if isinstance(id, str) and (id == "" or id in self._place):
                return self._place[id] if id else _TOP
        if sibling is not None:
            return self._parents[sibling]
        if not isinstance(told, str):
            return self._chosen_leaf()
        if told not in lost:
            lost[told] = self._chosen_leaf()
        return lost[told]

    def _move_leaf(self, here: int) -> None:
        """Update `_leaf`, the last turn of the chosen path, after the turn `here` was added.

        If the turn only follows or replaces the current last turn, the new last turn is known at
        once. Otherwise `_leaf` becomes None, and is computed when it is needed.
        """
        parent, leaf = self._parents[here], self._leaf
        if leaf is not None and parent == leaf:
            self._leaf = here
        elif (
            leaf is not None
            and leaf != _TOP
            and parent == self._parents[leaf]
            and not self._children[self._chosen(here)]
        ):
            self._leaf = self._chosen(here)
        else:
            self._leaf = None

    def _chosen(self, here: int) -> int:
        """Return the last approved answer to the turn's question if the turn is not approved itself; else the turn."""
        return here if approved(self.turns[here]) else self._approved.get(self._first[here], here)

    def _chosen_leaf(self) -> int:
        if self._leaf is None:
            self._leaf = self._last_below(_TOP)
        return self._leaf

    def _last_below(self, here: int) -> int:
        """Return the last turn of the path that goes through the turn `here` and continues with the chosen answers."""
        newest = list(range(len(self._parents)))  # newest turn in the branch below each turn
        for place in reversed(newest.copy()):
            if (parent := self._parents[place]) != _TOP:
                newest[parent] = max(newest[parent], newest[place])
        while children := self._children[here]:
            here = self._chosen(max(children, key=newest.__getitem__))
        return here

    def _path(self, here: int) -> list[Turn]:
        path = []
        while here != _TOP:
            path.append(self.turns[here])
            here = self._parents[here]
        return path[::-1]

    def _find(self, id: str) -> int:
        if (here := self._place.get(id)) is None:
            raise TurnNotFound(f"this chat has no turn {id!r}: it was deleted, or the id is wrong. Choose another turn")
        return here

    def __contains__(self, id: object) -> bool:
        return id in self._place

    def chosen_path(self) -> list[Turn]:
        """Return the chosen path of the session (see the module's docstring), beginning with its first turn."""
        return self._path(self._chosen_leaf())

    def path(self, id: str) -> list[Turn]:
        """Return the path from a first turn to the turn `id`; [] for the id "".

        Raises TurnNotFound if there is no such turn.
        """
        return self._path(self._find(id) if id else _TOP)

    def through(self, id: str) -> list[Turn]:
        """Return the path through the turn `id`, continued by the chosen answers after it.

        Raises TurnNotFound if there is no such turn.
        """
        return self._path(self._last_below(self._find(id)))

    def parent(self, id: str) -> str:
        """Return the id of the parent of the turn `id`; "" for a first turn. Raises TurnNotFound if `id` is unknown."""
        parent = self._parents[self._find(id)]
        return "" if parent == _TOP else self.turns[parent].id

    def siblings(self, id: str) -> list[Turn]:
        """Return all turns with the same parent as the turn `id`, including that turn, oldest first.

        Raises TurnNotFound if there is no such turn.
        """
        return [self.turns[each] for each in self._children[self._parents[self._find(id)]]]

    def same_question(self, id: str) -> list[Turn]:
        """Return all answers to the same question as the turn `id`, including that turn, oldest first.

        Raises TurnNotFound if there is no such turn.
        """
        here = self._find(id)
        return [
            self.turns[each] for each in self._children[self._parents[here]] if self._first[each] == self._first[here]
        ]

    def questions(self) -> list[list[Turn]]:
        """Return all answers to each question, in the order in which the questions were first asked."""
        found: dict[int, list[Turn]] = {}
        for turn, first in zip(self.turns, self._first, strict=True):
            found.setdefault(first, []).append(turn)
        return list(found.values())


def chosen_path(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Return the chosen path of a session, given all its turns in the order of the log.

    If each turn follows the one before it, the path consists of all turns, and no tree is built.
    """
    before = ""
    for turn in turns:
        told = turn.metadata.get("parent")
        if "regenerates" in turn.metadata or (isinstance(told, str) and told != before):
            return Tree(turns).chosen_path()
        before = turn.id
    return turns


def on_chosen_paths(turns: Iterable[Turn]) -> list[Turn]:
    """Return the turns that are on the chosen path of their session, in the given order."""
    turns = list(turns)
    ids = {id(turn) for each in conversations_of(turns) for turn in chosen_path(each.turns)}
    return [turn for turn in turns if id(turn) in ids]


@dataclass(frozen=True)
class Stretch:
    """Consecutive turns of a chosen path that have the same system prompt; "" if they have none."""

    system: str
    turns: tuple[Turn, ...]

    def messages(self) -> list[Message]:
        """Return the system message (if any), then the questions and answers."""
        head = [Message(role="system", content=self.system)] if self.system else []
        return head + [message for turn in self.turns for message in turn.messages()]


def system_of(turn: Turn, default: str | None = None) -> str:
    """Return the system prompt recorded with a turn; if there is none, `default`, or "" if that is None."""
    told = turn.metadata.get("system")
    return told if isinstance(told, str) and told.strip() else default or ""


def stretches(conversation: Conversation) -> Iterator[Stretch]:
    """Yield the chosen path of a conversation in parts, divided where the system prompt changes.

    So each answer is trained on with the system prompt with which it was generated.
    """
    system, turns = "", list[Turn]()
    for turn in chosen_path(conversation.turns):
        now = system_of(turn, conversation.system)
        if turns and now != system:
            yield Stretch(system, tuple(turns))
            turns = []
        system = now
        turns.append(turn)
    if turns:
        yield Stretch(system, tuple(turns))
