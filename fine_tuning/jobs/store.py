"""The table of jobs in data/state.db: what was asked for, how it stands, and which process does it.

Every function opens a connection of its own and changes one job in one transaction, so that any
number of processes can use the table. What a change depends on (the state, the attempt) is part of
the change itself: of two processes that want the same, one gets it.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from fine_tuning import paths, state
from fine_tuning.errors import Busy, ByoaiError, ConfigError, JobNotFound, WrongState


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"  # asked to stop, not yet stopped
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"  # killed, or its machine or server went down: it can be resumed


ACTIVE = (State.RUNNING, State.CANCELLING)
OVER = (State.CANCELLED, State.FAILED, State.COMPLETED, State.INTERRUPTED)
KEPT = 500  # jobs that are over, with their folders; older ones go when a new one comes


@dataclass(frozen=True)
class Process:
    """A process, and when it began (seconds after the machine did): a number that is used again is another process."""

    pid: int
    started: float


@dataclass(frozen=True)
class Job:
    id: str
    kind: str
    request: dict[str, Any]
    state: State
    priority: int  # higher ones begin first
    heavy: bool  # it needs the processor or the memory for itself
    detached: bool  # it goes on when its owner ends
    here: bool  # done by the process that listed it, not by a worker: it can be asked to stop, and is never killed
    origin: str  # who asked for it
    retry_of: str  # the job that it is a new try of
    attempt: int  # counts from 1; a resumed job is in its next one
    owner: Process | None  # whose child it is
    process: Process | None  # that does it
    heartbeat: float | None
    created: float
    begun: float | None
    ended: float | None
    kill_at: float | None  # when one that was asked to stop is killed
    discard: bool  # when it is cancelled, what it made goes
    exit_code: int | None
    reason: str  # in words: how it ended
    run: str  # the folder of what it makes

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def mark(self) -> str:
        """What stands in the environment of all processes of this attempt."""
        return mark_of(self.id, self.attempt)

    @property
    def folder(self) -> Path:
        return folder_of(self.id)

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


def folder_of(id: str) -> Path:
    """Return the folder of a job. ByoaiError for what cannot be an id."""
    return paths.home() / "jobs" / paths.safe_name(id)


def mark_of(id: str, attempt: int) -> str:
    """Return what tells the processes of an attempt from all others, also from those of another
    data folder's job of this id.
    """
    folder = hashlib.sha256(os.fsencode(paths.real(paths.home()))).hexdigest()[:12]
    return f"{id}:{attempt}:{folder}"


def new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


# Read


def get(id: str) -> Job:
    """Return a job. JobNotFound if there is none of this id."""
    with state.connect() as connection:
        return _get(connection, id)


def find(
    states: Collection[State] | None = None,
    kinds: Collection[str] | None = None,
    limit: int = 100,
    before: float | None = None,
) -> list[Job]:
    """Return jobs in these states and of these kinds (None: all), newest first; those made `before`
    a time, to go through them by pages.
    """
    wanted: list[tuple[str, Collection[object]]] = []
    if states is not None:
        wanted.append((f"state IN ({_marks(states)})", states))
    if kinds is not None:
        wanted.append((f"kind IN ({_marks(kinds)})", kinds))
    if before is not None:
        wanted.append(("created < ?", (before,)))
    where = " AND ".join(condition for condition, _ in wanted) or "1"
    values = [value for _, given in wanted for value in given]
    with state.connect() as connection:
        rows = connection.execute(
            f"SELECT * FROM jobs WHERE {where} ORDER BY created DESC, rowid DESC LIMIT ?", [*values, limit]
        )
        return [_job(row) for row in rows]


def sharing(job: Job) -> bool:
    """Return whether another job has the same run: it goes on with it, or did a part of it."""
    query = "SELECT 1 FROM jobs WHERE run = ? AND id != ? LIMIT 1"
    with state.connect() as connection:
        return connection.execute(query, (job.run, job.id)).fetchone() is not None


# Write


def add(
    kind: str,
    request: dict[str, object],
    *,
    id: str | None = None,
    priority: int = 0,
    heavy: bool = True,
    detached: bool = False,
    origin: str = "",
    retry_of: str = "",
    here: Process | None = None,
) -> Job:
    """Enter a job as queued, or as running in the process `here`. Where `id` is there already with
    the same request, return that one: who lost the reply may ask again. ConfigError if it is
    another request's.
    """
    id = paths.safe_name(id) if id else new_id()
    told = json.dumps(request, ensure_ascii=False, sort_keys=True)
    now = time.time()
    values = {
        "id": id,
        "kind": kind,
        "request": told,
        "state": State.RUNNING if here else State.QUEUED,
        "priority": priority,
        "heavy": heavy,
        "detached": detached,
        "here": here is not None,
        "origin": origin,
        "retry_of": retry_of,
        "created": now,
        **({"pid": here.pid, "started": here.started, "begun": now, "heartbeat": now} if here else {}),
    }
    with state.connect() as connection, state.transaction(connection):
        found = connection.execute("SELECT kind, request FROM jobs WHERE id = ?", (id,)).fetchone()
        if found is not None and (found["kind"], found["request"]) != (kind, told):
            raise ConfigError(f"the job {id} was asked for already, with another request: take a new id")
        if found is None:
            connection.execute(
                f"INSERT INTO jobs ({', '.join(values)}) VALUES ({_marks(values)})", list(values.values())
            )
        return _get(connection, id)


def claim(owner: Process, heavy: int, light: int, *, detached_only: bool = False) -> Job | None:
    """Take the next queued job for `owner` to begin, if fewer than `heavy` heavy ones (`light`
    others) run; None if none may begin.
    """
    with state.connect() as connection, state.transaction(connection):
        running = f"SELECT count(*) FROM jobs WHERE state IN ({_marks(ACTIVE)}) AND heavy = ?"
        room = [
            weight
            for weight, most in ((1, heavy), (0, light))
            if connection.execute(running, [*ACTIVE, weight]).fetchone()[0] < most
        ]
        row = connection.execute(
            f"SELECT id FROM jobs WHERE state = ? AND heavy IN ({_marks(room)}) AND detached >= ? "
            "ORDER BY priority DESC, created, rowid LIMIT 1",
            [State.QUEUED, *room, detached_only],
        ).fetchone()
        if row is None:
            return None
        now = time.time()
        connection.execute(
            "UPDATE jobs SET state = ?, owner_pid = ?, owner_started = ?, begun = ?, heartbeat = ? WHERE id = ?",
            (State.RUNNING, owner.pid, owner.started, now, now, row["id"]),
        )
        return _get(connection, row["id"])


def enter(job: Job, process: Process) -> bool:
    """Note which process does a job that was claimed. False if it is no longer this attempt's to do."""
    return _change(
        "UPDATE jobs SET pid = ?, started = ? WHERE id = ? AND attempt = ? AND state IN (?, ?) AND (pid IS NULL OR "
        "pid = ?)",
        (process.pid, process.started, job.id, job.attempt, *ACTIVE, process.pid),
    )


def give_back(job: Job) -> bool:
    """Queue a job again that was claimed and never begun."""
    return _change(
        "UPDATE jobs SET state = ?, attempt = attempt + 1, owner_pid = NULL, owner_started = NULL, begun = NULL "
        "WHERE id = ? AND attempt = ? AND state = ? AND pid IS NULL",
        (State.QUEUED, job.id, job.attempt, State.RUNNING),
    )


def beat(job: Job) -> Job:
    """Note that a job is being done; return it as it stands now."""
    with state.connect() as connection:
        connection.execute(
            "UPDATE jobs SET heartbeat = ? WHERE id = ? AND attempt = ?", (time.time(), job.id, job.attempt)
        )
        return _get(connection, job.id)


def set_run(job: Job, run: str) -> None:
    _change("UPDATE jobs SET run = ? WHERE id = ? AND attempt = ?", (run, job.id, job.attempt))


def ask_to_stop(id: str, kill_after: float, *, discard: bool = False) -> Job:
    """Ask a job to stop: one that is queued is cancelled at once, one that runs is cancelling. One
    that is over stays as it is.

    `kill_after`: seconds. Asked again, it is killed at the earlier time.
    """
    with state.connect() as connection, state.transaction(connection):
        job = _get(connection, id)
        now = time.time()
        if job.state == State.QUEUED:
            told = "cancelled before it began"
            connection.execute(
                "UPDATE jobs SET state = ?, ended = ?, reason = ? WHERE id = ?", (State.CANCELLED, now, told, id)
            )
        elif job.active:
            kill_at = min(now + kill_after, job.kill_at or now + kill_after)
            connection.execute(
                "UPDATE jobs SET state = ?, kill_at = ?, discard = max(discard, ?) WHERE id = ?",
                (State.CANCELLING, kill_at, discard, id),
            )
        return _get(connection, id)


def finish(job: Job, ended: State, reason: str, exit_code: int | None = None) -> bool:
    """Note how this attempt of a job ended. False if that was noted before."""
    return _change(
        "UPDATE jobs SET state = ?, reason = ?, exit_code = ?, ended = ?, kill_at = NULL WHERE id = ? AND attempt = "
        "? AND state IN (?, ?)",
        (ended, reason, exit_code, time.time(), job.id, job.attempt, *ACTIVE),
    )


def requeue(id: str, *, detached: bool) -> Job:
    """Queue a job again that ended without being completed: its next attempt. WrongState for one
    that is not over, or is completed.
    """
    with state.connect() as connection, state.transaction(connection):
        job = _get(connection, id)
        if job.state not in (State.CANCELLED, State.FAILED, State.INTERRUPTED):
            raise WrongState(
                f"the job {id} is {job.state}: only one that was cancelled, failed or interrupted can be resumed"
            )
        connection.execute(
            "UPDATE jobs SET state = ?, attempt = attempt + 1, detached = ?, here = 0, owner_pid = NULL, "
            "owner_started = NULL, pid = NULL, "
            "started = NULL, heartbeat = NULL, begun = NULL, ended = NULL, kill_at = NULL, discard = 0, exit_code = "
            "NULL, reason = '' "
            "WHERE id = ?",
            (State.QUEUED, detached, id),
        )
        return _get(connection, id)


def remove(id: str) -> None:
    """Remove the row of a job that is over. JobNotFound if there is none, Busy if it is not over."""
    with state.connect() as connection, state.transaction(connection):
        job = _get(connection, id)
        if not job.over:
            raise Busy(f"the job {id} is {job.state}: cancel it, or wait until it is over")
        connection.execute("DELETE FROM jobs WHERE id = ?", (id,))


def remove_old(kept: int = KEPT) -> list[str]:
    """Remove the rows of all jobs that are over but the newest `kept`; return their ids."""
    with state.connect() as connection, state.transaction(connection):
        rows = connection.execute(
            f"DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state IN ({_marks(OVER)}) ORDER BY created "
            "DESC LIMIT -1 OFFSET ?) "
            "RETURNING id",
            [*OVER, kept],
        ).fetchall()
        return [row["id"] for row in rows]


def _change(statement: str, values: Collection[object]) -> bool:
    with (
        state.connect() as connection,
        state.transaction(connection),
        closing(connection.execute(statement, list(values))) as done,
    ):
        return done.rowcount > 0


def _get(connection: sqlite3.Connection, id: str) -> Job:
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise JobNotFound(f"there is no job {id[:100]!r}: `byoai jobs list` names them")
    return _job(row)


def _job(row: sqlite3.Row) -> Job:
    # (a Row iterates over its values)
    plain = {key: row[key] for key in row.keys() if key not in _OTHERWISE}  # noqa: SIM118
    try:
        request = json.loads(row["request"])
    except ValueError as error:
        raise ByoaiError(f"the request of the job {row['id']} is damaged in {paths.state_db()}: {error}") from error
    flags = {key: bool(row[key]) for key in ("heavy", "detached", "here", "discard")}
    owner, process = _process(row["owner_pid"], row["owner_started"]), _process(row["pid"], row["started"])
    return Job(
        **{**plain, **flags, "state": State(row["state"]), "request": request, "owner": owner, "process": process}
    )


_OTHERWISE = ("owner_pid", "owner_started", "pid", "started")


def _process(pid: int | None, started: float | None) -> Process | None:
    return None if pid is None or started is None else Process(pid, started)


def _marks(values: Collection[object]) -> str:
    """Return as many question marks as there are values."""
    return ", ".join("?" * len(values))
