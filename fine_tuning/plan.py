"""Define the plan of a retrain: its training data, base, and estimated cost. planning.py makes plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.log.index import Mark
from fine_tuning.data_preparation.dataset_builder import Dataset
from fine_tuning.data_preparation.preference_builder import PreferenceData
from fine_tuning.durations import Around, Times
from fine_tuning.engines.base import ModelDetails
from fine_tuning.training.methods import Carrier, carrier
from fine_tuning.units import counted, gigabytes

if TYPE_CHECKING:
    from fine_tuning.training.estimate import Basis, Estimate


@dataclass(frozen=True)
class Material:
    """The data that a version is trained and evaluated on."""

    dataset: Dataset
    rows: Path  # the folder of the dataset's token rows
    turn_ids: Sequence[str]  # ids of the turns that the version is trained on
    context: Sequence[str] = ()  # ids of those whose answers it only reads (`conversation.only_context`)


@dataclass(frozen=True)
class Plan:
    """The plan of a retrain: its training data, base, and estimated cost."""

    config: FineTuningConfig  # as used for training: `--auto` may have lowered settings
    name: str  # the fine-tuned model's name without version
    base: ModelDetails
    turns: int  # in the log
    new_turns: int  # turns that no version has seen
    kept_turns: int
    dropped: dict[str, int]  # turns by reason
    scrubbed: dict[str, int]  # private details by kind
    dataset: Dataset
    rows: Path  # the folder of the dataset's token rows
    preferences: PreferenceData
    preference_method: str | None  # dpo or kto; None if there are too few preferences
    counts: dict[str, dict[str, int]]  # by split: conversations, rows, tokens, trained_tokens, ...
    replay_prompts: int  # number of general questions in the replay
    estimate: "Estimate"
    fitting: dict[str, int] | None  # lower settings that fit into memory; None if it fits already, or none do
    basis: "Basis" = field(repr=False)  # the inputs of the estimate
    around: Around = field(repr=False)  # the inputs of the forecast for all but the training
    # the state (`Turn.state_hash`) of each turn that was read, by id; {} unless a training follows
    seen: dict[str, str] = field(repr=False)
    context: Sequence[str] = ()  # ids of the turns whose answers are only read (`conversation.only_context`)
    mark: Mark | None = None  # the state of the log's index before it was read; None for the sample
    warnings: tuple[str, ...] = ()  # messages that the user should read before the training

    @property
    def turn_ids(self) -> list[str]:
        """Return the ids of the turns that the version is trained on."""
        preferred = self.preferences.turn_ids if self.preference_method else []
        return list(dict.fromkeys([*self.dataset.manifest["turn_ids"], *preferred]))

    @property
    def material(self) -> Material:
        return Material(self.dataset, self.rows, self.turn_ids, self.context)

    @property
    def times(self) -> Times:
        """The forecast seconds of the whole retrain, by part."""
        return self.around.times(self.config, self.estimate.seconds)

    @property
    def mode(self) -> Carrier | None:
        """Return the form of the result that the engine gets: an adapter for the base, or a merged model.

        Return None if the result cannot be exported to GGUF, so that the engine gets nothing.
        """
        return carrier(self.config.training, self.config.deployment.mode)

    def record(self) -> dict[str, Any]:
        """Return the plan as a dictionary for JSON, for the pages.

        It contains the inputs of the forecasts (`basis` and `around`), so that a page can forecast
        memory and time for other settings, with the same data and model.
        """
        names = (
            "name",
            "turns",
            "new_turns",
            "kept_turns",
            "counts",
            "replay_prompts",
            "preference_method",
            "fitting",
            "warnings",
            "mode",
        )
        told = {"base": self.base.tag, "facts": self.facts(), "fits": self.estimate.fits, "basis": self.basis.record()}
        told |= {"around": self.around.record(), "times": self.times.record()}
        return {**{name: getattr(self, name) for name in names}, **told}

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return the plan for the user: (name, value) pairs.

        The terminal and the pages show the same pairs.
        """
        train, estimate, training = self.counts["train"], self.estimate, self.config.training
        splits = ", ".join(f"{counts['conversations']} {name}" for name, counts in self.counts.items())
        held = {"quantised": ", the base quantised as it is served", "nf4": ", the base in NF4"}.get(
            estimate.base_weights, ""
        )
        return (
            ("base", f"{self.base.tag} ({self.base.parameter_size}, {self.base.quantization})"),
            ("becomes", f"the next version of {self.name}"),
            *said_facts(self.turns, self.new_turns, self.kept_turns, self.dropped, self.scrubbed),
            ("conversations", splits),
            *self._sources(),
            *self._variants(),
            (
                "to learn",
                f"{train['tokens']} tokens, {train['trained_tokens']} of them answers, {training.num_epochs} times",
            ),
            (
                "preferences",
                preferences_in_words(self.preferences.pairs, self.preferences.ratings, self.preference_method),
            ),
            ("to keep", f"{counted(self.replay_prompts, 'general question')}, so that it keeps what the base knows"),
            (
                "method",
                f"{training.method}, r={training.lora_r}, {estimate.steps} steps of {training.batch_size}{held}",
            ),
            ("memory", f"about {gigabytes(estimate.memory)} ({gigabytes(estimate.available)} free)" + self._lowered()),
            ("time", str(self.times)),
        )

    def _sources(self) -> tuple[tuple[str, str], ...]:
        """Return a (name, value) pair that says each source's share of an epoch; () if there is only one source."""
        found = self.dataset.manifest.get("sources", {})
        total = sum(counts["in_an_epoch"] for counts in found.values())
        if len(found) < 2 or not total:
            return ()
        parts = (
            f"{100 * counts['in_an_epoch'] / total:.0f} % {name} ({counts['conversations']})"
            for name, counts in found.items()
        )
        return (("sources", ", ".join(parts)),)

    def _variants(self) -> tuple[tuple[str, str], ...]:
        """Return a (name, value) pair with the number of reworded variants of each kind; () if there are none."""
        found = self.dataset.manifest.get("augmented", {})
        parts = (f"{counts['conversations']} by {how.replace('_', ' ')}" for how, counts in found.items())
        return (("variants", ", ".join(parts)),) if found else ()

    def _lowered(self) -> str:
        if self.estimate.fits:
            return ""
        changes = self.fitting and " ".join(f"{key}={value}" for key, value in self.fitting.items())
        return (
            f": too much; {f'with {changes} it fits (--auto)' if changes else 'choose a smaller training.base_model'}"
        )


def said_facts(
    turns: int, new: int, kept: int, dropped: Mapping[str, int], scrubbed: Mapping[str, int]
) -> tuple[tuple[str, str], ...]:
    """Return figures about the turns for the user, as (name, value) pairs; the arguments as in Plan."""
    return (
        ("in the log", f"{counted(turns, 'turn')}, {new:,} of them new since the last version"),
        ("after cleaning", counted(kept, "turn") + _counted(" (dropped: {})", dropped)),
        ("private details", _counted("{}", scrubbed) or "none found"),
    )


def preferences_in_words(pairs: int, ratings: int, method: str | None) -> str:
    """Return a text for the user: how many preferences there are, and whether they are trained on.

    `method`: dpo or kto; None if they are not trained on.
    """
    if not pairs + ratings:
        return "none: edits and thumbs on the chat page make them"
    how = f"learned after the chats ({method})" if method else "not learned yet: too few, or switched off"
    return f"{counted(pairs, 'pair')}, {counted(ratings, 'rating')}: {how}"


def _counted(text: str, counts: Mapping[str, int]) -> str:
    """Return `text` with the counts inserted at {}, such as "3 too short, 1 duplicate"; "" if all are 0."""
    said = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return text.format(said) if said else ""
