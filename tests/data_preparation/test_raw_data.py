"""Files of one's own in any format, filtered and changed, and what is learned of them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.config import DatasetFormat
from fine_tuning.data_preparation.preprocessing import prepare
from fine_tuning.data_preparation.raw_data import read_records, read_turns
from fine_tuning.errors import ByoaiError, ConfigError, DataError, NoConversations

ASKED, ANSWERED = "Which door is blue?", "The second one, with the brass handle."
PAIR = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]


def written(tmp_path: Path, content: str, name: str = "raw.txt") -> Path:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("csv", f'question,answer\n{ASKED},"{ANSWERED}"\n'),
        ("csv", f'\ufeffPrompt;Completion\r\n{ASKED};"{ANSWERED}"\r\n\r\n'),
        ("csv", f"instruction\tinput\toutput\n{ASKED}\t\t{ANSWERED}\n"),
        ("csv", f'id,user_message,bot_response\n1,{ASKED},"{ANSWERED}"\n'),
        ("jsonl", json.dumps({"messages": PAIR}) + "\n"),
        (
            "jsonl",
            json.dumps({"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]}),
        ),
        ("jsonl", json.dumps({"instruction": ASKED, "input": "", "output": ANSWERED}) + "\n\n"),
        ("jsonl", json.dumps({"question": ASKED, "answer": {"text": [ANSWERED, "other"]}})),
        ("jsonl", json.dumps([{"prompt": ASKED, "response": ANSWERED}], indent=1)),
        ("chatml", json.dumps({"messages": PAIR})),
        ("alpaca", json.dumps({"instruction": ASKED, "output": ANSWERED})),
        ("text", f"User: {ASKED}\nAssistant: {ANSWERED}\n"),
        ("text", f"Q: {ASKED}\nA: {ANSWERED}"),
        ("text", f"\r\nHuman:\r\n{ASKED}\r\nBot: {ANSWERED}\r\n\r\n\r\n"),
    ],
)
def test_every_format_gives_the_same_question_and_answer(tmp_path: Path, format: str, content: str) -> None:
    file = written(tmp_path, content)
    (record,) = read_records(file, DatasetFormat(format))
    assert record == {"messages": PAIR}
    (turn,) = read_turns(file, DatasetFormat(format))
    assert (turn.user_message, turn.bot_response) == (ASKED, ANSWERED)


def test_what_is_given_beside_the_question_stands_after_it(tmp_path: Path) -> None:
    file = written(tmp_path, json.dumps({"question": ASKED, "context": "Three doors.", "answer": ANSWERED}))
    (turn,) = read_turns(file, DatasetFormat.JSONL)
    assert turn.user_message == f"{ASKED}\n\nThree doors."


def test_plain_paragraphs_are_texts_to_be_gone_on_with(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "The house has three doors and one of them is blue.\nIt is the second.\n\nNote: a colon is no "
        "speaker.\n\nword\n",
    )
    texts = [record["text"] for record in read_records(file, DatasetFormat.TEXT)]
    assert texts[0].endswith("It is the second.") and texts[1].startswith("Note:") and texts[2] == "word"
    first, _ = read_turns(file, DatasetFormat.TEXT)  # one word is nothing to go on with
    assert first.user_message.startswith("Continue this text: The house") and first.bot_response.endswith(
        "It is the second."
    )


def test_a_conversation_of_several_turns_is_one_session_and_the_same_twice_is_one(tmp_path: Path) -> None:
    line = json.dumps({"messages": [*PAIR, *PAIR[:1], {"role": "assistant", "content": "As I said, the second one."}]})
    turns = read_turns(written(tmp_path, f"{line}\n{line}\n"), DatasetFormat.JSONL)
    assert len(turns) == 2 and len({turn.session_id for turn in turns}) == 1 and len({turn.id for turn in turns}) == 2


def test_a_folder_of_the_hub_is_read_as_it_lies_there(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet

    table = arrow.table({"question": [ASKED], "answer": [ANSWERED]})
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    pyarrow.parquet.write_table(
        arrow.table({"question": ["?"], "answer": ["test"]}), tmp_path / "data" / "test-00000-of-00001.parquet"
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    assert list(read_records(tmp_path, DatasetFormat.HUGGINGFACE)) == [{"messages": PAIR}]
    saved = tmp_path / "saved"
    saved.mkdir()
    with (
        arrow.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as file,
        arrow.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table)
    (saved / "state.json").write_text('{"_fingerprint": "x"}')
    assert list(read_records(saved, DatasetFormat.HUGGINGFACE)) == [{"messages": PAIR}]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="contains no parquet"):
        list(read_records(empty, DatasetFormat.HUGGINGFACE))


def test_a_function_of_the_program_gives_records_only_to_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, f"def load():\n    yield {{'prompt': {ASKED!r}, 'completion': {ANSWERED!r}}}\n", "my_records.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(read_records("my_records:load", DatasetFormat.CUSTOM, trusted=True)) == [{"messages": PAIR}]
    sys.modules.pop("my_records")
    with pytest.raises(ConfigError, match="prepare_dataset"):
        list(read_records("my_records:load", DatasetFormat.CUSTOM))
    assert "my_records" not in sys.modules  # nothing was run
    for wrong in ("my_records:nothing", "my_records", "no_such_module:load", ":", "os:sep"):
        with pytest.raises(ConfigError):
            list(read_records(wrong, DatasetFormat.CUSTOM, trusted=True))


@pytest.mark.parametrize(
    ("format", "content", "said"),
    [
        ("jsonl", '{"messages": []\n', "line 1: not valid JSON"),
        ("jsonl", '{"a": "b"}\n', r"line 1: its fields \(a\) are not known"),
        ("jsonl", "\n3\n", "line 2: a record must be an object"),
        ("jsonl", '{"messages": [{"role": "wizard", "content": "x"}]}', "is not a message"),
        ("jsonl", '{"messages": [{"role": "user", "content": 3}]}', "is not a message"),
        ("jsonl", "[" * 100_000, "not valid JSON"),
        ("csv", "question,answer\na,b,c\n", "line 2: more values"),
        ("csv", "left,right\na,b\n", r"its fields \(left, right\) are not known"),
        ("csv", 'question,answer\n"a,b\n', "not valid CSV|fields"),
        ("text", "", "no question"),
        ("jsonl", "", "no question"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path: Path, format: str, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_turns(written(tmp_path, content), DatasetFormat(format))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_turns(tmp_path / "none.csv", DatasetFormat.CSV)
    (tmp_path / "raw.csv").write_bytes(b"question,answer\n\xff\xfe,b")
    with pytest.raises(DataError, match="not UTF-8"):
        read_turns(tmp_path / "raw.csv", DatasetFormat.CSV)
    with pytest.raises(DataError, match="cannot read"):
        read_turns(tmp_path, DatasetFormat.CSV)
    with pytest.raises(DataError, match="neither a folder nor"):
        list(read_records("../../etc/passwd no", DatasetFormat.HUGGINGFACE))


# Step by step


CSV = "question,answer\nAB?,Yes\nWhich DOOR?,The Blue one <b>there</b>\nWhich DOOR?,The Blue one <b>there</b>\n"


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_steps_are_done_in_their_order_and_the_same_gives_the_same_file(home: Path, tmp_path: Path) -> None:
    raw = written(tmp_path, CSV, "raw.csv")
    steps: list[dict[str, Any]] = [
        {"type": "filter", "condition": "length > 10"},
        {"type": "transform", "operation": "lowercase"},
        {"type": "transform", "operation": "strip_html", "field": "answer"},
        {"type": "deduplicate"},
    ]
    file = prepare(raw, "csv", "jsonl", steps)
    assert lines(file) == [
        {
            "messages": [
                {"role": "user", "content": "which door?"},
                {"role": "assistant", "content": "the blue one there"},
            ]
        }
    ]
    assert file.is_relative_to(home / "prepared") and prepare(raw, "csv", "jsonl", steps) == file
    assert prepare(raw, DatasetFormat.CSV) != file and len(lines(prepare(raw, "csv"))) == 3


@pytest.mark.parametrize("format", ["alpaca", "chatml", "instruction"])
def test_it_is_written_as_other_trainers_read_it(home: Path, tmp_path: Path, format: str) -> None:
    file = prepare(written(tmp_path, CSV), "csv", format, target=tmp_path / "out.jsonl")
    assert file == tmp_path / "out.jsonl" and len(lines(file)) == 3
    assert {turn.user_message for turn in read_turns(file, DatasetFormat.JSONL)} == {"AB?", "Which DOOR?"}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"type": "filtre"}, "step 1: its type is 'filtre'"),
        ({}, "step 1: its type is None"),
        ("filter", "step 1: its type is None"),
        ({"type": "filter"}, r"step 1 \(filter\): the condition is empty"),
        ({"type": "filter", "condition": "lenght > 1"}, "did you mean length"),
        ({"type": "filter", "condition": 3}, "empty"),
        ({"type": "transform", "operation": "shout"}, "unknown operation 'shout'"),
        ({"type": "transform", "operation": "lowercase", "field": "title"}, "unknown field 'title'"),
        ({"type": "transform", "operation": "lowercase", "to": "answer"}, "unknown key to"),
    ],
)
def test_a_wrong_step_is_named_by_its_number_before_anything_is_read(home: Path, step: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare("/no/such/file.csv", "csv", "jsonl", [step])


def test_formats_that_cannot_be_and_nothing_that_is_left_are_refused(home: Path, tmp_path: Path) -> None:
    raw = written(tmp_path, CSV)
    for given, wanted in (("xml", "jsonl"), ("csv", "csv"), ("csv", "huggingface"), ("csv", "xml")):
        with pytest.raises(ConfigError, match="choose one of"):
            prepare(raw, given, wanted)
    with pytest.raises(NoConversations, match="nothing is left"):
        prepare(raw, "csv", "jsonl", [{"type": "filter", "condition": "length > 1000"}])
    with pytest.raises(ByoaiError):
        prepare(tmp_path / "none", "csv")


@pytest.mark.parametrize(
    "earlier",
    [
        [["Which door is red?", "The first."]],
        [{"question": "Which door is red?", "answer": "The first."}],
        [{"role": "user", "content": "Which door is red?"}, {"role": "assistant", "content": "The first."}],
        [
            {"role": "user", "content": "Which door is red?"},
            {"role": "tool", "content": "door 1"},
            {"role": "assistant", "content": "The first."},
        ],
    ],
)
def test_what_was_said_before_an_answer_is_read_in_any_form(tmp_path: Path, earlier: list[object]) -> None:
    record = {"instruction": ASKED, "output": ANSWERED, "history": earlier}
    file = written(tmp_path, json.dumps(record) + "\n", "own.jsonl")
    before = [{"role": "user", "content": "Which door is red?"}, {"role": "assistant", "content": "The first."}]
    assert list(read_records(file, DatasetFormat.JSONL)) == [{"messages": [*before, *PAIR]}]


def test_a_history_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    record = {"instruction": ASKED, "output": ANSWERED, "history": ["Which door is red?"]}
    with pytest.raises(DataError, match="history"):
        list(read_records(written(tmp_path, json.dumps(record) + "\n", "own.jsonl"), DatasetFormat.JSONL))
