"""Conversations on their way into a dataset, in a temporary file: they are read several times, and
are too many for the memory.

The file has no name, so nothing is left of it, however the program ends. In memory are numbers:
some forty bytes a conversation.
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
    """To be used in a `with` statement; first all is added, then it is read."""

    def __init__(self) -> None:
        self._starts = array("q")
        self._turns = array("q")
        self._ids = array("Q")  # hashes
        self._sessions = array("Q")
        self._sources: list[str] = []
        self._pinned = array("b")  # the split that a conversation names, by its number; -1 for none
        self._digest = hashlib.sha256()

    def __enter__(self) -> "Spool":
        # private texts lie nowhere else, and there must be room for as much again
        paths.home().mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=paths.home())
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, conversation: Conversation, pair: Record) -> None:
        """Take in a conversation, and what it is in the dataset."""
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
        """Yield the record of each conversation that is there, the ids of its turns, and how often it is there."""
        for number, line in self._lines(often):
            yield json.loads(self._record(number, line)), json.loads(line[_TURNS]), often[number]

    def _record(self, number: int, line: Sequence[bytes]) -> bytes:
        id = json.dumps(self._id(number, json.loads(line[_ID])), ensure_ascii=False)
        return b'{"id": %s, %s\n' % (id.encode(), line[_PAIR].removeprefix(b"{"))

    def ids(self) -> list[str]:
        """Return the records' ids."""
        return [self._id(number, json.loads(line[_ID])) for number, line in self._lines()]

    def session_numbers(self) -> list[int]:
        """Return a number for each conversation, the same for those of one session."""
        found: list[int] = np.unique(np.frombuffer(self._sessions, np.uint64), return_inverse=True)[1].tolist()
        return found

    def pinned(self) -> list[str]:
        """Return the split that each conversation names for itself; "" for the many that name none."""
        return ["" if number < 0 else SPLITS[number] for number in self._pinned]

    def sources(self) -> Sequence[str]:
        """Return the source of each conversation."""
        return self._sources

    def turn_ids(self, chosen: Sequence[int] | None = None) -> Iterator[str]:
        """Yield the ids of all turns, or of those of the conversations that are chosen."""
        return (id for _, line in self._lines(chosen) for id in json.loads(line[_TURNS]))

    def texts(self) -> "Texts":
        """Return the same, also by number."""
        return Texts(self)

    def said(self) -> Iterator[str]:
        """Yield what was said in each conversation."""
        return (json.loads(line[_TEXT]) for _, line in self._lines())

    def text(self, number: int) -> str:
        """Return what was said in one."""
        self._file.seek(self._starts[number])
        said: str = json.loads(self._file.readline().split(b"\t")[_TEXT])
        return said

    def sizes(self, splits: Sequence[str], often: Sequence[int]) -> dict[str, dict[str, int]]:
        """Return how many conversations and turns there are in each split, given each
        conversation's split, and how often it is there.
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
                self._file.seek(place)  # others may have read meanwhile
                lines = list(islice(self._file, _AT_ONCE))
            line = lines[number % _AT_ONCE]
            place += len(line)
            if chosen is None or chosen[number]:
                yield number, line.split(b"\t")

    def _id(self, number: int, id: str) -> str:
        """Return a conversation's id; a repeated one (the parts of a conversation that was cut)
        gets its number: `x`, `x/2`.
        """
        count = int(self._counts[number])
        return id if count == 1 else f"{id}/{count}"

    @cached_property
    def _counts(self) -> npt.NDArray[np.int32]:
        """How many conversations up to each have its id."""
        ids = np.frombuffer(self._ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        places = np.arange(len(ids))
        begins = np.concatenate([[True], ids[order][1:] != ids[order][:-1]])
        counts = np.empty(len(ids), np.int32)
        counts[order] = places - np.maximum.accumulate(np.where(begins, places, 0)) + 1
        return counts


def _pinned(conversation: Conversation) -> int:
    """Return the number of the split that all turns of a conversation name in their metadata; -1 if they do not."""
    named = {
        turn.metadata.get("split") if isinstance(turn.metadata.get("split"), str) else "" for turn in conversation.turns
    }
    split = named.pop() if len(named) == 1 else ""
    return SPLITS.index(split) if split in SPLITS else -1


def text_of(conversation: Conversation) -> str:
    """Return what was said in a conversation, as look-alikes are searched for."""
    return "\n".join(f"{turn.user_message}\n{turn.bot_response}" for turn in conversation.turns)


class Texts(Sequence[str]):
    """What was said in each conversation of a spool, read when it is asked for."""

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
