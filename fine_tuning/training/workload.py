"""Count the work of an epoch from the token rows: the number of steps and the size of the batches."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from fine_tuning import paths
from fine_tuning.config.training import Training
from fine_tuning.errors import TrainingError
from fine_tuning.training.batch_sizes import chats_in_a_batch, chunk_size
from fine_tuning.training.prefix_tree import divide, tree_branches

_TRL_COPIES = 3  # copies of all tokens' logits that TRL holds: the logits, their exponentials, the gradient
_SAMPLED_BATCHES = 100  # maximum number of batches whose size is counted; more would hardly change the estimate


class StoredIds(Sequence[int]):
    """The first `size` token ids of a JSON list, which is parsed only when an id is read.

    An estimate reads the ids of some hundred rows only. Not parsing the other rows saves time and
    memory.
    """

    def __init__(self, text: str, size: int) -> None:
        self._text, self._size = text, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        return iter(self._parsed())

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[int]: ...

    def __getitem__(self, at: int | slice) -> int | Sequence[int]:
        return self._parsed()[at]

    def _parsed(self) -> tuple[int, ...]:
        return tuple(json.loads(self._text)[: self._size])


# a token row as `TokenRow.record` is written
_WRITTEN = re.compile(r'\{"id": "(?:[^"\\]|\\.)*", "input_ids": (\[[0-9, ]+\]), "trained": \[([01](?:, [01])*+)\]\}')


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

    `replayed`: mark all of them as replay rows. Raises TrainingError for a bad line.
    """

    def row(line: str) -> ComputedRow:
        if written := _WRITTEN.fullmatch(line):
            ids, flags = written.groups()
            size, targets = _counts(flags.encode()[::3], b"1")
            return ComputedRow(StoredIds(ids, min(size, ids.count(",") + 1)), targets, replayed)
        record = json.loads(line)
        size, targets = _counts(bytes(map(bool, record["trained"])), b"\x01")
        return ComputedRow(tuple(record["input_ids"][:size]), targets, replayed)

    return paths.read_jsonl(path, row, "a token row", TrainingError, load=str)


def _counts(flags: bytes, trained: bytes) -> tuple[int, int]:
    """Return how many tokens of a row are computed, and how many count in the loss; the first never does.

    `flags`: a byte for each token, which is `trained` if the token is trained.
    """
    return max(flags.rfind(trained, 1), 1), flags.count(trained, 1)


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
