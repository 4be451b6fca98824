"""The list of chats: titles, groups, search, labels, export, and that a title goes with its chat."""

import random
import string
import uuid
from collections.abc import Collection
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import seconds

from fine_tuning import state
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.importers.chats import Entry
from fine_tuning.data_collection.log import chat_labels
from fine_tuning.data_collection.log.chat_labels import Label
from fine_tuning.data_collection.log.index import LOOSE
from fine_tuning.errors import NoConversations, TurnNotFound
from fine_tuning.integration import chats
from fine_tuning.integration.service import Service
from fine_tuning.jobs import processes, store
from fine_tuning.jobs.kinds import ForgetRequest
from fine_tuning.model_management.model_registry import Registry


@pytest.fixture
def log(home: Path) -> ConversationLogger:
    return ConversationLogger()


def chat(log: ConversationLogger, question: str, answer: str = "Yes.") -> str:
    session = log.new_session()
    log.log_conversation(question, answer)
    return session


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("Where is the printer?", "Where is the printer?"),
        ("  Where\n\tis   the\u00a0printer?\n", "Where is the printer?"),
        ("", chats.UNTITLED),
        (" \n\u202e\0", chats.UNTITLED),
        ("word " * 30, "word word word word word word word word word word word word…"),
        (
            "Explain, in two sentences, why the sky over the sea is so blue, please",
            "Explain, in two sentences, why the sky over the sea is so…",
        ),
        ("x" * 61, "x" * 60 + "…"),
        ("日本語" * 40, "日本語" * 20 + "…"),
        ("e\u0301" * 40, "e\u0301" * 30 + "…"),
        ("a" + "e\u0301" * 40, "a" + "e\u0301" * 29 + "…"),
        ("abc\u202edef", "abc def"),
        ("x" * 1_000_000, "x" * 60 + "…"),
    ],
)
def test_a_title_is_the_beginning_of_the_question_in_one_line(question: str, title: str) -> None:
    assert chats.title_of(question) == title


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.integers(2, 80))
def test_a_title_is_one_line_of_at_most_so_many_characters_and_an_ellipsis(question: str, most: int) -> None:
    title = chats.title_of(question, most)
    assert title and len(title) <= max(most + 1, len(chats.UNTITLED)) and title == title.strip() and "\n" not in title
    title.encode()


def test_chats_stand_under_their_day_newest_first_and_pinned_and_filed_ones_elsewhere(log: ConversationLogger) -> None:
    ids = [chat(log, f"question {number}") for number in range(6)]
    chats.change(log.index, ids[0], pinned=True)
    chats.change(log.index, ids[3], folder="Work")
    chats.change(log.index, ids[5], folder="Work", pinned=True)
    listed, more = chats.newest(log.index, 10)
    assert ([each.id for each in listed], more) == ([ids[4], ids[2], ids[1]], None)
    assert [each.id for each in chats.pinned(log.index)] == [ids[5], ids[0]]
    assert chats.folders() == {"Work": {ids[3]}}
    assert list(chats.by_day(listed)) == ["Today"]
    first, more = chats.newest(log.index, 2)
    second, end = chats.newest(log.index, 2, more)
    assert ([each.id for each in [*first, *second]], end) == ([ids[4], ids[2], ids[1]], None)
    assert [each.id for each in chats.newest(log.index, 10, hidden={ids[2]})[0]] == [ids[4], ids[1]]


@pytest.mark.parametrize(
    ("last", "group"),
    [
        ("2026-05-04T12:00:00.000+00:00", "Today"),
        ("2026-05-03T12:00:00.000+00:00", "Yesterday"),
        ("2026-05-02T12:00:00.000+00:00", "Earlier"),
        ("2026-05-06T12:00:00+00:00", "Today"),  # a clock that was wrong
        ("", "Earlier"),
        ("long ago", "Earlier"),
        ("0001-01-01T00:00:00+14:00", "Earlier"),
        ("2026-05-04", "Today"),
    ],
)
def test_a_day_is_told_by_the_last_turn(last: str, group: str) -> None:
    one = chats.Chat("a", "A", 1, "", last, "t", Label())
    assert chats.by_day([one], date(2026, 5, 4)) == {group: [one]}


def test_a_label_is_changed_by_parts_and_taken_back(log: ConversationLogger) -> None:
    id = chat(log, "Where is the printer?")
    assert chats.change(log.index, id, title=" The\nprinter\0 ").label == Label("The printer")
    assert chats.change(log.index, id, pinned=True).label == Label("The printer", True)
    assert chats.change(log.index, id, folder="\ud800 Work" + "x" * 100).label == Label(
        "The printer", True, ("Work" + "x" * 100)[:60]
    )
    assert chats.change(log.index, id, title="", folder="", pinned=False).title == "Where is the printer?"
    assert chat_labels.labels() == {}
    with pytest.raises(TurnNotFound, match="never recorded"):
        chats.change(log.index, "nobody", title="x")


@pytest.mark.parametrize(
    ("text", "said", "marked"),
    [
        ("printer", "Where is the Printer? The PRINTER is upstairs.", ["Printer", "PRINTER"]),
        ("strasse", "In der großen Straße.", ["Straße"]),
        ("upstairs printer", "The printer is upstairs.", ["printer", "upstairs"]),
        ("far", "word " * 300 + "far away" + " word" * 300, ["far"]),
        ("far", "x" * 3000 + "far" + "y" * 3000, ["far"]),
        ("(", "f(x) = y", ["("]),
        ("éa", "Cafe\u0301a", ["éa"]),
        ("b", "a\0b", ["b"]),
    ],
)
def test_a_search_shows_the_words_in_what_stands_around_them(
    log: ConversationLogger, text: str, said: str, marked: list[str]
) -> None:
    id = chat(log, said)
    chat(log, "nothing of the kind, oh no?", "Me, too")
    hit = chats.search(log.index, text)[-1]
    assert hit.chat.id == id
    assert [hit.excerpt[start:end] for start, end in hit.marks] == marked
    assert len(hit.excerpt) < 250


def test_a_search_finds_each_chat_once_also_by_a_persons_title_and_not_what_is_being_forgotten(
    log: ConversationLogger,
) -> None:
    first = chat(log, "Where is the printer?", "The printer is upstairs.")
    log.log_conversation("And the other printer?", "Downstairs.")
    second = chat(log, "Say hello.")
    chats.change(log.index, second, title="About the printer")
    assert [hit.chat.id for hit in chats.search(log.index, "PRINTER")] == [second, first]
    assert [hit.chat.id for hit in chats.search(log.index, "PRINTER", hidden={first})] == [second]
    assert chats.search(log.index, " \n") == chats.search(log.index, "zebra") == []


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.text(min_size=1, max_size=5))
def test_marks_lie_within_the_excerpt_and_apart(said: str, wanted: str) -> None:
    words = chats.fold(wanted).split() or ["x"]
    turn = Turn(id="t", session_id="s", timestamp="", user_message=said, bot_response="Yes.", metadata={})
    text, marks = chats._excerpt(turn, words)
    ends = [place for mark in marks for place in mark]
    assert ends == sorted(ends) and all(0 <= place <= len(text) for place in ends)


def test_one_chat_is_exported_as_people_read_it(log: ConversationLogger) -> None:
    id = chat(log, "How do I print?", "Like this:\n```sh\nlp file")
    left_out = log.log_conversation("Nothing.", "No.").id
    log.exclude(left_out)
    chats.change(log.index, id, title="../Print: a/b\\c")
    assert chats.file_name(chats.get(log.index, id), "markdown") == "print-a-b-c.md"
    assert chats.file_name(chats.get(log.index, id), "json") == "print-a-b-c.json"
    text = chats.export(log.index, id, "markdown").decode()
    assert "## You\n\nHow do I print?\n" in text and text.count("```") == 2 and "Nothing." not in text
    log.exclude(log.index.turns_of(id)[0].id)
    with pytest.raises(NoConversations):
        chats.export(log.index, id, "markdown")


def test_what_is_being_forgotten_is_known_from_the_queue(log: ConversationLogger) -> None:
    service, id = Service(), chat(log, "My word is kept.")
    store.add("forget", {"turns": [id]}, id="mine")
    assert chats.being_forgotten(service.queue) >= {id} or service.queue.get("mine").over


@pytest.mark.parametrize(
    ("first", "then", "same"),
    [
        ((0,), (0,), True),
        ((0, 1), (1,), True),
        ((0, 1), (1, 0), True),
        ((0,), (1,), False),
        ((0,), (0, 1), False),
    ],
)
def test_what_is_being_forgotten_is_not_forgotten_a_second_time(
    log: ConversationLogger, first: tuple[int, ...], then: tuple[int, ...], same: bool
) -> None:
    """A page may send one press of a button twice."""
    service, ids = Service(ollama_url="http://127.0.0.1:9"), [chat(log, "One?"), chat(log, "Two?")]
    running = ForgetRequest(turns=tuple(ids[each] for each in first)).record()
    before = store.add("forget", running, here=processes.this_process())
    job = chats.forget(service, [ids[each] for each in then], origin="a page")
    assert (job.id == before.id) == same
    assert same or job.request["ollama_url"] == "http://127.0.0.1:9"
    if not same:
        service.queue.cancel(job.id, grace=0)
        service.queue.wait(job.id, 60)


def test_the_versions_that_learned_a_chat_are_named(log: ConversationLogger) -> None:
    first, second = chat(log, "One?"), chat(log, "Two?")
    for number, ids in enumerate(
        [log.index.ids_of(first), log.index.ids_of(first) | log.index.ids_of(second), set()], 1
    ):
        Registry().add("tuned", number, turns=ids)
    Registry().retire("tuned", 1)
    assert (
        chats.learned_by(log.index, Registry(), first)
        == chats.learned_by(log.index, Registry(), second)
        == ["tuned:v2"]
    )
    assert chats.learned_by(log.index, Registry(), "nobody") == []


# What a person wrote goes with the chat


def bytes_of_database(home: Path) -> bytes:
    return b"".join(file.read_bytes() for file in home.glob("state.db*"))


@pytest.mark.parametrize("by", ["session", "turn", "forget"])
@pytest.mark.parametrize("others", [0, 300])
def test_no_byte_of_a_title_is_left_once_its_chat_is_deleted(
    log: ConversationLogger, home: Path, by: str, others: int
) -> None:
    """Many rows: SQLite moves what stands beside a row when it comes and goes."""
    chance = random.Random(others)
    secrets = {uuid.uuid4().hex: uuid.uuid4().hex for _ in range(40)}
    rest = [uuid.uuid4().hex for _ in range(others)]
    log.log_imported([Entry(said_in(id, "Say hello.")) for id in [*secrets, *rest]])
    for id in chance.sample([*secrets, *rest], len(secrets) + len(rest)):
        chat_labels.set_label(
            id,
            title=f"{secrets.get(id, 'harmless')} {'x' * chance.randrange(150)}",
            folder=secrets.get(id, "")[::-1],
        )
    assert all(secret.encode() in bytes_of_database(home) for secret in secrets.values())
    for id, secret in secrets.items():
        remove(log, id, by)
        for text in (secret, secret[::-1]):
            assert text.encode() not in bytes_of_database(home), by
    assert len(chat_labels.labels()) == others


def remove(log: ConversationLogger, session: str, by: str) -> None:
    ids: Collection[str] = log.index.ids_of(session)
    if by == "session":
        log.delete(session_id=session)
    elif by == "turn":
        for id in ids:
            log.delete(id)
    else:
        log.forget(ids)


def test_a_title_stays_while_a_turn_of_its_chat_does_and_when_the_index_is_made_anew(log: ConversationLogger) -> None:
    id = chat(log, "One?")
    second = log.log_conversation("Two?", "Yes.").id
    chats.change(log.index, id, title="Mine")
    log.delete(second)
    assert chats.get(log.index, id).title == "Mine"
    log.path.write_bytes(log.path.read_bytes()[:-1] + b" \n")
    assert chats.get(log.index, id).title == "Mine"


# 100,000 turns


def test_pages_are_read_from_the_end_without_sorting(log: ConversationLogger) -> None:
    """Structure, and no clock."""
    chat(log, "hello")
    with state.connect() as database:
        plan = [row["detail"] for row in database.execute(f"EXPLAIN QUERY PLAN {LOOSE}", (1, 1000, 50))]
    assert not any("TEMP B-TREE" in step for step in plan)
    assert sum("COVERING INDEX log_turns_by_session (log=? AND session=?" in step for step in plan) == 3
    with state.connect() as database:
        plan = [row["detail"] for row in database.execute(f"EXPLAIN QUERY PLAN {chat_labels.ORPHANS}")]
    # for each label, and not for each turn
    assert [step for step in plan if "log_turns" in step and step.startswith("SEARCH")]


@pytest.mark.slow
def test_a_hundred_thousand_turns_are_listed_and_searched_as_fast_as_ten(log: ConversationLogger, home: Path) -> None:
    chance = random.Random(0)
    small = measured(log, fill(log, 10, chance))
    large = measured(log, fill(log, 100_000, chance))
    print({name: (f"{small[name] * 1000:.1f} ms", f"{large[name] * 1000:.1f} ms") for name in small})
    # with 10,000 times as many turns; a person waits at most 0.1 s, on a slow machine too
    assert all(large[name] < max(10 * small[name], 0.1) for name in small)


def said_in(session: str, question: str, answer: str = "Yes.") -> Turn:
    fields = {"id": uuid.uuid4().hex, "session_id": session, "timestamp": "2026-01-01T00:00:00+00:00"}
    return Turn(user_message=question, bot_response=answer, metadata={}, **fields)


def fill(log: ConversationLogger, turns: int, chance: random.Random) -> list[str]:
    words = ["".join(chance.choices(string.ascii_lowercase, k=6)) for _ in range(2000)]
    sessions = [uuid.uuid4().hex for _ in range(max(turns // 4, 1))]
    entries = []
    for number in range(turns):
        said = [" ".join(chance.choices(words, k=20)) for _ in range(2)]
        entries.append(Entry(said_in(sessions[number % len(sessions)], *said)))
    log.log_imported(entries)
    for id in sessions[:: max(len(sessions) // 500, 1)]:
        chat_labels.set_label(
            id, title="A title", folder=f"Folder {chance.randrange(5)}", pinned=not chance.randrange(20)
        )
    return words


def measured(log: ConversationLogger, words: list[str]) -> dict[str, float]:
    log.index.count()
    folder = next(iter(chats.folders().values()), set())
    asked = {
        "first page": lambda: chats.newest(log.index, 30),
        "pinned": lambda: chats.pinned(log.index, 50),
        "a folder": lambda: chats.among(log.index, folder, 30),
        "search": lambda: chats.search(log.index, " ".join(words[:1])),
    }
    return {name: min(seconds(ask) for _ in range(7)) for name, ask in asked.items()}
