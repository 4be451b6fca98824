"""Merge versions: combine the adapters of several versions of one base into one adapter.

The result is exported, evaluated and registered like that of a training (pipeline.py). The new
version counts as trained on everything that one of the merged versions was trained on: it is
registered with all their turns, so that `forget` finds it, and evaluated only on chats that none of
them was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_preparation.dataset_builder import MANIFEST, tokenize_dataset
from fine_tuning.data_preparation.preference_builder import build_preferences
from fine_tuning.data_preparation.rows import ConversationTokenizer
from fine_tuning.data_preparation.union import unite
from fine_tuning.engines.base import Engine
from fine_tuning.errors import ByoaiError, ConfigError
from fine_tuning.events import Watch
from fine_tuning.judging import evaluate
from fine_tuning.model_management.model_registry import Lineage, Version
from fine_tuning.model_management.peft_adapter import LoraPair, read_adapter
from fine_tuning.outcome import NewVersion, finished
from fine_tuning.pipeline import make_version, write_artifact
from fine_tuning.plan import Material
from fine_tuning.planning import read_said
from fine_tuning.resuming import check_shop, fresh_run, run_behind
from fine_tuning.runs import Run, only_one
from fine_tuning.units import counted
from fine_tuning.workshop import Request, Workshop, shop_of

if TYPE_CHECKING:
    from fine_tuning.training.adapter_merge import Merged, Recipe, Update


@dataclass(frozen=True)
class Part:
    """A version to merge, and its weight in the merge."""

    version: Version
    weight: float  # above 0

    @property
    def tag(self) -> str:
        return self.version.tag

    @property
    def run(self) -> Run:
        """Return the run that made the version. Raises ConfigError if it is missing."""
        return run_behind(self.version, "merged")

    @cached_property
    def pairs(self) -> dict[str, LoraPair]:
        """The matrices A and B of the version's adapter, by module. Raises ConfigError if it cannot be merged."""
        if not (self.run.adapter / "adapter_config.json").exists():
            raise ConfigError(
                f"{self.tag} cannot be merged: it was trained by {self.version.method or 'an unknown method'}, which "
                "left no LoRA adapter. Choose versions of the methods lora or qlora"
            )
        pairs = read_adapter(self.run.adapter)
        if any(pair.has_magnitude for pair in pairs):
            raise ConfigError(
                f"{self.tag} cannot be merged: DoRA also scales the base's weights, and such changes cannot be added "
                "up. Choose versions that were trained with use_dora: false"
            )
        if any(pair.of_embedding for pair in pairs):
            raise ConfigError(
                f"{self.tag} cannot be merged, because its adapter changes the embedding: choose another version"
            )
        return {pair.module: pair for pair in pairs}

    def inputs(self) -> dict[str, Any]:
        """Return the recorded inputs of the version's run (runs.py); {} if none are recorded."""
        return dict(paths.read_json(self.run.inputs)) if self.run.inputs.exists() else {}

    def dataset(self) -> Path | None:
        """Return the folder of the dataset that the version was trained on; None if it is missing or unknown."""
        folder = paths.datasets_dir() / self.version.dataset
        return folder if self.version.dataset and (folder / MANIFEST).exists() else None


def merge_versions(
    config: FineTuningConfig,
    engine: Engine,
    watch: Watch,
    parts: Sequence[Part],
    recipe: "Recipe",
    name: str | None = None,
    *,
    promote: bool = False,
) -> NewVersion:
    """Merge versions into a new version of `name`, and make it live if it is accepted.

    `name`: None means the common name of the versions, or the configured name if they have several.
    `promote`: make the version live even if the gate refuses it. Raises ConfigError for versions
    that cannot be merged: of different bases, without a LoRA adapter, or without a test chat that
    none was trained on. Also raises the errors of `retrain`.
    """
    check_parts(parts)
    with only_one():
        first, names = parts[0].version, {part.version.name for part in parts}
        name = name or (first.name if len(names) == 1 else config.tuned_name())
        shop = shop_of(first, config, engine, watch, Request(promote=promote), name)
        check_shop(shop)
        with watch.stage("Combining the data that they learned"):
            material = _material(shop, parts)
        with fresh_run(shop, "merged", _inputs(shop, material, parts)) as run:
            with watch.stage(f"Merging {len(parts)} adapters"):
                lineage = _merge(shop, parts, recipe, run)
            watch.note(str(lineage))
            artifact = write_artifact(shop, run, run.adapter)
            judged = evaluate(shop, material, run, artifact, _said(shop, parts))
            version = make_version(shop, _taught(shop, parts, material), run, artifact, *judged, None, lineage)
    watch.tell(finished(version, watch.seconds))
    return version


def check_parts(parts: Sequence[Part]) -> None:
    """Raise ConfigError, which names the versions at fault, if these versions cannot be merged."""
    tags = [part.tag for part in parts]
    if len(parts) < 2:
        raise ConfigError(f"name at least two versions to merge, not {' '.join(tags) or 'none'}")
    if twice := next((tag for tag in tags if tags.count(tag) > 1), None):
        raise ConfigError(f"{twice} is named twice: give it another weight instead ({twice}=2)")
    for part in parts:
        if not np.isfinite(part.weight) or part.weight <= 0:
            raise ConfigError(f"the weight of {part.tag} is {part.weight:g}, and must be a number above 0")
        _check_same_base(parts[0].version, part.version)
    shapes: dict[str, tuple[Part, LoraPair]] = {}
    for part in parts:
        for module, pair in part.pairs.items():
            other, its = shapes.setdefault(module, (part, pair))
            if its.shape != pair.shape:
                raise ConfigError(
                    f"{other.tag} and {part.tag} cannot be merged, since they change layers of different sizes: "
                    f"{module} is {its.shape} in one, and {pair.shape} in the other. Choose other versions"
                )


def _check_same_base(one: Version, other: Version) -> None:
    for version in (one, other):
        if not version.base_digest:
            raise ConfigError(
                f"{version.tag} cannot be merged, because the base that it was trained on is unknown: choose another "
                "version, or retrain it"
            )
    if one.base_digest != other.base_digest:
        raise ConfigError(
            f"{one.tag} and {other.tag} cannot be merged: they were trained on different bases, {_base(one)} and "
            f"{_base(other)}. Choose versions of the same base"
        )


def _base(version: Version) -> str:
    return f"{version.base_tag} (sha256 {version.base_digest[:12]}...)"


# Training and test data


def _material(shop: Workshop, parts: Sequence[Part]) -> Material:
    """Return the data of the merged version: the union of the versions' training data and held-out chats.

    Held-out chats that one of the versions was trained on are left out. Raises ConfigError if none
    is left.
    """
    found = {part.tag: part.dataset() for part in parts}
    if gone := [tag for tag, folder in found.items() if folder is None]:
        shop.watch.note(
            f"the held-out chats of {', '.join(gone)} are missing: only those of the other versions are used"
        )
    learned, turns = (_turns_of(shop, parts, with_context=also) for also in (False, True))
    dataset = unite([folder for folder in found.values() if folder], turns)
    left = dataset.manifest["splits"]["test"]["conversations"]
    if not left:
        raise ConfigError(
            f"the merge of {' and '.join(found)} cannot be tested, because each held-out chat was learned by one of "
            "them: choose other versions"
        )
    shop.watch.note(
        f"the new version is tested on {counted(left, 'held-out conversation')} that none of the merged ones learned"
    )
    key = f"{shop.engine.name} {shop.base.digest}"
    rows = tokenize_dataset(dataset.path, shop.render, shop.vocabulary, shop.config.data_preparation.max_length, key)
    return Material(dataset, rows, dataset.manifest["turn_ids"], sorted(turns - learned))


def _turns_of(shop: Workshop, parts: Sequence[Part], *, with_context: bool) -> set[str]:
    """Return the ids of the turns that one of the versions learned; `with_context`: or only read as context."""
    versions = (part.version for part in parts)
    return set[str]().union(
        *(shop.registry.turns_of(each.name, each.number, with_context=with_context) for each in versions)
    )


def _taught(shop: Workshop, parts: Sequence[Part], material: Material) -> Material:
    """Return `material` with the turns to register as the merged version's training data.

    If the training data of one part is unknown, no turns are registered, so that `forget` treats
    the merged version as trained on unknown data too.
    """
    known = all(shop.registry.turns_of(part.version.name, part.version.number) for part in parts)
    return material if known else replace(material, turn_ids=())


def _said(shop: Workshop, parts: Sequence[Part]) -> list[Turn]:
    """Return the turns of the log, and of the files that the versions were trained on.

    A source that cannot be read is left out, with a note.
    """
    turns: dict[str, Turn] = {}
    for config in [*(load_config(part.run.config) for part in parts if part.run.config.exists()), shop.config]:
        try:
            turns |= {turn.id: turn for turn in read_said(config).turns}
        except ByoaiError as error:
            shop.watch.note(
                f"the leak probe does not search for the private details of one source, which cannot be read: {error}"
            )
    return list(turns.values())


# The adapter


def _inputs(shop: Workshop, material: Material, parts: Sequence[Part]) -> dict[str, object]:
    """Return the inputs to record in the run of the merged version (inputs.json, runs.py)."""
    tokenizer = ConversationTokenizer(shop.render, shop.vocabulary, shop.config.data_preparation.max_length)
    known = [part.inputs() for part in sorted(parts, key=lambda part: part.version.created)]
    return {
        "dataset": material.dataset.path.name,
        "rows": material.rows.name,
        "preferences": build_preferences([], tokenizer, "none").path.parent.name,
        "seen": _seen(known),
        "mark": next((each["mark"] for each in reversed(known) if each.get("mark")), None),
        "made_of": [part.tag for part in parts],
    }


def _seen(known: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the state hash of each turn that one of the versions has seen, by id.

    `known`: the recorded inputs of the versions' runs, oldest first; newer ones override older
    ones. A state hash is "" if it was not recorded.
    """
    seen: dict[str, str] = {}
    for inputs in known:
        before = inputs.get("seen", {})
        seen |= before if isinstance(before, dict) else dict.fromkeys(before, "")
    return seen


def _merge(shop: Workshop, parts: Sequence[Part], recipe: "Recipe", run: Run) -> Lineage:
    """Write the merged adapter to the run's folder; return its lineage, the record of what it was made from."""
    from fine_tuning.training.adapter_merge import merge, share_held, write_adapter

    modules = list(dict.fromkeys(module for part in parts for module in part.pairs))
    merged: dict[str, Merged] = {}
    for number, module in enumerate(modules, 1):
        shop.watch.stop_if_asked()
        updates = [update_of(part.pairs[module], part.weight) for part in parts if module in part.pairs]
        merged[module] = merge(module, updates, recipe)
        shop.watch.count(number, len(modules))
    write_adapter(run.adapter, shop.base.tag, merged)
    return Lineage(tuple((part.tag, part.weight) for part in parts), str(recipe), share_held(merged))


def update_of(pair: LoraPair, weight: float) -> "Update":
    """Return the change that the matrices A and B of an adapter make to their weight matrix, times `weight`."""
    from fine_tuning.training.adapter_merge import Update

    a, b = pair.load()
    return Update(a, b * np.float32(pair.scale), weight)
