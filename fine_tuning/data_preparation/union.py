"""Unite the datasets of several versions, as the dataset of a version that is merged from them.

The merged version counts as trained on everything that any of them was trained on, and is tested
only on conversations that none of them was trained on.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.conversation import trained_answers
from fine_tuning.data_collection.cleaning.dedupe import near_duplicates
from fine_tuning.data_preparation.dataset_builder import (
    MANIFEST,
    Dataset,
    hash_of,
    is_finished,
    write_jsonl,
)
from fine_tuning.data_preparation.manifest import read_facts, read_turn_ids, write_manifest
from fine_tuning.data_preparation.split import SPLITS, join_groups
from fine_tuning.data_preparation.spool import text_in
from fine_tuning.errors import DataError

Record = dict[str, Any]


def unite(datasets: Sequence[Path], turn_ids: Iterable[str]) -> Dataset:
    """Return the union of the datasets in these folders; build it unless it exists.

    Each conversation stays in its split. A test or validation conversation of one dataset is left
    out if another dataset trains on it, on a part of the same session, or on a near-duplicate.
    `turn_ids` are the ids of all turns that the versions were trained on, even if they are in none
    of these datasets. Raises DataError, which names file and line, for a malformed line.
    """
    facts = [read_facts(each / MANIFEST) for each in datasets]
    learned = sorted({*turn_ids, *(id for each in datasets for id in read_turn_ids(each / MANIFEST))})
    digest = hash_of({"union": sorted(each["hash"] for each in facts), "turn_ids": learned})
    folder = paths.datasets_dir() / digest[:16]
    if not is_finished(folder):
        shutil.rmtree(folder, ignore_errors=True)
        kept = _dealt(datasets)
        for split, records in kept.items():
            write_jsonl(folder / f"{split}.jsonl", records)
        dropped = sum((Counter(each.get("dropped", {})) for each in facts), Counter[str]())
        scrubbed = bool(facts) and all(each["settings"].get("scrub_pii") for each in facts)
        manifest = {
            "hash": digest,
            "union": sorted(each["hash"] for each in facts),
            "settings": {"scrub_pii": scrubbed},
            "dropped": dict(sorted(dropped.items())),
            "splits": {split: _size(records) for split, records in kept.items()},
        }
        write_manifest(folder / MANIFEST, manifest, (encode_basestring(id).encode() for id in learned))
    return Dataset(folder)


@dataclass(frozen=True)
class _Entry:
    """A conversation in one of the datasets."""

    dataset: int
    split: int  # index in SPLITS
    record: Record

    @property
    def content(self) -> str:
        return json.dumps(self.record["messages"])


def _dealt(datasets: Sequence[Path]) -> dict[str, list[Record]]:
    """Return the records of the united dataset by split, without repetitions."""
    entries = [
        _Entry(number, place, record)
        for number, folder in enumerate(datasets)
        for place, split in enumerate(SPLITS)
        for record in paths.read_jsonl(folder / f"{split}.jsonl", _checked, "a conversation", DataError)
    ]
    sessions = [entry.record["id"].partition("/")[0] for entry in entries]
    groups = join_groups(near_duplicates([text_in(entry.record) for entry in entries]).tolist(), sessions)
    alike: dict[int, list[_Entry]] = {}
    for group, entry in zip(groups, entries, strict=True):
        alike.setdefault(group, []).append(entry)
    kept: dict[str, dict[str, Record]] = {split: {} for split in SPLITS}
    for group, entry in zip(groups, entries, strict=True):
        if not _learned_elsewhere(entry, alike[group]):
            kept[SPLITS[entry.split]].setdefault(entry.content, entry.record)
    return {split: list(records.values()) for split, records in kept.items()}


def _learned_elsewhere(entry: _Entry, alike: Sequence[_Entry]) -> bool:
    """Return whether another dataset has a conversation like `entry` in an earlier split of SPLITS.

    If so, `entry` must be left out of its own split: the merged version was trained on a conversation
    like it. A conversation of another dataset does not count if the dataset of `entry` has the same
    conversation, word for word, in an earlier split too. `alike`: the entries of all datasets that
    belong to the session of `entry` or are near-duplicates of it.
    """
    earlier = [each for each in alike if each.split < entry.split]
    own = {each.content for each in earlier if each.dataset == entry.dataset}
    return any(each.content not in own for each in earlier if each.dataset != entry.dataset)


def _checked(record: Any) -> Record:
    return {"id": str(record["id"]), "messages": list(record["messages"])}


def _size(records: Sequence[Record]) -> dict[str, int]:
    turns = sum(trained_answers(record["messages"]) for record in records)
    return {"conversations": len(records), "turns": turns}
