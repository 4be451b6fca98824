"""Decide how often each conversation is in an epoch, so that every source, task and topic has its share.

A task is a label of some conversations of a source, such as "summarization". The configuration may
name a source or one of its tasks, as `source/task`: each is a part of the mix with the share given
there. The other sources divide the rest in proportion to size ** (1 / temperature), where size is
their number of conversations: a temperature above 1 evens out their sizes (temperature sampling:
Raffel et al., arXiv 1910.10683). The tasks within a part, and the topics within a task, divide its
share in the same way, but none gets more than its conversations fill when each is repeated
`mix.most_repeats` times.

An epoch has as many conversations as there are in all parts that are not left out, or fewer if a part
would have to be repeated too often to reach its share. A part in `mix.repeats` has no share: each of
its conversations is in an epoch as often as stated there.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fine_tuning.config.mix import Mix
from fine_tuning.conversation import Turn

VERSION = 2  # increase it when a change of the code mixes the same conversations in another way
CHATS = "chats"  # the source of the turns recorded by byoai itself

_Stratum = TypeVar("_Stratum", bound=Hashable)
_Name = TypeVar("_Name", bound=Hashable)


class Stratum(NamedTuple):
    """The conversations of one part of the mix that have the same task and topic."""

    part: str  # see `part_of`
    task: str  # "" for none
    topic: int


def source_of(turn: Turn) -> str:
    """Return the name of the source that a turn was imported from; CHATS if byoai recorded it."""
    source = turn.metadata.get("source")
    name = source.get("name") if isinstance(source, Mapping) else source
    return str(name) if name else CHATS


def task_of(turn: Turn) -> str:
    """Return the task of a turn, a label such as "summarization"; "" if it has none."""
    task = turn.metadata.get("task")
    return task if isinstance(task, str) else ""


def with_task(source: str, task: str) -> str:
    """Return the name by which the configuration names a task of a source: `source/task`; the source without a task."""
    return f"{source}/{task}" if task else source


def part_of(source: str, task: str, mix: Mix) -> str:
    """Return the part of the mix that conversations belong to: their source, or `source/task` if `mix` names it."""
    name = with_task(source, task)
    return name if name in mix.shares or name in mix.repeats else source


def licence_of(turn: Turn) -> str:
    """Return the licence of the source that a turn was imported from; "" if none is noted."""
    source = turn.metadata.get("source")
    return str(source.get("licence") or "") if isinstance(source, Mapping) else ""


def source_shares(sizes: Mapping[str, int], mix: Mix) -> dict[str, float]:
    """Return the share of an epoch that each source, or named task of a source, gets.

    `sizes` holds the number of conversations of each. The shares add up to 1, unless the
    configuration gives every source a share of 0; then all are 0.
    """
    named = {source: mix.shares[source] for source in sizes if source in mix.shares}
    others = {source: size ** (1 / mix.temperature) for source, size in sizes.items() if source not in named}
    limits = dict.fromkeys(others.keys() - {CHATS}, mix.largest_share)  # none for the user's own chats
    shares = named | _divided(others, max(1 - sum(named.values()), 0.0), limits)
    total = sum(shares.values())
    return {source: share / total for source, share in shares.items()} if total else dict.fromkeys(sizes, 0.0)


def largest_import(sources: Mapping[str, Mapping[str, int]], mix: Mix) -> str:
    """Return a warning if one import makes up more than half of the training data, beside other sources; else "".

    There is no warning about sources that the configuration names, since the user chose them.

    Args:
        sources: The entry "sources" of a dataset's manifest: counts of conversations by source. The count
            "in_an_epoch" is used.
        mix: The shares and limits of the configuration.
    """
    counts = {source: found["in_an_epoch"] for source, found in sources.items() if found["in_an_epoch"]}
    chosen = {CHATS, *mix.shares, *mix.repeats, *(Path(name).name for name in mix.also)}
    source = max(counts, key=lambda each: counts[each], default=CHATS)
    if source in chosen or len(counts) < 2 or 2 * counts[source] <= (total := sum(counts.values())):
        return ""
    return (
        f"{100 * counts[source] / total:.0f} % of what would be learned is from the import {source}, so errors in it "
        "have a large effect. Set mix.largest_share, such as 0.5, to learn less of it"
    )


def stratum_shares(strata: Sequence[Stratum], mix: Mix) -> dict[Stratum, float]:
    """Return the share of an epoch that each stratum gets.

    `strata` holds the stratum of every conversation. The share of a task or a topic is limited to what
    its conversations fill: otherwise a topic of one conversation would shorten the epoch of all.
    """
    parts: dict[str, Counter[tuple[Hashable, ...]]] = {}
    for part, *inner in strata:
        parts.setdefault(part, Counter())[tuple(inner)] += 1
    shares = source_shares({part: sizes.total() for part, sizes in parts.items()}, mix)
    temperatures, most = (mix.temperature, mix.topic_temperature), mix.most_repeats / max(len(strata), 1)
    return {
        Stratum(part, *inner): share
        for part, sizes in parts.items()
        for inner, share in _within(sizes, shares[part], temperatures, most).items()
    }


def draw(
    ids: Sequence[str], strata: Sequence[_Stratum], shares: Mapping[_Stratum, float], most: int, seed: int
) -> list[int]:
    """Return how often each conversation is in an epoch.

    Args:
        ids: The id of each conversation.
        strata: The stratum of each conversation.
        shares: The share of each stratum.
        most: The maximum number of repeats.
        seed: Changes which conversations of a stratum are repeated once more than the others. A
            hash of seed and id decides this, so that the choice changes little when the log grows.
    """
    members: dict[_Stratum, list[int]] = {}
    for number, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(number)
    length = min(
        [len(ids), *(most * len(each) / shares[stratum] for stratum, each in members.items() if shares[stratum] > 0)]
    )
    counts = [0] * len(ids)
    for stratum, numbers in members.items():
        wanted = round(length * shares[stratum])
        often, once_more = divmod(wanted, len(numbers))
        numbers.sort(
            key=lambda number: hashlib.sha256(f"{seed}:{ids[number]}".encode("utf-8", "surrogatepass")).digest()
        )
        for place, number in enumerate(numbers):
            counts[number] = often + (place < once_more)
    return counts


def _within(
    sizes: Mapping[tuple[Hashable, ...], int], whole: float, temperatures: Sequence[float], most: float
) -> dict[tuple[Any, ...], float]:
    """Divide the share `whole` by the first item of each key, and what each of these gets by the next item.

    Args:
        sizes: How many conversations each key has.
        whole: The share that is divided.
        temperatures: The temperature for each item of a key.
        most: The share that one conversation can fill.
    """
    if not temperatures:
        return dict.fromkeys(sizes, whole)
    inner: dict[Hashable, dict[tuple[Hashable, ...], int]] = {}
    for (first, *rest), size in sizes.items():
        inner.setdefault(first, {})[tuple(rest)] = size
    totals = {first: sum(found.values()) for first, found in inner.items()}
    weights = {first: total ** (1 / temperatures[0]) for first, total in totals.items()}
    shares = _divided(weights, whole, {first: most * total for first, total in totals.items()})
    scale = whole / sum(shares.values()) if whole else 0.0  # above 1 if all are at their limit
    return {
        (first, *rest): share
        for first, found in inner.items()
        for rest, share in _within(found, shares[first] * scale, temperatures[1:], most).items()
    }


def _divided(weights: Mapping[_Name, float], whole: float, limits: Mapping[_Name, float]) -> dict[_Name, float]:
    """Return the share of `whole` that each name gets: in proportion to its weight, at most its limit, if it has one.

    What a name would get above its limit is divided among the others. If every name gets its limit,
    the shares add up to less than `whole`, and the caller scales them up.
    """
    limited: dict[_Name, float] = {}
    while True:
        free = {name: weight for name, weight in weights.items() if name not in limited}
        left, total = whole - sum(limited.values()), sum(free.values())
        shares = {name: left * weight / total for name, weight in free.items()}
        over = {name: limits[name] for name, share in shares.items() if name in limits and share > limits[name]}
        if not over:
            return limited | shares
        limited |= over
