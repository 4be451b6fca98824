"""Open data/state.db, the SQLite file with the tables of the model registry, the jobs and the log's index.

The schema is defined by the list of migrations below: a module that needs a table appends a
migration, and a released migration is never changed. WAL mode lets any number of processes read
while one writes (https://sqlite.org/wal.html).
"""

import errno
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from fine_tuning import paths
from fine_tuning.errors import Busy, ByoaiError, NoRoom

BUSY_TIMEOUT = 30.0  # seconds that a writer waits for another writer; a write takes milliseconds
_LITTLE = 1 << 20  # a disk with fewer free bytes counts as full
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_creating = threading.Lock()

# The full-text table of the log. The row id is the key of a turn, or the negative key of an event.
# Trigrams find parts of words in any script. Without positions (detail=none) they take half the
# space, but a row that has all trigrams of a text need not contain the text, so its text is read to
# confirm the match.
LOG_TEXTS = "CREATE VIRTUAL TABLE log_texts USING fts5 (text, tokenize = 'trigram', detail = none)"

# Append-only. Each migration is a tuple of statements, applied in one transaction; `user_version` is
# the number of migrations applied.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    # 1: model_management/model_registry.py
    (
        """CREATE TABLE version_numbers (
            name TEXT PRIMARY KEY,
            last INTEGER NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE versions (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            number INTEGER NOT NULL CHECK (number > 0),
            base_tag TEXT NOT NULL,
            base_digest TEXT NOT NULL,
            run TEXT NOT NULL,
            dataset TEXT NOT NULL,
            method TEXT NOT NULL,
            mode TEXT NOT NULL,
            metrics TEXT NOT NULL DEFAULT '{}',
            verdict TEXT NOT NULL DEFAULT '',
            state TEXT NOT NULL DEFAULT 'candidate' CHECK (state IN ('candidate', 'live', 'previous', 'retired')),
            pinned INTEGER NOT NULL DEFAULT 0,
            notes TEXT NOT NULL DEFAULT '',
            created TEXT NOT NULL,
            UNIQUE (name, number)
        )""",
        "CREATE UNIQUE INDEX one_live ON versions (name) WHERE state = 'live'",
        "CREATE UNIQUE INDEX one_previous ON versions (name) WHERE state = 'previous'",
        """CREATE TABLE version_turns (
            version_id INTEGER NOT NULL REFERENCES versions (id) ON DELETE CASCADE,
            turn_id TEXT NOT NULL,
            PRIMARY KEY (version_id, turn_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX version_turns_by_turn ON version_turns (turn_id)",
    ),
    # 2: model_management/model_registry.py: labels; model_management/elo.py: votes in blind comparisons
    (
        "ALTER TABLE versions ADD COLUMN labels TEXT NOT NULL DEFAULT '[]'",
        """CREATE TABLE votes (
            id INTEGER PRIMARY KEY,
            one TEXT NOT NULL,
            other TEXT NOT NULL,
            score REAL NOT NULL CHECK (score IN (0, 0.5, 1)),
            created TEXT NOT NULL
        )""",
    ),
    # 3: data_collection/log/index.py: positions and states of the log's turns; can be rebuilt from the
    # log at any time
    (
        """CREATE TABLE logs (
            id INTEGER PRIMARY KEY,
            path TEXT NOT NULL UNIQUE,
            epoch TEXT NOT NULL,
            inode INTEGER NOT NULL DEFAULT 0,
            size INTEGER NOT NULL DEFAULT -1,
            modified INTEGER NOT NULL DEFAULT 0,
            end INTEGER NOT NULL DEFAULT 0,
            tail INTEGER NOT NULL DEFAULT 0,
            changes INTEGER NOT NULL DEFAULT 0,
            damaged INTEGER NOT NULL DEFAULT 0,
            torn INTEGER NOT NULL DEFAULT 0,
            turns INTEGER NOT NULL DEFAULT 0
        )""",
        """CREATE TABLE log_turns (
            key INTEGER PRIMARY KEY,
            log INTEGER NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            session TEXT NOT NULL,
            start INTEGER NOT NULL,
            length INTEGER NOT NULL,
            time TEXT NOT NULL,
            model TEXT,
            asked INTEGER NOT NULL,
            changed INTEGER NOT NULL,
            answered INTEGER NOT NULL,
            rating TEXT,
            excluded INTEGER NOT NULL,
            edited INTEGER NOT NULL,
            state_hash TEXT NOT NULL,
            UNIQUE (log, id)
        )""",
        "CREATE INDEX log_turns_by_session ON log_turns (log, session)",
        "CREATE INDEX log_turns_by_change ON log_turns (log, changed)",
        "CREATE INDEX log_turns_excluded ON log_turns (log) WHERE excluded",
        """CREATE TABLE log_events (
            key INTEGER PRIMARY KEY,
            log INTEGER NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
            turn TEXT NOT NULL,
            kind TEXT NOT NULL,
            start INTEGER NOT NULL,
            length INTEGER NOT NULL
        )""",
        "CREATE INDEX log_events_by_turn ON log_events (log, turn)",
        LOG_TEXTS,
    ),
    # 4: data_collection/cleaning/kept_decisions.py: decisions of the cleaning on turns of the log; can be
    # recomputed at any time
    (
        """CREATE TABLE decisions (
            key INTEGER PRIMARY KEY REFERENCES log_turns (key) ON DELETE CASCADE,
            made_from BLOB NOT NULL,
            decision TEXT NOT NULL
        )""",
    ),
    # 5: jobs/store.py: jobs. Times are seconds since 1970
    (
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            request TEXT NOT NULL,
            state TEXT NOT NULL CHECK (
                state IN ('queued', 'running', 'cancelling', 'cancelled', 'failed', 'completed', 'interrupted')
            ),
            priority INTEGER NOT NULL,
            heavy INTEGER NOT NULL,
            detached INTEGER NOT NULL,
            here INTEGER NOT NULL,
            origin TEXT NOT NULL,
            retry_of TEXT NOT NULL,
            attempt INTEGER NOT NULL DEFAULT 1,
            owner_pid INTEGER,
            owner_started REAL,
            pid INTEGER,
            started REAL,
            heartbeat REAL,
            created REAL NOT NULL,
            begun REAL,
            ended REAL,
            kill_at REAL,
            discard INTEGER NOT NULL DEFAULT 0,
            exit_code INTEGER,
            reason TEXT NOT NULL DEFAULT '',
            run TEXT NOT NULL DEFAULT ''
        )""",
        "CREATE INDEX jobs_by_state ON jobs (state)",
        "CREATE INDEX jobs_by_time ON jobs (created)",
    ),
    # 6: data_collection/log/index.py: the import that added a turn
    (
        "ALTER TABLE log_turns ADD COLUMN imported TEXT",
        "CREATE INDEX log_turns_by_import ON log_turns (log, imported, key) WHERE imported IS NOT NULL",
    ),
    # 7: data_collection/log/chat_labels.py: title, pin and folder of a chat
    (
        """CREATE TABLE chat_labels (
            session TEXT PRIMARY KEY,
            title TEXT NOT NULL,
            pinned INTEGER NOT NULL,
            folder TEXT NOT NULL
        )""",
    ),
    # 8: data_collection/log/chat_labels.py: the title that a model made, and the turn from which it was made
    (
        "ALTER TABLE chat_labels ADD COLUMN made TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE chat_labels ADD COLUMN made_of TEXT NOT NULL DEFAULT ''",
    ),
    # 9: data_collection/log/index.py: whether an answer was stopped or cut and not approved since, so that it is
    # not learned
    (
        "ALTER TABLE log_turns ADD COLUMN partial INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX log_turns_partial ON log_turns (log) WHERE partial",
    ),
    # 10: data_collection/log/follower.py: rows from before migration 9 have partial = 0 whatever the answer is, so
    # each log is read anew: no file has these values
    ("UPDATE logs SET size = -1, tail = -1",),
    # 11: model_management/model_registry.py: whether a version only read a turn as context when it was trained
    ("ALTER TABLE version_turns ADD COLUMN context INTEGER NOT NULL DEFAULT 0",),
)

JOB_TEXTS = {"jobs": ("request", "reason", "origin")}  # columns that may contain text of chats


@contextmanager
def connect(path: Path | None = None) -> Iterator[sqlite3.Connection]:
    """Yield an open connection to the database `path` (None: data/state.db), created and migrated if needed.

    Rows are sqlite3.Row. Statements outside of `transaction` are committed at once. Each thread
    must open a connection of its own, which takes a millisecond. Raises NoRoom if the disk is full;
    ByoaiError if the file cannot be read or written, is not a database, or was written by a newer
    byoai; sqlite3.IntegrityError if a statement in the `with` block violates the schema.
    """
    file = path or paths.state_db()
    _make_folder(file)
    try:
        _keep_private(file)
        with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            _use_wal(connection)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # overwrite deleted data
            _migrate(connection, file)
            yield connection
    except sqlite3.IntegrityError:
        raise  # a constraint of the schema: the caller explains it
    except sqlite3.Error as error:
        if _lacks_room(error, file):
            raise NoRoom(f"the disk with {file} is full: make room, and try again") from error
        raise ByoaiError(f"cannot use the database {file}: {error}. {_cure(error)}") from error


class Changes:
    """Detects changes of data/state.db by the `data_version` of a connection that stays open.

    A check takes microseconds. Source: https://sqlite.org/pragma.html#pragma_data_version
    """

    def __init__(self) -> None:
        self._file = paths.state_db()
        self._inode = 0
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None

    def is_new(self) -> bool:
        """Return whether the database has changed since the last call; True the first time.

        Raises ByoaiError as `connect` does.
        """
        seen, self._seen = self._seen, self.version()
        return self._seen != seen

    def version(self) -> tuple[int, int]:
        """Return a pair of numbers that changes with every committed change of the database.

        Raises ByoaiError as `connect` does.
        """
        inode = paths.stamp(self._file)[0]
        if self._connection is None or inode != self._inode:  # not open yet, or the file was replaced
            self.close()
            with connect(self._file):  # creates and migrates the file
                self._inode = paths.stamp(self._file)[0]
                self._connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        try:
            return self._inode, int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise ByoaiError(f"cannot use the database {self._file}: {error}. {_cure(error)}") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def is_full(error: BaseException | None) -> bool:
    """Return whether an error was caused by a full disk, a quota, or a limit for the size of files.

    The error and the errors that caused it are examined, and also the texts of their messages,
    since libraries in other languages set no error number.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, NoRoom):
            return True
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__
    return False


def _lacks_room(error: sqlite3.Error, file: Path) -> bool:
    """Return whether SQLite failed because the disk with `file` is full.

    If the WAL file cannot grow, SQLite reports an I/O error, so the free space is checked then.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code without its extension
    return code == sqlite3.SQLITE_FULL or (
        code == sqlite3.SQLITE_IOERR and shutil.disk_usage(file.parent).free < _LITTLE
    )


def _keep_private(file: Path) -> None:
    """Make the database readable by its owner only; SQLite gives its other files the same mode.

    An existing file is not opened, because closing it would cancel SQLite's locks in this process
    (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    """
    try:
        with _creating:  # another thread must not use the new file before it is closed here
            if not file.exists():
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            elif os.name != "nt" and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError:
        return  # SQLite's own error is clearer


def _use_wal(connection: sqlite3.Connection) -> None:
    """Put the database into WAL mode. Of two connections that do so to a new file at once, SQLite refuses one."""

    def is_done() -> bool:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    if not _in_time(is_done):
        raise Busy("the database cannot be opened, because other programs keep using it: close them, and try again")


def _in_time(is_done: Callable[[], bool]) -> bool:
    """Call `is_done` until it returns True, for at most BUSY_TIMEOUT; return its last result.

    Use it for statements that SQLite gives up at once if another connection is in the way.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while not (done := is_done()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return done


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Execute all statements of the `with` block or, after an exception or a crash, none of them.

    Other writers are locked out from the start of the block.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def rewrite_texts(
    change: Callable[[str], str], columns: Mapping[str, Collection[str]], path: Path | None = None
) -> None:
    """Replace every text in some columns by `change(text)`.

    `columns` maps tables to names of columns. `path`: as in `connect`. No trace of the old texts
    remains in the file, neither in free pages nor in the WAL.
    """
    with connect(path) as connection:
        connection.create_function("changed", 1, change, deterministic=True)
        with transaction(connection):
            for table, column in ((table, column) for table, names in columns.items() for column in names):
                old, new = f'"{column}"', f'changed("{column}")'
                connection.execute(
                    f"UPDATE \"{table}\" SET {old} = {new} WHERE typeof({old}) = 'text' AND {new} <> {old}"
                )
        connection.execute("VACUUM")
        _empty_wal(connection)


def leave_no_trace(connection: sqlite3.Connection) -> None:
    """Overwrite texts that were deleted from the full-text table, so that neither it nor the WAL contains them."""
    connection.execute("INSERT INTO log_texts (log_texts) VALUES ('optimize')")
    _empty_wal(connection)


def _empty_wal(connection: sqlite3.Connection) -> None:
    """Move the content of the WAL into the database, so that no deleted text is left in the WAL.

    If another connection does so at the same time, SQLite gives up without an error
    (https://sqlite.org/c3ref/wal_checkpoint_v2.html).
    """
    if not _in_time(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0):
        raise Busy(
            "deleted text may still be in the database's -wal file, because other programs keep using it: close "
            "them, and try again"
        )


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ByoaiError(
            f"cannot make the folder of {file}: {error.strerror}. Is the disk full, or the folder read-only?"
        ) from error


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    if _schema(connection) == len(MIGRATIONS):
        return
    with transaction(connection):
        done = _schema(connection)  # checked again, as another process may have migrated it
        if done > len(MIGRATIONS):
            raise ByoaiError(
                f"{file} was written by a newer byoai (schema {done}, this one knows {len(MIGRATIONS)}): update byoai"
            )
        for migration in MIGRATIONS[done:]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _cure(error: sqlite3.Error) -> str:
    said = str(error)
    if "locked" in said:
        return "Another byoai is writing to it: try again when it is done."
    if "not a database" in said or "malformed" in said:
        return "It is damaged: move it aside, and byoai starts a new one; the models in the engine are found again."
    return "Is the disk full, or the folder read-only?"
