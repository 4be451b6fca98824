"""Find the turns of a log that are most similar to a question and its answer.

Texts are compared by pieces of three letters, so inflected words match too. The pieces are looked up
in the full-text table of the log's index (log/index.py), rare ones first, until enough rows have
been seen, so the time does not grow with the log. The turns found are then compared in full. Rare
pieces have more weight (inverse document frequency: Sparck Jones 1972).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from sqlite3 import Connection

from fine_tuning import state
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.batches import fold

_GRAM = 3  # letters of a piece, as in the full-text table
_LONGEST = 1500  # characters of a question, and of an answer, that are compared
_SAMPLE = 1000  # newest rows in which the frequency of a piece is measured
_ROWS = 30_000  # estimated number of rows to read for all pieces together
_LEAST = 4  # pieces to look up at least, however many rows contain them
_PIECES = 40  # pieces to look up at most
_COMPARED = 60  # turns that are compared in full
# if a version was trained on at most this many turns, all of them are listed first; else only those
# in the rows found
_FEW = 5000
_AT_ONCE, _MOST = 100, _FEW  # rows in one statement: at first, and at most
_COMMON = 0.2  # a piece in a larger share of the rows says nothing about a text's subject

Teaches = tuple[str, int]  # name and number of a version


@dataclass(frozen=True)
class Alike:
    """A turn that resembles another one."""

    turn: Turn  # in its current state
    likeness: float  # 0 to 1; 1 for the same question and answer
    shared: tuple[str, ...]  # words of both, the rarest first


def most_alike(log: ConversationLogger, turn: Turn, taught: Teaches, limit: int = 5) -> list[Alike]:
    """Return the turns most similar to `turn` among those that a version learned, the most similar first.

    At most `limit` turns are returned, without `turn` itself. Raises DataError if the log cannot be
    read, and ByoaiError if state.db cannot.
    """
    log.index.mark()  # bring the index up to date
    question, answer = (fold(text[:_LONGEST]) for text in (turn.user_message, turn.bot_response))
    with state.connect() as database:
        weights = _weights(database, sorted(_grams(question) | _grams(answer)))
        ids = list(islice(_taught(database, log, _by_weight(database, weights), taught), _COMPARED))
    others = log.index.turns([id for id in ids if id != turn.id])
    found = [_compare(question, answer, other, weights) for other in others]
    return sorted((each for each in found if each.likeness > 0), key=lambda each: -each.likeness)[:limit]


def alike_among(turn: Turn, others: Sequence[Turn], limit: int = 5) -> list[Alike]:
    """Return at most `limit` of the turns `others`, the most similar to `turn` first. No log is read."""
    question, answer = (fold(text[:_LONGEST]) for text in (turn.user_message, turn.bot_response))
    texts = [fold(f"{other.user_message[:_LONGEST]} {other.bot_response[:_LONGEST]}") for other in others]
    holding = Counter(gram for text in texts for gram in _grams(text))
    size = len(others) + 1
    weights = {gram: math.log(size / (holding[gram] + 0.5)) for gram in _grams(question) | _grams(answer)}
    found = [_compare(question, answer, other, weights) for other in others]
    return sorted((each for each in found if each.likeness > 0), key=lambda each: -each.likeness)[:limit]


def count_taught(log: ConversationLogger, taught: Teaches) -> tuple[int, int, int]:
    """Return how many turns a version learned, how many of these are in the log, and how many are excluded."""
    log.index.mark()
    query = (
        "SELECT count(*), count(key), ifnull(sum(excluded), 0) FROM version_turns"
        f" LEFT JOIN log_turns ON log_turns.id = turn_id AND log = {_LOG}"
        f" WHERE version_id = {_VERSION} AND NOT context"
    )
    with state.connect() as database:
        row = database.execute(query, (str(log.path), *taught)).fetchone()
    return row[0], row[1], row[2]


def newest_of(log: ConversationLogger, prefix: str) -> str | None:
    """Return the id of the newest turn that a model whose tag begins with `prefix` answered; None if there is none."""
    log.index.mark()
    # +log: from the newest turn on, without the index on `log`
    query = f"SELECT id FROM log_turns WHERE +log = {_LOG} AND substr(model, 1, ?) = ? ORDER BY key DESC LIMIT 1"
    with state.connect() as database:
        row = database.execute(query, (str(log.path), len(prefix), prefix)).fetchone()
    return row and str(row[0])


_LOG = "(SELECT id FROM logs WHERE path = ?)"
_VERSION = "(SELECT id FROM versions WHERE name = ? AND number = ?)"

# Looking up


def _weights(database: Connection, grams: Sequence[str]) -> dict[str, float]:
    """Return the weight of each piece: log(number of rows / number of rows that contain the piece).

    Only the `_SAMPLE` newest rows are counted. Pieces that all of them contain are left out.
    """
    newest = int(database.execute("SELECT ifnull(max(rowid), 0) FROM log_texts").fetchone()[0])
    first = max(newest - _SAMPLE + 1, 1)
    count = "SELECT count(*) FROM log_texts WHERE log_texts MATCH ? AND rowid BETWEEN ? AND ?"
    found = {gram: int(database.execute(count, (_quoted(gram), first, newest)).fetchone()[0]) for gram in grams}
    size = min(newest, _SAMPLE) + 1
    return {gram: math.log(size / (rows + 0.5)) for gram, rows in found.items() if rows < size - 1}


def _by_weight(database: Connection, weights: Mapping[str, float]) -> Iterator[int]:
    """Yield the numbers of the rows that contain some of the pieces, those with the largest total weight first."""
    total = int(database.execute("SELECT ifnull(max(rowid), 0) FROM log_texts").fetchone()[0])
    rows, chosen = 0.0, list[str]()
    for gram in sorted(weights, key=lambda gram: -weights[gram])[:_PIECES]:
        rows += total * math.exp(-weights[gram])
        if rows > _ROWS and len(chosen) >= _LEAST:
            break
        chosen.append(gram)
    if not chosen:
        return
    arms = " UNION ALL ".join(["SELECT rowid, ? AS weight FROM log_texts WHERE log_texts MATCH ?"] * len(chosen))
    values = [value for gram in chosen for value in (weights[gram], _quoted(gram))]
    query = f"SELECT rowid FROM ({arms}) GROUP BY rowid ORDER BY sum(weight) DESC"
    for row in database.execute(query, values):
        yield row[0]


def _taught(database: Connection, log: ConversationLogger, rows: Iterator[int], taught: Teaches) -> Iterator[str]:
    """Yield the ids of the turns that `rows` belong to, if the version learned them.

    Each id is yielded once; the ids are in the order of `rows`.
    """
    known: set[str] = set()
    few = _turns_of(database, log, taught, None)
    size = _AT_ONCE
    while part := list(islice(rows, size)):
        turns = few if len(few) <= _FEW else _turns_of(database, log, taught, part)
        size = min(2 * size, _MOST)
        for row in part:
            if (id := turns.get(row)) and id not in known:
                known.add(id)
                yield id


def _turns_of(
    database: Connection, log: ConversationLogger, taught: Teaches, rows: Sequence[int] | None
) -> dict[int, str]:
    """Return the ids of the turns that a version learned, by the number of their row in the full-text table.

    Rows of turns have positive numbers, rows of events negative ones. If `rows` is given, only these
    are looked up. At most `_FEW` + 1 rows of each kind are returned.
    """
    found: dict[int, str] = {}
    for sign, table, column in ((1, "log_turns", "id"), (-1, "log_events", "turn")):
        keys = None if rows is None else [sign * row for row in rows if sign * row > 0]
        among = "" if keys is None else f" AND key IN ({','.join('?' * len(keys))})"
        query = (
            f"SELECT key, turn_id FROM version_turns JOIN {table} ON {column} = turn_id AND log = {_LOG}"
            f" WHERE version_id = {_VERSION} AND NOT context{among} LIMIT ?"
        )
        found |= {
            sign * key: id for key, id in database.execute(query, (str(log.path), *taught, *(keys or ()), _FEW + 1))
        }
    return found


def _quoted(gram: str) -> str:
    return '"' + gram.replace('"', '""') + '"'


# Comparing


def _compare(question: str, answer: str, other: Turn, weights: Mapping[str, float]) -> Alike:
    asked, said = (fold(text[:_LONGEST]) for text in (other.user_message, other.bot_response))
    likeness = (_likeness(question, asked, weights) + _likeness(answer, said, weights)) / 2
    return Alike(other, likeness, tuple(_shared(f"{question} {answer}", f"{asked} {said}", weights)))


def _likeness(one: str, other: str, weights: Mapping[str, float]) -> float:
    """Return the similarity of two texts, from 0 to 1: the Dice coefficient of their pieces (`_grams`).

    It is twice the weight of the pieces that both texts contain, divided by the weight of all
    pieces of both. Pieces of `other` that are missing in `weights` count with the mean weight.
    """
    mean = sum(weights.values()) / len(weights) if weights else 1.0
    ones, others = _grams(one), _grams(other)
    both = sum(weights.get(gram, 0.0) for gram in ones & others)
    all = sum(weights.get(gram, 0.0) for gram in ones) + sum(weights.get(gram, mean) for gram in others)
    return max(2 * both / all, 0.0) if all > 0 else 0.0


def _grams(text: str) -> set[str]:
    """Return the pieces of each word of `text`, which is in lower case: " ca", "cat" and "at " for "cat".

    The space before and after a word distinguishes the pieces at its beginning and its end.
    """
    words = (f" {word} " for word in re.findall(r"\w+", text))
    return {word[at : at + _GRAM] for word in words for at in range(len(word) - _GRAM + 1)}


def _shared(one: str, other: str, weights: Mapping[str, float]) -> list[str]:
    """Return up to five words of both texts that are rare enough to characterise them, the rarest first."""
    common = set(re.findall(r"\w+", one)) & set(re.findall(r"\w+", other))
    rarity = {word: max((weights.get(gram, 0.0) for gram in _grams(word)), default=0.0) for word in common}
    return sorted(
        (word for word in common if rarity[word] > -math.log(_COMMON)),
        key=lambda word: (-rarity[word], -len(word), word),
    )[:5]
