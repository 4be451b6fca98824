"""Assign conversations to the train, validation and test split.

Groups of related conversations stay together, the splits come as close to the wanted ratios as the
groups allow, and the assignment changes little when the log grows.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import chain, groupby, islice

SPLITS = ("train", "validation", "test")


def assign_splits(ids: Sequence[str], groups: Sequence[int], ratios: Sequence[float], seed: int) -> list[str]:
    """Return the name of the split of every item. Items of one group are in the same split.

    First the number of groups of each size per split is decided: the groups, the largest first, are
    assigned to the split that is furthest below its ratio. Then a hash of the ids decides which
    groups of a size go to which split, so that nearly all conversations keep their split when the
    log grows. No split differs from its ratio by more than twice the largest group. The train split
    is empty only if there are no items.

    Args:
        ids: The id of each item.
        groups: The number of each item's group.
        ratios: The share of each split of SPLITS; they add up to 1.
        seed: Changes which groups go to which split.
    """
    members: dict[int, list[int]] = {}
    for item, group in enumerate(groups):
        members.setdefault(group, []).append(item)
    keys = [_mix(seed, id) for id in ids]
    ordered = sorted(members.values(), key=lambda items: (-len(items), min([keys[item] for item in items])))
    lacking = {split: ratio * len(ids) for split, ratio in zip(SPLITS, ratios, strict=True)}
    chosen: dict[str, list[list[int]]] = {split: [] for split in SPLITS}
    for size, alike in groupby(ordered, key=len):
        of_size = list(alike)
        dealt: Counter[str] = Counter()
        for _ in of_size:
            split = max(SPLITS, key=lacking.__getitem__)  # at a tie: train before validation before test
            dealt[split] += 1
            lacking[split] -= size
        left = iter(of_size)
        for split in reversed(SPLITS):
            chosen[split] += islice(left, dealt[split])
    if ordered and not chosen["train"]:
        chosen["train"].append(max((chosen[split] for split in SPLITS), key=len).pop())
    found = [""] * len(ids)
    for split, taken in chosen.items():
        for item in chain.from_iterable(taken):
            found[item] = split
    return found


def join_groups(*labels: Sequence[Hashable]) -> list[int]:
    """Return a group number for each item, given one or several labellings of all items.

    Items that have the same label in any labelling are in one group; so are items that are connected
    by a chain of such pairs.

    >>> join_groups(["a", "b", "b", "c"], [1, 1, 2, 3])
    [0, 0, 0, 3]
    """
    root = list(range(len(labels[0])))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = item = root[root[item]]
        return item

    for labelling in labels:
        first: dict[Hashable, int] = {}
        for item, label in enumerate(labelling):
            one, other = sorted((find(first.setdefault(label, item)), find(item)))
            root[other] = one
    return [find(item) for item in range(len(root))]


def _mix(seed: int, id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{id}".encode()).digest()
