"""Find the preferences in the log: pairs of answers for DPO, single rated answers for KTO.

Only explicit feedback counts. An edited answer is preferred to the model's original text. Among
several answers to one question, an approved one (edited, or with a thumb up) is preferred to those
that are not. A thumb on any other answer is a rating. The order in which answers were generated is
ignored.

An answer that is only context (`only_context`) is in no pair and no rating, but is read before later ones.

Every text has been cleaned by `clean_turn`, like all training data. A question without a usable
answer cuts its conversation in two, as in the dataset of chats. Answers are compared if they answer
the same question after the same turns and under the same system prompt; all branches of a session
are considered.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fine_tuning.branches import Tree, system_of
from fine_tuning.conversation import Message, Turn, approved, conversations_of, is_judged, only_context

if TYPE_CHECKING:
    from fine_tuning.data_collection.cleaning.clean_turns import CleanTurn


@dataclass(frozen=True)
class Preference:
    """A pair of answers to the same messages, or a single answer with a rating."""

    said: tuple[Message, ...]  # the messages before the answer; the last is the user's
    chosen: str  # the preferred answer of a pair, or the rated answer
    rejected: str | None = None  # the other answer of a pair; None for a rating
    wanted: bool = True  # of a rating: True for a thumb up, False for a thumb down
    turn_ids: tuple[str, ...] = ()  # ids of all turns whose text is used here, including earlier turns


def preferences_of(turns: Sequence[Turn], fit: "Mapping[str, CleanTurn]") -> list[Preference]:
    """Return the pairs and ratings that the log contains, in its order.

    `turns` are the turns of the log, `fit` maps ids to the cleaned turns that may be used for
    training. An answer that is in a pair does not also become a rating.
    """
    sessions = {turn.session_id for turn in turns if is_judged(turn)}  # few, and only they are looked at
    judged = conversations_of(turn for turn in turns if turn.session_id in sessions)
    return [preference for conversation in judged for preference in _of_session(conversation.turns, fit)]


def _of_session(turns: Sequence[Turn], fit: "Mapping[str, CleanTurn]") -> Iterator[Preference]:
    tree = Tree(turns)
    usable = {
        turn.id: clean for turn in turns if (clean := fit.get(turn.id)) and "incomplete" not in clean.turn.metadata
    }
    for answers in tree.questions():
        if any(map(is_judged, answers)):
            by_system: dict[str, list[CleanTurn]] = {}
            for clean in (usable[turn.id] for turn in answers if turn.id in usable and not only_context(turn)):
                by_system.setdefault(system_of(clean.turn), []).append(clean)
            before = _heard(tree, answers[0], usable)
            for system, comparable in by_system.items():
                yield from _of_question(system, before, comparable)


def _of_question(system: str, before: Sequence[Turn], clean: "Sequence[CleanTurn]") -> Iterator[Preference]:
    """Yield the preferences among answers to the same question under the same system prompt.

    `system` is the system prompt, `before` the turns before the question, `clean` the answers.
    """
    answers, ids = [each.turn for each in clean], tuple(turn.id for turn in before)
    head = [Message(role="system", content=system)] if system else []
    said = (*head, *(message for turn in before for message in turn.messages()), answers[0].messages()[0])
    best = _best(answers)
    pairs = [
        *_edits(clean),
        *((best, other.bot_response, other.id) for other in answers if approved(best) and not approved(other)),
    ]
    for turn, rejected, id in pairs:
        yield Preference(said, turn.bot_response, rejected, turn_ids=(*ids, turn.id, id))
    paired = {id for turn, _, other in pairs for id in (turn.id, other)}
    for turn in answers:
        if turn.id not in paired and (rating := turn.metadata.get("rating")) in ("up", "down"):
            yield Preference(said, turn.bot_response, wanted=rating == "up", turn_ids=(*ids, turn.id))


def _heard(tree: Tree, turn: Turn, usable: "Mapping[str, CleanTurn]") -> list[Turn]:
    """Return the cleaned turns before `turn`, back to the last question without a usable answer.

    If an answer is unusable, the best usable answer to the same question takes its place (`_best`).
    """
    heard: list[Turn] = []
    for earlier in reversed(tree.path(tree.parent(turn.id))):
        same = [earlier] if earlier.id in usable else tree.same_question(earlier.id)
        answers = [usable[each.id].turn for each in same if each.id in usable]
        if not answers:
            break
        heard.append(_best(answers))
    return heard[::-1]


def _best(answers: Sequence[Turn]) -> Turn:
    """Return the last approved one of several answers to a question; the last one if none is approved.

    An approved answer was edited or has a thumb up (`conversation.approved`).
    """
    return next(filter(approved, reversed(answers)), answers[-1])


def _edits(answers: "Sequence[CleanTurn]") -> list[tuple[Turn, str, str]]:
    """Return (turn, the model's original text, id of the turn) for each edited answer."""
    return [
        (each.turn, each.original, each.turn.id)
        for each in answers
        if each.original and each.original != each.turn.bot_response
    ]
