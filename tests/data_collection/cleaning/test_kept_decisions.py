"""What was decided on a turn is decided once, is never taken for another's, and goes with its turn."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fine_tuning import paths
from fine_tuning.conversation import Conversation, Turn, conversations_of
from fine_tuning.data_collection.all_cores import AllCores
from fine_tuning.data_collection.cleaning import deciding
from fine_tuning.data_collection.cleaning.clean_turns import carried_out, clean_turn, exchange_of
from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions
from fine_tuning.data_collection.cleaning.turn_decisions import (
    CleanSettings,
    Decision,
    Exchange,
    decide,
    decide_all,
    decide_line,
    rule_files,
)
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned, DataCleaner

ANSWERS = [
    "Salaries are paid on the 23rd of every month.",
    "Mail jo@example.com or call +44 20 7946 0377, please.",
    "Zwei  Leerzeichen\u00a0und e\u0301 und ein\r\nUmbruch.",
    "no",
    "again and again and again and again and again and again and again and again and again",
    "Run this:\n\n```python\nprint( 1,  2 )\n```\n\nand ask bo@example.com about it.",
    "x" * 1200,
]


@pytest.fixture
def logger(home: Path) -> ConversationLogger:
    return ConversationLogger()


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """What `decide_all` is asked, in this process."""
    asked: list[Exchange] = []
    monkeypatch.setattr(deciding, "decide_all", lambda turns, by: asked.extend(turns) or decide_all(turns, by))
    return asked


def said(logger: ConversationLogger) -> list[str]:
    ids = []
    for number, answer in enumerate(ANSWERS):
        logger.new_session()
        ids.append(logger.log_conversation(f"What do we say of number {number}?", answer).id)
    return ids


def clean(logger: ConversationLogger, **settings: object) -> Cleaned:
    logger.index.mark()
    cleaner = DataCleaner(CleanSettings(**settings), kept=KeptDecisions(logger.path))  # type: ignore[arg-type]
    return cleaner.filter_conversations(logger.conversations())


def rows() -> int:
    with sqlite3.connect(paths.state_db()) as database:
        return int(database.execute("SELECT count(*) FROM decisions").fetchone()[0])


def test_a_turn_is_decided_upon_once_and_cleaned_as_without_that(
    logger: ConversationLogger, decided: list[Exchange]
) -> None:
    ids = said(logger)
    first = clean(logger)
    assert len(decided) == rows() == len(ids)
    assert clean(logger) == first == DataCleaner().filter_conversations(logger.conversations())
    assert len(decided) == 2 * len(ids)  # by the cleaner that keeps nothing
    new = logger.log_conversation("And what of the new one?", "The new one is decided upon alone.").id
    assert new in {turn.id for part in clean(logger).conversations for turn in part.turns}
    assert len(decided) == 2 * len(ids) + 1


def edited(logger: ConversationLogger, id: str) -> None:
    logger.edit(id, "Salaries are paid on the 25th, says pay@example.com now.")


def rated(logger: ConversationLogger, id: str) -> None:
    logger.rate(id, "up")


def excluded_and_back(logger: ConversationLogger, id: str) -> None:
    logger.exclude(id)
    clean(logger)
    logger.exclude(id, False)


@pytest.mark.parametrize(("change", "anew"), [(edited, 1), (rated, 0), (excluded_and_back, 0)])
def test_only_another_text_is_decided_upon_anew(
    logger: ConversationLogger,
    decided: list[Exchange],
    change: Callable[[ConversationLogger, str], None],
    anew: int,
) -> None:
    ids = said(logger)
    clean(logger)
    change(logger, ids[0])
    decided.clear()
    found = clean(logger)
    assert len(decided) == anew
    assert found == DataCleaner().filter_conversations(logger.conversations())


@pytest.mark.parametrize(
    "settings", [{"min_length": 1}, {"max_length": 20}, {"max_length": 5000}, {"scrub_pii": False}]
)
def test_other_settings_decide_anew(logger: ConversationLogger, settings: dict[str, object]) -> None:
    said(logger)
    clean(logger)
    cleaner = DataCleaner(CleanSettings(**settings))  # type: ignore[arg-type]
    assert clean(logger, **settings) == cleaner.filter_conversations(logger.conversations())
    assert clean(logger) == DataCleaner().filter_conversations(logger.conversations())


def test_other_rules_decide_anew(
    logger: ConversationLogger, decided: list[Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = said(logger)
    clean(logger)
    monkeypatch.setattr(deciding, "rules", lambda: ["other code"])
    decided.clear()
    clean(logger)
    assert len(decided) == len(ids)


def one(logger: ConversationLogger, ids: list[str]) -> None:
    logger.delete(turn_id=ids[1])


def many(logger: ConversationLogger, ids: list[str]) -> None:
    logger.forget(ids[1:3])


def by_hand(logger: ConversationLogger, ids: list[str]) -> None:
    lines = [line for line in logger.path.read_bytes().splitlines(keepends=True) if ids[1].encode() not in line]
    logger.path.write_bytes(b"".join(lines))
    logger.index.mark()


@pytest.mark.parametrize("remove", [one, many, by_hand])
def test_what_was_decided_on_a_turn_goes_with_it(
    logger: ConversationLogger, remove: Callable[[ConversationLogger, list[str]], None]
) -> None:
    ids = said(logger)
    clean(logger)
    with sqlite3.connect(paths.state_db()) as database:
        query = "SELECT made_from, decision FROM decisions JOIN log_turns USING (key) WHERE id = ?"
        made_from, decision = database.execute(query, (ids[1],)).fetchone()
    remove(logger, ids)
    content = b"".join(file.read_bytes() for file in paths.home().glob("state.db*"))
    assert made_from not in content
    assert decision.encode() not in content
    clean(logger)
    assert rows() == len(logger.turns())


def test_nothing_that_was_said_is_kept(logger: ConversationLogger) -> None:
    said(logger)
    clean(logger)
    with sqlite3.connect(paths.state_db()) as database:
        texts = [text for (text,) in database.execute("SELECT decision FROM decisions")]
    unchanged, kept = [text for text in texts if "[" not in text], [json.loads(text) for text in texts if "[" in text]
    words = {
        word
        for _, changes, _, _ in kept
        for change in changes.values()
        for find in change[1]
        for word in find
        if isinstance(word, str)
    }
    assert words == {"email", "phone"}
    wordings = [*unchanged, *(wording for *_, wording in kept)]
    assert unchanged and all(len(wording) in (0, 48) and int(wording or "0", 16) >= 0 for wording in wordings)


def test_a_turn_that_was_deleted_meanwhile_is_not_entered(logger: ConversationLogger) -> None:
    ids = said(logger)
    logger.index.mark()
    logger.delete(turn_id=ids[0])
    KeptDecisions(logger.path).put([(ids[0], b"hash", "[]"), (ids[1], b"hash", "[]")])
    assert rows() == 1


def test_without_the_table_all_is_decided_again(logger: ConversationLogger) -> None:
    said(logger)
    first = clean(logger)
    for file in paths.home().glob("state.db*"):
        file.unlink()
    assert clean(logger) == first


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"original_response": "Ask  al@example.com at once."},
        {"original_response": "y" * 1300},
        {"thoughts": " Hm,  bo@example.com "},
    ],
)
def test_a_decision_that_was_written_says_the_same(answer: str, facts: dict[str, str]) -> None:
    turn = Turn(
        id="1", session_id="s", timestamp="", user_message="What do we say?", bot_response=answer, metadata=facts
    )
    decision = decide(exchange_of(turn), CleanSettings())
    assert Decision.read(decision.written()) == decision
    assert carried_out(turn, Decision.read(decision.written())) == clean_turn(turn, CleanSettings())


# All cores


def conversations(count: int) -> list[Conversation]:
    answers = [
        f"{answer} Number {number // 9}." if len(answer) < 1000 else answer
        for number in range(count)
        for answer in ANSWERS[number % 7 :][:1]
    ]
    return conversations_of(
        Turn(
            id=str(n),
            session_id=str(n // 3),
            timestamp="",
            user_message=f"What do we say of {n % 1900}?",
            bot_response=answer,
        )
        for n, answer in enumerate(answers)
    )


def test_many_turns_are_cleaned_on_all_cores_as_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = conversations(2 * deciding._MANY)
    started: list[list[subprocess.Popen[bytes]]] = []
    start = AllCores._start
    monkeypatch.setattr(
        AllCores, "_start", lambda self: (setattr(self, "_wanted", 2), start(self), started.append(self._children))
    )
    together = DataCleaner().filter_conversations(given)
    assert [len(children) for children in started] == [2]
    assert all(child.returncode is not None for child in started[0])
    monkeypatch.setattr(deciding, "_MANY", 1 << 60)
    assert DataCleaner().filter_conversations(given) == together


def test_few_turns_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AllCores, "_start", lambda self: pytest.fail("a process for few turns"))
    DataCleaner().filter_conversations(conversations(100))


def lines(count: int) -> list[bytes]:
    return [
        json.dumps([{}, [[f"What is {n}?", ANSWERS[n % 7], None, None, n % 2 == 1]]]).encode() for n in range(count)
    ]


def test_what_a_child_took_and_did_not_bring_back_is_computed_here() -> None:
    given = lines(300)
    with AllCores(decide_line, children=2) as all_cores:
        all_cores._start()
        for child in all_cores._children:
            child.kill()
        assert all_cores.apply(given) == list(map(decide_line, given))
        assert all_cores.apply([]) == []


def test_children_import_no_torch() -> None:
    code = (
        "import sys; import fine_tuning.data_collection.data_cleaner; print([m for m in ('torch', "
        "'transformers') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_is_stopped_leaves_no_child(end: signal.Signals) -> None:
    code = (
        "from fine_tuning.data_collection.all_cores import AllCores\n"
        "from fine_tuning.data_collection.cleaning.turn_decisions import decide_line\n"
        "with AllCores(decide_line, children=2) as all_cores:\n"
        "    all_cores._start()\n"
        "    print(*(child.pid for child in all_cores._children), flush=True)\n"
        '    while True: all_cores.apply([b\'[{}, [["What is it?", "It is a thing.", null, null]]]\'] * 1000)\n'
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert program.stdout
    children = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
    assert len(children) == 2
    time.sleep(1.5)
    os.killpg(program.pid, end) if end is signal.SIGINT else program.send_signal(end)  # as a terminal does it
    assert program.wait(60) != 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_the_rules_are_known_by_the_code_of_every_module_that_decides():
    code = (
        "import sys; from fine_tuning.data_collection.cleaning import turn_decisions\n"
        "from fine_tuning.data_collection.private_details import names\n"
        "for name, module in sys.modules.items():\n"
        "    if name.startswith('fine_tuning.data_collection.'): print(module.__file__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {Path(line) for line in ran.stdout.splitlines()}
    assert len(imported) > 15
    assert imported <= set(rule_files())
