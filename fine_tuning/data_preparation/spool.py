"""Store conversations in a temporary file while a dataset is built.

They are read several times, and may be too many for the memory, in which only about sixty bytes per
conversation are kept. The file has no name, so nothing of it remains however the program ends.
"""

import hashlib
import json
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from json.encoder import encode_basestring
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.conversation import Conversation
from fine_tuning.data_preparation.mixing import licence_of, source_of, task_of
from fine_tuning.data_preparation.split import SPLITS
from fine_tuning.thoughts import split_thoughts

Record = dict[str, Any]


class Spool:
    """A temporary store of conversations, numbered from 0 in the order in which they are added.

    Use it in a `with` statement: first add all conversations, then read.
    """

    def __init__(self) -> None:
        self._starts = array("q")  # offset of each line in the file, in bytes
        self._turns = array("q")  # number of turns that are learned
        self._ids = array("Q")  # hashes
        self._sessions = array("Q")  # hashes
        self._words = array("q")  # number of words
        self._texts = bytearray()  # hashes
        self._sources: list[str] = []
        self._tasks: list[str] = []
        self._licences: dict[str, set[str]] = {}  # by source
        self._pinned = array("b")  # index in SPLITS of the split that the turns name; -1 for none
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
        """Add a conversation and its training pair, {"messages": [...]}."""
        turns = conversation.turns
        first = turns[0]
        source, task, pinned = source_of(first), task_of(first), _pinned(conversation)
        self._starts.append(self._file.tell())
        self._turns.append(len(conversation.learned))
        self._ids.append(_hash(conversation.id))
        self._sessions.append(_hash(first.session_id))
        self._sources.append(sys.intern(source))
        self._tasks.append(sys.intern(task))
        for licence in filter(None, map(licence_of, turns)):
            self._licences.setdefault(source, set()).add(licence)
        self._pinned.append(pinned)
        text = text_in(pair)
        self._texts += blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._words.append(len(text.split()))
        # JSON escapes tabs and line ends within texts, so these can separate fields and lines
        ids = ", ".join([encode_basestring(turn.id) for turn in turns])
        line = f"{encode_basestring(conversation.id)}\t[{ids}]\t{_written(pair)}\n".encode("utf-8", "surrogatepass")
        origin = "\t".join(map(encode_basestring, (first.session_id, source, task)))
        self._digest.update(f"{pinned}\t{origin}\t".encode("utf-8", "surrogatepass"))
        self._digest.update(line)
        self._file.write(line)

    @property
    def digest(self) -> str:
        """The SHA-256, in hexadecimal, of everything that was added."""
        return self._digest.hexdigest()

    def records(self, often: Sequence[int]) -> Iterator[bytes]:
        """Yield the dataset's records as lines of JSON; record i is yielded often[i] times."""
        for number, line in self._lines(often):
            record = self._record(number, line)
            for _ in range(often[number]):
                yield record

    def epoch(self, often: Sequence[int]) -> Iterator[tuple[Record, list[str], int]]:
        """Yield (record, ids of its turns, number of repeats) for each conversation of an epoch.

        Conversation i is repeated often[i] times; if this is 0, it is left out.
        """
        for number, line in self._lines(often):
            yield _read(self._record(number, line)), _read(line[_TURNS]), often[number]

    def _record(self, number: int, line: Sequence[bytes]) -> bytes:
        id = line[_ID] if self._counts[number] == 1 else _written(self._id(number, _read(line[_ID]))).encode()
        return b'{"id": %s, %s' % (id, line[_PAIR].removeprefix(b"{"))  # with the line end

    def ids(self) -> list[str]:
        """Return the id of each conversation's record (see `_id`)."""
        return [self._id(number, _read(line[_ID])) for number, line in self._lines()]

    def session_numbers(self) -> list[int]:
        """Return a number for each conversation, which is the same for all conversations of one session."""
        found: list[int] = np.unique(np.frombuffer(self._sessions, np.uint64), return_inverse=True)[1].tolist()
        return found

    def pinned(self) -> list[str]:
        """Return for each conversation the split that its turns name in their metadata; "" if they name none."""
        return ["" if number < 0 else SPLITS[number] for number in self._pinned]

    def sources(self) -> Sequence[str]:
        """Return the name of each conversation's source (see `mixing.source_of`)."""
        return self._sources

    def tasks(self) -> Sequence[str]:
        """Return the task of each conversation (see `mixing.task_of`)."""
        return self._tasks

    def licences(self) -> Mapping[str, set[str]]:
        """Return the licences of each source that names one."""
        return self._licences

    def words(self) -> Sequence[int]:
        """Return the number of words of each conversation."""
        return self._words

    def turn_ids(self, chosen: Sequence[int] | None = None) -> Iterator[str]:
        """Yield the ids of all turns, or only of the conversations i for which chosen[i] is not 0."""
        return (id for _, line in self._lines(chosen) for id in _read(line[_TURNS]))

    @property
    def text_hashes(self) -> npt.NDArray[np.uint64]:
        """A hash of each conversation's text (see `text_in`), as two numbers."""
        return np.frombuffer(self._texts, np.uint64).reshape(-1, 2)

    def texts(self) -> "Texts":
        """Return the texts of all conversations (see `text_in`) as a sequence that reads them on access."""
        return Texts(self)

    def said(self) -> Iterator[str]:
        """Yield the text of each conversation (see `text_in`), in order."""
        return (text_in(_read(line[_PAIR])) for _, line in self._lines())

    def text(self, number: int) -> str:
        """Return the text of the conversation with this number (see `text_in`)."""
        self._file.seek(self._starts[number])
        return text_in(_read(self._file.readline().split(b"\t")[_PAIR]))

    def sizes(self, splits: Sequence[str], often: Sequence[int]) -> dict[str, dict[str, int]]:
        """Return the numbers of conversations and learned turns of each split, repeats included.

        `splits` holds the name of each conversation's split, `often` its number of repeats.
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
        """Return the id of a conversation's record, which is unique: `x` for the first with the id `x`, then `x/2`.

        Several conversations have the same id if the cleaning cut one into parts.
        """
        count = int(self._counts[number])
        return id if count == 1 else f"{id}/{count}"

    @cached_property
    def _counts(self) -> npt.NDArray[np.int32]:
        """The number of each conversation among those with the same id: 1 for the first of them, and so on."""
        ids = np.frombuffer(self._ids, np.uint64)
        order = np.argsort(ids, kind="stable")
        places = np.arange(len(ids))
        begins = np.concatenate([[True], ids[order][1:] != ids[order][:-1]])
        counts = np.empty(len(ids), np.int32)
        counts[order] = places - np.maximum.accumulate(np.where(begins, places, 0)) + 1
        return counts


_written = json.JSONEncoder(ensure_ascii=False).encode  # as json.dumps, which makes an encoder for each value


def _read(field: bytes) -> Any:
    return json.loads(field.decode("utf-8", "surrogatepass"))


def _pinned(conversation: Conversation) -> int:
    """Return the index in SPLITS of the split that all turns of a conversation name in their metadata.

    Return -1 if they name none, or different ones.
    """
    named = {
        turn.metadata.get("split") if isinstance(turn.metadata.get("split"), str) else "" for turn in conversation.turns
    }
    split = named.pop() if len(named) == 1 else ""
    return SPLITS.index(split) if split in SPLITS else -1


def text_of(conversation: Conversation) -> str:
    """Return what `text_in` returns for the record of a conversation."""
    return text_in({"messages": [vars(message) for message in conversation.messages()]})


def text_in(record: Record) -> str:
    """Return all questions and answers of a dataset's record as one text, for near-duplicates and topics.

    The system prompt is left out, since many conversations share it, and so are a model's thoughts, which
    would make answers that say the same look different.
    """
    said = [(message["role"], message["content"]) for message in record["messages"] if message["role"] != "system"]
    return "\n".join([split_thoughts(text).answer if role == "assistant" else text for role, text in said])


class Texts(Sequence[str]):
    """The texts of a spool's conversations as a sequence; each is read from the file when it is accessed."""

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


_ID, _TURNS, _PAIR = range(3)  # fields of a line, each decoded only where it is needed
_AT_ONCE = 500  # lines that are read from the file at once
