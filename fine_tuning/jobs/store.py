"""Store jobs in a table of data/state.db: their requests, states and processes.

Every function opens its own connection and makes its change in one transaction, so that any number
of processes can use the table. The conditions of a change (state and attempt) are part of the
update itself, so that of two competing processes only one succeeds.
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
from fine_tuning.json_values import parse_json


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"  # asked to stop, but still running
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"  # killed, or its machine or server went down; can be resumed


ACTIVE = (State.RUNNING, State.CANCELLING)
OVER = (State.CANCELLED, State.FAILED, State.COMPLETED, State.INTERRUPTED)
KEPT = 500  # number of finished jobs to keep


@dataclass(frozen=True)
class Process:
    """A process, identified by its id and its start time (seconds since boot), since ids are reused."""

    pid: int
    started: float


@dataclass(frozen=True)
class Job:
    id: str
    kind: str  # one of kinds.KINDS
    request: dict[str, Any]  # the fields of the kind's request
    state: State
    priority: int  # jobs with higher priority start first
    heavy: bool  # needs most of the processor or memory
    detached: bool  # continues after its owner ends
    here: bool  # runs in its caller's process instead of a worker, and is therefore never killed
    origin: str  # what submitted it: a command, a page, "api" or "schedule"
    retry_of: str  # id of the job that it retries; "" for none
    attempt: int  # starts at 1; resuming increases it
    owner: Process | None  # the process that started it
    process: Process | None  # the process that runs it
    heartbeat: float | None  # the last sign of life; seconds since 1970, like all times below
    created: float
    begun: float | None
    ended: float | None
    kill_at: float | None  # when it is killed if it has not stopped, by the monotonic clock; None if it may go on
    discard: bool  # remove its output when it is cancelled
    exit_code: int | None
    reason: str  # why it ended, as text
    run: str  # folder of its output

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def mark(self) -> str:
        """The text in the environment of all processes of this attempt, by which they are found."""
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
    """Return the folder of a job. Raises ByoaiError for an invalid id."""
    return paths.home() / "jobs" / paths.safe_name(id)


def mark_of(id: str, attempt: int) -> str:
    """Return the mark of the processes of a job's attempt (see `Job.mark`); it is unique to this data folder."""
    folder = hashlib.sha256(os.fsencode(paths.real(paths.home()))).hexdigest()[:12]
    return f"{id}:{attempt}:{folder}"


def new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


# Read


def get(id: str) -> Job:
    """Return a job. Raises JobNotFound if no job has this id."""
    with state.connect() as connection:
        return _get(connection, id)


def find(
    states: Collection[State] | None = None,
    kinds: Collection[str] | None = None,
    limit: int = 100,
    before: float | None = None,
) -> list[Job]:
    """Return at most `limit` jobs, newest first.

    Args:
        states: The states of the jobs; None for all.
        kinds: The kinds of the jobs; None for all.
        limit: The maximum number of jobs.
        before: Only jobs created before this time (seconds since 1970), for the next page of a list.
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
    """Return whether another job has the same output folder."""
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
    """Add a job as queued, or as running in the process `here`; return it. For the other arguments see Job.

    If a job with this `id` and request exists, it is returned instead, so that a client may repeat a
    request. Raises ConfigError if the id belongs to another request.
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
            raise ConfigError(f"the job {id} exists already, with another request: use a new id")
        if found is None:
            connection.execute(
                f"INSERT INTO jobs ({', '.join(values)}) VALUES ({_marks(values)})", list(values.values())
            )
        return _get(connection, id)


def claim(owner: Process, heavy: int, light: int, *, detached_only: bool = False) -> Job | None:
    """Mark the next queued job as running, with the owner `owner`, and return it.

    Jobs with a higher priority come first, then older ones. Return None if no job is queued, or too
    many are running.

    Args:
        owner: The process that is going to start the job.
        heavy: The maximum number of heavy jobs that run at the same time.
        light: The maximum number of other jobs that run at the same time.
        detached_only: Leave out jobs that are not detached.
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
            "ORDER BY priority DESC, rowid LIMIT 1",
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
    """Record `process` as the one that runs a claimed job; return whether `process` may run the job.

    Return False if another process runs the job, or the attempt is over.
    """
    return _change(
        "UPDATE jobs SET pid = ?, started = ? WHERE id = ? AND attempt = ? AND state IN (?, ?) AND (pid IS NULL OR "
        "pid = ?)",
        (process.pid, process.started, job.id, job.attempt, *ACTIVE, process.pid),
    )


def give_back(job: Job) -> bool:
    """Put a job that was claimed but never started back into the queue; return False if it has started or ended."""
    return _change(
        "UPDATE jobs SET state = ?, attempt = attempt + 1, owner_pid = NULL, owner_started = NULL, begun = NULL "
        "WHERE id = ? AND attempt = ? AND state = ? AND pid IS NULL",
        (State.QUEUED, job.id, job.attempt, State.RUNNING),
    )


def beat(job: Job) -> Job:
    """Record a heartbeat; return the job in its current state."""
    with state.connect() as connection:
        connection.execute(
            "UPDATE jobs SET heartbeat = ? WHERE id = ? AND attempt = ?", (time.time(), job.id, job.attempt)
        )
        return _get(connection, job.id)


def set_run(job: Job, run: str) -> None:
    _change("UPDATE jobs SET run = ? WHERE id = ? AND attempt = ?", (run, job.id, job.attempt))


def ask_to_stop(id: str, kill_after: float, *, discard: bool = False) -> Job:
    """Cancel a queued job, or record that a running job should stop; return the job.

    A finished job stays unchanged. `kill_after`: seconds after which a running job is killed; of
    several requests the earliest time applies. `discard`: remove the job's output when it has
    stopped. Raises JobNotFound if there is no such job.
    """
    with state.connect() as connection, state.transaction(connection):
        job = _get(connection, id)
        if job.state == State.QUEUED:
            ended = State.CANCELLED, time.time(), "cancelled before it began"
            connection.execute("UPDATE jobs SET state = ?, ended = ?, reason = ? WHERE id = ?", (*ended, id))
        elif job.active:
            kill_at = time.monotonic() + kill_after  # all processes of a machine share this clock, and nobody sets it
            kill_at = min(kill_at, job.kill_at or kill_at)
            connection.execute(
                "UPDATE jobs SET state = ?, kill_at = ?, discard = max(discard, ?) WHERE id = ?",
                (State.CANCELLING, kill_at, discard, id),
            )
        return _get(connection, id)


def finish(job: Job, ended: State, reason: str, exit_code: int | None = None) -> bool:
    """Record how this attempt of a job ended; return False, and change nothing, if that was recorded before."""
    return _change(
        "UPDATE jobs SET state = ?, reason = ?, exit_code = ?, ended = ?, kill_at = NULL WHERE id = ? AND attempt = "
        "? AND state IN (?, ?)",
        (ended, reason, exit_code, time.time(), job.id, job.attempt, *ACTIVE),
    )


def requeue(id: str, *, detached: bool) -> Job:
    """Queue the next attempt of a job that was cancelled, failed or interrupted; return the job.

    Raises WrongState for a job in any other state, and JobNotFound if no job has this id.
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
    """Remove the row of a finished job. Raises JobNotFound if no job has this id, and Busy if the job is not over."""
    with state.connect() as connection, state.transaction(connection):
        job = _get(connection, id)
        if not job.over:
            raise Busy(f"the job {id} is {job.state}: cancel it, or wait until it is over")
        connection.execute("DELETE FROM jobs WHERE id = ?", (id,))


def remove_old(kept: int = KEPT) -> list[str]:
    """Remove the rows of finished jobs except the newest `kept`; return the removed ids."""
    with state.connect() as connection, state.transaction(connection):
        rows = connection.execute(
            f"DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state IN ({_marks(OVER)}) ORDER BY rowid "
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
        raise JobNotFound(f"there is no job {id[:100]!r}: `byoai jobs list` lists them")
    return _job(row)


def _job(row: sqlite3.Row) -> Job:
    # keys() is needed, since a Row iterates over its values
    plain = {key: row[key] for key in row.keys() if key not in _OTHERWISE}  # noqa: SIM118
    try:
        request = parse_json(row["request"])
    except ValueError as error:
        raise ByoaiError(
            f"the request of the job {row['id']} is damaged in {paths.state_db()} ({error}): start a new job"
        ) from error
    flags = {key: bool(row[key]) for key in ("heavy", "detached", "here", "discard")}
    owner, process = _process(row["owner_pid"], row["owner_started"]), _process(row["pid"], row["started"])
    return Job(
        **{**plain, **flags, "state": State(row["state"]), "request": request, "owner": owner, "process": process}
    )


_OTHERWISE = ("owner_pid", "owner_started", "pid", "started")


def _process(pid: int | None, started: float | None) -> Process | None:
    return None if pid is None or started is None else Process(pid, started)


def _marks(values: Collection[object]) -> str:
    """Return as many SQL placeholders as there are values: "?, ?, ?"."""
    return ", ".join("?" * len(values))
