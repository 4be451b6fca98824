"""Every format can be read by what it is for, and says all that was said."""

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from fine_tuning.config import DatasetFormat
from fine_tuning.conversation import Conversation, Turn, parse_conversations
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.data_collection.data_export import LOG_FORMATS, DataExporter, file_of, in_file, write_export
from fine_tuning.data_collection.importers.importing import import_files
from fine_tuning.data_collection.pair_formats import FORMATS
from fine_tuning.data_collection.training_formats import TRAINING
from fine_tuning.data_preparation.formatter import TrainingDataFormatter
from fine_tuning.errors import DataError

TURNS = [
    Turn(
        id=str(n),
        session_id="s",
        timestamp="2026-03-02T09:06:25+00:00",
        user_message=f"frage {n}\nü,\"'",
        bot_response=f"Antwort {n}",
        metadata=facts,
    )
    for n, facts in enumerate([{"model": "m:1", "rating": "up"}, {"deep": {"a": [1]}}])
]
CONVERSATIONS = [Conversation(id="s", turns=tuple(TURNS), system="Be kind."), Conversation(id="t", turns=(TURNS[0],))]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return DataExporter(tmp_path / "out").export_all_formats(CONVERSATIONS)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_all_formats_are_written_to_the_folder(files: dict[str, Path], tmp_path: Path) -> None:
    assert list(files) == [
        "jsonl",
        "json",
        "csv",
        "parquet",
        "markdown",
        "chatml",
        "sharegpt",
        "alpaca",
        "instruction",
        "dpo",
        "dpo-text",
    ]
    assert sorted(files.values()) == sorted((tmp_path / "out").iterdir())


def test_exports_lie_in_the_data_folder_unless_said_otherwise(home: Path) -> None:
    assert {path.parent for path in DataExporter().export_all_formats([]).values()} == {home / "exports"}


def test_jsonl_is_a_turn_a_line_as_in_the_log(files: dict[str, Path]) -> None:
    assert [Turn.model_validate(record) for record in lines(files["jsonl"])] == [*TURNS, TURNS[0]]


def test_json_gives_the_same_conversations_back(files: dict[str, Path]) -> None:
    assert parse_conversations(json.loads(files["json"].read_text(encoding="utf-8"))) == CONVERSATIONS


def test_csv_has_a_row_a_turn(files: dict[str, Path]) -> None:
    assert [row["user_message"] for row in rows(files["csv"])] == [turn.user_message for turn in (*TURNS, TURNS[0])]
    assert [(row["model"], row["rating"]) for row in rows(files["csv"])] == [("m:1", "up"), ("", ""), ("m:1", "up")]


def test_parquet_has_a_row_a_turn_with_the_columns_of_csv(files: dict[str, Path]) -> None:
    from pyarrow import parquet

    found = parquet.read_table(files["parquet"]).to_pylist()
    assert [row["user_message"] for row in found] == [turn.user_message for turn in (*TURNS, TURNS[0])]
    assert [(row["model"], row["rating"]) for row in found] == [("m:1", "up"), (None, None), ("m:1", "up")]
    assert [json.loads(row["metadata"]) for row in found] == [turn.metadata for turn in (*TURNS, TURNS[0])]


@pytest.mark.parametrize("text", ["", "=1+1", "a\u2028b", "\x00\x01", "😀" * 2000, "null", "x" * 70_000])
def test_parquet_gives_any_text_back(tmp_path: Path, text: str) -> None:
    from pyarrow import parquet

    turn = TURNS[0].model_copy(update={"user_message": text, "metadata": {"model": text, "rating": 3}})
    file = write_export([Conversation(id="s", turns=(turn,))], "parquet", tmp_path / "x.parquet")
    (row,) = parquet.read_table(file).to_pylist()
    assert (row["user_message"], row["model"], row["rating"]) == (text, text, "3")


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 25_001])
def test_parquet_is_written_in_parts(tmp_path: Path, count: int) -> None:
    from pyarrow import parquet

    turns = tuple(TURNS[0].model_copy(update={"id": str(number)}) for number in range(count))
    conversations = [Conversation(id="s", turns=turns)] if turns else []
    found = parquet.ParquetFile(write_export(conversations, "parquet", tmp_path / "x.parquet"))
    assert found.metadata.num_row_groups == -(-count // 10_000)
    assert found.read(["id"]).column("id").to_pylist() == [str(number) for number in range(count)]


def test_chatml_has_the_messages_of_a_conversation_a_line(files: dict[str, Path]) -> None:
    first, second = lines(files["chatml"])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant", "user", "assistant"]  # type: ignore[attr-defined]
    assert second == {"messages": [message.model_dump() for message in TURNS[0].messages()]}


SAID = [
    ("Where is the key?", "Under the mat.", {"system": "Be kind.", "original_response": "No idea."}),
    ('=1+1\r\nü \u2028 "quoted", and more', "- one\n- two", {"system": "Be kind.", "original_response": "@you"}),
    ("And then?", '[{"a": 1}]', {"system": "Be kind."}),
]


@pytest.fixture
def chat(home: Path) -> Conversation:
    turns = (
        Turn(id=str(n), session_id="s", timestamp="", user_message=question, bot_response=answer, metadata=facts)
        for n, (question, answer, facts) in enumerate(SAID)
    )
    return Conversation(id="s", turns=tuple(turns))


KINDS = [(format, kind) for format in TRAINING for kind in ("", "jsonl", "csv", "parquet")]
IMPORTED_AS = {"chatml": "messages", "instruction": "prompt-completion", "dpo": "preference", "dpo-text": "preference"}


@pytest.mark.parametrize(("format", "kind"), [*((name, "") for name in LOG_FORMATS), *KINDS])
def test_what_was_exported_can_be_imported(chat: Conversation, tmp_path: Path, format: str, kind: str) -> None:
    name = in_file(format, kind)
    file = write_export([chat], name, tmp_path / file_of(name))
    log = ConversationLogger()
    report = import_files(log, [file])
    own = "text" if format == "markdown" else "byoai"
    assert set(report.formats) == {own if format in LOG_FORMATS else IMPORTED_AS.get(format, format)}
    assert report.set_aside == 0
    turns = log.turns()
    if format in ("jsonl", "json", "parquet"):
        kept = [{key: turn.metadata.get(key) for key in ("system", "original_response")} for turn in turns]
        assert kept == [{"original_response": None, **facts} for *_, facts in SAID]
    if format.startswith("dpo"):  # the conversation before each pair is imported, too
        found = {
            (turn.user_message, turn.bot_response, turn.metadata["original_response"])
            for turn in turns
            if "original_response" in turn.metadata
        }
        assert found == {(asked, said, facts["original_response"]) for asked, said, facts in SAID[:2]}
    else:
        found = [(turn.user_message, turn.bot_response) for turn in turns]
        lines_end = "\n" if format == "markdown" else "\r\n"
        assert list(dict.fromkeys(found)) == [(asked.replace("\r\n", lines_end), said) for asked, said, _ in SAID]
    if format not in LOG_FORMATS:
        assert {turn.metadata["system"] for turn in turns if "system" in turn.metadata} == {"Be kind."}


def _filled(value: Any) -> Any:
    """Return a value of a Parquet file without the fields that are null in it, which JSON leaves out."""
    if isinstance(value, list):
        return [_filled(each) for each in value]
    return {key: _filled(each) for key, each in value.items() if each is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize("format", TRAINING)
def test_every_kind_of_file_holds_the_same_records(chat: Conversation, tmp_path: Path, format: str) -> None:
    from pyarrow import parquet

    wanted = lines(write_export([chat], in_file(format, "jsonl"), tmp_path / "x.jsonl"))
    found = parquet.read_table(write_export([chat], f"{format}.parquet", tmp_path / "x.parquet")).to_pylist()
    assert [_filled(row) for row in found] == wanted
    assert list(rows(write_export([chat], f"{format}.csv", tmp_path / "x.csv"))[0]) == list(TRAINING[format].columns)


def test_preferences_have_trls_two_forms(chat: Conversation, tmp_path: Path) -> None:
    """https://huggingface.co/docs/trl/dataset_formats#preference"""
    first, second = lines(write_export([chat], "dpo", tmp_path / "x.jsonl"))
    head = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": SAID[0][0]}]
    answer = {"role": "assistant", "content": SAID[0][1]}
    rejected = [{"role": "assistant", "content": "No idea."}]
    assert first == {"prompt": head, "chosen": [answer], "rejected": rejected}
    assert second["prompt"] == [*head, answer, {"role": "user", "content": SAID[1][0]}]
    first, second = lines(write_export([chat], "dpo-text", tmp_path / "y.jsonl"))
    texts = {"prompt": SAID[0][0], "chosen": SAID[0][1], "rejected": "No idea.", "system": "Be kind."}
    assert first == texts
    assert second["prompt"] == f"Human: {SAID[0][0]}\n\nAssistant: {SAID[0][1]}\n\nHuman: {SAID[1][0]}"


def test_of_several_answers_the_one_with_a_thumb_up_is_chosen(tmp_path: Path) -> None:
    facts = [{}, {"regenerates": "0", "rating": "up"}]
    turns = [
        TURNS[0].model_copy(update={"id": str(n), "bot_response": f"answer {n}", "metadata": fact})
        for n, fact in enumerate(facts)
    ]
    (pair,) = lines(write_export([Conversation(id="s", turns=tuple(turns))], "dpo-text", tmp_path / "x.jsonl"))
    assert (pair["chosen"], pair["rejected"]) == ("answer 1", "answer 0")


def test_alpaca_has_a_record_a_turn_with_what_was_said_before(files: dict[str, Path]) -> None:
    first, second, third = json.loads(files["alpaca"].read_text(encoding="utf-8"))
    said = {"instruction": TURNS[0].user_message, "input": "", "output": TURNS[0].bot_response}
    assert first == said | {"system": "Be kind."}
    assert second["history"] == [[TURNS[0].user_message, TURNS[0].bot_response]]
    assert third == said


def test_instruction_has_a_line_a_turn_with_what_was_said_before(files: dict[str, Path]) -> None:
    first, second, third = lines(files["instruction"])
    said = {"prompt": TURNS[0].user_message, "completion": TURNS[0].bot_response}
    assert first == said | {"system": "Be kind."}
    assert second["history"] == [[TURNS[0].user_message, TURNS[0].bot_response]]
    assert third == said


@pytest.mark.parametrize("format", list(FORMATS))
def test_training_data_is_what_the_formatter_writes_and_reads(files: dict[str, Path], format: DatasetFormat) -> None:
    text = files[format].read_text(encoding="utf-8")
    records = json.loads(text) if format == DatasetFormat.ALPACA else lines(files[format])
    formatter = TrainingDataFormatter(format)
    formatter.validate(records)
    # the last turns hold all before them
    whole = [records[at] for at in ((0, 1) if format == DatasetFormat.CHATML else (1, 2))]
    assert whole == formatter.create_training_pairs(CONVERSATIONS)


def test_what_was_exported_is_known_by_its_format(tmp_path: Path) -> None:
    exporter = DataExporter(tmp_path)
    assert exporter.exported() == []
    assert list(exporter.export(CONVERSATIONS, ["csv", DatasetFormat.ALPACA])) == ["csv", "alpaca"]
    assert exporter.exported() == ["csv", "alpaca"]
    with pytest.raises(DataError, match="unknown export format 'xml'"):
        exporter.export(CONVERSATIONS, ["xml"])


@pytest.mark.parametrize(
    "said", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1+1", "=cmd|' /C calc'!A0"]
)
def test_a_spreadsheet_runs_nothing_that_was_said(tmp_path: Path, said: str) -> None:
    (row,) = rows(write_export([{"user_message": said, "bot_response": "a, b"}], "csv", tmp_path / "x.csv"))
    assert row["user_message"] == "'" + said
    assert row["bot_response"] == "a, b"


def test_an_export_replaces_the_one_before_and_leaves_nothing_else(files: dict[str, Path], tmp_path: Path) -> None:
    DataExporter(tmp_path / "out").export_all_formats(CONVERSATIONS[1:])
    assert len(lines(files["jsonl"])) == 1
    assert sorted(files.values()) == sorted((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "answer",
    [
        "no code",
        "```py\nx = 1\n```",
        "```py\nx = 1",
        "~~~~\n```\n~~~~",
        "````\n```\n",
        "a ``` b",
        "   ```\nx\n   ```  ",
        "```\nx\n```` ",
    ],
)
def test_markdown_closes_the_code_that_an_answer_left_open(home: Path, answer: str) -> None:
    log = ConversationLogger()
    log.log_conversation("How?", answer)
    log.log_conversation("# And then?", "End.")
    text = write_export(log.conversations(), "markdown", home / "x.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").parse(text)
    headings = [after.content for before, after in pairwise(tokens) if before.type == "heading_open"]
    assert headings[0].startswith("Conversation of ")
    # none is swallowed by a block of code before it
    assert headings[1:] == ["You", "Assistant", "You", "And then?", "Assistant"]
    assert answer.strip() in text


def test_an_unknown_format_and_an_unwritable_place_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown export format 'xml'"):
        write_export(CONVERSATIONS, "xml", tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        write_export(CONVERSATIONS, "csv", tmp_path / "file" / "x.csv")


def test_records_that_are_no_conversations_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 1"):
        DataExporter(tmp_path).export_all_formats([CONVERSATIONS[0], {"user_message": 5}])


def test_an_automatic_export_is_due_every_so_many_turns_and_after_a_deletion(home: Path) -> None:
    log = ConversationLogger(export_every=2)
    exported = home / "exports" / "conversations.jsonl"
    log.log_conversation("one", "1")
    assert not exported.exists()
    turn = log.log_conversation("two", "2")
    assert len(lines(exported)) == 2
    log.log_conversation("three", "3")
    assert len(lines(exported)) == 2
    log.delete(turn.id)
    assert not DataExporter().export_when_due(log.conversations(), 2)
    log.delete(session_id=log.session_id)
    assert DataExporter().export_when_due(log.conversations(), 2)
    assert lines(exported) == []
    assert len(DataExporter().remove()) == 12
    assert list((home / "exports").iterdir()) == []


def test_the_log_is_read_only_for_the_turn_with_which_an_export_is_due(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, read = ConversationLogger(export_every=5), list[int]()
    conversations = log.conversations
    monkeypatch.setattr(log, "conversations", lambda: read.append(log.index.count()) or conversations())
    for number in range(12):
        turn = log.log_conversation(f"Question {number}", f"Answer {number}")
        if number == 7:
            log.exclude(turn.id)
    assert read == [5, 10]
    assert len(lines(home / "exports" / "conversations.jsonl")) == 10


def test_a_turn_is_logged_also_when_its_export_fails(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "exports").touch()  # a file where the folder should be
    log = ConversationLogger(export_every=1)
    turn = log.log_conversation("one", "1")
    assert log.turns() == [turn]
    assert "export" in caplog.text


def test_chats_for_training_have_one_answer_to_each_question(tmp_path: Path) -> None:
    again = TURNS[1].model_copy(
        update={"id": "again", "bot_response": "anew", "metadata": {"regenerates": TURNS[1].id}}
    )
    chat = CONVERSATIONS[0].model_copy(update={"turns": (*TURNS, again)})
    (record,) = lines(write_export([chat], "chatml", tmp_path / "x.jsonl"))
    assert [message["content"] for message in record["messages"] if message["role"] == "assistant"] == [  # type: ignore[attr-defined]
        TURNS[0].bot_response,
        "anew",
    ]


def test_the_path_that_stands_is_exported_under_the_system_prompt_of_each_answer(tmp_path: Path) -> None:
    facts = [{"parent": ""}, {"parent": "0"}, {"parent": "0", "system": "Be brief."}]
    turns = [TURNS[0].model_copy(update={"id": str(number), "metadata": fact}) for number, fact in enumerate(facts)]
    files = DataExporter(tmp_path / "out").export_all_formats([Conversation(id="s", turns=tuple(turns))])
    roles = [[message["role"] for message in line["messages"]] for line in lines(files["chatml"])]  # type: ignore[attr-defined]
    assert roles == [["user", "assistant"], ["system", "user", "assistant"]]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([], ["cat", "dog", "fox"]),
        (["--text", "dog"], ["dog"]),
        (["--state", "up"], ["cat"]),
        (["--state", "up", "--text", "cat"], ["cat"]),
        (["--model", "b:1"], ["fox"]),
        (["--state", "new"], ["cat", "dog", "fox"]),
        (["--text", "owl"], None),  # excluded
        (["--state", "down"], None),
        (["--import", "nobody"], None),
    ],
)
def test_the_command_exports_the_turns_that_are_asked_for(
    home: Path, capsys: pytest.CaptureFixture[str], filters: list[str], wanted: list[str] | None
) -> None:
    from pyarrow import parquet

    from fine_tuning.cli.main import main

    log = ConversationLogger()
    for animal, model in (("cat", "a:1"), ("dog", "a:1"), ("fox", "b:1"), ("owl", "b:1")):
        log.new_session()
        turn = log.log_conversation(f"Tell me about the {animal} please", f"The {animal} sleeps.", {"model": model}).id
        if animal == "cat":
            log.rate(turn, "up")
        if animal == "owl":
            log.exclude(turn)
    assert main(["export", str(home / "out"), *filters]) == (3 if wanted is None else 0)
    told = capsys.readouterr()
    if wanted is None:
        assert "nothing was written" in told.err and not (home / "out").exists()
        return
    asked = parquet.read_table(home / "out" / "conversations.parquet").column("user_message").to_pylist()
    assert [text.split()[4] for text in asked] == wanted
    assert [record["user_message"] for record in lines(home / "out" / "conversations.jsonl")] == asked


def test_the_command_writes_only_the_formats_that_are_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fine_tuning.cli.main import main

    ConversationLogger().log_conversation("Where is the key?", "Under the mat.")
    out = home / "out"
    assert main(["export", str(out), "--format", "sharegpt", "--format", "csv"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["conversations.csv", "sharegpt.jsonl"]
    assert main(["export", str(home / "other"), "--format", "csv", "--format", "xml"]) == 3
    assert "unknown export format 'xml'" in capsys.readouterr().err and not (home / "other").exists()


def test_the_command_writes_the_kind_of_file_that_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fine_tuning.cli.main import main

    log = ConversationLogger()
    turn = log.log_conversation("Where is the key?", "No idea.")
    out = home / "out"
    assert main(["export", str(out), "--format", "dpo"]) == 3
    assert "there is no pair of answers" in capsys.readouterr().err and not out.exists()
    log.edit(turn.id, "Under the mat.")
    assert main(["export", str(out), "--format", "dpo", "--format", "alpaca", "--as", "csv"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["alpaca.csv", "dpo.csv"]
    assert main(["export", str(out), "--format", "markdown", "--as", "csv"]) == 2
    assert "markdown is not written as 'csv'" in capsys.readouterr().err
