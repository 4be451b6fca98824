"""List turns in pages, filtered and sorted, from the log's index. Only the turns of a page are read from the log."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from sqlite3 import Connection, Row
from typing import Literal

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.log.index import LogIndex, matching
from fine_tuning.data_collection.log.outcomes import StoredSurvey, last, place

State = Literal["", "new", "learned", "kept", "dropped", "excluded", "edited", "up", "down", "imported"]
Order = Literal["newest", "oldest", "longest"]

MOST_MATCHES = 5000  # newest matches of a search that are filtered

_ORDERS: dict[Order, str] = {
    "newest": "turn.key DESC",
    "oldest": "turn.key",
    "longest": "turn.asked + turn.answered DESC, turn.key DESC",
}
_LEARNED = (
    "EXISTS (SELECT 1 FROM version_turns JOIN versions ON versions.id = version_turns.version_id"
    " WHERE version_turns.turn_id = turn.id AND NOT version_turns.context"
    " AND versions.name = :name AND versions.state <> 'retired')"
)
_NEW = (
    "turn.changed > :since AND NOT turn.excluded AND NOT turn.partial"
    " AND (:all_new OR is_new(turn.id, turn.state_hash))"
)
_STATES: dict[State, str] = {
    "": "1",
    "new": _NEW,
    "learned": _LEARNED,
    "kept": "look.reason = '' AND NOT turn.excluded",
    "dropped": "look.reason <> '' AND NOT turn.excluded",
    "excluded": "turn.excluded",
    "edited": "turn.edited",
    "up": "turn.rating = 'up'",
    "down": "turn.rating = 'down'",
    "imported": "turn.imported IS NOT NULL",
}


@dataclass(frozen=True)
class Wanted:
    """Which turns to list, and in which order. An empty value does not filter."""

    text: str = ""  # words that the turn contains
    state: State = ""
    reason: str = ""  # why the cleaning dropped it
    model: str = ""
    imported: str = ""  # id of an import
    order: Order = "newest"


@dataclass(frozen=True)
class Learned:
    """The facts that decide which turns the versions of a model have learned, and which turns are new.

    `name` is the name of the fine-tuned model. A turn is new if it was changed after the change
    number `since` of the log's index (`Mark.changes`), and `is_new(id, state hash)` returns True.
    """

    name: str
    since: int
    is_new: Callable[[str, str], bool] | None  # None: there is no version yet, and all are new


@dataclass(frozen=True)
class Listed:
    """A turn with its current state."""

    turn: Turn
    excluded: bool
    rating: str | None
    edited: bool
    is_new: bool
    learned: bool
    # why it is not learned; "" if it is; None if it was logged or changed after the last survey
    reason: str | None


@dataclass(frozen=True)
class Page:
    """One page of a list of turns."""

    turns: list[Listed]
    total: int  # wanted turns on all pages
    is_cut: bool = False  # whether only the newest matches of a search were considered


def page(index: LogIndex, learned: Learned, wanted: Wanted, limit: int, offset: int = 0) -> Page:
    """Return at most `limit` of the wanted turns, without the first `offset`, and the number of all wanted turns."""

    def found(database: Connection, log: Row) -> Page:
        source, values, is_cut = _source(database, log, learned, wanted)
        total = int(database.execute(f"SELECT count(*) {source}", values).fetchone()[0])
        told = f"{_NEW} AS is_new, {_LEARNED} AS learned, look.reason AS reason"
        query = f"SELECT turn.*, {told} {source} ORDER BY {_ORDERS[wanted.order]} LIMIT :limit OFFSET :offset"
        rows = database.execute(query, {**values, "limit": limit, "offset": offset}).fetchall()
        turns = index.read(database, log, rows)
        return Page([_listed(turn, row) for turn, row in zip(turns, rows, strict=True)], total, is_cut)

    return index.ask(found)


def ids(index: LogIndex, learned: Learned, wanted: Wanted) -> list[str]:
    """Return the ids of all wanted turns, oldest first."""

    def found(database: Connection, log: Row) -> list[str]:
        source, values, _ = _source(database, log, learned, wanted)
        return [row[0] for row in database.execute(f"SELECT turn.id {source} ORDER BY turn.key", values)]

    return index.ask(found)


def models(index: LogIndex) -> list[str]:
    """Return the tags of the models that answered turns of the log."""
    query = "SELECT DISTINCT model FROM log_turns WHERE +log = ? AND model IS NOT NULL ORDER BY model"
    return index.ask(lambda database, log: [row[0] for row in database.execute(query, (log["id"],))])


def _source(database: Connection, log: Row, learned: Learned, wanted: Wanted) -> tuple[str, dict[str, object], bool]:
    """Return FROM and WHERE of a query for the wanted turns, its parameters, and whether it may miss some turns.

    If a text is wanted, only the newest MOST_MATCHES turns that contain it are considered.
    """
    database.create_function("is_new", 2, learned.is_new or (lambda id, state_hash: True), deterministic=True)
    values: dict[str, object] = {
        "log": log["id"],
        "name": learned.name,
        "since": learned.since,
        "all_new": learned.is_new is None,
    }
    conditions, is_cut = ["+turn.log = :log", _STATES[wanted.state]], False
    for name in ("model", "imported"):
        if value := getattr(wanted, name):
            conditions.append(f"turn.{name} = :{name}")
            values[name] = value
    if wanted.reason:
        conditions.append("look.reason = :reason")
        values["reason"] = wanted.reason
    if wanted.text.strip():
        matches = matching(database, log, wanted.text, MOST_MATCHES)
        is_cut = len(matches) == MOST_MATCHES
        conditions.append("turn.id IN (SELECT value FROM json_each(:matches))")
        values["matches"] = json.dumps(matches)
    look = _attach(database, log)
    if look:
        values["looked"] = look.mark.changes
        outcomes = "LEFT JOIN survey.outcomes AS look ON look.key = turn.key AND turn.changed <= :looked"
    else:
        outcomes = "LEFT JOIN (SELECT 0 AS key, '' AS reason WHERE 0) AS look ON look.key = turn.key"
    return f"FROM log_turns AS turn {outcomes} WHERE {' AND '.join(conditions)}", values, is_cut


def _attach(database: Connection, log: Row) -> StoredSurvey | None:
    """Attach the tables of the last survey to the connection, and return the survey.

    Return None if the last survey was of another log, or its index was rebuilt since.
    """
    look = last(log["path"])
    if look is None or look.mark.epoch != log["epoch"]:
        return None
    database.execute("ATTACH DATABASE ? AS survey", (str(place()),))
    return look


def _listed(turn: Turn, row: Row) -> Listed:
    return Listed(
        turn=turn,
        excluded=bool(row["excluded"]),
        rating=row["rating"],
        edited=bool(row["edited"]),
        is_new=bool(row["is_new"]),
        learned=bool(row["learned"]),
        reason=row["reason"],
    )
