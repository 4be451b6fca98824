"""What long work tells: events as records and back, and a watch that can stop it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.errors import Cancelled
from fine_tuning.events import (
    Count,
    Event,
    EventReader,
    Finished,
    Note,
    Planned,
    RunOpened,
    Stage,
    Step,
    Watch,
    events_to,
    from_record,
    read_events,
    to_record,
)

texts = st.text(max_size=30)
figures = st.floats(allow_nan=False, allow_infinity=False)
EVENTS = st.one_of(
    st.builds(Stage, texts),
    st.builds(Note, texts),
    st.builds(Count, st.integers(0), st.integers(0)),
    st.builds(
        Step, st.just("chats"), *[st.integers(0)] * 2, *[figures] * 5, st.integers(0), *[figures] * 3, st.integers(0)
    ),
    st.builds(Planned, st.lists(st.tuples(texts, texts), max_size=3).map(tuple)),
    st.builds(RunOpened, texts, st.booleans()),
    st.builds(
        Finished,
        st.sampled_from(["live", "stopped"]),
        texts,
        texts,
        st.lists(st.tuples(texts, texts, texts), max_size=2).map(tuple),
    ),
)


@given(EVENTS)
def test_every_event_survives_json(event: Event) -> None:
    assert from_record(json.loads(json.dumps(to_record(event)))) == event


def test_an_event_of_a_later_version_is_left_out_and_a_new_field_too() -> None:
    assert from_record({"event": "Applause", "text": "bravo"}) is None
    assert from_record({"event": "Note", "text": "hello", "colour": "red"}) == Note("hello")


def test_a_file_of_events_is_read_in_order_and_from_any_number_on(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "events.jsonl"
    with events_to(file) as tell:
        tell(Stage("one"))
        tell(Note("two\nlines"))
        assert read_events(file) == [(1, Stage("one")), (2, Note("two\nlines"))]  # while it is written
    assert read_events(file, after=1) == [(2, Note("two\nlines"))]
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line",
    [
        '{"n": 2, "event": "No',
        "[]",
        '"n"',
        '{"event": "Note", "text": "no number"}',
        '{"n": 2, "event": "Note"}',
        "\x00",
    ],
)
def test_a_line_that_is_torn_or_foreign_is_left_out(line: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with events_to(file) as tell:
        tell(Stage("one"))
    with file.open("a", encoding="utf-8") as content:
        content.write(line + "\n")
    assert read_events(file) == [(1, Stage("one"))]


def test_what_was_never_told_is_no_event(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []


def test_a_watch_measures_its_stages_and_tells_all_who_listen() -> None:
    first: list[Event] = []
    second: list[Event] = []
    watch = Watch(first.append).telling(second.append)
    with watch.stage("Thinking"):
        watch.count(1, 2)
    watch.note("done")
    assert first == second == [Stage("Thinking"), Count(1, 2), Note("done")]
    assert list(watch.seconds) == ["Thinking"]


def test_work_that_is_asked_to_stop_stops_at_its_next_count_and_begins_no_stage() -> None:
    told: list[Event] = []
    watch = Watch(told.append, stopping=lambda: bool(told))
    with pytest.raises(Cancelled), watch.stage("Counting"):
        watch.count(1, 2)
    with pytest.raises(Cancelled), watch.stage("Next"):
        pytest.fail("it began")
    assert told == [Stage("Counting")] and watch.seconds == {}


def test_the_numbers_go_on_where_a_file_ends_also_after_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with events_to(file) as tell:
        tell(Stage("one"))
    with file.open("a", encoding="utf-8") as content:
        content.write('{"n": 2, "event": "St')  # killed in the middle
    with events_to(file) as tell:
        tell(Note("two"))
        tell(Note("three"))
    assert read_events(file) == [(1, Stage("one")), (2, Note("two")), (3, Note("three"))]


def test_a_reader_gets_each_event_once_also_when_the_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    assert reader.read() == []
    with events_to(file) as tell:
        tell(Note("one"))
        assert reader.read() == [(1, Note("one"))] and reader.read() == []
        other = tmp_path / "other"
        other.write_text(file.read_text().replace("one", "***"))  # as it is when a text is redacted
        other.replace(file)
        tell(Note("two"))
        with file.open("a") as content:
            content.write('{"n": 3')
        assert reader.read() == [(2, Note("two"))]
    assert EventReader(file, after=1).read() == [(2, Note("two"))]
    assert read_events(file)[0] == (1, Note("***"))


def test_a_reader_goes_on_after_the_file_was_shortened(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    with events_to(file) as tell:
        tell(Note("one"))
        assert reader.read() == [(1, Note("one"))]
        os.truncate(file, 0)
        assert reader.read() == []
        tell(Note("two"))
        assert reader.read() == [(2, Note("two"))]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"n": Infinity, "event": "Note", "text": "x"}', '{"n": 1e999}', "\0"])
def test_a_line_that_no_event_can_have_is_skipped(tmp_path: Path, line: str) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(line + "\n")
    with events_to(file) as tell:
        tell(Note("one"))
    assert read_events(file) == [(1, Note("one"))]


FULL = """
import resource, sys
from pathlib import Path
from fine_tuning.events import Note, events_to
file = Path(sys.argv[1])
with events_to(file) as tell:
    tell(Note("first"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + {room}, resource.RLIM_INFINITY))
    for number in range(5):
        tell(Note(f"lost {{number}}"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    tell(Note("there is room again"))
"""


@pytest.mark.parametrize("room", [0, 1, 20, 60])
def test_a_full_disk_costs_events_and_not_the_work(tmp_path: Path, room: int) -> None:
    file = tmp_path / "events.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(room=room), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    numbers, events = zip(*read_events(file), strict=True)
    assert numbers == (1, 2, 3) and events[0] == Note("first") and events[2] == Note("there is room again")
    assert isinstance(events[1], Note) and events[1].text.startswith("5 events could not be written here")
