"""The plan of a retrain: what is to be learned, from what, and what it will take. planning.py makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tuning.config import FineTuningConfig
from fine_tuning.data_collection.log_index import Mark
from fine_tuning.data_preparation.dataset_builder import Dataset
from fine_tuning.data_preparation.preference_builder import PreferenceData
from fine_tuning.durations import Around, Times
from fine_tuning.engines.base import ModelDetails
from fine_tuning.training.methods import Carrier, carrier
from fine_tuning.units import gigabytes

if TYPE_CHECKING:
    from fine_tuning.training.estimate import Basis, Estimate


@dataclass(frozen=True)
class Material:
    """What a version is made of and judged on: the dataset, its token rows, and the turns that teach it."""

    dataset: Dataset
    rows: Path
    turn_ids: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """What is to be learned, from what, and what it will take."""

    config: FineTuningConfig  # as it will be trained: `--auto` may have lowered it
    name: str  # of the fine-tuned model, without version
    base: ModelDetails
    turns: int  # in the log
    new_turns: int  # that no version has seen
    kept_turns: int
    dropped: dict[str, int]  # turns by reason
    scrubbed: dict[str, int]  # private details by kind
    dataset: Dataset
    rows: Path
    preferences: PreferenceData
    preference_method: str | None  # how they are learned; None if they are too few
    counts: dict[str, dict[str, int]]  # by split: conversations, rows, tokens, trained_tokens, ...
    replay_prompts: int
    estimate: "Estimate"
    fitting: dict[str, int] | None  # what to lower if it does not fit, to the largest settings that do
    basis: "Basis" = field(repr=False)  # what the estimate was computed from
    around: Around = field(repr=False)  # what takes time beside the training
    seen: dict[str, str] = field(repr=False)  # the log's turns by id, and how each stood (`Turn.state_hash`)
    mark: Mark | None = None  # of the log then; None for the sample
    warnings: tuple[str, ...] = ()  # what a person should know before the training

    @property
    def turn_ids(self) -> list[str]:
        """The turns that teach the version."""
        preferred = self.preferences.turn_ids if self.preference_method else []
        return list(dict.fromkeys([*self.dataset.manifest["turn_ids"], *preferred]))

    @property
    def material(self) -> Material:
        return Material(self.dataset, self.rows, self.turn_ids)

    @property
    def times(self) -> Times:
        """How long all of it takes, by part."""
        return self.around.times(self.config, self.estimate.seconds)

    @property
    def mode(self) -> Carrier | None:
        """What the engine will get: an adapter beside the base, a merged model, or nothing."""
        return carrier(self.config.training, self.config.deployment.mode)

    def record(self) -> dict[str, Any]:
        """Return what a page needs to forecast other settings of the same data and model."""
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
        """Return the plan as a person reads it: (name, value) pairs.

        They are the same in the terminal and on a page.
        """
        train, estimate, training = self.counts["train"], self.estimate, self.config.training
        splits = ", ".join(f"{counts['conversations']} {name}" for name, counts in self.counts.items())
        held = {"quantised": ", the base as quantised as it is served", "nf4": ", the base in NF4"}.get(
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
            ("to keep", f"{self.replay_prompts} general questions, on which it is held to the base"),
            (
                "method",
                f"{training.method}, r={training.lora_r}, {estimate.steps} steps of {training.batch_size}{held}",
            ),
            ("memory", f"about {gigabytes(estimate.memory)} ({gigabytes(estimate.available)} free)" + self._lowered()),
            ("time", str(self.times)),
        )

    def _sources(self) -> tuple[tuple[str, str], ...]:
        """Return what an epoch is made of, where that is more than one source."""
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
        """Return how many variants of conversations there are, where there are any."""
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
    """Return what a person reads about the turns: (name, value) pairs."""
    return (
        ("in the log", f"{turns} turns, {new} of them new since the last version"),
        ("after cleaning", f"{kept} turns" + _counted(" (dropped: {})", dropped)),
        ("private details", _counted("{}", scrubbed) or "none found"),
    )


def preferences_in_words(pairs: int, ratings: int, method: str | None) -> str:
    """Return how many preferences there are, and what becomes of them."""
    if not pairs + ratings:
        return "none: edits and thumbs on the chat page make them"
    how = f"learned after the chats ({method})" if method else "too few, or switched off: left for later"
    return f"{pairs} pairs, {ratings} ratings: {how}"


def _counted(text: str, counts: Mapping[str, int]) -> str:
    """Return `text` with the counts in it; "" if all are 0."""
    said = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return text.format(said) if said else ""
