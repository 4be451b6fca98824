"""The log: whatever was acknowledged is there, whatever is there is whole, and whatever was deleted is gone."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import growth

from fine_tuning import paths
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.file import LogFile
from fine_tuning.errors import Busy, DataError, LogDamaged

HEADER = (
    "import sys\nfrom fine_tuning.data_collection.conversation_logger import ConversationLogger\nlog = "
    "ConversationLogger(sys.argv[1])\n"
)
# Logs until it is killed; says so after each turn.
WRITER = (
    HEADER + "while True:\n    print(log.log_conversation('asked', sys.argv[2] * int(sys.argv[3])).id, flush=True)\n"
)


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A real process of its own, killed at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=paths.REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def read(stream: IO[str] | None) -> str:
    assert stream
    return stream.readline().strip()


def rest(stream: IO[str] | None) -> list[str]:
    """What was acknowledged: whole lines only."""
    assert stream
    return [line.strip() for line in stream.read().splitlines(keepends=True) if line.endswith("\n")]


def raw(log: ConversationLogger) -> list[bytes]:
    return log.path.read_bytes().split(b"\n")[:-1]


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def append(log: ConversationLogger, data: bytes) -> None:
    log.path.parent.mkdir(parents=True, exist_ok=True)
    with log.path.open("ab") as file:
        file.write(data)


# Turns


def test_a_turn_is_read_back_as_it_was_returned(log: ConversationLogger) -> None:
    turn = log.log_conversation(
        "When is payday?", "On the 23rd.", {"model": "smollm2:135m", "seconds": 1.5, "nested": {"a": [1, None]}}
    )
    assert log.turns() == [turn]
    assert (turn.user_message, turn.bot_response, turn.session_id) == (
        "When is payday?",
        "On the 23rd.",
        log.session_id,
    )
    assert turn.metadata == {"model": "smollm2:135m", "seconds": 1.5, "nested": {"a": [1, None]}}


def test_the_file_holds_one_object_a_line_with_the_agreed_keys(log: ConversationLogger) -> None:
    log.log_conversation("one\ntwo", "three\u2028four", {"model": "m"})
    log.log_conversation("five", "six")
    records = [json.loads(line) for line in raw(log)]
    keys = ["id", "session_id", "timestamp", "user_message", "bot_response", "metadata", "crc32"]
    assert [list(record) for record in records] == [keys] * 2


def test_timestamps_are_iso_8601_in_utc(log: ConversationLogger) -> None:
    moment = datetime.fromisoformat(log.log_conversation("a question", "an answer").timestamp)
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


def test_relative_paths_lie_in_the_conversations_folder(home: Path, tmp_path: Path) -> None:
    assert ConversationLogger("mine.jsonl").path == home / "conversations" / "mine.jsonl"
    assert ConversationLogger(tmp_path / "there.jsonl").path == tmp_path / "there.jsonl"


def test_reading_creates_nothing(home: Path) -> None:
    log = ConversationLogger()
    assert log.turns() == log.conversations() == []
    assert log.health().ok
    assert list(home.iterdir()) == []


def test_only_the_owner_may_read_what_was_said(log: ConversationLogger) -> None:
    turn = log.log_conversation("a secret", "kept")
    log.log_conversation("a secret", "kept")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    log.delete(turn.id)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_sessions_make_conversations_in_order_of_first_appearance(home: Path) -> None:
    one, two = ConversationLogger(session_id="one"), ConversationLogger(session_id="two")
    for log, text in ((one, "a"), (two, "b"), (one, "c")):
        log.log_conversation(text, text)
    assert [(c.id, [turn.user_message for turn in c.turns]) for c in one.conversations()] == [
        ("one", ["a", "c"]),
        ("two", ["b"]),
    ]


def test_a_new_session_begins_a_new_conversation(log: ConversationLogger) -> None:
    log.log_conversation("a", "b")
    before = log.session_id
    assert log.new_session() == log.session_id != before
    log.log_conversation("c", "d")
    assert len(log.conversations()) == 2


@pytest.mark.parametrize("metadata", [{"x": object()}, {"x": float("nan")}, {("a", 1): 1}, {"x": b"bytes"}])
def test_metadata_that_json_cannot_hold_is_refused_and_nothing_is_written(
    log: ConversationLogger, metadata: dict[str, object]
) -> None:
    with pytest.raises(DataError, match="JSON"):
        log.log_conversation("a", "b", metadata)
    assert not log.path.exists()


def test_what_is_no_text_is_refused_by_name(log: ConversationLogger) -> None:
    with pytest.raises(DataError, match="bot_response"):
        log.log_conversation("a", None)  # type: ignore[arg-type]
    assert not log.path.exists()


# What only the owner's own events may say is not taken from elsewhere.
names = st.text().filter(lambda name: name not in ("rating", "original_response"))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=3),
    st.dictionaries(names, st.text() | st.integers() | st.none()),
)
def test_any_text_is_read_back_as_it_was_said(pairs: list[tuple[str, str]], metadata: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = ConversationLogger(Path(folder) / "log.jsonl")
        turns = [log.log_conversation(*pair, metadata) for pair in pairs]
        assert [(turn.user_message, turn.bot_response, turn.metadata) for turn in turns] == [
            (*pair, metadata) for pair in pairs
        ]
        assert log.turns() == turns
        assert log.health().ok


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("half \ud83d", "half \ufffd"),
        ("\ud83d\ude00 joined", "😀 joined"),
        ("\x00 nul", "\x00 nul"),
        ("a\r\nb\x85c", "a\r\nb\x85c"),
    ],
)
def test_half_characters_and_controls_do_not_break_the_log(log: ConversationLogger, said: str, kept: str) -> None:
    log.log_conversation(said, "an answer", {"note": said})
    assert [(turn.user_message, turn.metadata["note"]) for turn in log.turns()] == [(kept, kept)]


def test_a_huge_message_is_one_line(log: ConversationLogger) -> None:
    huge = "ä" * 8_000_000
    log.log_conversation(huge, "short")
    log.log_conversation("next", "one")
    assert [len(turn.user_message) for turn in log.turns()] == [8_000_000, 4]


# Durability


def test_a_turn_is_on_the_disk_before_it_is_acknowledged(
    log: ConversationLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    real = os.fsync

    def spy(file: int) -> None:
        real(file)
        if stat.S_ISREG(os.fstat(file).st_mode):
            synced.append(os.pread(file, 10_000, 0))

    monkeypatch.setattr(os, "fsync", spy)
    turn = log.log_conversation("a question", "an answer")
    assert synced[-1].endswith(b"\n") and turn.id.encode() in synced[-1]
    log.rate(turn.id, "up")
    assert b'"rating"' in synced[-1]


def test_every_acknowledged_turn_survives_kill_9_of_its_writer(log: ConversationLogger) -> None:
    """Several writers at once, with lines long enough to be hit in the middle, killed one after the other."""
    acknowledged: list[str] = []
    chance = random.Random(0)
    for number in range(2):
        with process(WRITER, log.path, "ab"[number % 2], 300_000) as one, process(WRITER, log.path, "c", 3) as two:
            acknowledged += [read(one.stdout), read(two.stdout)]
            time.sleep(chance.uniform(0, 0.05))
            for child in (one, two):
                child.send_signal(signal.SIGKILL)
                acknowledged += rest(child.stdout)
    turns = log.turns()
    assert set(acknowledged) <= {turn.id for turn in turns}
    assert len(acknowledged) >= 4
    assert {turn.bot_response for turn in turns} <= {"a" * 300_000, "b" * 300_000, "c" * 3}
    health = log.health()
    assert len(raw(log)) == health.turns + health.damaged
    assert health.damaged <= 4  # at most what each killed writer was writing


def test_a_writer_killed_in_the_middle_of_a_line_takes_nothing_else_with_it(log: ConversationLogger) -> None:
    code = HEADER + (
        "import os, signal\n"
        "with log._file.locked():\n"
        "    with open(log.path, 'ab', 0) as file:\n"
        '        file.write(b\'{"id": "torn", "session_id": "s", "timest\')\n'
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = log.log_conversation("before", "the crash")
    with process(code, log.path) as child:
        assert child.wait() == -signal.SIGKILL
    assert log.turns() == [before]
    after = log.log_conversation("after", "the crash")
    assert log.turns() == [before, after]
    assert log.health().damaged == 1
    log.rate(after.id, "up")
    assert log.health().damaged == 1
    assert log.health().quarantine.read_bytes() == b'{"id": "torn", "session_id": "s", "timest\n'


def test_a_whole_last_line_that_lacks_only_its_end_is_kept(log: ConversationLogger) -> None:
    turns = [log.log_conversation(text, text) for text in ("one", "two")]
    log.path.write_bytes(log.path.read_bytes()[:-1])
    assert log.turns() == turns
    turns.append(log.log_conversation("three", "three"))
    assert log.turns() == turns
    assert log.health().ok


def test_a_line_that_is_being_written_is_not_taken_for_damage(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    with log._file.locked():  # settling would need the lock, and never return
        append(log, b'{"id": "half')
        assert log.turns() == [turn]


@pytest.mark.parametrize("limit", [1_000, 1_500])
def test_a_full_disk_is_an_error_and_leaves_the_log_as_it_was(log: ConversationLogger, limit: int) -> None:
    kept = log.log_conversation("kept", "x" * 500)
    code = HEADER + (
        "import resource\n"
        "from fine_tuning.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))\n"
        "try:\n    log.log_conversation('lost', 'y' * 5000)\n"
        "except DataError as error:\n    print(error)\n"
    )
    with process(code, log.path, limit) as child:
        assert "cannot write the log" in read(child.stdout)
    assert log.turns() == [kept]
    assert len(raw(log)) == 1 and log.health().ok


# Many at once


def test_many_processes_write_without_losing_or_mixing_lines(log: ConversationLogger) -> None:
    code = HEADER + "for number in range(25):\n    log.log_conversation(f'{sys.argv[2]}-{number}', 'x' * 9000)\n"
    with (
        process(code, log.path, "a") as one,
        process(code, log.path, "b") as two,
        process(code, log.path, "c") as three,
    ):
        assert [child.wait() for child in (one, two, three)] == [0, 0, 0]
    said = [turn.user_message for turn in log.turns()]
    assert sorted(said) == sorted(f"{name}-{number}" for name in "abc" for number in range(25))
    assert [text for text in said if text.startswith("a")] == [f"a-{number}" for number in range(25)]
    assert log.health().ok


def test_many_threads_share_one_logger(log: ConversationLogger) -> None:
    threads = [threading.Thread(target=lambda: [log.log_conversation("a", "b") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.turns()) == 80


def test_readers_see_whole_turns_in_order_while_others_write(log: ConversationLogger) -> None:
    with process(WRITER, log.path, "x", 200_000) as child:
        read(child.stdout)
        seen: list[Turn] = []
        readings, end = 0, time.monotonic() + 60
        # a quick reader may come 25 times between two turns
        while (readings < 25 or len(seen) < 5) and time.monotonic() < end:
            turns = log.turns()
            assert turns[: len(seen)] == seen
            seen, readings = turns, readings + 1
    assert len(seen) >= 5
    assert not log._file.quarantine.exists()


def test_who_waited_for_a_compaction_writes_to_the_new_file(log: ConversationLogger) -> None:
    kept, gone = (log.log_conversation(text, text) for text in ("kept", "gone"))
    code = (
        HEADER + "log.log_conversation('first', 'x')\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "log.log_conversation('waited', 'x')\n"
    )
    with process(code, log.path) as child:
        assert read(child.stdout) == "ready"
        with log._file.locked():
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
            time.sleep(0.5)  # it stands before the lock now
            assert child.poll() is None
            log._file.rewrite([line for line in raw(log) if gone.id.encode() not in line])
        assert child.wait() == 0
    assert [turn.user_message for turn in log.turns()] == [kept.user_message, "first", "waited"]


def test_deleting_while_others_write_loses_no_turn(log: ConversationLogger) -> None:
    victims = [log.log_conversation("victim", "victim") for _ in range(8)]
    with process(WRITER, log.path, "x", 1000) as child:
        acknowledged = [read(child.stdout)]
        for victim in victims:
            assert log.delete(victim.id) == 1
            acknowledged.append(read(child.stdout))
        child.kill()
        acknowledged += rest(child.stdout)
    assert set(acknowledged) <= {turn.id for turn in log.turns()}
    assert not {victim.id for victim in victims} & {turn.id for turn in log.turns()}


def test_a_lock_that_is_never_released_is_an_error_and_not_a_hang(
    log: ConversationLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fine_tuning.data_collection.log.file.LOCK_TIMEOUT", 0.1)
    with process(
        HEADER + "with log._file.locked():\n    print('held', flush=True)\n    sys.stdin.readline()\n", log.path
    ) as child:
        assert read(child.stdout) == "held"
        with pytest.raises(Busy, match=r"another program has locked .*conversations\.jsonl"):
            log.log_conversation("a", "b")
        child.kill()  # the lock dies with its process
        child.wait()
    log.log_conversation("a", "b")


# Later events


def test_a_rating_stands_in_the_metadata_until_it_is_taken_back(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b", {"model": "m"})
    log.rate(turn.id, "down")
    log.rate(turn.id, "up")
    assert log.turns()[0].metadata == {"model": "m", "rating": "up"}
    log.rate(turn.id, None)
    assert log.turns() == [turn]


def test_an_edited_answer_replaces_the_answer_and_the_original_stays_in_the_log(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "wrong")
    log.edit(turn.id, "better")
    log.edit(turn.id, "right")
    assert log.turns()[0].bot_response == "right"
    assert log.turns()[0].metadata == {"original_response": "wrong"}
    assert b'"bot_response": "wrong"' in log.path.read_bytes()


def test_an_edit_outdates_the_rating_and_the_incompleteness_of_what_it_replaces(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "half an ans", {"incomplete": "stopped"})
    log.rate(turn.id, "down")
    log.edit(turn.id, "a whole answer")
    assert log.turns()[0].metadata == {"original_response": "half an ans"}
    log.rate(turn.id, "up")
    assert log.turns()[0].metadata["rating"] == "up"


def test_a_rating_counts_only_if_it_is_the_owners(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    log.rate(turn.id, "up", by="guest")
    assert log.turns() == [turn]
    log.rate(turn.id, "down")
    log.rate(turn.id, "up", by="guest")
    assert log.turns()[0].metadata == {"rating": "down"}
    assert [json.loads(line)["by"] for line in raw(log)[1:]] == ["guest", "owner", "guest"]


def test_a_rating_or_an_edit_that_comes_with_a_turn_is_not_the_owners(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b", {"model": "m", "rating": "up", "original_response": "c"})
    assert turn.metadata == {"model": "m"}
    assert log.turns() == [turn]


def test_ratings_from_before_it_was_said_who_rated_are_the_owners(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    append(log, json.dumps({"event": "rating", "turn_id": turn.id, "timestamp": "", "rating": "up"}).encode() + b"\n")
    assert log.turns()[0].metadata == {"rating": "up"}


def test_excluded_turns_are_left_out_until_taken_in_again(log: ConversationLogger) -> None:
    turn, other = log.log_conversation("a", "b"), log.log_conversation("c", "d")
    log.exclude(turn.id)
    assert log.turns() == [other]
    assert [c.turns for c in log.conversations()] == [(other,)]
    assert [t.metadata.get("excluded") for t in log.turns(include_excluded=True)] == [True, None]
    log.exclude(turn.id, False)
    assert log.turns() == [turn, other]


@pytest.mark.parametrize(
    "act", [lambda log: log.rate("x", "up"), lambda log: log.edit("x", "text"), lambda log: log.exclude("x")]
)
def test_events_of_an_unknown_turn_are_refused(log: ConversationLogger, act: object) -> None:
    log.log_conversation("a", "b")
    with pytest.raises(DataError, match="no turn 'x'"):
        act(log)  # type: ignore[operator]
    assert len(raw(log)) == 1


@pytest.mark.parametrize(
    "act",
    [lambda log, id: log.rate(id, "great"), lambda log, id: log.edit(id, "  "), lambda log, id: log.edit(id, None)],
)
def test_events_that_say_nothing_are_refused(log: ConversationLogger, act: object) -> None:
    turn = log.log_conversation("a", "b")
    with pytest.raises(DataError):
        act(log, turn.id)  # type: ignore[operator]
    assert log.turns() == [turn]


def test_events_of_a_newer_version_are_kept_and_reported(log: ConversationLogger) -> None:
    turn, other = log.log_conversation("a", "b"), log.log_conversation("c", "d")
    line = json.dumps({"event": "praise", "turn_id": turn.id, "words": "well done"}).encode()
    append(log, line + b"\n")
    assert log.turns() == [turn, other]
    assert log.health().unknown == 1 and not log.health().ok
    log.delete(other.id)
    assert line in raw(log)
    log.delete(turn.id)
    assert b"well done" not in everything(log.path.parent)


def test_what_people_type_is_never_taken_for_an_event(log: ConversationLogger) -> None:
    text = '"event": "delete", {"event": "delete", "turn_id": "x"}'
    turn = log.log_conversation(text, text, {"event": "party", text: "event"})
    assert log.turns() == [turn]
    assert log.health().events == 0


# Deletion


def test_a_deleted_turn_is_gone_from_every_file_with_all_that_was_said_about_it(log: ConversationLogger) -> None:
    turn, other = log.log_conversation("my secret-a", "the secret-b"), log.log_conversation("other", "stays")
    log.edit(turn.id, "corrected secret-c")
    log.rate(other.id, "up")
    assert log.delete(turn.id) == 1
    assert b"secret-" not in everything(log.path.parent)
    assert [t.id for t in log.turns()] == [other.id]
    assert log.turns()[0].metadata == {"rating": "up"}
    assert log.deleted_ids() == {turn.id}
    assert log.health().ok
    assert log.delete(turn.id) == 0


def test_a_deleted_session_is_gone_as_a_whole_excluded_turns_included(home: Path) -> None:
    one, two = ConversationLogger(session_id="one"), ConversationLogger(session_id="two")
    first, second = one.log_conversation("secret-a", "x"), one.log_conversation("secret-b", "x")
    one.exclude(second.id)
    kept = two.log_conversation("other", "x")
    assert two.delete(session_id="one") == 2
    assert two.turns() == [kept]
    assert two.deleted_ids() == {first.id, second.id}
    assert b"secret-" not in everything(home)


def test_deletion_says_what_it_needs(log: ConversationLogger) -> None:
    for arguments in ({}, {"turn_id": "a", "session_id": "b"}):
        with pytest.raises(DataError, match="the turn to delete, or the session"):
            log.delete(**arguments)


def test_deleting_what_is_not_there_changes_nothing(log: ConversationLogger) -> None:
    log.log_conversation("a", "b")
    append(log, b"who knows whose\n")
    log.health()
    before = everything(log.path.parent)
    assert log.delete("x") == log.delete(session_id="y") == 0
    assert everything(log.path.parent) == before


def test_a_deleted_turn_does_not_come_back_from_an_old_copy(log: ConversationLogger) -> None:
    turn, other = log.log_conversation("secret", "x"), log.log_conversation("other", "x")
    copy = log.path.read_bytes()
    log.delete(turn.id)
    append(log, copy.splitlines(keepends=True)[0])
    assert log.turns() == [other]
    log.delete(other.id)
    assert b"secret" not in everything(log.path.parent)


def test_deletion_takes_the_turns_damaged_lines_and_those_of_unknown_owner(log: ConversationLogger) -> None:
    turn = log.log_conversation("mine", "secret")
    others = b'{"id": "other", "session_id": "s", "timestamp": "t", "user_message": "torn secr'
    mine = (
        b'{"id": "' + turn.id.encode() + b'", "session_id": "' + turn.session_id.encode() + b'", "user_message": "secr'
    )
    append(log, b"\n".join([others, mine, b'ponse": "secret"}', b""]))
    assert log.health().damaged == 3
    assert log.delete(turn.id) == 1
    assert log.health().quarantine.read_bytes() == others + b"\n"


def test_deleting_a_session_takes_its_damaged_lines_when_no_turn_is_left(log: ConversationLogger) -> None:
    log.log_conversation("a", "b")
    append(log, b'{"id": "t", "session_id": "gone", "timestamp": "t", "user_message": "secret\n')
    assert log.health().damaged == 1
    assert log.delete(session_id="gone") == 0
    assert not log.health().quarantine.exists()
    assert b"secret" not in everything(log.path.parent)


def test_deletion_sweeps_up_what_a_killed_compaction_left(log: ConversationLogger) -> None:
    turn = log.log_conversation("secret", "x")
    for name in (f".{log.path.name}.abcd1234", f".{log.path.name}.damaged.abcd1234"):
        log.path.with_name(name).write_bytes(log.path.read_bytes())
    append(log, b"damage\n")
    log.delete(turn.id)
    assert b"secret" not in everything(log.path.parent)
    assert sorted(path.name for path in log.path.parent.iterdir()) == [
        "conversations.jsonl",
        "conversations.jsonl.lock",
    ]


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00" * 512,
        b"not json",
        b"\xff\xfe{\x80}",
        b'{"id": "x"}',
        b"[1, 2]",
        b"7",
        b'"event"',
        b'["event"]',
        b'{"event": 1, "turn_id": "x"}',
        b'{"event": "edit", "turn_id": "x"}',
        b'{"event": "edit", "turn_id": "x", "bot_response": "\\ud800"}',
        b'{"event": "rating", "turn_id": ["x"], "rating": "up"}',
        b'{"event": "delete", "turn_id": ""}',
        b'{"id": "a", "session_id": "s", "timestamp": "t", "user_message": "\\ud800", "bot_response": "b"}',
        b'{"id": "a", "sess{"id": "b", "session_id": "s", "timestamp": "t", "user_message": "u", "bot_response": "b"}',
        b"[" * 100_000,
        b'{"event": ' + b"[" * 100_000,
    ],
    ids=lambda damage: damage[:24].decode("latin-1"),
)
def test_damage_in_the_middle_is_reported_and_set_aside_by_the_next_write(
    log: ConversationLogger, damage: bytes
) -> None:
    before = log.log_conversation("before", "x")
    append(log, damage + b"\n")
    other = ConversationLogger().log_conversation("other", "x")
    found = log.path.read_bytes()
    assert log.turns() == [before, other]
    health = log.health()
    assert (health.turns, health.damaged, health.set_aside, health.ok) == (2, 1, 0, False)
    assert str(health.quarantine) in str(health)
    assert log.path.read_bytes() == found
    after = log.log_conversation("after", "x")
    assert log.turns() == [before, other, after]
    health = log.health()
    assert (health.turns, health.damaged, health.set_aside, health.ok) == (3, 1, 1, False)
    assert health.quarantine.read_bytes() == damage + b"\n"
    assert str(health.quarantine) in str(health)
    assert damage not in raw(log)


@pytest.mark.parametrize(
    "act",
    [
        lambda log, turn: log.rate(turn.id, "up"),
        lambda log, turn: log.edit(turn.id, "text"),
        lambda log, turn: log.exclude(turn.id),
        lambda log, turn: log.delete(turn.id),
        lambda log, turn: log.forget([turn.id]),
    ],
)
def test_whatever_reads_the_log_to_write_sets_damage_aside(
    log: ConversationLogger, act: Callable[[ConversationLogger, Turn], None]
) -> None:
    kept, turn = (log.log_conversation(text, "x") for text in ("kept", "turn"))
    append(log, b'{"id": "whose?", "session_id": "s",\n')
    act(log, turn)
    assert kept in log.turns(include_excluded=True)
    assert (log.health().damaged, log.health().set_aside) == (1, 1)
    assert b"whose?" not in log.path.read_bytes()


def test_damage_and_setting_it_aside_are_said_once(log: ConversationLogger, caplog: pytest.LogCaptureFixture) -> None:
    log.log_conversation("a", "b")
    append(log, b"damage\n")
    log.turns()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    log.turns()
    assert len(caplog.records) == 1
    log.log_conversation("c", "d")
    log.log_conversation("e", "f")
    assert len(caplog.records) == 2
    assert log.health().damaged == 1


def test_a_mended_line_can_be_appended_again(log: ConversationLogger) -> None:
    turn, other = log.log_conversation("a", "b"), log.log_conversation("c", "d")
    log.edit(turn.id, "c")
    first, second, event = raw(log)
    log.path.write_bytes(first[:-1] + b"\n" + second + b"\n" + event + b"\n")
    assert log.turns() == [other]
    log.rate(other.id, "up")
    health = log.health()
    assert (health.damaged, health.orphans) == (1, 1)
    append(log, health.quarantine.read_bytes()[:-1] + b"}\n")
    health.quarantine.unlink()
    assert [t.bot_response for t in log.turns()] == ["d", "c"]
    assert log.health().ok


def test_the_first_of_two_turns_with_one_id_counts_and_the_second_is_damage(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    twin = json.dumps(turn.model_dump() | {"bot_response": "another"}).encode()
    append(log, twin + b"\n")
    assert log.turns() == [turn]
    log.rate(turn.id, "up")
    assert log.health().quarantine.read_bytes() == twin + b"\n"


def test_a_crash_while_setting_aside_doubles_nothing(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    append(log, b"damage\n")
    log._file.quarantine.write_bytes(b"damage\n")  # moved, but not yet removed from the log
    assert log.turns() == [turn]
    assert log.health().damaged == 1
    log.rate(turn.id, "up")
    assert log.health().damaged == 1
    assert log.health().quarantine.read_bytes() == b"damage\n"


def test_damage_that_cannot_be_set_aside_stops_a_deletion_and_nothing_else(log: ConversationLogger) -> None:
    turn = log.log_conversation("a", "b")
    append(log, b"damage\n")
    log._file.quarantine.mkdir()
    assert log.turns() == [turn]
    log.rate(turn.id, "up")
    assert [each.user_message for each in (log.log_conversation("c", "d"), *log.turns())] == ["c", "a", "c"]
    with pytest.raises(LogDamaged, match="could not be moved"):
        log.delete(turn.id)
    assert len(log.turns()) == 2


def test_empty_lines_a_byte_order_mark_and_windows_line_ends_are_no_damage(log: ConversationLogger) -> None:
    turns = [log.log_conversation("a", "b"), log.log_conversation("c", "d")]
    log.path.write_bytes(b"\xef\xbb\xbf" + log.path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert log.turns() == turns
    assert log.health().ok


def test_a_log_that_is_no_file_is_an_error(home: Path) -> None:
    with pytest.raises(DataError, match="cannot read the log"):
        ConversationLogger(home).turns()
    with pytest.raises(DataError, match="cannot write the log"):
        ConversationLogger(home).log_conversation("a", "b")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_bytes_change_untouched_turns_are_read_and_no_line_is_lost(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = ConversationLogger(Path(folder) / "log.jsonl")
        turns = [log.log_conversation(f"question {number}", "answer") for number in range(3)]
        lines = raw(log)
        hit = data.draw(st.integers(0, 2))
        start = data.draw(st.integers(0, len(lines[hit])))
        stop = data.draw(st.integers(start, len(lines[hit])))
        lines[hit] = lines[hit][:start] + data.draw(st.binary()) + lines[hit][stop:]
        spoiled = b"\n".join(lines) + data.draw(st.sampled_from([b"", b"\n"]))
        log.path.write_bytes(spoiled)
        read_back = log.turns()
        assert [turn for turn in turns if turn != turns[hit]] == [
            turn for turn in read_back if turn in turns and turn != turns[hit]
        ]
        log.health()
        saved = set(raw(log)) | set(log._file.quarantined()) | set(log.path.read_bytes().split(b"\n"))
        assert {line for line in spoiled.split(b"\n") if line.strip()} <= saved
        more = log.log_conversation("more", "answer")
        assert log.turns()[-1] == more


# Statistics, export, speed


def test_statistics_count_what_is_there(home: Path) -> None:
    one, two = ConversationLogger(session_id="one"), ConversationLogger(session_id="two")
    turns = [
        one.log_conversation("1234", "12", {"model": "m"}),
        one.log_conversation("12", "1234", {"model": "m"}),
        two.log_conversation("", ""),
    ]
    one.rate(turns[0].id, "up")
    one.rate(turns[1].id, "down")
    one.edit(turns[2].id, "123")
    one.exclude(turns[0].id)
    stats = one.get_conversation_stats()
    assert stats == {
        "total_turns": 3,
        "total_conversations": 2,
        "excluded": 1,
        "edited": 1,
        "rated_up": 1,
        "rated_down": 1,
        "models": {"m": 2},
        "average_user_length": 2.0,
        "average_bot_length": 3.0,
        "first": turns[0].timestamp,
        "last": turns[2].timestamp,
    }
    assert json.loads(json.dumps(stats)) == stats


def test_statistics_of_an_empty_log_are_zeros(log: ConversationLogger) -> None:
    assert log.get_conversation_stats()["total_turns"] == 0


def test_an_export_of_the_log_is_a_log_again(log: ConversationLogger, tmp_path: Path) -> None:
    turns = [log.log_conversation("a", "b"), log.log_conversation("c", "d")]
    log.edit(turns[0].id, "better")
    copy = log.export("jsonl", tmp_path / "copy.jsonl")
    assert ConversationLogger(copy).turns() == log.turns()


def test_an_unknown_export_format_is_refused(log: ConversationLogger, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose one of jsonl"):
        log.export("xml", tmp_path / "x")


def test_the_time_of_reading_grows_with_the_log(log: ConversationLogger) -> None:
    """2 s of processor time for 100,000 turns on a quiet machine; here a fifth of them, with room for a busy one."""
    log.log_conversation("seed", "seed")
    line = {
        "session_id": "s",
        "timestamp": "2026-03-02T09:06:25+00:00",
        "user_message": "q" * 60,
        "bot_response": "a" * 140,
        "metadata": {"model": "m"},
    }

    def read(count: int) -> None:
        log.path.write_bytes(
            b"".join(json.dumps({"id": f"t{number}", **line}).encode() + b"\n" for number in range(count))
        )
        assert len(log.turns()) == count

    assert growth(read, 2_000) <= 30


def test_appending_does_not_read_the_log(log: ConversationLogger) -> None:
    log.log_conversation("seed", "seed")
    append(log, b"x" * 50_000_000 + b"\n")
    before = psutil.Process().io_counters().read_chars
    log.log_conversation("a", "b")
    assert psutil.Process().io_counters().read_chars - before < 1_000_000
    assert LogFile(log.path).path.stat().st_size > 50_000_000


def test_why_something_was_rated_stands_beside_the_rating_and_goes_with_it(log: ConversationLogger) -> None:
    turn = log.log_conversation("Where is the key?", "In the sea.", {"rating_reason": "not the owner's"})
    assert "rating_reason" not in turn.metadata
    log.rate(turn.id, "down", reason="  It is under the Bramble mat. ")
    assert log.turns()[0].metadata["rating_reason"] == log.session_turns(log.session_id)[0].metadata["rating_reason"]
    assert log.turns()[0].metadata["rating_reason"] == "It is under the Bramble mat."
    assert log.find("bramble MAT") == {turn.id} and "It is under the Bramble mat." in log.said([turn.id])
    log.rate(turn.id, "up")
    assert "rating_reason" not in log.turns()[0].metadata
    log.rate(turn.id, None, reason="no rating, no reason")
    assert log.turns()[0].metadata == {}
    log.delete(turn_id=turn.id)
    assert b"Bramble" not in log.path.read_bytes()


@pytest.mark.parametrize("reason", ["x" * 2001, 7, None, b"x"])
def test_a_reason_that_is_no_short_text_is_refused(log: ConversationLogger, reason: object) -> None:
    turn = log.log_conversation("Where is the key?", "In the sea.")
    before = log.path.read_bytes()
    with pytest.raises(DataError, match="reason of a rating"):
        log.rate(turn.id, "down", reason=reason)  # type: ignore[arg-type]
    assert log.path.read_bytes() == before


def test_a_turn_counts_as_logged_whatever_is_wrong_with_the_export(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "exports" / "exported.json").mkdir(parents=True)
    log = ConversationLogger(export_every=1)
    turn = log.log_conversation("Is there tea?", "In the kitchen.")
    assert [each.id for each in log.turns()] == [turn.id]
    assert "the turn was logged, but the export that was due failed" in caplog.text
