"""Reuse the token rows of an earlier dataset for conversations that are also in the new one.

This saves the time to render and tokenize them again. Beside the rows of each split is an index,
`<split>.index`. It holds for each conversation of the split, in order, the hash of its record, the
size of its rows in bytes, and the numbers of its rows, turns and tokens. Rows without an index are not reused.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from fine_tuning import paths
from fine_tuning.errors import ByoaiError

_ENTRY = np.dtype(
    [
        ("key", "<u8"),
        ("check", "<u8"),
        ("size", "<u8"),
        *((name, "<u4") for name in ("rows", "turns", "tokens", "trained")),
    ]
)
_PACKED = Struct("<QQQ4L")  # the same layout, to write single entries


class Counts(NamedTuple):
    """The numbers of rows, turns and tokens of one conversation."""

    rows: int
    turns: int  # trained turns
    tokens: int
    trained: int  # trained tokens


class Kept(NamedTuple):
    """The token rows of one conversation as they are stored, and their counts."""

    lines: bytes  # JSON, one row per line
    counts: Counts


class Index:
    """Builds the index of a split, with one entry for each conversation.

    An entry holds a hash of the conversation's record, the size of its token rows in bytes, and
    their `Counts`.
    """

    def __init__(self) -> None:
        self._entries = bytearray()

    def add(self, record: bytes, kept: Kept) -> None:
        """Add an entry for the next conversation: its record, as a line of JSON, and its rows."""
        self._entries += _PACKED.pack(*_hash(record), len(kept.lines), *kept.counts)

    def write(self, rows: Path) -> None:
        """Write the index beside the split's file of token rows, `rows`."""
        paths.atomic_write(rows.with_suffix(".index"), bytes(self._entries))


class EarlierRows:
    """The token rows of an earlier dataset. `get` finds those that were made from a given record.

    Use it in a `with` statement, which closes the files.
    """

    def __init__(self, files: list[Path]) -> None:
        found = [np.frombuffer(file.with_suffix(".index").read_bytes(), _ENTRY) for file in files]
        self._files = [file.open("rb") for file in files]
        # each with one item more, which stands for "none" in a search
        self._file = np.repeat(np.arange(len(files) + 1), [*map(len, found), 1])
        self._starts = np.concatenate(
            [*(np.cumsum(each["size"]) - each["size"] for each in found), np.zeros(1, np.uint64)]
        )
        self._entries = np.concatenate([*found, np.zeros(1, _ENTRY)])
        order = np.argsort(self._entries["key"][:-1], kind="stable")
        self._keys, self._order = self._entries["key"][order], np.append(order, len(order))

    def __enter__(self) -> "EarlierRows":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def get(self, records: Sequence[bytes]) -> list[Kept | None]:
        """Return the earlier rows of the conversation with each of these records (a line of JSON each).

        None stands for a conversation that has no earlier rows.
        """
        hashes = [_hash(record) for record in records]
        at = np.searchsorted(self._keys, np.array([key for key, _ in hashes], np.uint64))
        places = self._order[at]
        found = (self._entries[places].tolist(), self._file[places].tolist(), self._starts[places].tolist())
        return [
            self._read(file, start, entry) if entry[:2] == hash else None
            for hash, entry, file, start in zip(hashes, *found, strict=True)
        ]

    def _read(self, file: int, start: int, entry: tuple[int, ...]) -> Kept | None:
        """Return the rows that `entry` describes; None if the file ends before them."""
        _, _, size, *counts = entry
        self._files[file].seek(start)
        lines = self._files[file].read(size)
        return Kept(lines, Counts(*counts)) if len(lines) == size else None


def earlier_rows(facts: Mapping[str, object], splits: tuple[str, ...]) -> EarlierRows:
    """Return the newest token rows that were made with the same template, vocabulary and maximum length.

    Return an EarlierRows without rows if there are none. `facts` is the manifest of the new rows:
    the earlier manifest must have the same values, except for "dataset". `splits` are the names of
    the splits.
    """
    folders = [manifest.parent for manifest in paths.datasets_dir().glob("*/rows-*/manifest.json")]
    for folder in sorted(folders, key=lambda each: each.stat().st_mtime_ns, reverse=True):
        files = [folder / f"{split}.jsonl" for split in splits]
        if all(file.with_suffix(".index").exists() for file in files) and _same(folder / "manifest.json", facts):
            return EarlierRows(files)
    return EarlierRows([])


def _same(manifest: Path, facts: Mapping[str, Any]) -> bool:
    try:
        known = paths.read_json(manifest)
    except ByoaiError:  # a deletion of turns removed the manifest meanwhile
        return False
    return all(known.get(name) == fact for name, fact in facts.items() if name != "dataset")


def _hash(record: bytes) -> tuple[int, int]:
    digest = blake2b(record, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
