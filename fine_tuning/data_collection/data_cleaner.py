"""Choose the turns worth learning from, and clean their text. The log itself stays unchanged.

cleaning/turn_decisions.py decides on each turn by itself. `DataCleaner` then applies what depends on the
whole conversation: regenerated answers, repeats and conflicts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from operator import attrgetter

from fine_tuning.branches import chosen_path, system_of
from fine_tuning.conversation import Conversation, Turn, approved, only_context, parse_conversations
from fine_tuning.data_collection.cleaning.clean_turns import SAID, CleanTurn, carried_out, exchange_of
from fine_tuning.data_collection.cleaning.conflicts import Asked, Conflict, cut_out, find_conflicts
from fine_tuning.data_collection.cleaning.deciding import Decider
from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions
from fine_tuning.data_collection.cleaning.plain_text import normalise
from fine_tuning.data_collection.cleaning.repeats import NOTHING_BEFORE, RepeatedTurns
from fine_tuning.data_collection.cleaning.turn_decisions import (
    CleanSettings,
    Decision,
    Reason,
    clean_text,
    first_reason,
)
from fine_tuning.data_collection.placeholders import Placeholders
from fine_tuning.data_collection.privacy import Find, Scrubbed
from fine_tuning.data_collection.without_collections import without_collections


@dataclass(frozen=True)
class Cleaned:
    conversations: list[Conversation]  # each has a turn that is learned; those before it may be only context
    dropped: dict[str, int]  # number of dropped turns, by Reason
    drops: list[tuple[str, str]]  # (turn id, Reason), duplicates last
    scrubbed: dict[str, int]  # private details in kept turns, by PII kind
    # by id, all turns whose text may be learned, even if they were dropped for a reason that is not in their text
    fit: dict[str, CleanTurn] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)  # questions with different answers


@dataclass
class Found:
    """What a cleaning collects: counts of dropped turns by Reason, and of private details in kept turns by PII kind.

    The fields that are None by default are filled only if the caller sets them to a list or dict.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    scrubbed: Counter[str] = field(default_factory=Counter)
    drops: list[tuple[str, str]] | None = None
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    fit: dict[str, CleanTurn] | None = None
    asked: list[Asked] | None = None  # the kept turns

    def drop(self, turn: Turn, reason: Reason) -> None:
        self.dropped[str(reason)] += 1
        if self.drops is not None:
            (self.duplicates if reason is Reason.DUPLICATE else self.drops).append((turn.id, str(reason)))


class DataCleaner:
    """Cleans conversations for training: drops turns, and replaces private details by placeholders.

    A turn that is only context counts as dropped, but stays in its conversation if a turn that is learned
    follows it.

    An answer of a model whose tag begins with `own_prefix` is learned only if the owner approved it, by
    rating it up or editing it. A model that learns its own unchecked answers loses what it knew (arXiv
    2305.17493).
    """

    def __init__(
        self,
        settings: CleanSettings | None = None,
        *,
        own_prefix: str = "",
        kept: KeptDecisions | None = None,
        newest_wins: bool = False,
    ) -> None:
        """Set the rules.

        Args:
            settings: The rules for a single turn; None: the defaults.
            own_prefix: Beginning of the tags of fine-tuned models.
            kept: Where decisions on turns are stored, so that only new ones are computed.
            newest_wins: Whether to learn only one of several answers to the same question
                (`Conflict.stands`).
        """
        self.settings, self.own_prefix = settings or CleanSettings(), own_prefix
        self._kept, self._newest_wins = kept, newest_wins

    def filter_conversations(self, conversations: Sequence[Conversation | dict[str, object]]) -> Cleaned:
        """Return the conversations cleaned and without the turns that are dropped.

        A turn dropped from the middle splits its conversation into two with the same id, unless it is only
        context. Raises DataError that names every record that is not a conversation.
        """
        found = Found(drops=[], fit={}, asked=[])
        with without_collections():
            cleaned = list(self.stream(parse_conversations(conversations), found))
            conflicts = find_conflicts(found.asked or ())
        drops, fit = [*(found.drops or ()), *found.duplicates], found.fit or {}
        if self._newest_wins and conflicts:
            losers = [turn.id for conflict in conflicts for turn in conflict.losers]
            before, cleaned = _ids_in(cleaned), list(cut_out(cleaned, set(losers)))
            drops += [(id, str(Reason.CONFLICT)) for id in losers]
            for id in before - _ids_in(cleaned):  # and what was only context for them
                found.scrubbed -= Counter({str(kind): count for kind, count in fit[id].found.items()})
        return Cleaned(
            cleaned, dict(Counter(reason for _, reason in drops)), drops, dict(found.scrubbed), fit, conflicts
        )

    def stream(self, conversations: Iterable[Conversation], found: "Found") -> Iterator[Conversation]:
        """Yield the cleaned conversations one by one, with only a few in memory.

        Counts and dropped turns are added to `found`, which is complete after the last conversation.
        Conflicts are not resolved here, since this needs all conversations.
        """
        known = RepeatedTurns()
        scrubbed = lru_cache(_SYSTEMS)(self.clean_text)  # for this stream only: it contains private text
        for conversation, decisions in Decider(self.settings, self._kept).decided(conversations):
            parts = self._whole(conversation, decisions, found) or list(
                self._parts(conversation, decisions, found, scrubbed)
            )
            for part in parts:
                part.cut_repeats(known, found)
            self._number(conversation, decisions, parts, found.fit)
            for part in parts:
                if part.turns:
                    part.count(found.scrubbed)
                    yield part.conversation()

    def _number(
        self,
        conversation: Conversation,
        decisions: Sequence[Decision],
        parts: Sequence["_Part"],
        fit: dict[str, CleanTurn] | None,
    ) -> None:
        """Give different private details of one kind in a conversation different placeholders: [EMAIL_1], [EMAIL_2].

        The turns in `parts`, and in `fit`, are replaced by turns with these placeholders.
        """
        if not _may_hold_several(conversation, decisions, parts):
            return
        made = list(zip(conversation.turns, decisions, strict=True))
        names = Placeholders(
            [said for part in parts if part.turns for said in part.learned(made)],
            also=[text for turn in conversation.turns for text in exchange_of(turn).texts],
        )
        scrubbed = cache(lambda text: clean_text(text, self.settings, names))
        numbered: dict[int, CleanTurn] = {}
        for place, (turn, decision) in enumerate(made):
            told = system_of(turn, conversation.system)
            clean = _carried_out(turn, decision, scrubbed(told) if told else None, names)
            if isinstance(clean, CleanTurn):
                numbered[place] = clean
        for part in parts:
            part.system = scrubbed(part.told) if part.told else None
            part.turns = [numbered[place] for place in part.places]
        if fit is not None:
            fit.update((clean.turn.id, clean) for clean in numbered.values())

    def clean_text(self, text: str) -> Scrubbed:
        """Return a text as it would be learned: normalised, with placeholders for private details."""
        return clean_text(text, self.settings)

    def _whole(self, conversation: Conversation, decisions: Sequence[Decision], found: "Found") -> "list[_Part]":
        """Return the only part of a conversation that is learned as it was recorded, apart from its private details.

        Return [] for any other conversation, which `_parts` divides: one with a system prompt, a rating, an
        answer that is not learned, or the like. Most chats qualify, and this takes half the time of `_parts`.
        """
        turns = conversation.turns
        if (
            conversation.system
            or not all(map(_OF_PARTS.isdisjoint, [turn.metadata for turn in turns]))
            or any(map(_UNFIT, decisions))
            or (self.own_prefix and any(map(self._is_own, turns)))
            or chosen_path(turns) is not turns
        ):
            return []
        clean = [carried_out(turn, decision) for turn, decision in zip(turns, decisions, strict=True)]
        learned = [each for each in clean if isinstance(each, CleanTurn)]
        if found.fit is not None:
            found.fit.update((turn.id, each) for turn, each in zip(turns, learned, strict=True))
        wordings = [decision.wording for decision in decisions]
        return [_Part(conversation.id, turns=learned, places=list(range(len(turns))), wordings=wordings)]

    def _parts(
        self,
        conversation: Conversation,
        decisions: Sequence[Decision],
        found: "Found",
        scrubbed: Callable[[str], Scrubbed],
    ) -> Iterator["_Part"]:
        """Yield the parts of a conversation's chosen path (see `branches.chosen_path`).

        The path is split where turns are dropped, and where the system prompt changes. Dropped turns are
        counted in `found`.
        """
        path = chosen_path(conversation.turns)
        is_whole = path is conversation.turns
        replaced = set[int]() if is_whole else set(map(id, conversation.turns)).difference(map(id, path))
        for turn in conversation.turns if replaced else ():
            if id(turn) in replaced:
                found.drop(turn, Reason.REGENERATED)
        part = _Part(conversation.id)
        for place, (turn, decision) in enumerate(zip(conversation.turns, decisions, strict=True)):
            told = system_of(turn, conversation.system)
            system = scrubbed(told) if told else None
            clean = _carried_out(turn, decision, system)
            if found.fit is not None and isinstance(clean, CleanTurn):
                found.fit[turn.id] = clean
            if id(turn) in replaced:
                continue
            unwanted = self._unwanted(turn)
            if isinstance(clean, Reason) or unwanted:
                found.drop(turn, first_reason(each for each in (clean, unwanted) if isinstance(each, Reason)))
                yield part
                part = _Part(conversation.id)
            else:
                if part.turns and system != part.system:
                    yield part
                    part = _Part(conversation.id)
                part.told, part.system = (part.told, part.system) if part.turns else (told, system)
                part.turns.append(clean)
                part.places.append(place)
                if only_context(turn):
                    found.drop(turn, Reason.CONTEXT)
                part.wordings.append(decision.wording)
        yield part

    def _unwanted(self, turn: Turn) -> Reason | None:
        """Return why an answer is not learned, whatever its text is; None if it may be learned.

        Such an answer was rated down, or is incomplete or by a fine-tuned model and not approved by the
        owner.
        """
        facts = turn.metadata
        if facts.get("incomplete") and not approved(turn):
            return Reason.INCOMPLETE
        if facts.get("rating") == "down":
            return Reason.REJECTED
        return Reason.OWN_ANSWER if self._is_own(turn) and not approved(turn) else None

    def _is_own(self, turn: Turn) -> bool:
        """Return whether a fine-tuned model gave the answer, and such answers are not learned unless approved."""
        return bool(self.own_prefix) and str(turn.metadata.get("model", "")).startswith(self.own_prefix)


_UNFIT = attrgetter("unfit")
_OF_PARTS = frozenset({"system", "incomplete", "rating", "weight"})  # metadata that decide what `_parts` yields


def _ids_in(conversations: Iterable[Conversation]) -> set[str]:
    return {turn.id for conversation in conversations for turn in conversation.turns}


def _carried_out(
    turn: Turn, decision: Decision, system: Scrubbed | None, names: Placeholders | None = None
) -> CleanTurn | Reason:
    """Return the cleaned turn; if the turn has a system prompt of its own, it is replaced by `system`, the cleaned one.

    If the turn is not learned, return the reason instead.
    """
    clean = carried_out(turn, decision, names)
    if isinstance(clean, Reason) or "system" not in turn.metadata:
        return clean
    facts = {**clean.turn.metadata, "system": system.text if system else ""}
    return clean._replace(turn=clean.turn.model_copy(update={"metadata": facts}))


def _may_hold_several(conversation: Conversation, decisions: Sequence[Decision], parts: Sequence["_Part"]) -> bool:
    """Return whether a conversation may contain two different private details of one kind.

    A placeholder such as "[EMAIL]" that somebody typed counts as another detail.
    """
    finds = [change.finds for each in decisions if each.changes for change in each.changes.values()]
    finds += [part.system.finds for part in parts if part.system]
    kinds = [find.kind for each in finds for find in each]
    if len(set(kinds)) < len(kinds):
        return True
    return bool(kinds) and (
        any("[" in turn.user_message or "[" in turn.bot_response for turn in conversation.turns)
        or any("[" in part.told for part in parts if part.told)
        or any("[" in text for turn in conversation.turns for text in exchange_of(turn)[2:4] if text)
    )


@dataclass
class _Part:
    """Consecutive turns of a conversation that are learned, or are context for those that are.

    A conversation is split into parts at dropped turns and at changes of the system prompt.
    """

    id: str
    told: str | None = None  # the system prompt before cleaning
    system: Scrubbed | None = None
    turns: list[CleanTurn] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # each turn's index in the conversation
    wordings: list[bytes] = field(default_factory=list)  # each turn's `repeats.fingerprint`

    def conversation(self) -> Conversation:
        turns = tuple(clean.turn for clean in self.turns)
        # without a second validation of the turns
        return Conversation.model_construct(id=self.id, turns=turns, system=self.system.text if self.system else None)

    def learned(self, made: Sequence[tuple[Turn, Decision]]) -> Iterator[tuple[str, Sequence[Find]]]:
        """Yield (text, private details in it) for each text that is learned: normalised, and before scrubbing.

        Scrubbing replaces the details by placeholders.
        """
        if self.told and self.system and self.system.finds:
            yield normalise(self.told), self.system.finds
        for turn, decision in (made[place] for place in self.places):
            for name in SAID:
                if change := decision.changes.get(name):
                    yield change.searched(getattr(turn, name)), change.finds

    def count(self, scrubbed: Counter[str]) -> None:
        """Add the private details in the kept turns to `scrubbed`, by kind."""
        found = [clean.found for clean in self.turns if clean.found]
        for counts in [self.system.counts, *found] if self.system else found:
            for kind, count in counts.items():
                scrubbed[str(kind)] += count

    def cut_repeats(self, known: RepeatedTurns, found: Found) -> None:
        """Drop the turns at the end that repeat an earlier turn in the same context, or are only context.

        Such a turn is kept if others follow: they would make no sense without it.
        """
        numbers = known.numbers([clean.turn.user_message for clean in self.turns], self.wordings)
        left = len(self.turns)
        while left and (numbers[left - 1][1] or only_context(self.turns[left - 1].turn)):
            left -= 1
        for clean in reversed(self.turns[left:]):
            if not only_context(clean.turn):
                found.drop(clean.turn, Reason.DUPLICATE)
        del self.turns[left:], self.places[left:]
        if found.asked is not None:
            turns = [clean.turn for clean in self.turns]
            asked = zip(turns, [NOTHING_BEFORE, *(number for number, _ in numbers)], self.wordings, strict=False)
            found.asked += [each for each in asked if not only_context(each[0])]


_SYSTEMS = 64  # clean system prompts kept in memory: most chats share a few
