"""The database file: migrations, transactions, many processes, and what is said when it cannot be used."""

import fcntl
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from multiprocessing.pool import Pool
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from fine_tuning import paths, state
from fine_tuning.errors import ByoaiError

COUNTER = ("CREATE TABLE counter (value INTEGER NOT NULL)", "INSERT INTO counter VALUES (0)")
FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")  # as another program: it inherits no open file


def _schema(file: Path) -> int:
    with state.connect(file) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_the_file_lies_in_the_data_folder_and_is_made_with_all_migrations(home: Path) -> None:
    with state.connect() as connection:
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"versions", "version_turns", "version_numbers"} <= tables
    assert paths.state_db() == home / "state.db" and paths.state_db().exists()
    assert _schema(paths.state_db()) == len(state.MIGRATIONS)


def test_it_is_opened_for_many_readers_and_with_foreign_keys(home: Path) -> None:
    with state.connect() as connection:
        settings = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": state.BUSY_TIMEOUT * 1000}


def test_a_later_migration_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.db"
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER,))
    with state.connect(file) as connection:
        connection.execute("UPDATE counter SET value = 7")
    monkeypatch.setattr(
        state, "MIGRATIONS", (COUNTER, ("ALTER TABLE counter ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",))
    )
    with state.connect(file) as connection:
        assert tuple(connection.execute("SELECT value, note FROM counter").fetchone()) == (7, "none")
    assert _schema(file) == 2


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.db"
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER,))
    assert _schema(file) == 1
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER, ("CREATE TABLE half (value)", "CREATE TABLE counter (value)")))
    with pytest.raises(ByoaiError, match="already exists"), state.connect(file):
        pass
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER,))
    with state.connect(file) as connection:
        assert not connection.execute("SELECT * FROM sqlite_master WHERE name = 'half'").fetchall()
    assert _schema(file) == 1


def test_a_transaction_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER,))
    with state.connect(tmp_path / "state.db") as connection:
        with pytest.raises(KeyboardInterrupt), state.transaction(connection):
            connection.execute("UPDATE counter SET value = 1")
            raise KeyboardInterrupt
        assert connection.execute("SELECT value FROM counter").fetchone()[0] == 0
        with state.transaction(connection):
            connection.execute("UPDATE counter SET value = 2")
    with state.connect(tmp_path / "state.db") as connection:
        assert connection.execute("SELECT value FROM counter").fetchone()[0] == 2


def _count_up(file: Path, times: int) -> None:
    for _ in range(times):
        with state.connect(file) as connection, state.transaction(connection):
            value = connection.execute("SELECT value FROM counter").fetchone()[0]
            connection.execute("UPDATE counter SET value = ?", (value + 1,))


def test_processes_that_start_at_once_make_it_once_and_lose_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER,))
    file = tmp_path / "state.db"
    processes = [FORK.Process(target=_count_up, args=(file, 10)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    with state.connect(file) as connection:
        assert connection.execute("SELECT value FROM counter").fetchone()[0] == 60


def test_threads_that_open_a_new_file_at_once_all_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MIGRATIONS", (COUNTER,))
    for each in range(20):  # SQLite refuses about one in eight if nothing is done about it
        file, together = tmp_path / f"{each}.db", Barrier(3)

        def count(file: Path = file, together: Barrier = together) -> None:
            together.wait()
            _count_up(file, 2)

        with ThreadPoolExecutor(3) as threads:
            for counted in [threads.submit(count) for _ in range(3)]:
                counted.result()
        with state.connect(file) as connection:
            assert connection.execute("SELECT value FROM counter").fetchone()[0] == 6


def test_a_newer_file_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(ByoaiError, match=r"newer byoai \(schema 999.*update byoai"), state.connect(file):
        pass


def test_a_file_that_is_no_database_is_named_with_its_cure(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_text("these are not the bytes of a database" * 100)
    with (
        pytest.raises(ByoaiError, match=r"state\.db: file is not a database\. It is damaged: move it aside"),
        state.connect(file),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ByoaiError, match="cannot make the folder of"), state.connect(tmp_path / "file" / "state.db"):
        pass


def test_a_text_that_is_rewritten_leaves_no_trace_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT, size REAL)"
    monkeypatch.setattr(state, "MIGRATIONS", ((table,),))
    file = tmp_path / "state.db"
    with state.connect(file) as connection:
        for number in range(500):
            connection.execute(
                "INSERT INTO notes (text, size) VALUES (?, 1.5)", (f"the secret word {number} " + "x" * 500,)
            )
        connection.execute("DELETE FROM notes WHERE id % 2")
        # while another connection is open
        state.rewrite_texts(lambda text: text.replace("secret", "******"), {"notes": ["text"]}, file)
        rows = connection.execute("SELECT text, size FROM notes").fetchall()
    assert len(rows) == 250 and all(row["text"].startswith("the ****** word") and row["size"] == 1.5 for row in rows)
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_the_file_is_its_owners_alone_since_it_holds_what_was_said(home):
    paths.state_db().touch(0o644)  # as an older version left it
    with state.connect() as connection:
        connection.execute("CREATE TABLE said (text)")
        files = list(paths.home().glob("state.db*"))
        assert len(files) > 1 and all(file.stat().st_mode & 0o077 == 0 for file in files)


@pytest.fixture(scope="module")
def another() -> Iterator[Pool]:
    """Another process, which does what it is asked to."""
    with SPAWN.Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("held", [state.connect, lambda: closing(state.Changes())], ids=["connection", "changes"])
@pytest.mark.parametrize("between", range(3))
def test_a_connection_sees_what_others_write_whoever_opens_the_file_meanwhile(
    home: Path, another: Pool, held: Callable[[], AbstractContextManager[Any]], between: int
) -> None:
    """Where an opening took the locks of the connection before it, the other process removed the WAL under it."""
    with held() as first:
        look = first.version if isinstance(first, state.Changes) else lambda: _titles(first)
        seen = look()
        for _ in range(between):
            with state.connect() as second:
                _titles(second)
        for number in range(3):
            another.apply(_label, (home, f"chat {number}"))
            assert look() != seen
            seen = look()
            assert look() == seen


def test_changes_are_seen_in_a_file_that_is_put_in_place_of_another(home: Path) -> None:
    with closing(state.Changes()) as changes:
        before = changes.version()
        assert changes.is_new() and not changes.is_new()
        paths.state_db().rename(home / "aside.db")
        after = changes.version()
        assert after != before and paths.state_db().exists()
        assert changes.is_new() and not changes.is_new()


def _titles(connection: sqlite3.Connection) -> list[str]:
    return [row["title"] for row in connection.execute("SELECT title FROM chat_labels ORDER BY title")]


def _label(home: Path, title: str) -> None:
    with state.connect(home / "state.db") as connection:
        connection.execute(
            "INSERT INTO chat_labels (session, title, pinned, folder) VALUES (?, ?, 0, '')", (title, title)
        )


def test_what_was_deleted_is_gone_though_another_process_empties_the_wal_just_then(home: Path, another: Pool) -> None:
    with state.connect() as connection:
        connection.execute("INSERT INTO log_texts (rowid, text) VALUES (1, 'the secret word')")
        connection.execute("DELETE FROM log_texts")
        other = another.apply_async(_as_if_emptying_the_wal, (home,))
        while not (home / "emptying").exists() and not other.ready():
            time.sleep(0.01)
        state.leave_no_trace(connection)
        files = b"".join(file.read_bytes() for file in home.glob("state.db*"))
        assert b"secret word" not in files
    other.get()


def _as_if_emptying_the_wal(home: Path) -> None:
    """Hold the lock of a checkpoint for a moment: the second of eight bytes (https://sqlite.org/walformat.html)."""
    with (home / "state.db-shm").open("r+b") as shared:
        fcntl.lockf(shared, fcntl.LOCK_EX, 1, 121)
        (home / "emptying").touch()
        time.sleep(0.3)
