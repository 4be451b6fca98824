"""Store the result of the last survey of the whole log in data/survey.db, which each survey replaces.

A survey finds out for each turn whether a retrain would learn it. The file contains ids, numbers and
reasons, but nothing that was said. It can be deleted: the next survey makes it again.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fine_tuning import paths
from fine_tuning.data_collection.log.index import LogIndex, Mark

KEPT = ""  # the reason of a turn that is learned

_VERSION = 2  # of the tables and facts: a file of another version is ignored
_SCHEMA = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE look (log TEXT, epoch TEXT, changes INTEGER, made REAL, facts TEXT);
CREATE TABLE outcomes (key INTEGER PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE conflicts (number INTEGER, id TEXT, stands INTEGER);
CREATE INDEX conflicts_by_number ON conflicts (number);
CREATE TABLE alike (number INTEGER, id TEXT);
CREATE INDEX alike_by_number ON alike (number);
"""


@dataclass(frozen=True)
class StoredSurvey:
    """What a survey found out about the log at the path `log`, when its index was at the point `mark`."""

    log: str
    mark: Mark
    made: float  # seconds since 1970
    facts: Mapping[str, Any]  # counts of turns


@dataclass(frozen=True)
class Differing:
    """The ids of turns with the same question and different answers."""

    turns: tuple[str, ...]  # in the order in which they were said
    stands: str  # the one that is learned


def place() -> Path:
    """Return the path of the file that holds the result of the last survey."""
    return paths.home() / "survey.db"


def keep(
    index: LogIndex,
    look: StoredSurvey,
    reasons: Mapping[str, str],
    conflicts: Sequence[Differing],
    alike: Sequence[Sequence[str]] = (),
) -> None:
    """Replace the stored result of the last survey by the result of a new one.

    `look` is the new survey. `reasons` says for each turn, by its id, why it is not learned; KEPT
    if it is learned. `conflicts` are the questions with different answers. `alike` are groups of the
    ids of turns that are nearly the same.
    """
    keys = index.keys()
    rows = ((keys[id], reason) for id, reason in reasons.items() if id in keys)
    differing = ((number, id, id == each.stands) for number, each in enumerate(conflicts) for id in each.turns)
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SCHEMA)
        told = (look.log, look.mark.epoch, look.mark.changes, look.made, json.dumps(look.facts))
        database.execute("INSERT INTO look VALUES (?, ?, ?, ?, ?)", told)
        _fill(database, "outcomes", rows)
        _fill(database, "conflicts", differing)
        _fill(database, "alike", ((number, id) for number, group in enumerate(alike) for id in group))
        database.commit()
        paths.atomic_write(place(), database.serialize())


def _fill(database: sqlite3.Connection, table: str, rows: Iterable[tuple[object, ...]]) -> None:
    for row in rows:
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def last(log: Path) -> StoredSurvey | None:
    """Return the stored result of the last survey of this log; None if there is none, or its file is damaged."""
    found = _last(place(), paths.stamp(place())) if place().exists() else None
    return found if found and found.log == str(log) else None


@lru_cache(maxsize=4)
def _last(file: Path, stamp: object) -> StoredSurvey | None:
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(file)) as database:
        if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            return None
        log, epoch, changes, made, facts = database.execute("SELECT * FROM look").fetchone()
        return StoredSurvey(log, Mark(epoch, changes), made, json.loads(facts))
    return None


def conflicts(limit: int, offset: int = 0) -> list[Differing]:
    """Return a page of the questions for which the last survey of the log found different answers.

    The page has at most `limit` questions, after the first `offset`. Return [] if there was no survey,
    or its file is damaged.
    """
    return [
        Differing(tuple(id for id, _ in group), next(id for id, stands in group if stands))
        for group in _groups("SELECT number, id, stands FROM conflicts", limit, offset)
    ]


def alike(limit: int, offset: int = 0) -> list[tuple[str, ...]]:
    """Return at most `limit` groups of the ids of nearly equal turns, without the first `offset`, the largest first.

    Return [] if there was no survey, or its file is damaged.
    """
    return [tuple(id for (id,) in group) for group in _groups("SELECT number, id FROM alike", limit, offset)]


def _groups(query: str, limit: int, offset: int) -> list[list[tuple[Any, ...]]]:
    """Return the rows of a query without their first column, the number of a group, one list for each group."""
    groups: dict[int, list[tuple[Any, ...]]] = {}
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(place())) as database:
        wanted = f"{query} WHERE number >= ? AND number < ? ORDER BY number, rowid"
        for number, *row in database.execute(wanted, (offset, offset + limit)):
            groups.setdefault(number, []).append(tuple(row))
    return list(groups.values())
