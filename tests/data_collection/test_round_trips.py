"""Whatever was exported teaches the same when it is imported again, or used as a dataset of one's own."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fine_tuning.config import DatasetFormat, FineTuningConfig
from fine_tuning.conversation import Conversation, Turn, only_context
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_export import LOG_FORMATS, check_records, file_of, in_file, write_export
from fine_tuning.data_collection.importers.importing import import_files
from fine_tuning.data_preparation.raw_data import read_turns
from fine_tuning.errors import NoConversations
from fine_tuning.planning import sift
from tests.test_only_context import WORDS

FOR_TRAINING = ("chatml", "sharegpt", "alpaca", "instruction")
KINDS = ("jsonl", "csv", "parquet")
FILES = [*(name for name in LOG_FORMATS if name != "markdown"), *(in_file(f, k) for f in FOR_TRAINING for k in KINDS)]
DATASETS = {".jsonl": DatasetFormat.JSONL, ".csv": DatasetFormat.CSV, ".parquet": DatasetFormat.HUGGINGFACE}
UNREADABLE = {"json"}  # as a dataset of one's own: an error says so

turns = st.tuples(
    st.sampled_from(["", "", "up", "down", "edit", "stopped", "stopped up", "context", "context up"]),
    st.sampled_from(["", "", "Be kind to everyone.", "Be brief."]),  # the system prompt
)
chats = st.lists(st.lists(turns, min_size=1, max_size=4), min_size=1, max_size=3)


def fill(log: ConversationLogger, said: list[list[tuple[str, str]]]) -> None:
    number = 0
    for chat in said:
        log.new_session()
        for how, system in chat:
            first, second = WORDS[number], WORDS[-1 - number]
            facts: dict[str, object] = {"system": system} if system else {}
            facts |= {"incomplete": "stopped"} if "stopped" in how else {"weight": 0} if "context" in how else {}
            answer = f"Behind {second} {number}, {first[::-1]} {second * 2} {first}."
            turn = log.log_conversation(f"Where did you put the {first} number {number}?", answer, facts)
            if how.endswith(("up", "down")):
                log.rate(turn.id, "up" if how.endswith("up") else "down")
            if how == "edit":
                log.edit(turn.id, f"Better said: {answer}")
            number += 1


Taught = list[tuple[str, list[tuple[str, str, bool]]]]


def taught(turns: list[Turn]) -> Taught:
    """Return the conversations that would be trained on, as (system prompt, [(question, answer, is learned), ...])."""
    found = sift(FineTuningConfig(), turns)
    return sorted(
        (
            each.system or "",
            [(turn.user_message, turn.bot_response, not only_context(turn)) for turn in each.turns],
        )
        for each in found.conversations
    )


def by_turn(known: Taught) -> Taught:
    """Return the exchanges that are learned, each alone."""
    return sorted((system, [exchange]) for system, exchanges in known for exchange in exchanges if exchange[-1])


def without_systems(known: Taught) -> Taught:
    return sorted(("", exchanges) for _, exchanges in known)


def written(conversations: list[Conversation], format: str, folder: Path) -> Path | None:
    """Return the path of an export; None if there is nothing to export in this format."""
    try:
        check_records(conversations, format)
    except NoConversations:
        return None
    return write_export(conversations, format, folder / file_of(format))


@pytest.mark.parametrize("format", FILES)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(said=chats)
def test_an_export_teaches_what_the_log_teaches(
    home: Path, tmp_path: Path, format: str, said: list[list[tuple[str, str]]]
) -> None:
    logs = [ConversationLogger(f"{name}.jsonl") for name in ("before", "after")]
    for log in logs:
        log.path.unlink(missing_ok=True)
    before, after = logs
    fill(before, said)
    wanted = taught(before.turns())
    file = written(before.conversations(), format, tmp_path)
    if file is None:
        assert not wanted
        return
    import_files(after, [file])
    if format == "csv":  # it has no system prompts, by which the log's conversations are divided
        wanted = without_systems(by_turn(wanted))
        assert by_turn(taught(after.turns())) == wanted
    else:
        assert taught(after.turns()) == wanted
    if format not in UNREADABLE:
        found = taught(read_turns(file, DATASETS.get(file.suffix, DatasetFormat.JSONL)))
        assert found == (by_turn(wanted) if format in LOG_FORMATS else wanted)


def test_the_system_prompt_of_an_imported_chat_holds_until_there_is_another(home: Path, tmp_path: Path) -> None:
    said: list[dict[str, str]] = []
    for number, system in enumerate(["Be kind to everyone.", "", "", "Be brief.", ""]):
        said += [{"role": "system", "content": system}] if system else []
        said += [{"role": "user", "content": f"Where is the {WORDS[number]}?"}]
        said += [{"role": "assistant", "content": f"It is behind the {WORDS[-1 - number]}, I think."}]
    file, log = tmp_path / "chat.jsonl", ConversationLogger()
    file.write_text(json.dumps({"messages": said}))
    import_files(log, [file])
    systems = [turn.metadata.get("system") for turn in log.turns()]
    assert systems == ["Be kind to everyone."] * 3 + ["Be brief."] * 2
    assert [(system, len(exchanges)) for system, exchanges in taught(log.turns())] == [
        ("Be brief.", 2),
        ("Be kind to everyone.", 3),
    ]
