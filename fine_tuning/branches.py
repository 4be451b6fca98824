"""A session as a tree: a question may be answered anew, or asked in other words.

The chat may then go on from any of these answers. `metadata["parent"]` of a turn is the id of the
turn before it in its path, "" for a first one. Turns that do not say it, as in old logs and
imports, follow the turn before them in the log; so do those whose parent was deleted, all children
of one parent together. `metadata["regenerates"]` names a turn whose question was answered anew: a
sibling of it, whatever the texts are.

The *chosen path* is what is shown first, learned and exported: the one through the newest turn.
Where an answer on it is not approved, but another answer to the same question is, the path takes
the one approved last, and what was said after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fine_tuning.conversation import Conversation, Message, Turn, approved, conversations_of
from fine_tuning.errors import TurnNotFound

_TOP = -1  # the place before all first turns


class Tree:
    """The turns of one session in the order of the log.

    A parent comes before its children there: so no path ever goes in a circle.
    """

    def __init__(self, turns: Iterable[Turn], parents: Mapping[str, str] | None = None) -> None:
        """Build the tree.

        `parents`: by id, what counts before a turn's own `metadata["parent"]`, as long as it is
        there.
        """
        self.turns = list(turns)
        self._parents: list[int] = []
        self._children: dict[int, list[int]] = {_TOP: []}
        self._first: list[int] = []  # the first of the turns that ask the same at the same place
        self._approved: dict[int, int] = {}  # the last approved one of them, by their first
        self._place: dict[str, int] = {}
        self._leaf: int | None = _TOP  # where the chosen path ends; None: to be looked for
        self._grow(parents or {})

    def _grow(self, parents: Mapping[str, str]) -> None:
        asked: dict[tuple[int, str], int] = {}
        lost: dict[str, int] = {}  # where the children of a parent that is gone are put
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
        """Take the newest turn into account.

        If it only follows or replaces the last one, the others need not be looked at.
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
        """Return the chosen answer at this place: this one, or the last approved one to the same question."""
        return here if approved(self.turns[here]) else self._approved.get(self._first[here], here)

    def _chosen_leaf(self) -> int:
        if self._leaf is None:
            self._leaf = self._last_below(_TOP)
        return self._leaf

    def _last_below(self, here: int) -> int:
        """Return where the chosen path that goes through this place ends."""
        newest = list(range(len(self._parents)))  # turn in the branch that begins at each
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
            raise TurnNotFound(f"no turn {id!r} in this chat: it was deleted, or never there")
        return here

    def __contains__(self, id: object) -> bool:
        return id in self._place

    def chosen_path(self) -> list[Turn]:
        """Return the chosen path."""
        return self._path(self._chosen_leaf())

    def path(self, id: str) -> list[Turn]:
        """Return the turns from a first one to that of the id; none for "".

        TurnNotFound if it is not there.
        """
        return self._path(self._find(id) if id else _TOP)

    def through(self, id: str) -> list[Turn]:
        """Return the path through a turn, with the chosen answers below it. TurnNotFound if it is not there."""
        return self._path(self._last_below(self._find(id)))

    def parent(self, id: str) -> str:
        """Return the id of the turn before it in its path; "" before a first one. TurnNotFound if it is not there."""
        parent = self._parents[self._find(id)]
        return "" if parent == _TOP else self.turns[parent].id

    def siblings(self, id: str) -> list[Turn]:
        """Return all that was asked and answered at a turn's place, itself included, oldest first.

        TurnNotFound if it is not there.
        """
        return [self.turns[each] for each in self._children[self._parents[self._find(id)]]]

    def same_question(self, id: str) -> list[Turn]:
        """Return those of a turn's siblings that answer the same question, itself included.

        TurnNotFound if it is not there.
        """
        here = self._find(id)
        return [
            self.turns[each] for each in self._children[self._parents[here]] if self._first[each] == self._first[here]
        ]

    def questions(self) -> list[list[Turn]]:
        """Return all answers to each question, in the order in which the questions were asked first."""
        found: dict[int, list[Turn]] = {}
        for turn, first in zip(self.turns, self._first, strict=True):
            found.setdefault(first, []).append(turn)
        return list(found.values())


def chosen_path(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Return the chosen path of a session: all its turns, where each only follows the one before it."""
    before = ""
    for turn in turns:
        told = turn.metadata.get("parent")
        if "regenerates" in turn.metadata or (isinstance(told, str) and told != before):
            return Tree(turns).chosen_path()
        before = turn.id
    return turns


def on_chosen_paths(turns: Iterable[Turn]) -> list[Turn]:
    """Return those turns, of any sessions, that are on the chosen paths, in their order."""
    turns = list(turns)
    ids = {id(turn) for each in conversations_of(turns) for turn in chosen_path(each.turns)}
    return [turn for turn in turns if id(turn) in ids]


@dataclass(frozen=True)
class Stretch:
    """A part of a chosen path that was answered under one system prompt ("": none)."""

    system: str
    turns: tuple[Turn, ...]

    def messages(self) -> list[Message]:
        """Return the system message (if any), then what was asked and answered."""
        head = [Message(role="system", content=self.system)] if self.system else []
        return head + [message for turn in self.turns for message in turn.messages()]


def system_of(turn: Turn, default: str | None = None) -> str:
    """Return the system prompt under which a turn was answered; `default` where it does not say; "" for none."""
    told = turn.metadata.get("system")
    return told if isinstance(told, str) and told.strip() else default or ""


def stretches(conversation: Conversation) -> Iterator[Stretch]:
    """Yield the chosen path, cut where the system prompt changes.

    Each answer is learned under the prompt that it was given under.
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
