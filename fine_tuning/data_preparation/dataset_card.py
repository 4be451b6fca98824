"""Describe a dataset without its texts: sources, licences, lengths and topics, as facts and as a card (README.md)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fine_tuning.data_preparation.spool import Spool
from fine_tuning.data_preparation.topics import topics_of

_SAMPLE = 500  # conversations whose topics are counted
_MOST_TOPICS = 10  # topics that are listed, the largest first


def facts_of(spool: Spool, splits: Sequence[str], often: Sequence[int], seed: int) -> dict[str, object]:
    """Return facts about the conversations of a dataset, for its manifest and its card.

    Args:
        spool: All conversations.
        splits: The name of each conversation's split.
        often: How often each conversation is in its split; not all are 0.
        seed: The seed of the clustering by topic.
    """
    here = [number for number, count in enumerate(often) if count]
    sampled = here[:: -(-len(here) // _SAMPLE)]
    sizes = np.bincount(topics_of([spool.text(number) for number in sampled], seed))
    words = np.array(spool.words())[here]
    return {
        "sources": _sources(spool, splits, often),
        "licences": {source: sorted(licences) for source, licences in sorted(spool.licences().items())},
        "words": {"median": int(np.median(words)), "p90": int(np.quantile(words, 0.9)), "longest": int(words.max())},
        "topics": {
            "conversations": len(sampled),
            "largest": [int(size) for size in sorted(sizes, reverse=True)[:_MOST_TOPICS] if size],
        },
    }


def _sources(spool: Spool, splits: Sequence[str], often: Sequence[int]) -> dict[str, dict[str, int]]:
    """Return by source its number of conversations, and how many an epoch of training contains, with repeats."""
    found: dict[str, dict[str, int]] = {}
    for source, split, count in zip(spool.sources(), splits, often, strict=True):
        counts = found.setdefault(source, {"conversations": 0, "in_an_epoch": 0})
        counts["conversations"] += 1
        counts["in_an_epoch"] += count if split == "train" else 0
    return found


def card_of(manifest: Mapping[str, Any]) -> str:
    """Return the card of a dataset with this manifest, as Markdown."""
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in manifest["dropped"].items() if count)
    scrubbed = manifest["settings"].get("scrub_pii")
    words, topics = manifest["words"], manifest["topics"]
    told = {
        **{
            f"{name} split": f"{counts['conversations']} conversations, {counts['turns']} turns"
            for name, counts in manifest["splits"].items()
        },
        "words of a conversation": f"median {words['median']}, 90th percentile {words['p90']}, most {words['longest']}",
        f"largest topics of {topics['conversations']} conversations": ", ".join(map(str, topics["largest"])),
        "dropped by the cleaning": dropped or "none",
        "private details": "replaced by placeholders" if scrubbed else "not looked for",
        "seed": manifest["seed"],
        "hash": manifest["hash"],
    }
    sources = [
        [name, counts["conversations"], counts["in_an_epoch"], ", ".join(manifest["licences"].get(name, []))]
        for name, counts in manifest["sources"].items()
    ]
    return (
        "# Dataset\n\nThe conversations of which a version was trained. A topic is a cluster of conversations with "
        f"similar words.\n\n{_table(['', ''], told.items())}\n## Sources\n\n"
        f"{_table(['source', 'conversations', 'in an epoch', 'licence'], sources)}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
