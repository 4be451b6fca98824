"""A command that finds nothing to do says so, and asks and writes nothing."""

from pathlib import Path

import pytest

from fine_tuning import paths
from fine_tuning.cli.main import main
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_export import DataExporter
from fine_tuning.model_management.model_registry import Registry

pytestmark = pytest.mark.usefixtures("embedded")


def test_no_models_are_said_to_be_none_with_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert "There is no model yet" in said and "byoai prepare" in said


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--yes"], ["--no-retrain"], ["--now"]])
@pytest.mark.parametrize(
    "text", ["zorbexine", "timestamp", "crc32", "user_message"]
)  # the last ones stand in every line, and nobody said them
def test_forgetting_what_nothing_holds_asks_nothing(
    home: Path, more: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ConversationLogger()
    log.log_conversation("Where is the key?", "Under the mat.")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and "state.db" not in path.name}
    assert main(["forget", "--matching", text, *more]) == 0
    said = capsys.readouterr()
    assert "nothing to forget" in said.out and repr(text) in said.out and "--yes" not in said.err
    assert {
        path: path.read_bytes() for path in home.rglob("*") if path.is_file() and "state.db" not in path.name
    } == before


def test_forgetting_in_an_empty_data_folder_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "--matching", "zorbexine"]) == 0
    assert "nothing to forget" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["a file", "a damaged line", "a line set aside", "the database", "an export"])
def test_what_no_turn_holds_and_another_place_does_is_named_and_forgotten(
    home: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ConversationLogger()
    turn = log.log_conversation("Where is the key?", "Under the mat.")
    if place == "a file":
        (home / "notes.txt").write_text("My word is zorbexine.")
    elif place == "an export":
        (home / "exports").mkdir()
        (home / "exports" / "conversations.json").write_text('[{"a": "zorbexine"}]')
    elif place == "the database":
        Registry().add("fine_tuned_smollm2-135m", 1)
        Registry().update("fine_tuned_smollm2-135m", 1, notes="zorbexine")
    else:
        with log.path.open("ab") as file:
            file.write(b'{"id": "x", "session_id": "s", "user_message": "zorbex')
            file.write(b'ine"\n')
        if place == "a line set aside":
            log.rate(turn.id, "up")
    assert main(["forget", "--matching", "zorbexine"]) == 2  # not a terminal
    said = capsys.readouterr()
    assert "to be redacted" in said.out and "--yes" in said.err
    assert main(["forget", "--matching", "zorbexine", "--yes", "--no-retrain"]) == 0
    assert b"zorbexine" not in b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert main(["forget", "--matching", "zorbexine"]) == 0


@pytest.mark.parametrize("log_is", ["missing", "empty", "excluded", "forgotten"])
@pytest.mark.parametrize("folder", [[], ["elsewhere"]])
def test_exporting_nothing_is_said_and_writes_nothing(
    home: Path, tmp_path: Path, log_is: str, folder: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = ConversationLogger(), [str(tmp_path / each) for each in folder]
    if log_is == "empty":
        log.path.parent.mkdir()
        log.path.touch()
    elif log_is != "missing":
        turn = log.log_conversation("a", "b")
        log.exclude(turn.id) if log_is == "excluded" else log.delete(turn.id)
    assert main(["export", *folder]) == 3
    said = capsys.readouterr()
    assert "nothing to export" in said.err and str(log.path) in said.err and not said.out
    assert not (tmp_path / "elsewhere").exists() and not (home / "exports").exists()


@pytest.mark.parametrize("format", ["chatml", "alpaca", "instruction"])
def test_an_export_has_the_log_and_training_data_in_the_configured_format(
    home: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ConversationLogger().log_conversation("a", "b")
    assert main(["export", "--set", f"data_preparation.format_type={format}"]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "jsonl",
        "json",
        "csv",
        "parquet",
        "markdown",
        format,
    ]
    assert DataExporter().folder == paths.home() / "exports" and DataExporter().exported() == [
        "jsonl",
        "json",
        "csv",
        "parquet",
        "markdown",
        format,
    ]
    assert len(list((home / "exports").iterdir())) == 6
    assert main(["export", str(tmp_path / "elsewhere"), "--set", f"data_preparation.format_type={format}"]) == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 6


@pytest.mark.parametrize("more", [[], ["--list"], ["--json"]])
def test_reviewing_nothing_is_said_and_fetches_no_model(
    home: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", *more]) == 0
    assert capsys.readouterr().out == ("" if more == ["--json"] else "nothing to review: no chats are recorded\n")
    assert not (home / "engine" / "tags").exists()


def test_the_stats_of_an_empty_log_name_no_none(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats"]) == 0
    said = capsys.readouterr().out
    assert "0 in 0 conversations, 0 of them new" in said and "answered by: nothing yet" in said
    assert "None" not in said and "{}" not in said
    ConversationLogger().log_conversation("Who?", "Ann does.", {"model": "m:1"})
    assert main(["stats"]) == 0
    said = capsys.readouterr().out
    assert "1 in 1 conversation, 1 of them new" in said and "answered by: m:1 (1)" in said
    assert "4 characters asked, 9 answered" in said
