"""What the next retrain would learn, told from the turns alone: no engine is asked, nothing is tokenised or written.

`planning.make_plan` goes on from here to tokens, memory and time. Both read and clean the turns by the same functions.
"""

from dataclasses import dataclass

from fine_tuning.config import FineTuningConfig
from fine_tuning.conversation import Conversation
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.dedupe import near_duplicates
from fine_tuning.data_preparation.preference_builder import preferences_of
from fine_tuning.data_preparation.spool import text_of
from fine_tuning.model_management.model_registry import Registry
from fine_tuning.planning import Said, count_new, count_new_of, preferences_in_words, read_said, said_facts, sift, too_little
from fine_tuning.training.methods import choose_preference_method


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
    """Return what there is to learn in the log, or in the sample, or in the dataset that the configuration names instead."""
    said = read_said(config, sample=sample)
    log = ConversationLogger(config.log_path)
    cleaned = sift(config, said.turns, log.path if said.mark else None)
    preferences = preferences_of(said.turns, cleaned.fit)
    pairs = sum(each.rejected is not None and each.rejected != each.chosen for each in preferences)
    ratings = sum(each.rejected is None for each in preferences)
    kept = sum(len(conversation.turns) for conversation in cleaned.conversations)
    return Survey(
        source="the shipped sample" if sample else str(config.dataset.path or log.path),
        turns=len(said.turns),
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
    return len(conversations) - len(set(near_duplicates([text_of(conversation) for conversation in conversations]).tolist()))
