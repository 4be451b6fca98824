"""Whatever is in a file, each importer gives turns or a DataError, never another exception.

The samples of documents are mutated in documents/test_reading_documents.py.
"""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_formats import EXPECTED

from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers import importing
from fine_tuning.data_collection.importers.importing import Report, Wanted, import_files
from fine_tuning.data_collection.importers.table import IMPORTERS
from fine_tuning.errors import DataError
from fine_tuning.events import Watch


def read(place, **asked):
    """Return what an import would log, nothing for a DataError; any other exception fails the test.

    An import itself asks the log's index three times, which takes longer than to read a small file.
    """
    report = Report()
    try:
        entries = list(importing._read([place], Wanted(**asked), report, importing._Progress(Watch())))
    except DataError:
        return []
    report.read.found()
    return entries


BEGINNINGS = [b"", b"[", b"{", b'[{"', b"SQLite format 3\0", b"PAR1", b"PK\3\4", b"\x1f\x8b", b"%PDF-1.7\n", b"<html>"]


SUFFIXES = ["", ".json", ".jsonl", ".csv", ".txt", ".zip", ".db", ".parquet", ".gz", ".pdf", ".docx"]
FORMATS = [name for name, importer in IMPORTERS.items() if not importer.whole]  # others read in a process for each file


@pytest.mark.parametrize("format", ["", *FORMATS])
@given(
    start=st.sampled_from(BEGINNINGS),
    rest=st.one_of(
        st.binary(max_size=400), st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))
    ),
    suffix=st.sampled_from(SUFFIXES),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_turns_or_a_data_error(log, tmp_path, format, start, rest, suffix):
    file = tmp_path / f"any{suffix}"
    file.write_bytes(start + rest)
    if entries := read(file, format=format, me="Kim"):
        log.log_imported(entries)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("format", sorted(IMPORTERS.keys() - FORMATS))
def test_any_bytes_in_a_process_of_its_own_give_turns_or_a_data_error(tmp_path, format, suffix):
    chance = random.Random(f"{format}{suffix}")
    file = tmp_path / f"any{suffix}"
    file.write_bytes(chance.choice(BEGINNINGS) + chance.randbytes(200))
    read(file, format=format)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_known_keys_with_any_values_give_turns_or_a_data_error(log, tmp_path, data):
    keys = data.draw(st.sampled_from(KEYS))
    values = data.draw(st.lists(JSON, min_size=1, max_size=6))  # drawn for each key, they would take ten times as long
    chance = random.Random(data.draw(st.integers()))
    records = [{key: chance.choice(values) for key in keys} for _ in range(chance.randrange(1, 4))]
    value = data.draw(
        st.sampled_from(
            [records, records[0], {"messages": records}, {"conversations": records}, [{"messages": records}]]
        )
    )
    file = tmp_path / "known.json"
    file.write_text(json.dumps(value))
    for format in ("", *data.draw(st.lists(st.sampled_from(FORMATS), min_size=3, max_size=3))):
        if entries := read(file, format=format, me="Kim"):
            log.log_imported(entries)


def test_a_record_that_a_format_fails_to_read_is_set_aside(log, tmp_path):
    file = tmp_path / "spoilt.json"
    file.write_text(json.dumps({"messages": [{"from": None, "value": None}, {"from": None, "value": False}]}))
    assert import_files(log, [file]).set_aside == 1


KEYS = [
    ("messages",),
    ("role", "content", "tool_calls", "timestamp", "reasoning"),
    ("conversations", "system"),
    ("from", "value"),
    ("instruction", "input", "output", "history"),
    ("prompt", "completion", "label"),
    ("prompt", "chosen", "rejected"),
    ("message_id", "parent_id", "message_tree_id", "text", "role", "rank"),
    ("message_tree_id", "prompt"),
    ("mapping", "current_node", "id", "conversation_id"),
    ("uuid", "chat_messages", "model"),
    ("header", "title", "time", "products", "safeHtmlItem", "attachedFiles"),
    ("id", "chat"),
    ("thread_id", "id", "role", "content", "created_at", "metadata"),
    ("user_name", "character_name", "mes", "is_user", "send_date", "extra"),
    ("internal", "metadata"),
    ("type", "ts", "user", "text", "thread_ts", "files", "user_profile"),
    ("id", "type", "date", "date_unixtime", "from", "from_id", "text", "photo"),
    ("guild", "channel", "messages"),
    ("session_id", "user_message", "bot_response", "timestamp", "metadata"),
    ("question", "answer", "context"),
    ("title", "answers", "patterns", "responses"),
    ("context", "qas", "paragraphs", "story", "questions", "answers"),
    ("dialog", "speakers", "turns", "data", "id"),
    ("sender", "text", "timestamp", "from", "replies", "MessageList", "post"),
    ("author", "candidates", "primary_candidate_id", "src", "data", "fragments"),
    ("requester_id", "comments", "source", "conversation_parts", "users", "description"),
    ("id", "reply_to", "author", "text", "inbound", "conversation_id"),
    ("requests", "prompt", "actions", "gamestarted", "savedsettings"),
    ("conversation", "events"),
    ("userSays", "responses", "questions", "answers", "data"),
    ("data", "fields", "annotations", "responses"),
    ("inputs", "outputs", "request", "response", "prompt", "sampled"),
    ("conversation_a", "conversation_b", "winner", "human_ref_A", "human_ref_B", "labels"),
    ("response_0", "response_1", "better_response_id", "score_0", "score_1", "prompt"),
    ("custom_id", "key", "body", "params", "request", "response", "result"),
    ("version", "nlu", "stories", "rules", "responses", "rasa_nlu_data"),
    ("intents", "dialog_nodes", "actions"),
    ("kind", "k", "v", "i"),
    ("instruction", "definition", "Definition", "instances", "Instances"),
    ("question", "choices", "answerKey", "answer", "context", "conversation_id", "incorrect_answers"),
    ("address", "date", "type", "body", "msg_box", "parts", "contact_name"),
    ("document_text", "question_text", "annotations", "orig_answers"),
    ("columns", "data"),
    ("fields", "comment", "comments", "title", "body", "user", "Transcript"),
    ("dialogue", "transcript", "history", "candidates", "segments"),
    ("messageId", "parentMessageId", "children", "text", "isCreatedByUser", "info", "parts"),
    ("event_id", "sender", "content", "origin_server_ts", "messages"),
    ("attributes", "gen_ai.prompt.0.role", "gen_ai.prompt.0.content", "input_messages", "output_messages"),
    ("parts", "kind", "content_json", "blocks", "content_list", "internal", "content_type"),
    ("question", "A", "B", "C", "D", "answer", "label", "labels", "contexts", "reference"),
    ("address", "isoutbox", "issender", "posted_at", "body", "IsSender", "StrContent", "StrTime"),
]


VALUES = re.compile(rb'"\s*:\s*|[\[,]\s*(?=[{\[])')  # what is before a value in JSON: its key, or a list's mark


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with one thing changed: a value of its JSON, bytes, a piece left out, doubled or moved, words.

    Half of the changes are of values, as most others end the JSON before an importer sees it.
    """
    if chance.randrange(2) and (places := [found.end() for found in VALUES.finditer(data)]):
        return with_other_value(data, chance.choice(places), chance)
    at, other = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    match chance.randrange(7):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[other:]
        case 2:
            return data[:other] + data[at:]
        case 3:
            return data[:at]
        case 4:
            return (
                data[:at]
                + chance.choice(
                    [b"null", b"[]", b"{}", b'""', b"1e999", b"NaN", b"\\ud800", b'"', b"\n", b"\0", b"\xff\xfe"]
                )
                + data[at:]
            )
        case 5:
            return data.replace(
                chance.choice([b'"', b":", b"text", b"id", b"2", b"user"]),
                chance.choice([b"", b"9" * 20, b'"', b"x"]),
                3,
            )
        case _:
            words = data.split(b" ")
            chance.shuffle(words)
            return b" ".join(words)


def with_other_value(data: bytes, at: int, chance: random.Random) -> bytes:
    """Return `data` with the JSON that begins at a place replaced by another value; unchanged if it is no JSON."""
    rest = data[at:].decode("utf-8", "surrogateescape")
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
    except ValueError:
        return data
    value = chance.choice([b"null", b"{}", b"[]", b'""', b"true", b"7", b'"x"', b"[null]", b'{"x": null}'])
    return data[:at] + value + rest[end:].encode("utf-8", "surrogateescape")


def files_in(place: Path) -> list[Path]:
    return sorted(each for each in place.rglob("*") if each.is_file()) if place.is_dir() else [place]


@pytest.mark.parametrize("name", EXPECTED)
def test_200_mutations_of_each_sample_give_turns_or_a_data_error(home, sample, tmp_path, name):
    """Of a folder, one file at a time is changed, and the folder is read as a whole. What was read can be logged."""
    chance = random.Random(name)
    place = tmp_path / "mutated" / name
    place.parent.mkdir()
    shutil.copytree(sample(name), place) if sample(name).is_dir() else shutil.copy(sample(name), place)
    format, asked = EXPECTED[name][:2]
    log, wholes = ConversationLogger(), {file: file.read_bytes() for file in files_in(place)}
    entries = []
    for number in range(200):
        file, whole = list(wholes.items())[number % len(wholes)]
        file.write_bytes(mutated(whole, chance))
        entries += read(place, format=format if number % 2 else "", me=asked.get("me", ""))
        if len(wholes) > 1:
            file.write_bytes(whole)
    assert log.log_imported(entries) == len({entry.turn.id for entry in entries}) == len(log.turns()) > 0
    assert log.health().ok


def test_every_sample_file_is_mutated(sample):
    expected = {file for name in EXPECTED for file in files_in(sample(name))}
    assert set(files_in(sample("dolly.jsonl").parent)) <= expected
