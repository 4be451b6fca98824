"""Hold conversations in a temporary file while a dataset is built: they are read several times, and
may be too many for the memory.

The file has no name, so nothing of it remains however the program ends. About forty bytes per
conversation are kept in memory.
"""

import hashlib
import json
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.conversation import Conversation
from fine_tuning.data_preparation.mixing import source_of
from fine_tuning.data_preparation.split import SPLITS

Record = dict[str, Any]


class Spool:
    """A temporary store of conversations, used in a `with` statement: first add all, then read."""

    def __init__(self) -> None:
        self._starts = array("q")
        self._turns = array("q")
        self._ids = array("Q")  # hashes
        self._sessions = array("Q")
        self._sources: list[str] = []
        self._pinned = array("b")  # the split that a conversation names, by its number; -1 for none
        self._digest = hashlib.sha256()

    def __enter__(self) -> "Spool":
        # private texts must not leave the data folder, and the dataset needs as much space there anyway
        paths.home().mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=paths.home())
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, conversation: Conversation, pair: Record) -> None:
        """Add a conversation and its training pair."""
        turns = conversation.turns
        session, source, pinned = turns[0].session_id, source_of(turns[0]), _pinned(conversation)
        self._starts.append(self._file.tell())
        self._turns.append(len(turns))
        self._ids.append(_hash(conversation.id))
        self._sessions.append(_hash(session))
        self._sources.append(sys.intern(source))
        self._pinned.append(pinned)
        ids = [turn.id for turn in turns]
        fields = [conversation.id, [session, source, pinned], ids, pair, text_of(conversation)]
        # JSON holds neither as it is
        line = "\t".join(json.dumps(field, ensure_ascii=False) for field in fields) + "\n"
        written = line.encode("utf-8", "surrogatepass")
        self._digest.update(written)
        self._file.write(written)

    @property
    def digest(self) -> str:
        """A hash of all that was added, hexadecimal."""
        return self._digest.hexdigest()

    def records(self, often: Sequence[int]) -> Iterator[bytes]:
        """Yield the dataset's records as lines of JSON, each as often as it is said."""
        for number, line in self._lines(often):
            record = self._record(number, line)
            for _ in range(often[number]):
                yield record

    def epoch(self, often: Sequence[int]) -> Iterator[tuple[Record, list[str], int]]:
        """Yield for each conversation of an epoch its record, the ids of its turns, and its number of repeats."""
        for number, line in self._lines(often):
            yield json.loads(self._record(number, line)), json.loads(line[_TURNS]), often[number]

    def _record(self, number: int, line: Sequence[bytes]) -> bytes:
        id = json.dumps(self._id(number, json.loads(line[_ID])), ensure_ascii=False)
        return b'{"id": %s, %s\n' % (id.encode(), line[_PAIR].removeprefix(b"{"))

    def ids(self) -> list[str]:
        """Return the id of each record."""
        return [self._id(number, json.loads(line[_ID])) for number, line in self._lines()]

    def session_numbers(self) -> list[int]:
        """Return a number for each conversation, the same for those of one session."""
        found: list[int] = np.unique(np.frombuffer(self._sessions, np.uint64), return_inverse=True)[1].tolist()
        return found

    def pinned(self) -> list[str]:
        """Return the split that each conversation names in its metadata; "" if it names none."""
        return ["" if number < 0 else SPLITS[number] for number in self._pinned]

    def sources(self) -> Sequence[str]:
        """Return the source of each conversation."""
        return self._sources

    def turn_ids(self, chosen: Sequence[int] | None = None) -> Iterator[str]:
        """Yield the ids of all turns, or of the turns of the `chosen` conversations."""
        return (id for _, line in self._lines(chosen) for id in json.loads(line[_TURNS]))

    def texts(self) -> "Texts":
        """Return the texts of all conversations as a sequence."""
        return Texts(self)

    def said(self) -> Iterator[str]:
        """Yield the text of each conversation."""
        return (json.loads(line[_TEXT]) for _, line in self._lines())

    def text(self, number: int) -> str:
        """Return the text of one conversation."""
        self._file.seek(self._starts[number])
        said: str = json.loads(self._file.readline().split(b"\t")[_TEXT])
        return said

    def sizes(self, splits: Sequence[str], often: Sequence[int]) -> dict[str, dict[str, int]]:
        """Return the number of conversations and turns in each split, given each conversation's split
        and its number of repeats.
        """
        conversations, turns = Counter[str](), Counter[str]()
        for split, count, size in zip(splits, often, self._turns, strict=True):
            conversations[split] += count
            turns[split] += count * size
        return {split: {"conversations": conversations[split], "turns": turns[split]} for split in SPLITS}

    def _lines(self, chosen: Sequence[int] | None = None) -> Iterator[tuple[int, list[bytes]]]:
        place = 0
        for number in range(len(self)):
            if number % _AT_ONCE == 0:
                self._file.seek(place)  # another reader may have moved the position meanwhile
                lines = list(islice(self._file, _AT_ONCE))
            line = lines[number % _AT_ONCE]
            place += len(line)
            if chosen is None or chosen[number]:
                yield number, line.split(b"\t")

    def _id(self, number: int, id: str) -> str:
        """Return a conversation's id, numbered if it occurs several times (the parts of a conversation
        that was cut in two): `x`, `x/2`.
        """
        count = int(self._counts[number])
        return id if count == 1 else f"{id}/{count}"

    @cached_property
    def _counts(self) -> npt.NDArray[np.int32]:
        """Return for each conversation how many have had its id so far, itself included."""
        ids = np.frombuffer(self._ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        places = np.arange(len(ids))
        begins = np.concatenate([[True], ids[order][1:] != ids[order][:-1]])
        counts = np.empty(len(ids), np.int32)
        counts[order] = places - np.maximum.accumulate(np.where(begins, places, 0)) + 1
        return counts


def _pinned(conversation: Conversation) -> int:
    """Return the index of the split that all turns of a conversation name in their metadata; else -1."""
    named = {
        turn.metadata.get("split") if isinstance(turn.metadata.get("split"), str) else "" for turn in conversation.turns
    }
    split = named.pop() if len(named) == 1 else ""
    return SPLITS.index(split) if split in SPLITS else -1


def text_of(conversation: Conversation) -> str:
    """Return the text of a conversation, in which near-duplicates are searched for."""
    return "\n".join(f"{turn.user_message}\n{turn.bot_response}" for turn in conversation.turns)


class Texts(Sequence[str]):
    """The texts of a spool's conversations, each read from the file when it is accessed."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def __len__(self) -> int:
        return len(self._spool)

    def __iter__(self) -> Iterator[str]:
        return self._spool.said()

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...

    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return [self._spool.text(number) for number in range(len(self))[at]]
        return self._spool.text(range(len(self))[at])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


_ID, _, _TURNS, _PAIR, _TEXT = range(5)  # fields of a line, each decoded only where it is needed
_AT_ONCE = 500  # lines that are read at once
