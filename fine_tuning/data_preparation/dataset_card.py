"""Describe a dataset without its texts, as facts and as a card (README.md).

The facts are sources, tasks, licences, lengths and topics.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fine_tuning.data_preparation.kept_sketches import Words
from fine_tuning.data_preparation.mixing import with_task
from fine_tuning.data_preparation.spool import Spool
from fine_tuning.data_preparation.topics import topics_of
from fine_tuning.units import counted

_SAMPLE = 500  # conversations whose topics are counted
_MOST_TOPICS = 10  # topics that are listed, the largest first


def facts_of(spool: Spool, words: Words, splits: Sequence[str], often: Sequence[int], seed: int) -> dict[str, object]:
    """Return facts about the conversations of a dataset, for its manifest and its card.

    Args:
        spool: All conversations.
        words: The number of words of each conversation.
        splits: The name of each conversation's split.
        often: How often each conversation is in its split; not all are 0.
        seed: The seed of the clustering by topic.
    """
    here = [number for number, count in enumerate(often) if count]
    sampled = here[:: -(-len(here) // _SAMPLE)]
    sizes = np.bincount(topics_of([spool.text(number) for number in sampled], seed))
    lengths = words[here]
    return {
        "sources": _counts(spool.sources(), splits, often),
        "tasks": _counts(_tasks(spool), splits, often),
        "licences": {source: sorted(licences) for source, licences in sorted(spool.licences().items())},
        "words": {
            "median": int(np.median(lengths)),
            "p90": int(np.quantile(lengths, 0.9)),
            "longest": int(lengths.max()),
        },
        "topics": {
            "conversations": len(sampled),
            "largest": [int(size) for size in sorted(sizes, reverse=True)[:_MOST_TOPICS] if size],
        },
    }


def _tasks(spool: Spool) -> list[str]:
    """Return for each conversation the name of its task, `source/task`; "" if it has none."""
    named = zip(spool.sources(), spool.tasks(), strict=True)
    return [with_task(source, task) if task else "" for source, task in named]


def _counts(names: Sequence[str], splits: Sequence[str], often: Sequence[int]) -> dict[str, dict[str, int]]:
    """Return by name its number of conversations, and how many an epoch of training contains, with repeats.

    `names` has the source or the task of each conversation; "" is left out.
    """
    found: dict[str, dict[str, int]] = {}
    for name, split, count in zip(names, splits, often, strict=True):
        if not name:
            continue
        counts = found.setdefault(name, {"conversations": 0, "in_an_epoch": 0})
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
            f"{name} split": f"{counted(counts['conversations'], 'conversation')}, {counted(counts['turns'], 'turn')}"
            for name, counts in manifest["splits"].items()
        },
        "words of a conversation": f"median {words['median']}, 90th percentile {words['p90']}, most {words['longest']}",
        f"largest topics of {counted(topics['conversations'], 'conversation')}": ", ".join(map(str, topics["largest"])),
        "dropped by the cleaning": dropped or "none",
        "private details": "replaced by placeholders" if scrubbed else "not looked for",
        "seed": manifest["seed"],
        "hash": manifest["hash"],
    }
    sources = [
        [name, counts["conversations"], counts["in_an_epoch"], ", ".join(manifest["licences"].get(name, []))]
        for name, counts in manifest["sources"].items()
    ]
    tasks = [[name, counts["conversations"], counts["in_an_epoch"]] for name, counts in manifest["tasks"].items()]
    return (
        "# Dataset\n\nThe conversations of which a version was trained. A topic is a cluster of conversations with "
        f"similar words.\n\n{_table(['', ''], told.items())}\n## Sources\n\n"
        f"{_table(['source', 'conversations', 'in an epoch', 'licence'], sources)}"
        + (f"\n## Tasks\n\n{_table(['task', 'conversations', 'in an epoch'], tasks)}" if tasks else "")
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
