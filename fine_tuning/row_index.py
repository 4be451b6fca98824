"""Define the index beside a file of token rows, by which rows are found and counted without being parsed.

`<split>.index` has an entry for each row of `<split>.jsonl`, in order. A conversation that has no row,
because it does not fit into one, has an entry of size 0.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.token_rows import TokenRow

ENTRY = np.dtype(
    [
        ("record", "<u8", 2),  # hash of the conversation's record
        ("part", "<u4"),  # number of the row among the conversation's rows, from 0
        ("answers", "<u4"),  # answers of the conversation to train on, whether or not they fit into a row
        ("size", "<u4"),  # bytes of the row's line
        ("tokens", "<u4"),
        ("computed", "<u4"),  # tokens before the last one that counts in the loss
        ("trained", "<u4"),  # tokens that count in the loss
        ("turns", "<u4"),  # answers that count in the loss
    ]
)
Entries = npt.NDArray[np.void]  # an array of ENTRY


def entries_of(record: npt.NDArray[np.uint64], answers: int, rows: Sequence[TokenRow], sizes: Sequence[int]) -> Entries:
    """Return the entries of a conversation: one for each of its rows (lines of these sizes), but at least one."""
    made = np.zeros(max(len(rows), 1), ENTRY)
    made["record"], made["answers"], made["part"] = record, answers, np.arange(len(made))
    for entry, row, size in zip(made, rows, sizes, strict=False):
        targets = row.targets
        entry["size"], entry["tokens"], entry["turns"] = size, len(row), row.turns
        entry["computed"], entry["trained"] = max(targets, default=1), len(targets)
    return made


def write_index(rows: Path, entries: bytes | bytearray) -> None:
    """Write the index beside a file of token rows."""
    paths.atomic_write(rows.with_suffix(".index"), bytes(entries))


def read_index(rows: Path) -> Entries | None:
    """Return the index beside a file of token rows; None if there is none that fits the file."""
    try:
        found = np.frombuffer(rows.with_suffix(".index").read_bytes(), ENTRY)
        return found if found["size"].sum() == rows.stat().st_size else None
    except (OSError, ValueError):  # ValueError: of another size than a number of entries
        return None


def counts_of(entries: Entries) -> dict[str, int]:
    """Return the numbers that the manifest of token rows holds for a split, given its index."""
    begins = np.flatnonzero(entries["part"] == 0)
    learned = np.add.reduceat(entries["turns"], begins) if len(begins) else entries["turns"]
    counts = {
        "conversations": len(begins),
        "turns": entries["turns"].sum(),
        "rows": (entries["size"] > 0).sum(),
        "tokens": entries["tokens"].sum(),
        "trained_tokens": entries["trained"].sum(),
        "cut": ((learned > 0) & (learned < entries["answers"][begins])).sum(),
        "dropped": (entries["size"] == 0).sum(),
        "split": (entries["part"] == 1).sum(),
    }
    return {name: int(number) for name, number in counts.items()}
