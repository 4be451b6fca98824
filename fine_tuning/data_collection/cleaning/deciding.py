"""Decide on the turns of many conversations, on all cores, and reuse the stored decisions on those that are known."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from hashlib import blake2b
from itertools import chain, islice

from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.all_cores import AllCores
from fine_tuning.data_collection.cleaning.clean_turns import exchange_of
from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions
from fine_tuning.data_collection.cleaning.turn_decisions import (
    CleanSettings,
    Decision,
    Exchange,
    decide_all,
    decide_line,
    rules,
)

_Made = Callable[[], list[tuple[Decision, str]]]  # returns (decision, decision as text) for each turn
_MANY = 2000  # from this many turns on, child processes save more than the half second that starting them takes
_PIECE = 500  # turns given to a core at once
_BATCH = 10_000  # turns decided on at once


class Decider:
    """Makes the decisions on turns with certain settings."""

    def __init__(self, settings: CleanSettings, kept: KeptDecisions | None = None) -> None:
        """Set the rules for a turn, and where decisions are stored; None: all are made anew."""
        self._settings, self._kept = settings, kept
        self._key = blake2b(json.dumps([rules(), asdict(settings)]).encode(), digest_size=16).digest()

    def decided(self, conversations: Iterable[Conversation]) -> Iterator[tuple[Conversation, list[Decision]]]:
        """Yield each conversation with the decisions on its turns.

        Decisions are made in large batches. While one batch is used, child processes decide on the next.
        """
        before: list[Conversation] = []
        decided: Callable[[], list[Decision]] = list
        with AllCores(decide_line) as all_cores:
            for batch in chain(_batches(conversations), [[]]):
                decisions = iter(decided())
                decided = self._begin([turn for each in batch for turn in each.turns], all_cores)
                for conversation in before:
                    yield conversation, list(islice(decisions, len(conversation.turns)))
                before = batch

    def _begin(self, turns: Sequence[Turn], all_cores: AllCores) -> Callable[[], list[Decision]]:
        """Begin to decide on turns, and return a function that returns the decision on each.

        It is the stored one if that was made from the same texts and rules, else a new one, which is stored.
        """
        exchanges = list(map(exchange_of, turns))
        store = self._kept
        if store is None:
            made = self._made(exchanges, all_cores)
            return lambda: [decision for decision, _ in made()]
        made_from = self._hashes(exchanges)
        known = store.get([turn.id for turn in turns])
        kept = [known.get(turn.id, (b"", "")) for turn in turns]
        new = [number for number, made in enumerate(made_from) if kept[number][0] != made]
        begun = self._made([exchanges[number] for number in new], all_cores)

        def decisions() -> list[Decision]:
            if not new:
                return [Decision.read(text) for _, text in kept]
            decided = dict(zip(new, begun(), strict=True))
            store.put((turns[number].id, made_from[number], text) for number, (_, text) in decided.items())
            return [
                decided[number][0] if number in decided else Decision.read(text)
                for number, (_, text) in enumerate(kept)
            ]

        return decisions

    def _hashes(self, turns: Iterable[Exchange]) -> list[bytes]:
        """Return a hash of each turn, which changes with its exchange, the settings, and the rules."""
        key = self._key
        # repr of a named tuple takes four times as long
        return [blake2b(repr(tuple(said)).encode(), digest_size=16, key=key).digest() for said in turns]

    def _made(self, turns: Sequence[Exchange], all_cores: AllCores) -> _Made:
        """Begin to decide on turns, and return a function that returns the decisions.

        Many turns are distributed over all cores.
        """
        if len(turns) < _MANY:
            return lambda: [(decision, decision.written()) for decision in decide_all(turns, self._settings)]
        pieces = [turns[first : first + _PIECE] for first in range(0, len(turns), _PIECE)]
        done = all_cores.begin([json.dumps([asdict(self._settings), piece]).encode() for piece in pieces])
        return lambda: [(Decision.read(text), text) for line in done() for text in line.decode().split("\t")]


def _batches(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    turns = 0
    for conversation in conversations:
        batch.append(conversation)
        turns += len(conversation.turns)
        if turns >= _BATCH:
            yield batch
            batch, turns = [], 0
    if batch:
        yield batch
