"""How often an epoch holds each conversation, so that every source and every topic has its share.

Conversations of one source and one topic are a stratum. Sources have the shares that the
configuration gives them, and divide the rest by size ** (1 / temperature), which evens them out
(temperature sampling: Raffel et al., arXiv 1910.10683); so do topics within a source. An epoch is
as long as the conversations are many, or shorter where a stratum would have to repeat itself too
often to reach its share.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from fine_tuning.config_mix import Mix
from fine_tuning.conversation import Turn

CHATS = "chats"  # the source of what was said here

_Stratum = TypeVar("_Stratum", bound=Hashable)


def source_of(turn: Turn) -> str:
    """Return the name of the source that a turn came from."""
    source = turn.metadata.get("source")
    name = source.get("name") if isinstance(source, Mapping) else source
    return str(name) if name else CHATS


def source_shares(sizes: Mapping[str, int], mix: Mix) -> dict[str, float]:
    """Return the share of each source, given how many conversations each has. They come to 1,
    unless all have a share of 0.
    """
    named = {source: mix.shares[source] for source in sizes if source in mix.shares}
    others = {source: size ** (1 / mix.temperature) for source, size in sizes.items() if source not in named}
    left = 1 - sum(named.values()) if others else 0.0
    shares = named | _capped(
        {source: left * weight / sum(others.values()) for source, weight in others.items()}, mix.largest_share
    )
    total = sum(shares.values())
    return {source: share / total for source, share in shares.items()} if total else dict.fromkeys(sizes, 0.0)


def stratum_shares(strata: Sequence[tuple[str, int]], mix: Mix) -> dict[tuple[str, int], float]:
    """Return the share of each (source, topic), given those of all conversations."""
    sizes = Counter(strata)
    shares = source_shares(Counter(source for source, _ in strata), mix)
    weights = {stratum: size ** (1 / mix.topic_temperature) for stratum, size in sizes.items()}
    whole: dict[str, float] = {}
    for (source, _), weight in weights.items():
        whole[source] = whole.get(source, 0.0) + weight
    return {stratum: shares[stratum[0]] * weight / whole[stratum[0]] for stratum, weight in weights.items()}


def draw(
    ids: Sequence[str], strata: Sequence[_Stratum], shares: Mapping[_Stratum, float], most: int, seed: int
) -> list[int]:
    """Return how often each conversation is in an epoch, at most `most` times.

    Which ones are in it once more than others of their stratum is told by a hash of their ids, so
    that it changes little when the log grows.
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


def _capped(shares: Mapping[str, float], largest: float) -> dict[str, float]:
    """Return the shares with none but that of the chats above `largest`; what is cut off goes to
    nobody, and the others grow with it.
    """
    return {source: share if source == CHATS else min(share, largest) for source, share in shares.items()}
