"""Only new texts are sketched, and what is built from earlier work is what would be built from nothing."""

import random
import shutil
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tuning.config import DataPreparation
from fine_tuning.config.mix import Mix
from fine_tuning.conversation import Conversation, Turn
from fine_tuning.data_collection.cleaning import sketches
from fine_tuning.data_collection.cleaning.kept_decisions import KeptDecisions
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_cleaner import Cleaned, DataCleaner
from fine_tuning.data_preparation import kept_sketches
from fine_tuning.data_preparation.dataset_builder import Dataset, build_dataset, delete_datasets_of
from fine_tuning.errors import NoConversations

SETTINGS = DataPreparation()


def said(text: str, id: str = "") -> Conversation:
    id = id or text.split()[-1]
    turn = Turn(
        id=f"{id}-0", session_id=id, timestamp="", user_message=f"What of {text}?", bot_response=f"{text} it is"
    )
    return Conversation(id=id, turns=(turn,))


def told(count: int, seed: int = 0) -> list[Conversation]:
    chance = random.Random(seed)
    return [
        said(f"{' '.join(chance.choices(string.ascii_lowercase, k=40))} {seed}-{number}") for number in range(count)
    ]


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were sketched."""
    texts: list[str] = []
    sketch = kept_sketches.sketch
    monkeypatch.setattr(kept_sketches, "sketch", lambda batch: texts.extend(batch) or sketch(batch))
    return texts


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_only_new_texts_are_sketched(home: Path, sketched: list[str]) -> None:
    given = told(30)
    build_dataset(given, SETTINGS)
    assert len(sketched) == 30
    sketched.clear()
    larger = build_dataset([*told(3, 1), *given[5:], said("the new one, which is like no other")], SETTINGS)
    assert len(sketched) == 4
    before = content(larger.path)
    shutil.rmtree(home / "datasets")
    assert (
        content(build_dataset([*told(3, 1), *given[5:], said("the new one, which is like no other")], SETTINGS).path)
        == before
    )


def other_code(file: Path) -> None:
    file.write_bytes(b"other code......" + file.read_bytes()[16:])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [other_code, cut, empty, Path.unlink])
def test_sketches_that_cannot_be_used_are_made_again(
    home: Path, sketched: list[str], damage: Callable[[Path], object]
) -> None:
    damage(build_dataset(told(30), SETTINGS).path / "texts.sketches")
    sketched.clear()
    build_dataset(told(31), SETTINGS)
    assert len(sketched) == 31


def test_a_damaged_sketch_is_made_again(home: Path, sketched: list[str]) -> None:
    file = build_dataset(told(30), SETTINGS).path / "texts.sketches"
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 1  # in the last sketch
    broken[16] ^= 1  # in the hash of the first text
    file.write_bytes(broken)
    sketched.clear()
    build_dataset(told(31), SETTINGS)
    assert len(sketched) == 3


def test_sketches_go_with_their_turns(home: Path, sketched: list[str]) -> None:
    left_out = [
        each.model_copy(
            update={"turns": tuple(turn.model_copy(update={"metadata": {"source": "other"}}) for turn in each.turns)}
        )
        for each in told(4, 1)
    ]
    dataset = build_dataset([*told(30), *left_out], SETTINGS, mix=Mix(shares={"other": 0}))
    sketched.clear()
    build_dataset([*told(31), *left_out], SETTINGS, mix=Mix(shares={"other": 0}))
    assert len(sketched) == 5  # the new one, and those that are not in the dataset, so that it may outlive them
    assert dataset.path in delete_datasets_of([told(1)[0].turns[0].id])
    assert not list(home.glob("datasets/*/texts.sketches"))


def test_a_source_that_is_left_out_may_fill_whole_batches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kept_sketches, sketches):
        monkeypatch.setattr(module, "BATCH", 2)
    other = [
        each.model_copy(
            update={"turns": tuple(turn.model_copy(update={"metadata": {"source": "other"}}) for turn in each.turns)}
        )
        for each in told(6, 1)
    ]
    dataset = build_dataset([*told(5), *other, *told(5, 2)], SETTINGS, mix=Mix(shares={"other": 0}))
    assert sum(counts["conversations"] for counts in dataset.manifest["splits"].values()) == 10


# From earlier work, and from nothing

TURNS = st.tuples(
    st.integers(0, 3),  # session
    st.sampled_from(["Where is the key to room 7?", "Where is the key to room 8?", "Who has the badge?", "And when?"]),
    st.sampled_from(
        [
            "It hangs beside the door of the kitchen.",
            "Ask jo@example.com or call +44 20 7946 0377.",
            "Ask jo@example.com and bo@example.com, both know of it.",
            "no",
        ]
    ),
)
STEPS = st.one_of(
    TURNS,
    st.tuples(st.sampled_from(["edit", "delete", "exclude", "include", "up", "down"]), st.integers(0, 30)),
    st.tuples(st.just("settings"), st.sampled_from([{"min_length": 1}, {"scrub_pii": False}, {}])),
)


def take(log: ConversationLogger, step: tuple[object, ...]) -> None:
    match step:
        case (int(session), str(question), str(answer)):
            log.session_id = f"session-{session}"
            log.log_conversation(question, answer)
        case (str(what), int(number)) if turns := log.turns(include_excluded=True):
            id = turns[number % len(turns)].id
            match what:
                case "edit":
                    log.edit(id, f"It was moved {number} times, says al@example.com now.")
                case "delete":
                    log.delete(turn_id=id)
                    delete_datasets_of([id])
                case "exclude" | "include":
                    log.exclude(id, what == "exclude")
                case "up" | "down":
                    log.rate(id, "up" if what == "up" else "down")


def plan(log: ConversationLogger, limits: CleanSettings, kept: bool) -> tuple[Cleaned, Dataset | None]:
    log.index.mark()
    cleaner = DataCleaner(limits, kept=KeptDecisions(log.path) if kept else None, newest_wins=True)
    cleaned = cleaner.filter_conversations(log.conversations())
    try:
        return cleaned, build_dataset(cleaned.conversations, SETTINGS, cleaned.dropped)
    except NoConversations:
        return cleaned, None


@settings(max_examples=25)
@given(st.lists(st.lists(STEPS, max_size=6), min_size=2, max_size=5))
def test_a_plan_from_earlier_work_is_the_plan_from_nothing(rounds: list[list[tuple[object, ...]]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BYOAI_HOME", f"{folder}/home")
        log, limits = ConversationLogger(), CleanSettings()
        for steps in rounds:
            for step in steps:
                take(log, step)
                limits = CleanSettings(**step[1]) if step[0] == "settings" else limits  # type: ignore[arg-type]
            cleaned, dataset = plan(log, limits, kept=True)
            with pytest.MonkeyPatch.context() as elsewhere:
                elsewhere.setenv("BYOAI_HOME", f"{folder}/nothing")
                anew, rebuilt = plan(log, limits, kept=False)
                assert cleaned == anew
                assert (dataset and content(dataset.path)) == (rebuilt and content(rebuilt.path))
            shutil.rmtree(f"{folder}/nothing", ignore_errors=True)
