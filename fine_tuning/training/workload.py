"""Count the work of an epoch from the token rows: the number of steps and the size of the batches."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from fine_tuning import paths
from fine_tuning.config.training import Training
from fine_tuning.errors import TrainingError
from fine_tuning.row_index import read_index
from fine_tuning.training.batch_sizes import chats_in_a_batch, chunk_size
from fine_tuning.training.prefix_tree import divide, tree_branches

_TRL_COPIES = 3  # copies of all tokens' logits that TRL holds: the logits, their exponentials, the gradient
_SAMPLED_BATCHES = 100  # maximum number of batches whose size is counted; more would hardly change the estimate


class StoredIds(Sequence[int]):
    """The first `size` token ids of a row in a file of token rows, which is read only when an id is.

    An estimate reads the ids of some hundred rows only. Not reading the others saves time and
    memory.
    """

    __slots__ = ("_file", "_place", "_size")

    def __init__(self, file: Path, place: tuple[int, int], size: int) -> None:
        """Set the file, the offset and the length of the row's line in bytes, and the number of ids."""
        self._file, self._place, self._size = file, place, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[int]: ...

    def __getitem__(self, at: int | slice) -> int | Sequence[int]:
        return self._read()[at]

    def _read(self) -> tuple[int, ...]:
        begin, length = self._place
        with self._file.open("rb") as file:
            file.seek(begin)
            return tuple(json.loads(file.read(length))["input_ids"][: self._size])


@dataclass(frozen=True)
class ComputedRow:
    """The tokens of a conversation that are computed, and how many count in the loss (`targets`).

    The computed tokens are all those before the last token that counts in the loss.
    """

    ids: Sequence[int]
    targets: int
    replayed: bool = False

    def cut(self, length: int) -> "ComputedRow":
        """Return the row cut to `length` tokens.

        This only approximates the cut row of a real dataset, from which whole turns are removed.
        """
        return (
            self
            if len(self.ids) <= length
            else replace(self, ids=self.ids[:length], targets=min(self.targets, length - 1))
        )


@dataclass(frozen=True)
class BatchSize:
    """The size of one forward and backward pass."""

    tokens: int  # tokens of the prefix tree
    scores: int  # attention scores per head, including masked ones
    logits: int  # number of tokens whose logits are held at the same time
    targets: int  # number of tokens that count in the loss


@dataclass(frozen=True)
class Workload:
    """The work of one epoch: its number of steps, and the sizes of some of its forward and backward passes.

    The sample always contains the step with the longest row.
    """

    steps: int
    batches: tuple[BatchSize, ...]  # the sampled passes
    passes: float = 1.0  # average number of passes per step
    longest_replayed: int = 0  # supervised tokens of the longest replay row
    held_out: "Workload | None" = None  # an epoch of all cross-validation trainings together (cross_validation.py)


def computed_rows(path: Path, replayed: bool = False) -> list[ComputedRow]:
    """Return the token rows of a JSONL file, without the tokens that are not computed.

    Rows that have an index are not read. `replayed`: mark all of them as replay rows. Raises
    TrainingError for a bad line.
    """

    def row(record: Any) -> ComputedRow:
        targets = [place for place, trained in enumerate(record["trained"]) if trained and place > 0]
        return ComputedRow(record["input_ids"][: max(targets, default=1)], len(targets), replayed)

    if (index := read_index(path)) is None:
        return paths.read_jsonl(path, row, "a token row", TrainingError)
    rows = index[index["size"] > 0]
    ends = rows["size"].cumsum(dtype=np.int64)
    places = zip((ends - rows["size"]).tolist(), rows["size"].tolist(), strict=True)
    return [
        ComputedRow(StoredIds(path, place, computed), trained, replayed)
        for place, computed, trained in zip(places, rows["computed"].tolist(), rows["trained"].tolist(), strict=True)
    ]


def workload(rows: Sequence[ComputedRow], settings: Training, max_length: int | None = None) -> Workload:
    """Return the workload of an epoch over `rows` in random order (`settings.seed`).

    Each row is cut to `max_length` tokens; None: not cut.
    """
    order = list(rows if max_length is None else (row.cut(max_length) for row in rows))
    random.Random(settings.seed).shuffle(order)
    groups = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    sampled = sorted(groups, key=lambda group: max(len(row.ids) for row in group), reverse=True)
    if len(groups) > _SAMPLED_BATCHES:  # the one with the longest row, and others at random
        sampled = [sampled[0], *random.Random(settings.seed).sample(sampled[1:], _SAMPLED_BATCHES - 1)]
    batches = [batch for group in sampled for batch in _passes(group, settings)]
    chats = [row for row in order if not row.replayed]
    return Workload(
        len(groups),
        tuple(batches),
        len(batches) / max(len(sampled), 1),
        max((row.targets for row in order if row.replayed), default=0),
        _held_out(chats, len(order), settings),
    )


def _held_out(chats: Sequence[ComputedRow], rows: int, settings: Training) -> Workload | None:
    """Return the workload of one epoch of all cross-validation trainings together.

    `rows`: the number of chats and replay rows. Return None if `settings.folds` or the number of
    chats is below 2, so that there is no cross-validation.
    """
    parts = min(settings.folds, len(chats))
    if parts < 2:
        return None
    batch_size = chats_in_a_batch(settings, len(chats), rows)
    one = workload(chats[-(-len(chats) // parts) :], settings.model_copy(update={"folds": 0, "batch_size": batch_size}))
    return replace(one, steps=parts * one.steps)


def _passes(rows: Sequence[ComputedRow], settings: Training) -> list[BatchSize]:
    """Return the size of each pass into which one training step divides its `rows`."""
    if settings.backend == "trl":  # one pass, padded, with the logits of every token
        longest = max(len(row.ids) for row in rows)
        tokens = len(rows) * longest
        return [BatchSize(tokens, tokens * longest, _TRL_COPIES * tokens, tokens)]
    ordered = sorted((replace(row, ids=tuple(row.ids)) for row in rows), key=lambda row: tuple(row.ids))
    return [_size(ordered[part]) for part in divide([row.ids for row in ordered], settings.batch_tokens)]


def _size(ordered: Sequence[ComputedRow]) -> BatchSize:
    """Return the size of one forward and backward pass over rows that are sorted by their tokens."""
    ids = [row.ids for row in ordered]
    own = tree_branches(ids)
    targets, replayed = sum(row.targets for row in ordered), sum(row.targets for row in ordered if row.replayed)
    lot = chunk_size(targets)
    scores = sum(count * len(each) for count, each in zip(own, ids, strict=True))
    return BatchSize(sum(own), scores, lot + min(lot, replayed), targets)
