"""Clean single turns: apply a decision (turn_decisions.py) to the turn about which it was made."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from fine_tuning.conversation import Turn, only_context
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings, Decision, Exchange, Reason, decide
from fine_tuning.data_collection.placeholders import Placeholders
from fine_tuning.data_collection.privacy import PII

SAID = ("user_message", "bot_response")
_OF_METADATA = ("original_response", "thoughts")
_OF_EXCHANGE = frozenset((*_OF_METADATA, "weight"))


class CleanTurn(NamedTuple):
    """A turn after cleaning: its texts are normalised, and have placeholders for private details."""

    turn: Turn
    found: Mapping[PII, int]  # number of private details in question and answer
    original: str | None = None  # the model's own answer, if an edit replaced it and it may be learned too


def clean_turn(turn: Turn, settings: CleanSettings) -> CleanTurn | Reason:
    """Return the turn with clean texts, or the reason why its texts are not learned.

    The result depends only on the turn's texts and the settings, not on what the owner decided about the
    turn.
    """
    return carried_out(turn, decide(exchange_of(turn), settings))


def exchange_of(turn: Turn) -> Exchange:
    """Return what the decision about a turn depends on."""
    if _OF_EXCHANGE.isdisjoint(turn.metadata):
        return Exchange(turn.user_message, turn.bot_response)
    original, thoughts = map(turn.metadata.get, _OF_METADATA)
    return Exchange(
        turn.user_message,
        turn.bot_response,
        original if isinstance(original, str) else None,
        thoughts if isinstance(thoughts, str) else None,
        only_context(turn),
    )


def carried_out(turn: Turn, decision: Decision, names: Placeholders | None = None) -> CleanTurn | Reason:
    """Return the turn cleaned as `decision` says, or the reason why it is not learned.

    `names` are the placeholders of the turn's conversation.
    """
    if decision.unfit:
        return decision.unfit
    changes = decision.changes
    original = turn.metadata.get("original_response") if decision.original_fits else None
    if not changes:
        return CleanTurn(turn, {}, original)
    update: dict[str, Any] = {name: changes[name].of(getattr(turn, name), names) for name in SAID if name in changes}
    kinds = [find.kind for name in update for find in changes[name].finds]
    facts = {name: changes[name].of(turn.metadata[name], names) for name in _OF_METADATA if name in changes}
    if facts:
        update["metadata"] = {**turn.metadata, **facts}
        original = original and facts.get("original_response", original)
    return CleanTurn(turn.model_copy(update=update), Counter(kinds) if kinds else {}, original)
