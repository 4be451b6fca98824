"""Store conversations in a temporary file while a dataset is built.

They are read several times, and may be too many for the memory, in which only about a hundred bytes
per conversation are kept. The file has no name, so nothing of it remains however the program ends.
"""

import hashlib
import json
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from json.encoder import encode_basestring
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fine_tuning import paths
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.pair_formats import Example
from fine_tuning.data_preparation.by_hash import Hashes, hash_of_bytes, hashes_in
from fine_tuning.data_preparation.mixing import licence_of, source_of, task_of
from fine_tuning.data_preparation.split import SPLITS
from fine_tuning.thoughts import split_thoughts

Record = dict[str, Any]


class Spool:
    """A temporary store of conversations, numbered from 0 in the order in which they are added.

    Use it in a `with` statement: first add all conversations, then read.
    """

    def __init__(self) -> None:
        self._ends = array("q", [0])  # offsets in the file at which the fields of each conversation end
        self._turns = array("q")  # number of turns that are learned
        self._ids = array("q")  # hashes
        self._sessions = array("q")  # hashes
        self._pairs = bytearray()  # hashes
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
        return len(self._turns)

    def add(self, conversation: Conversation, example: Example) -> None:
        """Add a conversation and its training pair."""
        turns = conversation.turns
        first = turns[0]
        source, task, pinned = source_of(first), task_of(first), _pinned(turns)
        self._turns.append(len(turns) - len(example.context))
        self._ids.append(hash(conversation.id))
        self._sessions.append(hash(first.session_id))
        self._sources.append(sys.intern(source))
        self._tasks.append(sys.intern(task))
        for licence in filter(None, [licence_of(turn) for turn in turns if "source" in turn.metadata]):
            self._licences.setdefault(source, set()).add(licence)
        self._pinned.append(pinned)
        id, turn_ids = encode_basestring(conversation.id), [encode_basestring(turn.id) for turn in turns]
        pair = _encoded(_written(example))
        self._pairs += hash_of_bytes(pair)
        origin = "\t".join(map(encode_basestring, (first.session_id, source, task)))
        self._digest.update(_encoded(f"{pinned}\t{origin}\t{id}\t[{', '.join(turn_ids)}]\t"))
        self._digest.update(pair)
        # JSON escapes line ends within texts, so these can separate the ids
        fields = (_encoded(id), _encoded("\n".join(turn_ids)), pair)
        self._file.writelines(fields)
        self._ends.extend(accumulate(map(len, fields), initial=self._ends.pop()))

    @property
    def digest(self) -> str:
        """The SHA-256, in hexadecimal, of everything that was added."""
        return self._digest.hexdigest()

    def records(self, often: Sequence[int]) -> Iterator[bytes]:
        """Yield the dataset's records as lines of JSON; record i is yielded often[i] times."""
        for number, id, _, pair in self._stored(often):
            record = self._record(number, id, pair)
            for _ in range(often[number]):
                yield record

    def epoch(self, often: Sequence[int]) -> Iterator[tuple[Record, list[str], int]]:
        """Yield (record, ids of its turns, number of repeats) for each conversation of an epoch.

        Conversation i is repeated often[i] times; if this is 0, it is left out.
        """
        for number, id, turn_ids, pair in self._stored(often):
            yield json.loads(self._record(number, id, pair)), _listed(turn_ids), often[number]

    def _record(self, number: int, id: bytes, pair: bytes) -> bytes:
        if number in self._repeated:
            id = _encoded(encode_basestring(self._id(number, json.loads(id))))
        return b'{"id": %s, %s' % (id, pair[1:])

    def ids(self) -> list[str]:
        """Return the id of each conversation's record (see `_id`)."""
        ids = (id for _, id, _, _ in self._stored())
        return [self._id(number, id) for number, id in enumerate(_listed(b"\n".join(ids)))]

    def session_numbers(self) -> list[int]:
        """Return a number for each conversation, which is the same for all conversations of one session."""
        found: list[int] = np.unique(np.frombuffer(self._sessions, np.int64), return_inverse=True)[1].tolist()
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

    def turn_ids(self, chosen: Sequence[int]) -> Iterator[bytes]:
        """Yield the ids of the turns of each conversation i for which chosen[i] is not 0.

        They are JSON strings with a line end between them.
        """
        return (turn_ids for _, _, turn_ids, _ in self._stored(chosen))

    @property
    def hashes(self) -> Hashes:
        """A hash of what was said in each conversation, without any id."""
        return hashes_in(self._pairs)

    def texts(self) -> "Texts":
        """Return the texts of all conversations (see `text_in`) as a sequence that reads them on access."""
        return Texts(self)

    def said(self) -> Iterator[str]:
        """Yield the text of each conversation (see `text_in`), in order."""
        return (text_in(json.loads(pair)) for _, _, _, pair in self._stored())

    def text(self, number: int) -> str:
        """Return the text of the conversation with this number (see `text_in`)."""
        _, begin, end = self._ends[3 * number + 1 : 3 * number + 4]
        return text_in(json.loads(self._read(begin, end)))

    def sizes(self, splits: Sequence[str], often: Sequence[int]) -> dict[str, dict[str, int]]:
        """Return the numbers of conversations and learned turns of each split, repeats included.

        `splits` holds the name of each conversation's split, `often` its number of repeats.
        """
        conversations, turns = Counter[str](), Counter[str]()
        for split, count, size in zip(splits, often, self._turns, strict=True):
            conversations[split] += count
            turns[split] += count * size
        return {split: {"conversations": conversations[split], "turns": turns[split]} for split in SPLITS}

    def _stored(self, chosen: Sequence[int] | None = None) -> Iterator[tuple[int, bytes, bytes, bytes]]:
        """Yield the number and the fields of each conversation: its id, the ids of its turns, its pair; all as JSON."""
        for first in range(0, len(self), _AT_ONCE):
            ends = self._ends[3 * first : 3 * (first + _AT_ONCE) + 1]
            stored = self._read(ends[0], ends[-1])
            a, *others = np.subtract(ends, ends[0]).tolist()
            for number, (b, c, d) in enumerate(zip(*[iter(others)] * 3, strict=True), first):
                if chosen is None or chosen[number]:
                    yield number, stored[a:b], stored[b:c], stored[c:d]
                a = d

    def _read(self, begin: int, end: int) -> bytes:
        self._file.seek(begin)
        found: bytes = self._file.read(end - begin)
        return found

    def _id(self, number: int, id: str) -> str:
        """Return the id of a conversation's record, which is unique: `x` for the first with the id `x`, then `x/2`.

        Several conversations have the same id if the cleaning cut one into parts.
        """
        return f"{id}/{self._repeated[number]}" if number in self._repeated else id

    @cached_property
    def _repeated(self) -> Mapping[int, int]:
        """By its number, for each conversation whose id occurred before: its place among those with this id."""
        ids: npt.NDArray[np.int64] = np.frombuffer(self._ids, np.int64)
        order = np.argsort(ids, kind="stable")
        places = np.arange(len(ids))
        begins = np.concatenate([[True], ids[order][1:] != ids[order][:-1]])
        counts = places - np.maximum.accumulate(np.where(begins, places, 0)) + 1
        return dict(zip(order[~begins].tolist(), counts[~begins].tolist(), strict=True))


_EXCHANGE = '{"role": "user", "content": %s}, {"role": "assistant", "content": %s}'


def _written(example: Example) -> str:
    """Return the JSON of a conversation's training pair in ChatML, with a line end.

    It is that of `FORMATS[CHATML].of`, in a third of the time.
    """
    said = [
        _EXCHANGE % (encode_basestring(asked), encode_basestring(answered)) for asked, answered in example.exchanges
    ]
    for place in example.context:
        said[place] = f'{said[place][:-1]}, "weight": 0}}'
    if example.system:
        said.insert(0, f'{{"role": "system", "content": {encode_basestring(example.system)}}}')
    return f'{{"messages": [{", ".join(said)}]}}\n'


def _encoded(text: str) -> bytes:
    """Return a text in UTF-8; what stands in the metadata of turns may have unpaired surrogates."""
    return text.encode("utf-8", "surrogatepass")


def _listed(strings: bytes) -> list[str]:
    """Return the strings that are given in JSON, with a line end between them."""
    found: list[str] = json.loads(b"[%s]" % strings.replace(b"\n", b","))
    return found


def _pinned(turns: Sequence[Turn]) -> int:
    """Return the index in SPLITS of the split that all turns name in their metadata.

    Return -1 if they name none, or different ones.
    """
    split = turns[0].metadata.get("split")
    known = split in SPLITS and all(turn.metadata.get("split") == split for turn in turns)
    return SPLITS.index(split) if known else -1


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


_AT_ONCE = 500  # conversations that are read from the file at once
