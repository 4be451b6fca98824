"""Count the data that the next training would be trained on, from the turns alone.

`survey` returns the counts; it uses no engine, and tokenizes and writes nothing. `look_through`
also stores for each turn whether it is kept or dropped (data_collection/log/outcomes.py).
`planning.make_plan` adds tokens, memory and time. All three read and clean the turns by the same
functions, so that their figures match the training.
"""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Conversation, Turn, of_document
from fine_tuning.data_collection.cleaning.dedupe import near_duplicates
from fine_tuning.data_collection.cleaning.turn_decisions import Reason
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned
from fine_tuning.data_collection.log import outcomes
from fine_tuning.data_collection.log.outcomes import Differing, StoredSurvey
from fine_tuning.data_collection.preferences import preferences_of
from fine_tuning.data_preparation.spool import text_of
from fine_tuning.engines.base import Engine
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import DataError, EngineError, ModelNotFound
from fine_tuning.events import Watch
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.plan import preferences_in_words, said_facts
from fine_tuning.planning import (
    Said,
    count_new,
    count_new_of,
    read_said,
    sift,
    too_little,
)
from fine_tuning.training.methods import choose_preference_method

EXAMPLES = 5  # maximum number of example turns with private details
COUNTED = 1000  # size of the random sample of turns whose tokens are counted
BINS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # lower bounds of a histogram's bars; the last bar is open


@dataclass(frozen=True)
class Survey:
    """Counts of the data that the next training would be trained on."""

    source: str  # the log's file, or the dataset used instead
    turns: int  # turns in it, without those the user excluded
    new_turns: int  # turns that no version has seen in their current state
    kept_turns: int  # after cleaning
    dropped: dict[str, int]  # turns by reason
    scrubbed: dict[str, int]  # private details by kind, in the kept turns
    conversations: int  # conversations of the kept turns
    near_duplicates: int  # conversations similar to an earlier one, whose split they share
    pairs: int  # preferences for one answer over another
    ratings: int  # ratings of single answers
    preference_method: str | None  # dpo or kto; None if there are too few
    warnings: tuple[str, ...] = ()

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return the survey for the user as (name, value) pairs, with the same names as in `Plan.facts`."""
        alike = f", {self.near_duplicates} of them nearly the same as an earlier one" * bool(self.near_duplicates)
        return (
            ("learned from", self.source),
            *said_facts(self.turns, self.new_turns, self.kept_turns, self.dropped, self.scrubbed),
            ("conversations", f"{self.conversations:,}{alike}"),
            ("preferences", preferences_in_words(self.pairs, self.ratings, self.preference_method)),
        )


def survey(config: FineTuningConfig, *, sample: bool = False) -> Survey:
    """Return the survey of the sample if `sample`, else of the configured dataset, else of the log."""
    said = read_said(config, sample=sample)
    log = ConversationLogger(config.log_path)
    return _of_cleaned(config, said, sift(config, said.turns, log.path if said.mark else None), sample=sample)


def _of_cleaned(config: FineTuningConfig, said: Said, cleaned: Cleaned, *, sample: bool = False) -> Survey:
    """Return the survey of turns that have already been read (`said`) and cleaned."""
    log = ConversationLogger(config.log_path)
    preferences = preferences_of(said.turns, cleaned.fit)
    pairs = sum(each.rejected is not None and each.rejected != each.chosen for each in preferences)
    ratings = sum(each.rejected is None for each in preferences)
    kept = sum(len(conversation.learned) for conversation in cleaned.conversations)
    return Survey(
        source="the shipped sample" if sample else str(config.dataset.path or log.path),
        turns=len(said.turns) - said.beside,
        new_turns=_new(config, log, said),
        kept_turns=kept,
        dropped=cleaned.dropped,
        scrubbed=cleaned.scrubbed,
        conversations=len(cleaned.conversations),
        near_duplicates=_look_alikes(cleaned.conversations),
        pairs=pairs,
        ratings=ratings,
        preference_method=choose_preference_method(pairs, ratings, config.training.preferences),
        warnings=tuple(filter(None, [said.damage, too_little(kept, config)])),
    )


def _new(config: FineTuningConfig, log: ConversationLogger, said: Said) -> int:
    return count_new(config, log, Registry()) if said.mark else count_new_of(said.turns, config, Registry())


def _look_alikes(conversations: list[Conversation]) -> int:
    """Return the number of conversations that are near-duplicates of an earlier one."""
    return len(conversations) - len(
        set(near_duplicates([text_of(conversation) for conversation in conversations]).tolist())
    )


# The outcome of each turn


def look_through(config: FineTuningConfig, engine: Engine | None, watch: Watch) -> StoredSurvey:
    """Clean the log, store for each turn whether it is kept or why it is dropped, and return the figures.

    Tokens are counted only with an engine. Raises DataError if the configuration names a dataset to
    use instead of the log, and Cancelled if `watch` asks to stop.
    """
    if config.dataset.path is not None:
        raise DataError(
            f"{config.dataset.path} is learned instead of the chats: set dataset.path to null to examine the chats"
        )
    log = ConversationLogger(config.log_path)
    with watch.stage("Reading what was said"):
        said = read_said(config)
        watch.stop_if_asked()
    with watch.stage("Cleaning it as a training would"):
        cleaned = sift(config, said.turns, log.path)
        watch.stop_if_asked()
    with watch.stage("Counting"):
        facts = {
            **asdict(_of_cleaned(config, said, cleaned)),
            **_histograms(said, cleaned),
            "examples": _examples(said, cleaned),
        }
        facts["tokens"] = _tokens(config, engine, cleaned, watch) if engine else None
        differing = [Differing(tuple(turn.id for turn in each.turns), each.stands.id) for each in cleaned.conflicts]
        alike = _nearly_equal(said, cleaned)
        facts |= {"conflicts": len(differing), "alike": len(alike), "bins": list(BINS)}
    if said.mark is None:
        raise DataError("the log is not indexed yet, so the result cannot be stored: try again, which indexes it")
    look = StoredSurvey(str(log.path), said.mark, time.time(), facts)
    outcomes.keep(
        log.index,
        look,
        dict.fromkeys((turn.id for turn in _kept(cleaned)), outcomes.KEPT) | dict(cleaned.drops),
        differing,
        alike,
    )
    return look


def _kept(cleaned: Cleaned) -> Iterable[Turn]:
    return (turn for conversation in cleaned.conversations for turn in conversation.learned)


def _nearly_equal(said: Said, cleaned: Cleaned) -> list[list[str]]:
    """Return groups of the ids of turns that are nearly the same, the largest first; in each, oldest first.

    These are turns that are learned, and turns that are dropped because they were said before. What was
    made of a document is left out: there, each answer has several questions on purpose.
    """
    repeated = {id for id, reason in cleaned.drops if reason == Reason.DUPLICATE}
    kept = {turn.id for turn in _kept(cleaned)}
    turns = [turn for turn in said.turns if (turn.id in kept or turn.id in repeated) and not of_document(turn)]
    groups: dict[int, list[str]] = {}
    labels = near_duplicates([f"{turn.user_message}\n{turn.bot_response}" for turn in turns]).tolist()
    for turn, label in zip(turns, labels, strict=True):
        groups.setdefault(label, []).append(turn.id)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)


def _examples(said: Said, cleaned: Cleaned) -> dict[str, object]:
    """Return ids of example turns: for each reason the newest dropped turn, and kept turns with private details.

    Of the kept turns, these are the newest, at most EXAMPLES.
    """
    reasons = dict(cleaned.drops)
    dropped: dict[str, str] = {}
    scrubbed: list[str] = []
    kept = {turn.id for turn in _kept(cleaned)}
    for turn in reversed(said.turns):
        if reason := reasons.get(turn.id):
            dropped.setdefault(reason, turn.id)
        elif len(scrubbed) < EXAMPLES and turn.id in kept and cleaned.fit[turn.id].found:
            scrubbed.append(turn.id)
    return {"dropped": dropped, "scrubbed": scrubbed}


def _histograms(said: Said, cleaned: Cleaned) -> dict[str, object]:
    """Return histograms (`binned`) of the lengths that the kept and the dropped turns had before cleaning.

    The length of a turn is the number of characters of question and answer together.
    """
    dropped = {id for id, _ in cleaned.drops}
    lengths: Mapping[bool, list[int]] = {True: [], False: []}
    for turn in said.turns:
        lengths[turn.id not in dropped].append(len(turn.user_message) + len(turn.bot_response))
    return {"lengths": {"kept": binned(lengths[True]), "dropped": binned(lengths[False])}}


def _tokens(config: FineTuningConfig, engine: Engine, cleaned: Cleaned, watch: Watch) -> dict[str, object] | None:
    """Return the number of tokens per turn, from a random sample of the kept turns: histogram, sample size and mean.

    Return None, with a note to the user, if the engine does not have the base.
    """
    turns = list(_kept(cleaned))
    chosen = random.Random(0).sample(turns, min(COUNTED, len(turns)))
    try:
        vocabulary = Vocabulary(engine.show(config.training.base_model).gguf)
        counts = []
        for turn in chosen:
            watch.stop_if_asked()
            counts.append(
                sum(len(vocabulary.encode(text, special=False)) for text in (turn.user_message, turn.bot_response))
            )
    except (EngineError, ModelNotFound) as error:
        watch.note(f"the result contains no numbers of tokens, because they could not be counted: {error}")
        return None
    return {"counts": binned(counts), "of": len(chosen), "mean": round(sum(counts) / max(len(counts), 1), 1)}


def binned(values: Sequence[int]) -> list[int]:
    """Return the number of values in each bar of a histogram whose bars begin at `BINS`."""
    counts = [0] * len(BINS)
    for value in values:
        counts[sum(value >= begin for begin in BINS) - 1] += 1
    return counts
