"""The index says what the log says, whatever happened to either; and nothing of what was deleted stays in it."""

import codecs
import multiprocessing
import os
import random
import re
import sqlite3
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fine_tuning import paths, state
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log import batches
from fine_tuning.data_collection.log.file import LogFile
from fine_tuning.data_collection.log.follower import LogFollower, rows_of
from fine_tuning.data_collection.log.index import LogIndex, Session, matching
from fine_tuning.data_collection.log.likeness import newest_of
from fine_tuning.data_collection.log.lines import decode, encode, texts_of
from fine_tuning.data_collection.log.whole import WholeLog
from fine_tuning.data_collection.redaction import holds, pattern

WORDS = (
    "holiday",
    "Straße",
    "昼食は正午",
    "paid",
    "l'été",
    "a",
    "x_1",
    "50%",
    '"quoted"',
    "R&D",
    "👩‍👩‍👧",
    "Ωmega",
    "the",
    "it",
)


DEEDS = ("say", "say", "say", "rate", "edit", "exclude", "delete", "session", "damage", "torn", "event", "look")


def as_read(logger: ConversationLogger) -> dict[str, Turn]:
    """What the log's own lines say, without any index."""
    return WholeLog(*logger._file.read()).turns


def check(logger: ConversationLogger) -> None:
    """Compare all that the index knows with what the log says."""
    log, index = WholeLog(*logger._file.read()), logger.index
    assert {turn.id: turn for turn in index.turns(log.turns)} == log.turns
    sessions = {turn.session_id for turn in log.turns.values()}
    assert {session: index.turns_of(session) for session in sessions} == {
        session: [turn for turn in log.turns.values() if turn.session_id == session] for session in sessions
    }
    last = {turn.session_id: turn for turn in log.turns.values()}
    newest = sorted(last, key=lambda session: -list(log.turns).index(last[session].id))
    assert [each.id for each in in_pages(index)] == newest
    for each in in_pages(index):
        said = [turn for turn in log.turns.values() if turn.session_id == each.id]
        assert (each.question, each.turns, each.begun) == (said[0].user_message, len(said), said[0].timestamp)
        assert (each.last, each.last_turn) == (said[-1].timestamp, said[-1].id)
    assert index.count() == sum("excluded" not in turn.metadata for turn in log.turns.values())
    assert index.is_sound() == (not log.damaged and not log.torn)
    assert index.deleted_ids() == log.deleted
    assert dict(index.changed_since(None)) == {
        id: turn.state_hash for id, turn in log.turns.items() if "excluded" not in turn.metadata
    }


def in_pages(index: LogIndex, size: int = 2) -> list[Session]:
    """All sessions, asked for page by page."""
    found = page = index.sessions(size)
    while page:
        page = index.sessions(size, before=page[-1].last_turn)
        found = found + page
    return found


@pytest.fixture
def logger(home: Path) -> ConversationLogger:
    return ConversationLogger()


def said(logger: ConversationLogger, count: int) -> list[str]:
    return [logger.log_conversation(f"question {number}", f"answer {number}").id for number in range(count)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_done_to_the_log_the_index_says_the_same(home: Path, data: st.DataObject) -> None:
    # not `random`, which hypothesis begins anew each time
    path = paths.conversations_dir() / f"{uuid.uuid4().hex}.jsonl"
    loggers = [ConversationLogger(path), ConversationLogger(path)]
    ids = ["nobody"]
    for _ in range(data.draw(st.integers(1, 12))):
        logger, id = data.draw(st.sampled_from(loggers)), data.draw(st.sampled_from(ids))
        text = " ".join(data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)))
        match data.draw(st.sampled_from(DEEDS)):
            case "say":
                ids.append(logger.log_conversation(text, text[::-1], {"model": "m", "note": text}).id)
            case "rate" if id in as_read(logger):
                logger.rate(id, data.draw(st.sampled_from(["up", "down", None])))
            case "edit" if id in as_read(logger):
                logger.edit(id, text)
            case "exclude" if id in as_read(logger):
                logger.exclude(id, data.draw(st.booleans()))
            case "delete":
                logger.delete(turn_id=id)
            case "session":
                logger.new_session()
            case "damage" if path.exists():
                with path.open("ab") as file:
                    file.write(b'{"id": "x", "session_id": "broken\n')
            case "torn" if path.exists():
                with path.open("ab") as file:
                    file.write(b'{"id": "0123", "session_id": "to')
            case "event" if path.exists():  # of a turn that is not there, or of a kind that nobody knows
                with path.open("ab") as file:
                    kind = data.draw(st.sampled_from(["rating", "later"]))
                    file.write(
                        b"\n" + encode({"event": kind, "turn_id": "nowhere", "timestamp": "", "rating": "up"}) + b"\n"
                    )
            case "look":
                check(logger)
    check(loggers[0])
    wanted = data.draw(st.sampled_from(WORDS))
    exact = pattern([wanted])
    assert exact
    lines = WholeLog(*loggers[0]._file.read())
    told: dict[str, list[str]] = {}
    for record in map(decode, lines.lines):
        told.setdefault(record.id if isinstance(record, Turn) else record["turn_id"], []).extend(texts_of(record))
    assert loggers[0].find(wanted) == {id for id in lines.turns if any(holds(text, exact) for text in told[id])}


def test_an_index_that_was_deleted_is_made_again(logger: ConversationLogger) -> None:
    ids = said(logger, 5)
    logger.rate(ids[2], "up")
    check(logger)
    for file in paths.home().glob("state.db*"):
        file.unlink()
    check(logger)


@pytest.mark.parametrize("size", [1, 300, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n", b'\n{"id": "0123", "session_id": "to'])
def test_lines_of_all_kinds_are_read_in_batches_of_any_size(
    logger: ConversationLogger, monkeypatch: pytest.MonkeyPatch, size: int, end: bytes
) -> None:
    monkeypatch.setattr(batches, "_SIZE", size)
    turn = {"session_id": "s", "timestamp": "", "user_message": "a holiday?", "bot_response": "paid"}
    one, two, three = (encode({"id": id, **turn}) for id in ("one", "two", "three"))
    edit = encode({"event": "edit", "turn_id": "two", "timestamp": "", "bot_response": "the Straße"})
    again = encode({"id": "one", **turn, "bot_response": "another with the same id"})
    lines = [b"", edit, one, one, b"  \t", codecs.BOM_UTF8 + two + b"\r", b"{broken", again, b"\xff", three]
    logger.path.parent.mkdir(parents=True, exist_ok=True)
    logger.path.write_bytes(b"\n".join(lines) + end)
    check(logger)
    assert {turn.id for turn in logger.search("paid")} == {"one", "two", "three"}
    assert [turn.bot_response for turn in logger.search("strasse")] == ["the Straße"] and not logger.search("same")
    with logger.path.open("ab") as file:
        file.write(b"\n" + encode({"id": "four", **turn}))
    check(logger)
    assert {turn.id for turn in logger.search("paid")} == {"one", "two", "three", "four"}


def test_reading_the_index_leaves_the_log_as_it_is(logger: ConversationLogger) -> None:
    said(logger, 3)
    before = (logger.path.read_bytes(), logger.path.stat().st_mtime_ns)
    check(logger)
    logger.search("answer")
    assert (logger.path.read_bytes(), logger.path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("change", ["shorter", "another", "middle", "gone", "front"])
def test_a_log_that_is_another_than_before_is_read_anew(logger: ConversationLogger, change: str) -> None:
    ids = said(logger, 6)
    check(logger)
    content = logger.path.read_bytes()
    lines = content.splitlines(keepends=True)
    match change:
        case "shorter":
            logger.path.write_bytes(b"".join(lines[:2]))
        case "another":
            other = logger.path.with_suffix(".new")
            other.write_bytes(b"".join(reversed(lines)))
            other.replace(logger.path)
        case "middle":  # as an editor might: in place, of the same length, without its checksum
            changed = re.sub(
                rb', "crc32": "[0-9a-f]{8}"',
                lambda match: b" " * len(match[0]),
                content.replace(b"answer 3", b"ANSWER 3"),
            )
            logger.path.write_bytes(changed)
        case "gone":
            logger.path.unlink()
        case "front":
            logger.path.write_bytes(content[len(lines[0]) :] + lines[0])
    check(logger)
    assert set(as_read(logger)) <= set(ids)


def test_a_turn_that_was_written_over_in_place_is_noticed_when_it_is_read(logger: ConversationLogger) -> None:
    ids = said(logger, 3)
    check(logger)
    stamp = logger.path.stat()
    logger.path.write_bytes(logger.path.read_bytes().replace(b"answer 1", b"answer X"))
    os.utime(logger.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # nothing tells of it but the line's checksum
    assert [turn.id for turn in logger.index.turns(ids)] == [ids[0], ids[2]]
    check(logger)


def test_a_turn_that_was_written_over_in_place_is_noticed_when_it_is_rated(logger: ConversationLogger) -> None:
    ids = [said(logger, 1)[0], *said(logger, 60)]  # far from the end, whose bytes are compared
    check(logger)
    stamp, content = logger.path.stat(), logger.path.read_bytes()
    logger.path.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    os.utime(logger.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    logger.rate(ids[0], "up")
    assert logger.index.count() == 60 and not logger.index.is_sound()


@pytest.mark.parametrize("secret", ["xylophone-4711", "昼食の秘密は金庫", "Zähneputzen überall"])
def test_nothing_that_was_deleted_stays_in_the_database(logger: ConversationLogger, secret: str) -> None:
    said(logger, 30)
    whole = logger.log_conversation(f"what about {secret}?", "nothing").id
    answered = logger.log_conversation("what else?", f"it is {secret}", {"note": secret}).id
    edited = logger.log_conversation("and now?", "later").id
    logger.edit(edited, f"rather {secret}")
    said(logger, 30)
    assert {turn.id for turn in logger.search(secret)} == {whole, answered, edited}
    logger.delete(turn_id=whole)
    logger.delete(turn_id=answered)
    logger.forget([edited])
    assert logger.search(secret) == [] and logger.find(secret) == set()
    check(logger)
    content = b"".join(file.read_bytes() for file in paths.home().glob("state.db*"))
    rare = {secret[at : at + 3].casefold() for at in range(len(secret) - 2)} - {"ber", "all", "was", "übe"}
    assert secret.encode() not in content and secret.casefold().encode() not in content
    with state.connect() as database:  # not even as trigrams
        database.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab (main, log_texts, row)")
        assert not rare & {row["term"] for row in database.execute("SELECT term FROM temp.words")}


def test_a_log_that_was_forgotten_elsewhere_is_purged_with_the_next_look(logger: ConversationLogger) -> None:
    said(logger, 3)
    logger.log_conversation("a xylophone?", "yes")
    check(logger)
    lines = [line for line in logger.path.read_bytes().splitlines(keepends=True) if b"xylophone" not in line]
    other = logger.path.with_suffix(".new")
    other.write_bytes(b"".join(lines))
    other.replace(logger.path)
    check(logger)
    assert not any(b"xylophone" in file.read_bytes() for file in paths.home().glob("state.db*"))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("holiday", [3, 1]),
        ("HOLIDAY", [3, 1]),
        ("holi", [3, 1]),
        ("paid holiday", [1]),
        ("holiday   paid", [1]),
        ("正午", [2]),
        ("正", [2]),
        ("ss", [3]),  # as ß is written in capitals
        ("straße", [3]),
        ('"', [1]),
        ("5%", [1]),
        ("", []),
        ("  ", []),
        ("nothing", []),
        ('OR AND NOT ( * "', []),
    ],
)
def test_history_is_found_by_parts_of_words_newest_first(
    logger: ConversationLogger, wanted: str, found: list[int]
) -> None:
    ids = [
        logger.log_conversation("Who are you?", "A model.").id,
        logger.log_conversation('A "paid"   holiday?', "25% more.").id,
        logger.log_conversation("昼食は？", "昼食は正午です").id,
        logger.log_conversation("Holidays in the Straße?", "None.").id,
    ]
    assert [turn.id for turn in logger.search(wanted)] == [ids[index] for index in found]


def test_an_edited_answer_is_found_by_both_texts_and_read_as_it_stands(logger: ConversationLogger) -> None:
    id = logger.log_conversation("When is lunch?", "At noon.").id
    logger.edit(id, "At half past twelve.")
    for wanted in ("noon", "half past"):
        (turn,) = logger.search(wanted)
        assert (turn.id, turn.bot_response) == (id, "At half past twelve.")


def test_a_search_ends_at_its_limit_and_finds_old_turns_too(logger: ConversationLogger) -> None:
    first = logger.log_conversation("the xylophone", "yes").id
    turn = {"session_id": "s", "timestamp": "", "user_message": "common words", "bot_response": "yes"}
    with logger.path.open("ab") as file:
        file.write(b"".join(encode({"id": f"t{number}", **turn}) + b"\n" for number in range(9000)))
    assert [turn.id for turn in logger.search("common", 3)] == ["t8999", "t8998", "t8997"]
    assert [turn.id for turn in logger.search("xylophone")] == [first]


@pytest.mark.parametrize("turns", [60, 1000, 6000])
@pytest.mark.parametrize("wanted", ["common", "common words", "co", "on w", "the question number"])
def test_as_many_texts_are_read_for_what_is_often_said_however_long_the_log_is(
    logger: ConversationLogger, wanted: str, turns: int
) -> None:
    turn = {
        "session_id": "s",
        "timestamp": "",
        "user_message": "the question number one",
        "bot_response": "common words",
    }
    logger.path.parent.mkdir(parents=True, exist_ok=True)
    logger.path.write_bytes(b"".join(encode({"id": f"t{number}", **turn}) + b"\n" for number in range(turns)))
    read = []

    def instr(text: str, part: str) -> int:
        read.append(text)
        return text.find(part) + 1

    def found(database: sqlite3.Connection, log: sqlite3.Row) -> list[str]:
        database.create_function("instr", 2, instr)
        return matching(database, log, wanted, 50)

    assert logger.index.ask(found) == [f"t{turns - 1 - number}" for number in range(50)]
    assert len(read) <= (50 + 2) * len(wanted.split())  # a row ahead


def test_what_is_asked_of_a_long_log_costs_as_many_steps_as_of_a_short_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite chooses another index where many rows are asked for, so 60 are."""
    turn = {"timestamp": "", "user_message": "common words", "bot_response": "yes", "metadata": {"model": "m:1"}}
    ids = [f"t{number}" for number in range(60)]
    sessions = [f"s{number}" for number in range(60)]
    steps, opened = Counter[int](), sqlite3.connect
    turns = 0

    def step() -> None:
        steps[turns] += 1

    def counted(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = opened(*arguments, **named)
        connection.set_progress_handler(step, 10)
        return connection

    for turns in (600, 6000):
        logger = ConversationLogger(f"{turns}.jsonl")
        lines = (encode({"id": f"t{number}", "session_id": f"s{number // 5}", **turn}) for number in range(turns))
        logger.path.parent.mkdir(parents=True, exist_ok=True)
        logger.path.write_bytes(b"".join(line + b"\n" for line in lines))
        mark, index = logger.index.mark(), logger.index
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", counted)
            assert (
                len(index.sessions(60)) == len(index.sessions(60, loose=True)) == len(index.sessions_of(sessions)) == 60
            )
            assert len(index.turns(ids)) == len(index.session_by_turn(ids)) == len(index.search("common", 60)) == 60
            assert index.count() == turns and index.count_whole() == turns and index.is_sound()
            assert index.changed_since(mark) == [] and len(index.turns_of("s7")) == 5 and index.has("t7")
            assert newest_of(logger, "m") == f"t{turns - 1}"
    assert steps[6000] < 1.2 * steps[600]


def test_a_turn_that_was_edited_many_times_is_found_once_beside_others(logger: ConversationLogger) -> None:
    ids = [logger.log_conversation("When is lunch?", "At noon.").id for _ in range(3)]
    for number in range(20):
        logger.edit(ids[2], f"At noon, or {number} minutes later.")
    logger.edit(ids[0], "Around noon.")
    assert [turn.id for turn in logger.search("noon", 3)] == [ids[0], ids[2], ids[1]]
    assert [turn.id for turn in logger.search("noon", 2)] == [ids[0], ids[2]]


def test_what_changed_since_a_mark_is_what_was_said_rated_or_edited_since(logger: ConversationLogger) -> None:
    ids = said(logger, 5)
    mark = logger.index.mark()
    assert logger.index.changed_since(mark) == []
    logger.rate(ids[1], "up")
    new = logger.log_conversation("more?", "yes").id
    logger.exclude(ids[3])
    logger.delete(turn_id=ids[0])
    assert {id for id, _ in logger.index.changed_since(mark)} == {ids[1], new}
    logger.exclude(ids[3], False)
    assert {id for id, _ in logger.index.changed_since(mark)} == {ids[1], ids[3], new}


def test_a_mark_of_an_index_that_is_gone_gives_all_turns(logger: ConversationLogger) -> None:
    ids = said(logger, 3)
    mark = logger.index.mark()
    paths.state_db().unlink()
    assert [id for id, _ in logger.index.changed_since(mark)] == ids


def test_stopped_answers_in_an_index_of_an_older_schema_count_as_stopped(logger: ConversationLogger) -> None:
    whole = said(logger, 2)
    stopped = [logger.log_conversation("And?", "Half an ans", {"incomplete": "stopped"}).id for _ in range(2)]
    logger.rate(stopped[0], "up")
    mark = logger.index.mark()
    with state.connect() as database:  # back to the schema before migration 9
        database.execute("DROP INDEX log_turns_partial")
        database.execute("ALTER TABLE log_turns DROP COLUMN partial")
        database.execute("ALTER TABLE version_turns DROP COLUMN context")
        database.execute("PRAGMA user_version = 8")
    assert logger.index.count_whole() == 3
    assert {id for id, _ in logger.index.changed_since(None)} == {*whole, stopped[0]}
    epoch = logger.index.mark().epoch
    assert logger.index.count_whole() == 3 and logger.index.mark().epoch == epoch != mark.epoch  # read anew once


def test_two_logs_are_kept_apart(home: Path) -> None:
    one, other = ConversationLogger("one.jsonl"), ConversationLogger("other.jsonl")
    said(one, 3)
    id = other.log_conversation("a xylophone?", "no").id
    check(one)
    check(other)
    assert one.search("xylophone") == [] and [turn.id for turn in other.search("xylophone")] == [id]
    one.path.unlink()
    check(one)
    check(other)


def write(home: str, seed: int, count: int) -> None:
    """Log, rate and look, as one of several processes."""
    os.environ["BYOAI_HOME"] = home
    logger = ConversationLogger()
    chance = random.Random(seed)
    for number in range(count):
        turn = logger.log_conversation(f"{seed} asks {number}", "answer")
        if chance.random() < 0.4:
            logger.rate(turn.id, "up")
        if chance.random() < 0.1:
            logger.delete(turn_id=turn.id)
        assert len(logger.session_turns(logger.session_id)) <= number + 1
    sys.exit(0)


def test_several_processes_log_rate_delete_and_look_at_once(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write, args=(str(home), seed, 15)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    logger = ConversationLogger()
    check(logger)
    with sqlite3.connect(paths.state_db()) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_question_is_asked_again_until_the_log_stays_as_it_is(logger: ConversationLogger) -> None:
    """Turns are deleted elsewhere between the look at the tables and the look at the log, several times."""
    ids, follower = said(logger, 5), LogFollower(LogFile(logger.path))

    def question(database: sqlite3.Connection, log: sqlite3.Row) -> list[list[str]]:
        rows = rows_of(database, "log_turns", log, "1")
        if len(rows) > 2:
            logger.delete(rows[0]["id"])
        # all lines are equally long: at the place of a turn there is now the next one
        records = [record.id for record in follower.records(rows, "id") if isinstance(record, Turn)]
        return [records, [turn.id for turn in follower.read(database, log, rows)]]

    assert follower.ask(question) == [ids[3:], ids[3:]]
    check(logger)
