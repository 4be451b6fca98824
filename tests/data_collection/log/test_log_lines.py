"""What was altered on the disk is known by its checksum, and is damage; what was written before
there were checksums stays readable.
"""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.log.lines import decode, encode, is_ours

OLD = {
    "id": "t1",
    "session_id": "s",
    "timestamp": "2026-03-02T09:06:25+00:00",
    "user_message": "q",
    "bot_response": "a",
    "metadata": {},
}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists
)


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    """Three turns; the second was asked "Where is the key?", rated, edited and excluded."""
    log = ConversationLogger(session_id="feed")
    log.log_conversation("before", "x")
    turn = log.log_conversation("Where is the key?", "Under the mat.", {"model": "m", "seconds": 1.25})
    log.log_conversation("after", "x")
    log.rate(turn.id, "up")
    log.edit(turn.id, "Under the cat.")
    log.exclude(turn.id)
    return log


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


def with_another_id(content: bytes) -> bytes:
    lines = content.split(b"\n")
    id = json.loads(lines[1])["id"].encode()
    return b"\n".join([lines[0], lines[1].replace(id, b"0" * len(id)), *lines[2:]])


ALTERED = {
    "the question": replaced(b"the key?", b"the kez?"),
    "the answer": replaced(b"Under the mat.", b"Under the bed."),
    "a number": replaced(b"1.25", b"1.26"),
    "the model": replaced(b'"model": "m"', b'"model": "n"'),
    "the session": replaced(b'"session_id": "feed", "timestamp"', b'"session_id": "weed", "timestamp"'),
    "the time": replaced(b'"timestamp": "2', b'"timestamp": "3'),
    "the id": with_another_id,
    "a rating": replaced(b'"rating": "up"', b'"rating": "down"'),
    "an edit": replaced(b"Under the cat.", b"Under the cow."),
    "an exclusion": replaced(b'"excluded": true', b'"excluded": false'),
    "the turn of an event": lambda content: content.replace(b'"turn_id": "', b'"turn_id": "0', 1),
    "a checksum": replaced(b'"crc32": "', b'"crc32": "0'),
    "another key before": replaced(
        b'"bot_response": "Under the mat."', b'"bot_response": "x", "bot_response": "Under the bed."'
    ),
    "a key more": replaced(b'"metadata": {"model"', b'"extra": 1, "metadata": {"model"'),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED.keys())
def test_an_altered_line_is_damage_left_alone_by_reading_and_set_aside_by_writing(
    log: ConversationLogger, alter: Callable[[bytes], bytes]
) -> None:
    lines = log.path.read_bytes().split(b"\n")
    altered = alter(log.path.read_bytes())
    log.path.write_bytes(altered)
    (damage,) = set(altered.split(b"\n")) - set(lines)
    health = log.health()
    assert (health.damaged, health.ok) == (1, False)
    assert log.path.read_bytes() == altered
    log.rate(log.turns()[0].id, "up")
    assert log.health().quarantine.read_bytes() == damage + b"\n"
    assert damage not in log.path.read_bytes()


@pytest.mark.parametrize("single", [True, False])
def test_a_log_whose_only_line_was_altered_is_a_damaged_log_and_no_foreign_file(home: Path, single: bool) -> None:
    log = ConversationLogger()
    log.log_conversation("Where is the key?", "Under the mat.")
    content = log.path.read_bytes()
    log.path.write_bytes(content.replace(b"mat", b"bed") if single else content.replace(b'"id": "', b'"id": "z'))
    assert log.turns() == []
    assert log.health().damaged == 1
    assert log.log_conversation("next", "one") in log.turns()


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda record: json.dumps(record, ensure_ascii=False, separators=(",", ":")),
        lambda record: json.dumps(record),  # other than ASCII escaped
        lambda record: "  " + json.dumps(record, ensure_ascii=False) + " \r",
    ],
)
def test_a_line_that_is_only_written_in_another_way_is_whole(
    log: ConversationLogger, rewrite: Callable[[object], str]
) -> None:
    log.log_conversation("Grüße 😀", "ja")
    turns = log.turns(include_excluded=True)
    records = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
    log.path.write_text("".join(rewrite(record) + "\n" for record in records), encoding="utf-8", newline="")
    assert log.turns(include_excluded=True) == turns
    assert log.health().ok


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(OLD),
        json.dumps(OLD, separators=(",", ":")),
        json.dumps(OLD | {"metadata": {"crc32": "00000000"}}),
        json.dumps(OLD | {"metadata": {"x": {"crc32": 5}}, "user_message": 'says "crc32": "00000000"}'}),
        json.dumps({key: value for key, value in OLD.items() if key != "metadata"}),
    ],
)
def test_lines_without_a_checksum_stay_readable(home: Path, line: str) -> None:
    log = ConversationLogger()
    log.path.parent.mkdir()
    log.path.write_text(
        line + "\n" + json.dumps({"event": "rating", "turn_id": "t1", "timestamp": "", "rating": "up"}) + "\n"
    )
    (turn,) = log.turns()
    assert (turn.bot_response, turn.metadata["rating"]) == ("a", "up")
    later = log.log_conversation("later", "x")
    assert [each.id for each in log.turns()] == ["t1", later.id]
    assert log.health().ok


def test_a_deletion_keeps_the_checksums_of_what_stays(log: ConversationLogger) -> None:
    first, *others = log.turns(include_excluded=True)
    kept = [line for line in log.path.read_bytes().split(b"\n") if line and first.id.encode() not in line]
    log.delete(first.id)
    lines = log.path.read_bytes().split(b"\n")[:-1]
    assert lines[:-1] == kept
    assert log.turns(include_excluded=True) == others and log.deleted_ids() == {first.id}
    log.path.write_bytes(log.path.read_bytes().replace(first.id.encode(), b"0" * 32))  # the tombstone, too
    assert log.deleted_ids() == set() and log.health().damaged == 1


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(), st.dictionaries(st.text(), values), st.integers())
def test_any_turn_is_read_back_and_any_altered_byte_of_its_content_is_noticed(
    asked: str, said: str, metadata: dict[str, object], seed: int
) -> None:
    line = encode(OLD | {"user_message": asked, "bot_response": said, "metadata": metadata})
    turn = decode(line)
    assert isinstance(turn, Turn) and is_ours(line)
    assert (turn.user_message, turn.bot_response, turn.metadata) == (asked, said, metadata)
    end, chance = line.rindex(b', "crc32"'), random.Random(seed)
    for _ in range(20):
        altered = bytearray(line)
        altered[chance.randrange(end)] ^= 1 << chance.randrange(8)
        with suppress(ValueError):
            assert decode(bytes(altered)) == turn  # white space between the parts


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "0123',
        b'{"id": "0123456789abcdef0123456789abcdef',
        b'{"id": "0123456789abcdef0123456789abcdef", "sess',
        b'{"id": "0123456789abcdef0123456789abcdef", "session_id": "s", "timest',
        b'\xef\xbb\xbf{"id": "x", "session_id": "s", "timestamp": "t", "user_message": "torn',
        b'{"event": "edit", "turn_id": "x", "timest',
    ],
)
def test_what_a_killed_writer_left_is_ours(line: bytes) -> None:
    assert is_ours(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"root:x:0:0:root:/root:/bin/bash",
        b"id,session_id,timestamp,user_message,bot_response",
        b'[{"id": "0123456789abcdef0123456789abcdef", "session_id": "s"',
        b'{"id": "0123", "text": "somebody else\'s"}',
        b'{"id": 7, "session_id": "s", "timestamp": "t"}',
        b'{"messages": [{"role": "user", "content": "hi"}]}',
        b'{"event": "click", "turn_id": "x"}',
        b'{"event": "praise", "turn_id": "x"}',
        b"\x7fELF\x02\x01\x01" + bytes(100),
    ],
)
def test_what_is_somebody_elses_is_not(line: bytes) -> None:
    assert not is_ours(line)
