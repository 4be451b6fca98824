"""What the next retrain would learn, told from the turns alone.

`survey` counts it: no engine is asked, nothing is tokenised or written. `look_through` also keeps,
turn by turn, what becomes of it, for those who ask later (outcomes.py). `planning.make_plan` goes
on from here to tokens, memory and time. All read and clean the turns by the same functions, so that
what is shown is what is trained.
"""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection import outcomes
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned
from fine_tuning.data_collection.dedupe import near_duplicates
from fine_tuning.data_collection.outcomes import Differing, Look
from fine_tuning.data_preparation.preference_builder import preferences_of
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

EXAMPLES = 5  # turns with private details that are named
COUNTED = 1000  # turns of which the tokens are counted, chosen by chance
BINS = (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # where the bars of a histogram begin; the last has no end


@dataclass(frozen=True)
class Survey:
    """What there is to learn."""

    source: str  # the log's file, or what is learned instead of it
    turns: int  # in it, without those that their owner excluded
    new_turns: int  # that no version has seen as they are now
    kept_turns: int  # after cleaning
    dropped: dict[str, int]  # turns by reason
    scrubbed: dict[str, int]  # private details by kind, in what was kept
    conversations: int  # of the kept turns
    near_duplicates: int  # conversations that look like an earlier one; they stay in its split
    pairs: int  # preferences: one answer above another
    ratings: int  # preferences: an answer that was rated by itself
    preference_method: str | None  # how they are learned; None if they are too few
    warnings: tuple[str, ...] = ()

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return the survey as a person reads it: (name, value) pairs, named as those of a plan."""
        alike = f", {self.near_duplicates} of them nearly the same as an earlier one" * bool(self.near_duplicates)
        return (
            ("learned from", self.source),
            *said_facts(self.turns, self.new_turns, self.kept_turns, self.dropped, self.scrubbed),
            ("conversations", f"{self.conversations}{alike}"),
            ("preferences", preferences_in_words(self.pairs, self.ratings, self.preference_method)),
        )


def survey(config: FineTuningConfig, *, sample: bool = False) -> Survey:
    """Return what there is to learn in the log, the sample, or the configured dataset."""
    said = read_said(config, sample=sample)
    log = ConversationLogger(config.log_path)
    return _of_cleaned(config, said, sift(config, said.turns, log.path if said.mark else None), sample=sample)


def _of_cleaned(config: FineTuningConfig, said: Said, cleaned: Cleaned, *, sample: bool = False) -> Survey:
    """Return the same of what was read and cleaned."""
    log = ConversationLogger(config.log_path)
    preferences = preferences_of(said.turns, cleaned.fit)
    pairs = sum(each.rejected is not None and each.rejected != each.chosen for each in preferences)
    ratings = sum(each.rejected is None for each in preferences)
    kept = sum(len(conversation.turns) for conversation in cleaned.conversations)
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
    """Return how many conversations look like an earlier one."""
    return len(conversations) - len(
        set(near_duplicates([text_of(conversation) for conversation in conversations]).tolist())
    )


# Turn by turn, for those who ask later


def look_through(config: FineTuningConfig, engine: Engine | None, watch: Watch) -> Look:
    """Look through the log, and keep what was found. Without an engine no tokens are counted.

    DataError if the configuration names a dataset to learn instead of the log. Cancelled when `watch` asks it to stop.
    """
    if config.dataset.path is not None:
        raise DataError(
            f"{config.dataset.path} is learned instead of the chats (dataset.path): set it to null to look at them"
        )
    log = ConversationLogger(config.log_path)
    with watch.stage("Reading the conversations"):
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
        facts |= {"conflicts": len(differing), "bins": list(BINS)}
    if said.mark is None:
        raise DataError("the log has no index yet: try again")
    look = Look(str(log.path), said.mark, time.time(), facts)
    outcomes.keep(
        log.index,
        look,
        dict.fromkeys((turn.id for turn in _kept(cleaned)), outcomes.KEPT) | dict(cleaned.drops),
        differing,
    )
    return look


def _kept(cleaned: Cleaned) -> Iterable[Turn]:
    return (turn for conversation in cleaned.conversations for turn in conversation.turns)


def _examples(said: Said, cleaned: Cleaned) -> dict[str, object]:
    """Return examples, as ids of turns.

    These are the newest turn that was dropped, by reason, and the newest ones in which something
    private was found.
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
    """Return how long the turns are, question and answer together, as they were said."""
    dropped = {id for id, _ in cleaned.drops}
    lengths: Mapping[bool, list[int]] = {True: [], False: []}
    for turn in said.turns:
        lengths[turn.id not in dropped].append(len(turn.user_message) + len(turn.bot_response))
    return {"lengths": {"kept": binned(lengths[True]), "dropped": binned(lengths[False])}}


def _tokens(config: FineTuningConfig, engine: Engine, cleaned: Cleaned, watch: Watch) -> dict[str, object] | None:
    """Return how many tokens the learned turns have, by a sample; None where no base is there to count them with."""
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
        watch.note(f"tokens were not counted: {error}")
        return None
    return {"counts": binned(counts), "of": len(chosen), "mean": round(sum(counts) / max(len(counts), 1), 1)}


def binned(values: Sequence[int]) -> list[int]:
    """Return how many of the values fall into each bar of a histogram (`BINS`)."""
    counts = [0] * len(BINS)
    for value in values:
        counts[sum(value >= begin for begin in BINS) - 1] += 1
    return counts
