"""Reuse the token rows of an earlier dataset for conversations that are also in the new one.

This saves the time to render and tokenize them again. They are found by the indices beside the
files of rows (fine_tuning/row_index.py). Rows without an index are not reused.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from fine_tuning import paths
from fine_tuning.data_preparation.by_hash import Hashes, Places, Table
from fine_tuning.errors import ByoaiError
from fine_tuning.row_index import ENTRY, Entries, read_index


class EarlierRows:
    """The token rows of an earlier dataset, found by the hashes of its records.

    Use it in a `with` statement, which closes the files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Open files of token rows. A file whose index is missing or does not fit counts as empty."""
        found = [(file, index) for file in files if (index := read_index(file)) is not None]
        self._files = [file.open("rb") for file, _ in found]
        # an entry without a record before and after those of each file, so that no stretch of places spans two files
        gap = np.zeros(1, ENTRY)
        self._entries = np.concatenate([gap, *(part for _, index in found for part in (index, gap))])
        self._begins = np.flatnonzero(self._entries["part"] == 0)  # of the records
        sizes = (index["size"].astype(np.int64) for _, index in found)
        offsets = (part for size in sizes for part in (np.cumsum(size) - size, gap["size"]))
        self._offsets = np.concatenate([gap["size"], *offsets])  # of the entries' rows in their file
        self._file = np.repeat(np.arange(len(found) + 1), [1, *(len(index) + 1 for _, index in found)]) - 1
        self._table = Table(self._entries["record"][self._begins])

    def __enter__(self) -> "EarlierRows":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def find(self, hashes: Hashes) -> Places:
        """Return the places of the records with these hashes; -1 for a record that has no earlier rows."""
        return self._table.find(hashes)

    def read(self, place: int, count: int) -> tuple[bytes, Entries]:
        """Return the rows, as they are stored, and the entries of `count` records, the first of which is at `place`."""
        first, last = self._begins[[place, place + count]].tolist()
        file = self._files[self._file[first]]
        file.seek(int(self._offsets[first]))
        return file.read(int(self._entries["size"][first:last].sum())), self._entries[first:last]


def earlier_rows(facts: Mapping[str, object], splits: tuple[str, ...]) -> EarlierRows:
    """Return the newest token rows that were made with the same template, vocabulary and maximum length.

    Return an EarlierRows without rows if there are none. `facts` is the manifest of the new rows:
    the earlier manifest must have the same values, except for "dataset". `splits` are the names of
    the splits.
    """
    found: list[tuple[int, Path]] = []
    for manifest in paths.datasets_dir().glob("*/rows-*/manifest.json"):
        with suppress(OSError):  # a deletion of turns removed the dataset meanwhile
            found.append((manifest.parent.stat().st_mtime_ns, manifest.parent))
    for _, folder in sorted(found, reverse=True):
        files = [folder / f"{split}.jsonl" for split in splits]
        if all(file.with_suffix(".index").exists() for file in files) and _same(folder / "manifest.json", facts):
            with suppress(OSError):
                return EarlierRows(files)
    return EarlierRows([])


def _same(manifest: Path, facts: Mapping[str, Any]) -> bool:
    try:
        known = paths.read_json(manifest)
    except ByoaiError:  # a deletion of turns removed the manifest meanwhile
        return False
    return all(known.get(name) == fact for name, fact in facts.items() if name != "dataset")
