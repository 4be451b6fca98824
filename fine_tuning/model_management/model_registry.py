"""Record all versions of fine-tuned models: their origin, their state, and the turns they were trained on.

A version begins as a candidate. It can become live (the one in use), then previous (the one to
which a rollback returns), and then retired.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection, IntegrityError, Row
from typing import Any, Literal

import filelock

from fine_tuning import paths, state
from fine_tuning.errors import Busy, ByoaiError, ModelNotFound

State = Literal["candidate", "live", "previous", "retired"]
_LARGEST = 2**63 - 1  # the largest integer in SQLite
_PATIENCE = 120.0  # seconds; pointing a tag to a version takes milliseconds unless the engine is busy
_CHANGEABLE = frozenset({"metrics", "verdict", "pinned", "notes", "labels"})
TEXTS = {"versions": ("metrics", "verdict", "notes", "labels")}  # columns, by table, that may quote conversations


def version_tag(name: str, number: int) -> str:
    """Return the engine's tag of a version, e.g. `fine_tuned_smollm2-135m:v3`."""
    return f"{name}:v{number}"


def latest_tag(name: str) -> str:
    """Return the engine's tag that always points to the live version, e.g. `fine_tuned_smollm2-135m:latest`."""
    return f"{name}:latest"


@dataclass(frozen=True)
class Lineage:
    """The source versions of a merged or quantised version, and how it was made from them.

    It is stored in `metrics["lineage"]` of the new version.
    """

    versions: tuple[tuple[str, float], ...]  # tag and weight of each source version
    recipe: str  # a description, such as "linear" or "quantised to q4_k_m"
    held: float = 1.0  # share of the merged change's squared norm that the adapter's limited rank keeps

    @property
    def method(self) -> str:
        how = self.recipe.partition(",")[0]
        return f"merged ({how})" if len(self.versions) > 1 else how

    def record(self) -> dict[str, object]:
        return {"versions": [list(each) for each in self.versions], "recipe": self.recipe, "held": self.held}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Lineage":
        versions = tuple((str(tag), float(weight)) for tag, weight in record["versions"])
        return cls(versions, str(record["recipe"]), float(record["held"]))

    def __str__(self) -> str:
        if len(self.versions) == 1:
            return f"{self.versions[0][0]} {self.recipe}"
        parts = " and ".join(f"{tag} x {weight:g}" for tag, weight in self.versions)
        kept = "" if self.held > 0.9995 else f"; its rank holds {self.held:.0%} of the change"
        return f"merged from {parts} by {self.recipe}{kept}"


@dataclass(frozen=True)
class Version:
    """A version of a fine-tuned model: how it was made and evaluated, and its state."""

    name: str  # without version, e.g. "fine_tuned_smollm2-135m"
    number: int
    base_tag: str
    base_digest: str  # sha256 of the base's GGUF
    run: str  # the run's folder, relative to the data folder, or absolute
    dataset: str  # the dataset's hash
    method: str
    mode: str  # "adapter" (served on the base) or "merged" (a whole model)
    metrics: dict[str, Any]
    verdict: str  # the gate's verdict as text; "" before the evaluation
    state: State
    pinned: bool  # the user wants to keep it, so it is never pruned
    notes: str
    created: str  # ISO 8601, UTC
    labels: tuple[str, ...] = ()  # labels that the user gave it

    @property
    def tag(self) -> str:
        return version_tag(self.name, self.number)

    @property
    def lineage(self) -> Lineage | None:
        """The source versions of a merged or quantised version; None for a trained one."""
        return Lineage.read(found) if (found := self.metrics.get("lineage")) else None

    @property
    def made_here(self) -> bool:
        """Whether byoai made the version, so that it has a run, or only found it in the engine.

        A version that was only found may be somebody else's model, and is never deleted.
        """
        return bool(self.run)


class Registry:
    """The table of versions in state.db.

    Every method is one transaction; any number of processes may use the same file.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Use the database at `path`, by default data/state.db. It is opened by each method."""
        self._path = path

    def next_number(self, name: str) -> int:
        """Reserve and return the number of the next version of `name`.

        A number is never used twice, even if no version is added for it.
        """
        with state.connect(self._path) as connection, state.transaction(connection):
            return _reserve(connection, name)

    def likely_number(self, name: str) -> int:
        """Return the number that `next_number` would return, without reserving it."""
        with state.connect(self._path) as connection:
            return _last_number(connection, name) + 1

    def check_writable(self) -> None:
        """Raise ByoaiError if the database cannot be written, for example because the disk is full."""
        with state.connect(self._path) as connection, state.transaction(connection):
            connection.execute("UPDATE version_numbers SET last = last")

    def add(
        self,
        name: str,
        number: int,
        *,
        base_tag: str = "",
        base_digest: str = "",
        run: str = "",
        dataset: str = "",
        method: str = "",
        mode: str = "",
        metrics: dict[str, object] | None = None,
        verdict: str = "",
        notes: str = "",
        turns: Iterable[str] = (),
        context: Collection[str] = (),
    ) -> Version:
        """Add a version as a candidate, and return it. For the arguments see Version.

        `turns` are the ids of the turns that it was trained on, `context` those of them whose answers it
        only read (`conversation.only_context`). Call this before the engine's tag is created, so that an
        interruption leaves a candidate without a tag rather than a tag without a version. Raises
        ByoaiError if the number is taken.
        """
        made_of = (base_tag, base_digest, run, dataset, method, mode)
        with state.connect(self._path) as connection, state.transaction(connection):
            _reserve(connection, name, number)
            try:
                cursor = connection.execute(
                    "INSERT INTO versions"
                    " (name, number, base_tag, base_digest, run, dataset, method, mode, metrics, verdict, notes, "
                    "created)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (name, number, *made_of, _dump(metrics or {}), verdict, notes, _now()),
                )
            except IntegrityError as error:
                raise ByoaiError(
                    f"{name} cannot get a version {number}, because the number is taken or below 1: call next_number() "
                    "for a free one"
                ) from error
            only_read = set(context)
            rows = ((cursor.lastrowid, turn, turn in only_read) for turn in dict.fromkeys(turns))
            connection.executemany("INSERT INTO version_turns (version_id, turn_id, context) VALUES (?, ?, ?)", rows)
            return _one(connection, name, number)

    def update(self, name: str, number: int, **changes: Any) -> Version:
        """Set any of `metrics`, `verdict`, `pinned`, `notes` and `labels` of a version; return the version.

        Raises ByoaiError for any other column, and ModelNotFound if there is no such version.
        """
        if unknown := set(changes) - _CHANGEABLE:
            raise ByoaiError(
                f"of a version, only {', '.join(sorted(_CHANGEABLE))} can be changed, not {', '.join(sorted(unknown))}"
            )
        with state.connect(self._path) as connection, state.transaction(connection):
            _one(connection, name, number)
            for key, value in changes.items():
                stored = _dump(value) if key in ("metrics", "labels") else value
                connection.execute(
                    f"UPDATE versions SET {key} = ? WHERE name = ? AND number = ?", (stored, name, number)
                )
            return _one(connection, name, number)

    def get(self, name: str, number: int) -> Version:
        """Return a version. Raises ModelNotFound, which lists the existing versions, if there is none."""
        with state.connect(self._path) as connection:
            return _one(connection, name, number)

    def tagged(self, tag: str) -> Version | None:
        """Return the version with this tag; None if there is none."""
        return next((version for version in self.list(tag.partition(":")[0]) if version.tag == tag), None)

    def live(self, name: str) -> Version | None:
        return self._in_state(name, "live")

    def previous(self, name: str) -> Version | None:
        """Return the version to which a rollback returns; None if there is none."""
        return self._in_state(name, "previous")

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Hold a lock within the `with` block, in which the engine and the registry change what is live.

        Raises Busy if another process or thread holds the lock for more than _PATIENCE.
        """
        lock = filelock.FileLock((self._path or paths.state_db()).with_name("switch.lock"), timeout=_PATIENCE)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise Busy("another version is being put in use just now: try again") from error
        try:
            yield
        finally:
            lock.release()

    def promote(self, name: str, number: int) -> Version:
        """Make a version live, unless it is live already; return it.

        The version that was live becomes the previous one, and the previous one is retired. Raises
        ModelNotFound if there is no such version.
        """
        with state.connect(self._path) as connection, state.transaction(connection):
            if _one(connection, name, number).state != "live":
                _shift(connection, name)
                connection.execute("UPDATE versions SET state = 'live' WHERE name = ? AND number = ?", (name, number))
            return _one(connection, name, number)

    def step_down(self, name: str) -> None:
        """Make the live version the previous one, so that no version of `name` is live."""
        with state.connect(self._path) as connection, state.transaction(connection):
            _shift(connection, name)

    def retire(self, name: str, number: int) -> Version:
        """Retire a version, whatever its state, and unpin it; return it.

        A rollback never returns to a retired version, and a retired version may be pruned. Raises
        ModelNotFound if there is no such version.
        """
        with state.connect(self._path) as connection, state.transaction(connection):
            _one(connection, name, number)
            connection.execute(
                "UPDATE versions SET state = 'retired', pinned = 0 WHERE name = ? AND number = ?", (name, number)
            )
            return _one(connection, name, number)

    def turns_of(self, name: str, number: int, *, with_context: bool = False) -> set[str]:
        """Return the ids of the turns that a version learned; an empty set for an unknown version.

        `with_context`: include turns whose answers it only read.
        """
        with state.connect(self._path) as connection:
            rows = connection.execute(
                "SELECT turn_id FROM version_turns JOIN versions ON versions.id = version_id WHERE name = ? AND "
                "number = ? AND context <= ?",
                (name, number, with_context),
            )
            return {row["turn_id"] for row in rows}

    def turn_counts(self) -> dict[tuple[str, int], int]:
        """Return by (name, number) how many turns each version learned; versions with none are left out."""
        with state.connect(self._path) as connection:
            rows = connection.execute(
                "SELECT name, number, count(*) AS turns FROM version_turns JOIN versions ON versions.id = version_id "
                "WHERE NOT context GROUP BY version_id"
            )
            return {(row["name"], row["number"]): row["turns"] for row in rows}

    def versions_of_turn(self, turn_id: str) -> tuple[Version, ...]:
        """Return the versions that learned a turn, ordered by name and number."""
        return self.versions_of_turns([turn_id])

    def versions_of_turns(self, turn_ids: Iterable[str], *, with_context: bool = False) -> tuple[Version, ...]:
        """Return the versions that learned any of the turns, ordered by name and number.

        `with_context`: include versions that only read an answer of them.
        """
        among = "turn_id IN (SELECT value FROM json_each(?)) AND context <= ?"
        learned = f"SELECT version_id FROM version_turns WHERE {among}"
        return self._select(f"WHERE id IN ({learned})", json.dumps(list(turn_ids)), with_context)

    def list(self, name: str | None = None) -> tuple[Version, ...]:
        """Return all versions, or those of `name`, ordered by name and number."""
        return self._select("WHERE name = ?", name) if name is not None else self._select("")

    def _in_state(self, name: str, wanted: State) -> Version | None:
        return next(iter(self._select("WHERE name = ? AND state = ?", name, wanted)), None)

    def _select(self, condition: str, *values: str | bool) -> tuple[Version, ...]:
        with state.connect(self._path) as connection:
            rows = connection.execute(f"SELECT versions.* FROM versions {condition} ORDER BY name, number", values)
            return tuple(_version(row) for row in rows)


def _reserve(connection: Connection, name: str, number: int | None = None) -> int:
    """Reserve the version number `number` of `name`, or the next free one if `number` is None.

    Return the highest number reserved so far. A `number` that is not higher changes nothing.
    """
    last = _last_number(connection, name)
    taken = max(last, number) if number is not None else last + 1
    connection.execute(
        "INSERT INTO version_numbers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET last = excluded.last", (name, taken)
    )
    return taken


def _last_number(connection: Connection, name: str) -> int:
    row = connection.execute("SELECT last FROM version_numbers WHERE name = ?", (name,)).fetchone()
    return int(row["last"]) if row else 0


def _shift(connection: Connection, name: str) -> None:
    """Retire the previous version, then make the live version the previous one."""
    for old, new in (("previous", "retired"), ("live", "previous")):
        connection.execute("UPDATE versions SET state = ? WHERE name = ? AND state = ?", (new, name, old))


def _one(connection: Connection, name: str, number: int) -> Version:
    found = connection.execute("SELECT * FROM versions WHERE name = ? AND number = ?", (name, min(number, _LARGEST)))
    if (row := found.fetchone()) is None:
        known = [
            f"v{each['number']}"
            for each in connection.execute("SELECT number FROM versions WHERE name = ? ORDER BY number", (name,))
        ]
        raise ModelNotFound(f"{name} has no version {number}. Its versions: {', '.join(known) or 'none yet'}.")
    return _version(row)


_COLUMNS = tuple(field.name for field in fields(Version))


def _version(row: Row) -> Version:
    values = {column: row[column] for column in _COLUMNS}
    metrics, labels = json.loads(row["metrics"]), tuple(json.loads(row["labels"]))
    return Version(**values | {"metrics": metrics, "pinned": bool(row["pinned"]), "labels": labels})


def _dump(value: dict[str, object] | Sequence[str]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
